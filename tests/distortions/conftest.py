"""What the tests of single primitives share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import skimage.data

from dilkit.distortions import REGISTRY, SampleKey


@pytest.fixture(scope="session")
def photo():
    """An (120, 150, 3) float32 piece of a photograph in [0, 1], of 8-bit values."""
    return skimage.data.astronaut()[40:160, 150:300].astype(np.float32) / np.float32(255)


@pytest.fixture(scope="session")
def distort():
    """distort(image, name, window=None, seed=0, coupling="independent", **params)."""

    def run(image, name, *, window=None, seed=0, coupling="independent", **params):
        key = SampleKey(seed, b"the pixels", coupling=coupling)
        return REGISTRY.get(name)(**params).apply(image, key, window)

    return run


@pytest.fixture(scope="session")
def angle_of():
    """angle_of(layer): the direction of the streaks of (H, W) in degrees, by its spectrum; 90 is upright."""

    def measure(layer):
        spectrum = np.abs(np.fft.fft2(layer - layer.mean())) ** 2
        fy, fx = np.meshgrid(*(np.fft.fftfreq(side) for side in layer.shape), indexing="ij")
        low = np.hypot(fx, fy) < 0.2
        tensor = [(spectrum * low * a * b).sum() for a, b in ((fx, fx), (fx, fy), (fy, fy))]
        across = 0.5 * math.atan2(2 * tensor[1], tensor[0] - tensor[2])  # of the spectrum, y downwards
        return (90 - math.degrees(across)) % 180

    return measure
