"""A word whose results are 8-bit gives them as levels, bit for bit what it gives as floats."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dilkit.distortions import REGISTRY, SampleKey, as_float, parse
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError, UsageError

KEY = SampleKey(3, b"some pixels")
WORDS = [
    "jpeg(20)",
    "jpeg(90, subsampling='4:4:4') >> quantize >> clip",
    "webp(40)",
    "gaussian_blur(1) >> jpeg(30)",
    "jpeg(60) >> jpeg(20)",
    "jpeg(integers(10, 90))",
    "awgn(60) >> clip >> quantize",
    "contrast(1.5) >> quantize >> clip >> clip",
    "clip >> quantize",
]
images = hnp.arrays(np.uint8, (37, 41, 3), elements=st.integers(0, 255), fill=st.integers(0, 255))
windows = st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 17), st.integers(1, 21))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(WORDS), images, st.booleans(), windows | st.none())
def test_levels_are_the_floats(
    expression: str, image: npt.NDArray[np.uint8], as_bytes: bool, box: tuple[int, int, int, int] | None
) -> None:
    word, window = parse(expression), box and Window(*box)
    assert word.eight_bit
    made = word.levels(image if as_bytes else as_float(image), KEY, window)
    assert made.dtype == np.uint8
    assert np.array_equal(as_float(made), word.apply(as_float(image), KEY, window))


@pytest.mark.parametrize(
    "kind", [kind for kind in REGISTRY.values() if kind.levels], ids=lambda kind: kind.name
)
def test_a_kind_that_works_on_levels_leaves_its_input_alone(kind) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    before = image.copy()
    made = kind(30).levels(image, KEY)
    assert np.array_equal(image, before) and not np.shares_memory(made, image)


@pytest.mark.parametrize(
    "expression", ["awgn(5)", "jpeg(30) >> awgn(5)", "quantize", "clip", "mix(jpeg(30), awgn(5))"]
)
def test_other_words_are_not_8_bit(expression: str) -> None:
    assert not parse(expression).eight_bit


@pytest.mark.parametrize(
    "expression",
    [
        "gaussian_blur(2) >> quantize",
        "gaussian_blur(1) >> clip >> quantize(bits=4) >> quantize",
        "mix(jpeg(30), gaussian_blur(1)) >> quantize",
        "contrast(0.5) >> quantize >> resize(2, method='nearest')",
    ],
)
def test_a_result_on_the_grid_has_levels_whichever_way_it_came_there(expression: str) -> None:
    word, image = parse(expression), np.random.default_rng(1).random((20, 20, 3), np.float32)
    for seed in range(6):
        key = SampleKey(seed, b"some pixels")
        assert np.array_equal(as_float(word.levels(image, key)), word.apply(image, key))


def test_what_lies_off_the_grid_has_no_levels() -> None:
    image = np.full((8, 8, 3), 0.3, np.float32)
    with pytest.raises(DilkitError, match="8-bit grid"):
        parse("clean").levels(image, KEY)
    for expression in ("gaussian_blur(1) >> clip", "awgn(200) >> quantize", "quantize(bits=3)"):
        with pytest.raises(DilkitError, match="8-bit grid"):
            parse(expression).levels(image + np.float32(0.001), KEY)
    with pytest.raises(UsageError, match="RGB"):
        parse("jpeg(30)").levels(image.astype(np.float64), KEY)  # type: ignore[arg-type]
