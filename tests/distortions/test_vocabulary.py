"""What every primitive must keep to; a new one is tested as soon as it is registered and has an example."""

from __future__ import annotations

import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import REGISTRY, Window

EXAMPLES = {
    "awgn": [{"sigma": 25}, {"sigma": 10, "channels": "grey"}, {"sigma": 9, "channels": "correlated"}],
    "poisson": [
        {"alpha": 1},
        {"alpha": 2, "peak": 9},
        {"alpha": 1, "legacy": True},
        {"alpha": 1, "channels": "grey"},
    ],
    "speckle": [{"variance": 0.024}, {"variance": 0.05, "law": "uniform"}],
    "correlated_noise": [{"sigma": 50}, {"sigma": 50, "radius": 4}],
    "salt_pepper": [{"amount": 0.1}, {"amount": 0.3, "salt": 0.1, "channels": "grey"}],
    "gaussian_blur": [{"sigma": sigma} for sigma in (0.3, 0.7, 1.2, 2, 4.2, 9)],
    "anisotropic_blur": [{"sigma": 3, "across": 1, "angle": 30}, {"sigma": 1, "across": 2, "radius": 4}],
    "generalised_blur": [{"sigma": 2, "across": 1, "beta": 0.6, "angle": 70, "radius": 7}],
    "plateau_blur": [{"sigma": 2, "across": 3, "beta": 1.5, "angle": -20}],
    "sinc": [{"cutoff": 1.5}],
    "motion_blur": [{"length": 9, "angle": 25}, {"length": 16}],
    "defocus": [{"radius": 4.3}],
    "motion_trail": [{"sigma": 5, "angle": 25}, {"sigma": 3, "radius": 4}],
    "zoom_blur": [{"zoom": 1.1}],
    "glass_blur": [{"delta": 1, "sigma": 0.7}, {"delta": 4, "sigma": 1.5, "iterations": 3}],
    "elastic": [
        {"alpha": 29.28, "sigma": 2.44},
        {"alpha": 488, "sigma": 19.52, "jitter": 48.8},
        {"alpha": 60, "sigma": 36},
        {"alpha": 0.7, "sigma": 0.5},
    ],
    "jpeg": [{"quality": 30}, {"quality": 90, "subsampling": "4:4:4"}, {"quality": 5}],
    "webp": [{"quality": 30}],
    "resize": [
        {"factor": 0.4, "method": "area"},
        {"factor": 1.3},
        {"factor": 0.5, "method": "antialiased"},
    ],
    "resize_to": [{"height": 20, "width": 31}],
    "updown": [{"factor": 0.3}, {"factor": 1.5, "there": "bilinear"}],
    "downsample": [{"factor": 3}],
    "pixelate": [{"factor": 0.4}],
    "rain": [{"density": 0.01}, {"density": 0.02, "length": 21, "angle": 100, "blend": "screen"}],
    "haze": [{"transmission": 0.6}, {"transmission": 0.4, "variation": 0.5}],
    "fog": [{"density": 2}],
    "snow": [
        {"mean": 0.1},
        {"mean": 0.55, "zoom": 4.5, "threshold": 0.85, "length": 17, "angle": 60, "whiten": 0.35},
    ],
    "frost": [{"weight": 0.7}],
    "camera_noise": [{"shot": 0.01}, {"shot": 0.01, "camera": "sony-a7r", "mosaic": False}],
    "brightness": [{"shift": 0.2}],
    "contrast": [{"factor": 0.4}],
    "low_light": [{"gamma": 2.5, "beta": 0.7}],
    "clip": [{}],
    "quantize": [{}, {"bits": 5}],
}
CASES = [(name, params) for name, cases in EXAMPLES.items() for params in cases]
IDS = [f"{name}-{'-'.join(f'{v}' for v in params.values())}" for name, params in CASES]


def noisy(height, width, seed=0):
    """Values over and beyond [0, 1]."""
    return np.random.default_rng(seed).normal(0.5, 0.4, (height, width, 3)).astype(np.float32)


