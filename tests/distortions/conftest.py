"""What the tests of single primitives share."""

from __future__ import annotations

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
