"""The two ways a view is stored, the size it has, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions import SampleKey, Word
from dilkit.distortions.draw import Window
from dilkit.distortions.sampling import require_numbers
from dilkit.errors import DilkitError, UsageError

Render = Callable[[npt.NDArray[np.float32], SampleKey, Window | None], npt.NDArray[Any]]
"""(whole clean image, its key, the part that is wanted) -> the view as it is stored, uint8 or float32."""

_TRIALS = 4
"""Keys with which a word of random size is tried."""


def renderer(word: Word, dtype: str) -> Render:
    """How a word's view is made in the type it is stored in (`storage_dtype`).

    The function returned raises DilkitError where a distortion made values that are no numbers.
    """

    def as_made(
        image: npt.NDArray[np.float32], key: SampleKey, window: Window | None = None
    ) -> npt.NDArray[np.float32]:
        made = word.apply(image, key, window)
        require_numbers(made, word.label)
        return made

    return word.levels if dtype == "uint8" else as_made


def storage_dtype(word: Word, clean_dtype: str = "float32") -> np.dtype[Any]:
    """uint8 where a word ends on the 8-bit grid (`... >> clip >> quantize`, `... >> jpeg(q)`); else float32.

    So nothing is clipped or rounded but by the expression, and nothing is lost by storing.
    """
    keeps_the_grid = len(word.closing) == len(word.sequence) and clean_dtype == "uint8"
    return np.dtype(np.uint8 if word.eight_bit or keeps_the_grid else np.float32)


def output_scale(word: Word) -> int:
    """How many times smaller the word's result is than its input (1 for all but downsampling words).

    Only a global distortion can change the size; it is tried on squares of two sizes, with several keys.

    Raises:
        DilkitError: the scale is no whole number, or not always the same.
    """
    if word.locality.halo is not None:
        return 1
    found: dict[tuple[int, int, int], float] = {}
    for side in (96, 192):
        for replicate in range(_TRIALS):
            made = word.apply(np.zeros((side, side, 3), np.float32), SampleKey(0, b"probe", replicate))
            found[side, *made.shape[:2]] = side / made.shape[0] if made.shape[0] == made.shape[1] else 0
    scale = next(iter(found.values()))
    if scale < 1 or scale % 1 or {*found.values()} != {scale}:
        raise UsageError(
            "the result has a size that no whole number of clean pixels maps to",
            where=word,
            found=", ".join(f"{h} x {w} from {side} x {side}" for side, h, w in list(found)[:4]),
            expected="always the same size, or always 1/2, 1/3, 1/4, ... of it",
            remedy="resize(1, of='clean') at its end brings the size of the clean image back",
        )
    return int(scale)


def require_shape(made: npt.NDArray[Any], shape: tuple[int, int], scale: int, what: object) -> None:
    """Raises DilkitError where a view has not the size of its place."""
    wanted = (shape[0] // scale, shape[1] // scale)
    if made.shape[:2] != wanted:
        raise DilkitError(
            "the distortion changes the size of some images in another way than that of others",
            where=what,
            found=f"{made.shape[0]} x {made.shape[1]}",
            expected=f"{wanted[0]} x {wanted[1]}",
            remedy="resize(1, of='clean') at its end brings the size of the clean image back",
        )
