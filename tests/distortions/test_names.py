"""Confounders have names: labels of the user's, which are no part of what a distortion is."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from dilkit.distortions import (
    ConfounderSet,
    SampleKey,
    as_float,
    clean,
    clip,
    confounder_set,
    distort_image,
    mix,
    parse,
    pixel_hash,
    prob,
    shuffle,
)
from dilkit.distortions.grammar import ExpressionError
from dilkit.errors import UsageError

IMAGE = np.random.default_rng(0).random((32, 40, 3), dtype=np.float32)


def test_a_name_is_the_label():
    made = parse("hard = bsrgan(scale=2) | wet-1.a = rain(0.01) >> clip | awgn[5, 10]")
    assert set(made.labels) == {"hard", "wet-1.a", "awgn(5)", "awgn(10)"}
    assert made["hard"].name == "hard"
    assert parse(str(made)) == made
    assert parse(str(made)).labels == made.labels
    assert pickle.loads(pickle.dumps(made)).labels == made.labels  # noqa: S301


def test_a_name_is_part_of_equality_and_text_but_of_no_hash_key_or_pixel():
    named, plain = parse("noisy = awgn(25)"), parse("awgn(25)")
    assert isinstance(named, type(plain))
    assert named != plain
    assert named == plain.named("noisy")
    assert named.named("") == plain
    assert str(named) == "noisy = awgn(25)"
    assert (named.hash, named.json) == (plain.hash, plain.json)
    assert confounder_set(named).hash == confounder_set(plain).hash
    assert confounder_set(named) == named  # a word equals the set of it alone
    key = SampleKey(0, b"")
    assert named.apply(IMAGE, key).tobytes() == plain.apply(IMAGE, key).tobytes()


def test_what_is_made_of_a_named_word_has_no_name():
    named = parse("noisy = awgn(25)")
    assert not (named >> clip).name
    assert not (named**2).name
    assert (named**1).name == (named >> clean).name == (clean >> named).name == "noisy"
    for made in (mix(named, clip), prob(0.5, named), shuffle(named, clip)):
        assert "noisy" not in str(made)
        assert parse(str(made)) == made


def test_sets_find_and_leave_out_words_whatever_they_are_called():
    made = confounder_set("noisy = awgn(25) | jpeg(30)")
    assert parse("awgn(25)") in made
    assert "noisy" in made
    assert str(made - parse("other = awgn(25)")) == "jpeg(30)"
    assert (made | parse("awgn(25)")).labels == made.labels  # the name stays
    assert (parse("awgn(25)") | made) == made


def test_presets_are_called_by_their_names_and_parameters():
    assert parse("bsrgan").label == "bsrgan"
    assert parse("bsrgan(scale=4)") == parse("bsrgan")
    assert parse("bsrgan(scale=2)").label == "bsrgan-scale-2"
    assert parse("real_esrgan_2(scale=1)").label == "real-esrgan-2-scale-1"
    assert parse("easy = hybrid-mild").label == "easy"
    assert parse("dil-denoise").labels == (
        "awgn(5)>>clip",
        "awgn(10)>>clip",
        "awgn(15)>>clip",
        "awgn(20)>>clip",
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("name", ["bsrgan", "real-esrgan-1", "real-esrgan-2"])
def test_a_preset_of_a_scale_gives_images_of_that_scale(name, scale):
    word = parse(f"{name}(scale={scale})")
    assert word.output_size(96, 120) == (96 // scale, 120 // scale)
    image = np.random.default_rng(0).random((96, 120, 3), dtype=np.float32)
    for seed in range(4):
        assert word.apply(image, SampleKey(seed, b"")).shape == (96 // scale, 120 // scale, 3)


def test_long_words_have_short_stable_labels():
    word = parse("bsrgan").named("")
    assert len(word.label) <= 72
    assert len(word.short_label) <= 28
    assert word.short_label.endswith(word.hash[:6])
    assert word.short_label == parse(str(word)).short_label
    assert parse("awgn(5)").short_label == "awgn(5)"


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("weak = awgn[5, 10]", 1, "a name is for one distortion, not for a set of 2"),
        ("clean = awgn(5)", 1, "cannot be called 'clean'"),
        ("a/b = awgn(5)", 1, "cannot be called 'a/b'"),
        ("ä = awgn(5)", 1, "cannot be called 'ä'"),
        (f"{'x' * 41} = awgn(5)", 1, "cannot be called"),
        ("same = clean", 1, "`clean` cannot be called 'same'"),
        ("a = awgn(5) | b = awng(6)", 19, "unknown distortion 'awng'"),
        ("(a = awgn(5)) >> clip", None, "a name comes before a whole confounder"),
        ("clip >> a = awgn(5)", None, "a name comes before a whole confounder"),
    ],
)
def test_wrong_names_are_refused_where_they_stand(text, column, says):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    assert says in str(caught.value)
    assert column in (None, caught.value.column)


def test_an_image_is_distorted_in_one_call():
    levels = (IMAGE * 255).round().astype(np.uint8)
    made = distort_image(levels, "hard = awgn(25) | jpeg(30)", seed=3)
    assert set(made) == {"hard", "jpeg(30)"}
    expected = parse("awgn(25)").apply(as_float(levels), SampleKey(3, pixel_hash(levels)))
    assert made["hard"].tobytes() == expected.tobytes()
    with pytest.raises(UsageError, match="applies to an RGB image"):
        distort_image(IMAGE[..., 0], "clip")


def test_one_name_is_one_distortion():
    with pytest.raises(UsageError, match="two distortions are called 'a'"):
        parse("a = awgn(5) | a = jpeg(30)")
    with pytest.raises(UsageError, match="one distortion has two names: a and b"):
        parse("a = awgn(5) | b = awgn(5)")
    with pytest.raises(UsageError, match="two distortions are called 'awgn'"):
        ConfounderSet.of([parse("awgn = jpeg(30)"), parse("awgn = jpeg(40)")])
