"""Whether a test image was in training: its perceptual hash is among, or next to, those trained on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.confounders.perceptual import perceptual_hash

NEAR = 3
"""Bits of 64 in which the same picture, saved anew, may differ."""


class Trained:
    """The images a net was trained on, by perceptual hash (16 hexadecimal digits each)."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = np.array([int(text, 16) for text in hashes], np.uint64)

    def holds(self, image: npt.NDArray[Any]) -> bool:
        """Whether one of them looks like `image`, (H, W, 3) uint8 or float32."""
        if not len(self._hashes):
            return False
        distance = np.bitwise_count(self._hashes ^ np.uint64(perceptual_hash(image)))
        return bool(distance.min() <= NEAR)
