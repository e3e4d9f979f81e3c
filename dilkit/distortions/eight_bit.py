"""Between [0, 1] and whole levels 0 .. 255, exactly."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Levels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB uint8, 0 .. 255."""


def as_float(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 as float32 in [0, 1] (values / 255); float32 as it is."""
    return np.divide(image, np.float32(255), dtype=np.float32) if image.dtype == np.uint8 else image


def to_levels(image: npt.NDArray[Any]) -> Levels:
    """[0, 1] float32 -> 0 .. 255, clipped and rounded half to even; uint8 as it is."""
    if image.dtype == np.uint8:
        return image
    low, high, _, _ = cv2.minMaxLoc(image.reshape(len(image), -1))
    return rounded(np.clip(image, np.float32(0), np.float32(1)) if low < 0 or high > 1 else image)


def rounded(image: npt.NDArray[np.float32]) -> Levels:
    """Values in [0, 1] -> 0 .. 255, rounded half to even."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=255), np.uint8)
