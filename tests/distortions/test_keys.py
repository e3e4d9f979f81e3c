"""What random numbers derive from, and that nothing else enters."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from dilkit.distortions import (
    Image,
    Param,
    PrimitiveKind,
    SampleKey,
    Window,
    as_float,
    awgn,
    choice,
    clip,
    gaussian_blur,
    integers,
    interleave,
    inverse_uniform,
    jpeg,
    loguniform,
    mix,
    parse,
    pixel_hash,
    quantize,
    root_uniform,
    shuffle,
    uniform,
)
from dilkit.errors import DilkitError, UsageError

U8 = np.random.default_rng(7).integers(0, 256, (40, 48, 3), dtype=np.uint8)
IMAGE: Image = as_float(U8)
PIXELS = pixel_hash(IMAGE)


def keys(word, **fields):
    return [resolved.key for resolved in word.resolve(SampleKey(**{"seed": 0, "pixels": PIXELS} | fields))]


def test_the_key_is_what_the_documentation_says():
    fields = f'[3,"{PIXELS.hex()}",{awgn(25).json},[1],2]'
    key = hashlib.blake2b(fields.encode(), digest_size=32, person=b"dilkit-draw-1").digest()
    assert keys(clip >> awgn(25), seed=3, replicate=2)[1] == key


def test_every_field_matters_and_nothing_else():
    base = keys(awgn(25))
    assert base == keys(awgn(sigma=25.0))
    assert base != keys(awgn(25), seed=1)
    assert base != keys(awgn(25), replicate=1)
    assert base != keys(awgn(25), pixels=pixel_hash(IMAGE[::-1]))
    assert base != keys(awgn(26))
    assert base[0] != keys(clip >> awgn(25))[1]


def test_a_common_coupling_leaves_the_degree_out():
    common = {"coupling": "common"}
    assert keys(awgn(5), **common) == keys(awgn(20), **common)
    assert keys(awgn(5), **common) != keys(awgn(5, channels="grey"), **common)
    low, high = (word.apply(IMAGE, SampleKey(0, PIXELS, coupling="common")) for word in (awgn(5), awgn(20)))
    np.testing.assert_allclose((high - IMAGE) / 4, low - IMAGE, atol=1e-6)
    with pytest.raises(UsageError, match="unknown coupling"):
        SampleKey(0, PIXELS, coupling="shared")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "mix(jpeg({}), jpeg(50, subsampling='4:4:4'))",
        "mix(jpeg({}), 3*jpeg(50, subsampling='4:4:4'))",
        "mix(mix(2*jpeg({}), jpeg(50, subsampling='4:4:4')) >> clip, awgn(3))",
        "shuffle(jpeg({}), jpeg(50, subsampling='4:4:4'), clip)",
        "interleave(jpeg({}) >> clip, jpeg(50, subsampling='4:4:4') >> clip)",
    ],
)
def test_a_common_coupling_draws_the_same_branches_and_orders(text):
    """Also where the degree changes the order in which branches are written."""
    for seed in range(100):
        key = SampleKey(seed, PIXELS, coupling="common")
        low, high = (list(parse(text.format(quality)).resolve(key)) for quality in (30, 60))
        assert [p.key for p in low] == [p.key for p in high]
        assert [p.params.get("subsampling") for p in low] == [p.params.get("subsampling") for p in high]


def test_a_key_holds_whole_numbers_and_bytes():
    assert SampleKey(np.int64(3), PIXELS, np.uint8(1)) == SampleKey(3, PIXELS, 1)
    assert type(SampleKey(np.int64(3), PIXELS).seed) is int
    for wrong in (True, 1.0, "1", None, np.float64(1), np.True_):
        with pytest.raises(UsageError, match="seed of a sample must be a whole number"):
            SampleKey(wrong, PIXELS)  # type: ignore[arg-type]
    for wrong in (IMAGE, "the pixels", None):
        with pytest.raises(UsageError, match="pixels of a sample key are bytes"):
            SampleKey(0, wrong)  # type: ignore[arg-type]


def test_draws_in_sequence_are_independent():
    noise = (awgn(25) ** 2).apply(IMAGE, SampleKey(0, PIXELS)) - IMAGE
    assert noise.std() * 255 == pytest.approx(25 * 2**0.5, rel=0.03)


def test_the_pixel_hash_does_not_depend_on_how_an_image_is_held():
    assert pixel_hash(U8) == pixel_hash(IMAGE) == pixel_hash(np.asfortranarray(IMAGE))
    assert pixel_hash(U8) != pixel_hash(U8.reshape(48, 40, 3))
    off_grid = IMAGE.copy()
    off_grid[0, 0, 0] += np.float32(1e-4)
    assert pixel_hash(off_grid) not in (pixel_hash(IMAGE), pixel_hash(off_grid * np.float32(0.5)))
    assert pixel_hash(np.full((4, 4, 3), np.nan, np.float32)) != pixel_hash(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(UsageError, match="of uint8 or float32"):
        pixel_hash(IMAGE.astype(np.float64))


def test_the_input_is_left_alone_and_the_result_is_new():
    before = IMAGE.copy()
    for word in (awgn(5) >> clip, clip**0, quantize >> jpeg(30), gaussian_blur(1)):
        result = word.apply(IMAGE, SampleKey(0, PIXELS), Window(3, 4, 8, 9))
        result += 1
        assert np.array_equal(IMAGE, before)
        assert result.flags.owndata


def test_branches_are_drawn_by_their_weights():
    word = mix(1 * awgn(1), 2 * awgn(2), 5 * awgn(3))
    drawn = Counter(next(word.resolve(SampleKey(seed, PIXELS))).params["sigma"] for seed in range(4000))
    for sigma, weight in ((1, 1), (2, 2), (3, 5)):
        assert drawn[sigma] / 4000 == pytest.approx(weight / 8, abs=0.03)


def test_orders_are_drawn_alike():
    word = shuffle(awgn(1), awgn(2), awgn(3))
    drawn = Counter(tuple(p.params["sigma"] for p in word.resolve(SampleKey(s, PIXELS))) for s in range(3000))
    assert len(drawn) == 6
    assert all(count / 3000 == pytest.approx(1 / 6, abs=0.03) for count in drawn.values())


def test_interleavings_are_drawn_alike_and_keep_the_order_of_each():
    word = interleave(awgn(1) >> awgn(2), awgn(3) >> awgn(4))
    drawn = Counter(tuple(p.params["sigma"] for p in word.resolve(SampleKey(s, PIXELS))) for s in range(3000))
    assert len(drawn) == 6  # 4! / (2! 2!)
    assert all(order.index(1) < order.index(2) and order.index(3) < order.index(4) for order in drawn)
    assert all(count / 3000 == pytest.approx(1 / 6, abs=0.03) for count in drawn.values())
    blocks = shuffle(awgn(1) >> awgn(2), awgn(3) >> awgn(4))
    drawn = Counter(tuple(p.params["sigma"] for p in blocks.resolve(SampleKey(s, PIXELS))) for s in range(99))
    assert set(drawn) == {(1, 2, 3, 4), (3, 4, 1, 2)}


def test_every_primitive_of_a_sample_has_its_own_key():
    word = interleave(awgn(1) ** 2, awgn(1)) >> shuffle(awgn(1), awgn(1)) >> mix(awgn(1), awgn(1) ** 2)
    for seed in range(20):
        drawn = keys(word, seed=seed)
        assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize(
    ("made", "uniform_in"),
    [
        (uniform(1, 9), lambda x: x),
        (loguniform(1, 9), np.log),
        (inverse_uniform(1, 9), lambda x: 1 / x),
        (root_uniform(1, 9), np.square),
    ],
)
def test_continuous_laws_are_uniform_in_what_they_say(made, uniform_in):
    drawn = [next(awgn(made).resolve(SampleKey(s, PIXELS))).params["sigma"] for s in range(2000)]
    assert 1 <= min(drawn) < 1.2
    assert 8 < max(drawn) <= 9
    low, high = sorted((uniform_in(1.0), uniform_in(9.0)))
    shares = np.sort((uniform_in(np.array(drawn)) - low) / (high - low))
    assert np.abs(shares - (np.arange(2000) + 0.5) / 2000).max() < 0.04  # Kolmogorov-Smirnov, p about 0.003


def test_parameters_are_drawn_by_their_laws():
    drawn = [next(awgn(uniform(10, 30)).resolve(SampleKey(s, PIXELS))).params["sigma"] for s in range(2000)]
    assert 10 <= min(drawn) < 10.2
    assert 29.8 < max(drawn) <= 30
    assert np.mean(drawn) == pytest.approx(20, abs=0.5)
    whole = Counter(
        next(jpeg(integers(30, 33)).resolve(SampleKey(s, PIXELS))).params["quality"] for s in range(2000)
    )
    assert set(whole) == {30, 31, 32, 33}
    assert {type(quality) for quality in whole} == {int}
    assert type(next(awgn(integers(1, 9)).resolve(SampleKey(0, PIXELS))).params["sigma"]) is float
    assert min(whole.values()) > 400


@pytest.mark.parametrize("window", [(-1, 0, 4, 4), (0, 0, 41, 4), (0, 40, 4, 9), (0, 0, 0, 4)])
def test_a_window_outside_is_refused(window):
    with pytest.raises(UsageError, match="leaves the image"):
        awgn(5).apply(IMAGE, SampleKey(0, PIXELS), Window(*window))


@pytest.mark.parametrize("image", [U8, IMAGE.astype(np.float64), IMAGE[..., 0], [1, 2], IMAGE[..., :2]])
def test_an_image_of_another_type_is_refused(image):
    with pytest.raises(UsageError, match="applies to an RGB image"):
        awgn(5).apply(image, SampleKey(0, PIXELS))


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_an_image_without_pixels_is_refused(shape, dtype):
    """OpenCV's encoder would end the process."""
    empty = np.zeros(shape, dtype)
    with pytest.raises(UsageError, match="applies to an RGB image"):
        awgn(5).levels(empty, SampleKey(0, PIXELS))
    with pytest.raises(UsageError, match="no pixel hash"):
        pixel_hash(empty)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda image, params, draw: image.astype(np.float64), "returned a wrong image(.|\n)*float64"),
        (lambda image, params, draw: image[1:], "returned a wrong image"),
        (lambda image, params, draw: None, "returned a wrong image(.|\n)*NoneType"),
        (lambda image, params, draw: 1 / 0, "failed: division by zero"),
        (lambda image, params, draw: np.negative(image, out=image), "failed: .*read-only"),
    ],
)
def test_a_kind_that_breaks_its_contract_is_named(wrong, says):
    """Were the input changed, the other words of the set would get it."""
    before = IMAGE.copy()
    with pytest.raises(DilkitError, match=f"the distortion wrong {says}"):
        PrimitiveKind("wrong", "test", "", "", (), wrong)().apply(IMAGE, SampleKey(0, PIXELS))
    np.testing.assert_array_equal(IMAGE, before)