def test_every_primitive_of_ours_has_an_example():
    made = {kind.name for kind in REGISTRY.values() if kind.family not in ("albumentations", "real", "test")}
    assert made == set(EXAMPLES)


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_contract(name, params, distort):
    image = noisy(33, 21)
    before = image.copy()
    made = distort(image, name, **params)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()
    np.testing.assert_array_equal(image, before)
    np.testing.assert_array_equal(made, distort(image, name, **params))
    if REGISTRY.get(name).random and params != {"transmission": 0.6}:
        assert not np.array_equal(made, distort(image, name, seed=1, **params))
    else:
        np.testing.assert_array_equal(made, distort(image, name, seed=1, **params))


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_a_window_is_the_cut_of_the_whole_bit_for_bit(name, params, distort, data):
    height, width = data.draw(st.integers(1, 70)), data.draw(st.integers(1, 90))
    seed = data.draw(st.integers(0, 3))
    image = noisy(height, width, seed)
    if name == "downsample":
        image = noisy(3 * height, 3 * width, seed)
    whole = distort(image, name, seed=seed, **params)
    height, width = whole.shape[:2]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    window = Window(y, x, data.draw(st.integers(1, height - y)), data.draw(st.integers(1, width - x)))
    part = distort(image, name, window=window, seed=seed, **params)
    np.testing.assert_array_equal(part, whole[y : y + window.h, x : x + window.w])


@pytest.mark.parametrize(("name", "params"), CASES, ids=IDS)
def test_a_window_looks_no_further_than_the_halo(name, params, distort):
    """Values beyond the halo cannot be seen: they are poisoned with NaN."""
    kind = REGISTRY.get(name)
    halo = kind.locality(kind.bind(**params)).halo
    if halo is None:
        pytest.skip("looks at the whole image")
    image = noisy(40 + 2 * halo, 40 + 2 * halo)
    window = Window(halo + 18, halo + 17, 4, 5)
    poisoned = np.full_like(image, np.nan)
    inside = (slice(18, 22 + 2 * halo), slice(17, 22 + 2 * halo))
    poisoned[inside] = image[inside]
    expected = distort(image, name, window=window, **params)
    np.testing.assert_array_equal(distort(poisoned, name, window=window, **params), expected)


def test_the_number_of_threads_changes_nothing(distort):
    image = noisy(300, 402)
    found = {}
    try:
        for threads in (0, 1, 4):
            cv2.setNumThreads(threads)
            for name, params in CASES:
                found.setdefault((name, str(params)), []).append(distort(image, name, **params))
    finally:
        cv2.setNumThreads(0)
    for case, made in found.items():
        assert all(np.array_equal(made[0], other) for other in made[1:]), case


def test_another_process_makes_the_same_bits(distort):
    image = noisy(39, 51)
    code = (
        "import hashlib, numpy as np\n"
        "from dilkit.distortions import REGISTRY, SampleKey\n"
        "image = np.random.default_rng(0).normal(0.5, 0.4, (39, 51, 3)).astype(np.float32)\n"
        f"for name, params in {CASES!r}:\n"
        "    made = REGISTRY.get(name)(**params).apply(image, SampleKey(0, b'the pixels'))\n"
        "    print(hashlib.blake2b(made.tobytes(), digest_size=8).hexdigest())\n"
    )
    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "3"},
    ).stdout.split()
    import hashlib

    here = [
        hashlib.blake2b(distort(image, name, **params).tobytes(), digest_size=8).hexdigest()
        for name, params in CASES
    ]
    assert there == here


@pytest.mark.parametrize("sigma", [0.3, 0.6, 2])
def test_no_pixel_falls_into_the_tail_of_a_vector_loop(sigma, distort):
    """Windows of every width, so that every pixel is tried at every place in the registers."""
    image = noisy(12, 64, seed=5)
    whole = distort(image, "gaussian_blur", sigma=sigma)
    for width in range(1, 64):
        for x in (0, 64 - width, (64 - width) // 2):
            part = distort(image, "gaussian_blur", sigma=sigma, window=Window(0, x, 12, width))
            np.testing.assert_array_equal(part, whole[:, x : x + width])


@pytest.mark.parametrize("quality", [5, 60])  # at 5 the blocks of chroma are flat
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_every_window_of_a_jpeg_is_its_cut(subsampling, quality, distort):
    """Every place of a window in the blocks, the narrow remainders at the edges among them."""
    for width in (50, 52, 53, 64, 65):
        image = noisy(3, width, seed=width)
        whole = distort(image, "jpeg", quality=quality, subsampling=subsampling)
        for x in range(width):
            for w in (1, 7, 20, width - x):
                if x + w <= width:
                    window = Window(1, x, 2, w)
                    part = distort(image, "jpeg", quality=quality, subsampling=subsampling, window=window)
                    np.testing.assert_array_equal(part, whole[1:3, x : x + w])
    tall = noisy(65, 40)
    whole = distort(tall, "jpeg", quality=quality, subsampling=subsampling)
    for y in range(65):
        part = distort(tall, "jpeg", quality=quality, subsampling=subsampling, window=Window(y, 9, 1, 3))
        np.testing.assert_array_equal(part, whole[y : y + 1, 9:12])
