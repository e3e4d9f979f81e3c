"""How large images can become and how much work a word is, known before the first image."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import SampleKey, parse
from dilkit.errors import UsageError

IMAGE = np.random.default_rng(0).random((24, 36, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("resize_to(height=65536, width=65536)", "images that are too large"),
        ("resize(16) ** 5", "images that are too large"),
        ("prob(0.001, resize(16) ** 4) >> resize(1, of='clean')", "images that are too large"),
        ("gaussian_blur(64) ** 1000", "too much work"),
        ("defocus(64) ** 100", "too much work"),
        ("mix(clean, gaussian_blur(uniform(1, 64)) ** 900)", "too much work"),
    ],
)
def test_what_would_take_the_machine_is_refused_before_a_pixel_is_made(text, says):
    word = parse(text)
    with pytest.raises(UsageError, match=says):
        word.extent(256, 256)
    start = time.process_time()
    with pytest.raises(UsageError, match=says):
        word.apply(np.zeros((256, 256, 3), np.float32), SampleKey(0, b""))
    with pytest.raises(UsageError, match=says):
        word.levels(np.zeros((256, 256, 3), np.uint8), SampleKey(0, b""))
    assert time.process_time() - start < 30  # the least of them would take minutes


@pytest.mark.parametrize("text", ["awgn(5) ** 1000", "bsrgan", "real-esrgan-2", "defocus(64)", "resize(16)"])
def test_what_people_use_is_not_refused(text):
    parse(text).extent(256, 256)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("awgn(5)", (24, 36)),
        ("resize(0.5)", (12, 18)),
        ("downsample(4)", (6, 9)),
        ("resize_to(height=7, width=8) >> awgn(5)", (7, 8)),
        ("resize(uniform(0.3, 3)) >> resize(0.5, of='clean')", (12, 18)),
        ("shuffle(resize(2), resize(0.5), awgn(3))", (24, 36)),
        ("interleave(resize(uniform(0.5, 2)) >> resize(1, of='clean'), awgn(5), jpeg(30))", (24, 36)),
        ("mix(resize(0.5), downsample(2))", (12, 18)),
        ("updown(0.5)", (24, 36)),
    ],
)
def test_the_size_of_the_result_is_known(text, size):
    word = parse(text)
    assert word.output_size(24, 36) == size
    for seed in range(5):
        assert word.apply(IMAGE, SampleKey(seed, b"")).shape == (*size, 3)


@pytest.mark.parametrize(
    "text",
    [
        "resize(uniform(0.5, 2))",
        "prob(0.0001, resize(0.5))",
        "mix(resize(0.5), awgn(5))",
        "resize(choice(0.5, 1))",
        "shuffle(resize(1, of='clean'), resize(0.5))",
    ],
)
def test_a_branch_that_could_change_the_size_is_refused_by_what_it_could_draw(text):
    with pytest.raises(UsageError, match=r"images of several sizes(.|\n)*from \d+ x \d+ to \d+ x \d+"):
        parse(text).output_size(24, 36)


FACTORS = st.sampled_from(["0.5", "2", "uniform(0.4, 1.7)", "choice(0.25, 1, 3)"])
STEPS = st.builds(lambda f, of: f"resize({f}, of='{of}')", FACTORS, st.sampled_from(["image", "clean"]))


@given(st.lists(STEPS, min_size=1, max_size=3), st.sampled_from(["shuffle", "mix", "interleave", "then"]))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_whatever_is_drawn_is_within_the_extent(steps, joined):
    text = " >> ".join(steps) if joined == "then" else f"{joined}({', '.join(steps)})"
    word = parse(text)
    extent = word.extent(24, 36)
    for seed in range(6):
        height, width, _ = word.apply(IMAGE, SampleKey(seed, b"")).shape
        assert extent.least[0] <= height <= extent.greatest[0]
        assert extent.least[1] <= width <= extent.greatest[1]
        assert height * width <= extent.pixels


@pytest.mark.parametrize("name", ["shuffle", "interleave"])
def test_many_changes_of_size_in_any_order_are_within_the_extent(name):
    """More than have all their orders tried."""
    steps = [*(f"resize(0.9{k})" for k in range(6)), "resize(0.8, of='clean')"]
    word = parse(f"{name}({', '.join(steps)})")
    extent = word.extent(24, 36)
    for seed in range(20):
        height, width, _ = word.apply(IMAGE, SampleKey(seed, b"")).shape
        assert extent.least[0] <= height <= extent.greatest[0]
        assert extent.least[1] <= width <= extent.greatest[1]
