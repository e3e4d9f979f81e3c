"""The two ways a view is stored, the size it has, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions import SampleKey, Word
from dilkit.distortions.draw import Window
from dilkit.distortions.sampling import require_numbers
from dilkit.errors import UsageError

Render = Callable[[npt.NDArray[np.float32], SampleKey, Window | None], npt.NDArray[Any]]
"""(whole clean image, its key, the part that is wanted) -> the view as it is stored, uint8 or float32."""

_TRIALS = 4
"""Keys with which a word of random size is tried."""


def renderer(word: Word, dtype: str, scale: int = 1) -> Render:
    """How a word's view is made in the type it is stored in (`storage_dtype`, `output_scale`).

    The function returned raises DilkitError where a distortion made values that are no numbers, or a view of
    another size than its place has.
    """

    def render(
        image: npt.NDArray[np.float32], key: SampleKey, window: Window | None = None
    ) -> npt.NDArray[Any]:
        size = (image.shape[0] // scale, image.shape[1] // scale)
        if dtype == "uint8":
            return word.levels(image, key, window, size)
        made = word.apply(image, key, window, size)
        require_numbers(made, word.label)
        return made

    return render


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