def test_a_window_of_a_halo_word_touches_no_more_than_it_needs():
    seen: list[tuple[int, ...]] = []

    def watch(image, params, draw):
        seen.append((*draw.window, *image.shape[:2]))
        return image

    from dilkit.distortions import Locality

    blur = PrimitiveKind(
        "watch", "test", "", "", (Param("r", int),), watch, degree="r", locality=lambda p: Locality(p["r"])
    )
    (blur(2) >> blur(3)).apply(IMAGE, SampleKey(0, PIXELS), Window(10, 1, 4, 5))
    assert seen == [(5, 0, 14, 11, 14, 11), (7, 0, 10, 9, 10, 9)]


def test_keys_and_choices_are_frozen():
    """A change here makes every dataset made before impossible to make again."""
    kind = PrimitiveKind("fog", "test", "", "", (Param("depth"),), lambda i, p, d: i, degree="depth")
    word = mix(kind(1), 2 * (kind(2) >> kind(3))) >> shuffle(kind(4), kind(5) >> kind(6))
    word = word >> interleave(kind(7) >> kind(8), kind(9))
    word = word >> kind(uniform(0, 1)) >> kind(choice(1, 2, 3)) >> kind(integers(0, 9))
    drawn = [
        (p.params["depth"], p.key[:3].hex())
        for p in word.resolve(SampleKey(7, bytes(range(16)), replicate=1))
    ]
    assert drawn == [
        (2.0, "55c1a5"),
        (3.0, "972ffb"),
        (5.0, "e90e08"),
        (6.0, "14f04c"),
        (4.0, "eac5a5"),
        (9.0, "ad6db3"),
        (7.0, "129001"),
        (8.0, "5f1fa7"),
        (0.10150077368469101, "fbbff9"),
        (3.0, "ded3ea"),
        (2.0, "563bc0"),
    ]
    assert (
        pixel_hash(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).hex() == "322d835e003104af420fa372ddf95a93"
    )
