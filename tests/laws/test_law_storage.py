"""Stored or virtual, in tiles or whole, at once or in crops: the same bits."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.plan import renderer, storage_dtype
from dilkit.confounders.store import Store
from dilkit.distortions import REGISTRY, SampleKey, as_float, parse
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError

WORDS = [
    "clean",
    "awgn[5, 25]",
    "poisson(2)",
    "speckle(0.05)",
    "gaussian_blur[1, 2.5]",
    "jpeg(30)",
    "awgn(15) >> clip >> quantize",
    "gaussian_blur(1) >> awgn(25)",
    "awgn(10) >> gaussian_blur(1.5) >> awgn(10)",
    "gaussian_blur(2) >> awgn(20) >> jpeg(50)",
    "jpeg(40) >> awgn(5)",
    "mix(0.3*awgn(5), 0.7*gaussian_blur(2))",
    "shuffle(awgn(5), gaussian_blur(1), poisson(2))",
    "salt_pepper(0.05)",
    "correlated_noise(50)",
    "camera_noise(0.01)",
    "motion_blur(9, angle=30)",
    "defocus(3)",
    "sinc(1.5)",
    "anisotropic_blur(2, across=1, angle=30)",
    "rain(0.005)",
    "haze(0.5)",
    "low_light(2.5)",
    "updown(0.5)",
    "webp(30)",
]
SIDE = 40
Pair = Callable[[int, str], tuple[Store, Store]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A stored and a virtual dataset of the same seed and coupling."""
    folder = tmp_path_factory.mktemp("laws")
    made: dict[tuple[int, str], tuple[Store, Store]] = {}

    def pair(seed: int, coupling: str) -> tuple[Store, Store]:
        if (seed, coupling) not in made:
            made[seed, coupling] = tuple(  # type: ignore[assignment]
                Store(
                    augment(
                        f"deadleaves:2@{SIDE}", WORDS, folder / f"{seed}-{coupling}-{storage}.h5", tile=SIDE,
                        stride=SIDE, seed=seed, coupling=coupling, storage=storage,  # type: ignore[arg-type]
                    ).path
                )
                for storage in ("stored", "virtual")
            )  # fmt: skip
        return made[seed, coupling]

    return pair


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_a_virtual_crop_is_the_stored_crop(pair: Pair, data: st.DataObject) -> None:
    stored, virtual = pair(
        data.draw(st.integers(0, 2), "seed"),
        data.draw(st.sampled_from(["independent", "common"]), "coupling"),
    )
    label = data.draw(st.sampled_from(stored.labels), "label")
    y, x = (data.draw(st.integers(0, SIDE - 1)) for _ in range(2))
    window = Window(y, x, data.draw(st.integers(1, SIDE - y)), data.draw(st.integers(1, SIDE - x)))
    item = data.draw(st.integers(0, 1), "item")
    a, b = stored.view(item, label, window), virtual.view(item, label, window)
    assert a.dtype == b.dtype and np.array_equal(a, b)
    assert np.array_equal(stored.view(item, label)[y : y + window.h, x : x + window.w], a)


ENDINGS = ["", " >> clip >> quantize", " >> quantize >> clip", " >> clip >> quantize >> clip >> quantize"]


@settings(max_examples=100, deadline=None)
@given(
    word=st.sampled_from(
        [w + end for w in ("awgn(60)", "jpeg(20)", "gaussian_blur(1)", "contrast(1.5)") for end in ENDINGS]
    ),
    values=hnp.arrays(np.uint8, (9, 7, 3)),
    seed=st.integers(0, 9),
)
def test_a_view_is_stored_as_the_word_makes_it(word: str, values: npt.NDArray[np.uint8], seed: int) -> None:
    parsed, key = parse(word), SampleKey(seed, b"some pixels")
    image, dtype = as_float(values), storage_dtype(parse(word)).name
    stored = renderer(parsed, dtype)(image, key, None)
    assert stored.dtype == dtype and np.array_equal(as_float(stored), parsed.apply(image, key))


@pytest.mark.parametrize("ending", ["", " >> clip >> quantize"])
def test_values_that_are_no_numbers_are_refused(ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    word = parse("brightness(0.1)" + ending)
    monkeypatch.setitem(REGISTRY.get("brightness").__dict__, "apply", lambda image, *_: image / 0 * 0)
    with pytest.raises(DilkitError, match="not finite"), np.errstate(all="ignore"):
        renderer(word, storage_dtype(word).name)(np.ones((4, 4, 3), np.float32), SampleKey(0, b""), None)


def test_every_view_and_every_episode_of_the_first_epoch_agree(pair: Pair) -> None:
    """Later ones are drawn afresh from the virtual dataset."""
    stored, virtual = pair(0, "independent")
    assert virtual.path.stat().st_size < stored.path.stat().st_size / 8
    for label in stored.labels:
        assert np.array_equal(stored.view(1, label), virtual.view(1, label))
    for pairing in ("paired", "independent"):
        of = [EpisodeSampler(s, batch=2, crop=16, pairing=pairing) for s in (stored, virtual)]
        for step in (0, len(of[0])):
            a, b = (sampler.episode(step) for sampler in of)
            same = [bool((a.views[label] == b.views[label]).all()) for label in a.labels]
            assert all(same) if step == 0 else not all(same)


def test_common_coupling_shares_one_field_and_independent_does_not(pair: Pair) -> None:
    def fields(coupling: str) -> tuple[np.ndarray, np.ndarray]:
        store, _ = pair(0, coupling)
        clean = store.clean(0) / np.float32(255)
        return (store.view(0, "awgn(5)") - clean) / 5, (store.view(0, "awgn(25)") - clean) / 25

    a, b = fields("common")
    assert np.allclose(a, b, atol=1e-7)
    a, b = fields("independent")
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_a_point_or_halo_word_does_not_touch_the_whole_image(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, virtual = pair(0, "independent")
    seen: list[tuple[int, ...]] = []
    for name in ("awgn", "gaussian_blur"):
        kind = REGISTRY.get(name)
        apply = kind.apply
        monkeypatch.setitem(
            kind.__dict__,
            "apply",
            lambda image, *rest, apply=apply: seen.append(image.shape) or apply(image, *rest),
        )
    virtual.view(0, "gaussian_blur(1)>>awgn(25)", Window(15, 15, 8, 8))
    assert len(seen) == 2 and seen[1] == (8, 8, 3) and max(seen[0][:2]) < SIDE
