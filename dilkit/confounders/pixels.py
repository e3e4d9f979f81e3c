"""The two ways a pixel is stored, and the exact way between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions import Primitive, Word
from dilkit.errors import DilkitError

_EIGHT_BIT_ENDS = frozenset({"jpeg", "webp"})
"""Primitives whose result is on the 8-bit grid by nature."""
_HARMLESS = frozenset({"clip", "quantize"})
"""Primitives that leave the 8-bit grid where it is, and together bring anything onto it."""


def to_float(pixels: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """uint8 as k / 255 in float32; float32 as it is."""
    if pixels.dtype == np.uint8:
        return np.divide(pixels, np.float32(255), dtype=np.float32)
    return np.asarray(pixels, np.float32)


def to_eight_bit(image: npt.NDArray[np.float32], what: object = None) -> npt.NDArray[np.uint8]:
    """float32 values k / 255 as the k they are; raises DilkitError where something would be lost."""
    import cv2

    levels = np.asarray(cv2.convertScaleAbs(np.ascontiguousarray(image), alpha=255.0), np.uint8)
    step = max(1, image.shape[0] // 3)
    if not np.array_equal(to_float(levels[::step]), image[::step]):
        raise DilkitError("values are not on the 8-bit grid they were declared to be on", where=what)
    return levels


def storage_dtype(word: Word, clean_dtype: str = "float32") -> np.dtype[Any]:
    """uint8 where a word ends on the 8-bit grid (`... >> clip >> quantize`, `... >> jpeg(q)`); else float32.

    So nothing is clipped or rounded but by the expression, and nothing is lost by storing.
    """
    tail: set[str] = set()
    for step in reversed(word.sequence):
        if not isinstance(step, Primitive):
            break
        if step.name in _EIGHT_BIT_ENDS:
            return np.dtype(np.uint8)
        if step.name not in _HARMLESS or step.params.get("bits", 8) != 8:
            break
        tail.add(step.name)
    else:
        tail |= _HARMLESS if clean_dtype == "uint8" else set()
    return np.dtype(np.uint8 if tail == _HARMLESS else np.float32)


def output_scale(word: Word) -> int:
    """How many times smaller the word's result is than its input (1 for all but downsampling words)."""
    from dilkit.distortions import SampleKey

    probe = np.zeros((96, 96, 3), np.float32)
    height, width = word.apply(probe, SampleKey(0, b"probe" * 8)).shape[:2]
    if height != width or height == 0 or 96 % height:
        raise DilkitError(
            "the result has a size that no whole number of clean pixels maps to",
            where=str(word),
            found=f"{height} x {width} from 96 x 96",
            expected="the same size, or 1/2, 1/3, 1/4, ... of it",
        )
    return 96 // height
