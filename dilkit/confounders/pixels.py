"""The two ways a pixel is stored, and the exact way between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from dilkit.distortions import Primitive, SampleKey, Word, as_float
from dilkit.distortions.compression import levels
from dilkit.distortions.draw import Window
from dilkit.distortions.words import Step
from dilkit.errors import DilkitError, UsageError

Render = Callable[[npt.NDArray[np.float32], SampleKey, Window | None], npt.NDArray[Any]]
"""(whole clean image, its key, the part that is wanted) -> the view as it is stored, uint8 or float32."""

_TRIALS = 4
"""Keys with which a word of random size is tried."""
_EIGHT_BIT_ENDS = frozenset({"jpeg", "webp"})
"""Primitives whose result is on the 8-bit grid by nature."""
_HARMLESS = frozenset({"clip", "quantize"})
"""Primitives that leave the 8-bit grid where it is, and together bring anything onto it."""


def to_eight_bit(image: npt.NDArray[np.float32], what: object = None) -> npt.NDArray[np.uint8]:
    """float32 values k / 255 as the k they are; raises DilkitError where something would be lost."""
    whole = levels(image)
    step = max(1, image.shape[0] // 3)
    if not np.array_equal(as_float(whole[::step]), image[::step]):
        raise DilkitError("values are not on the 8-bit grid they were declared to be on", where=what)
    return whole


def renderer(word: Word, dtype: str) -> Render:
    """How a word's view is made in the type it is stored in (`storage_dtype`).

    A closing `clip >> quantize` and the way to bytes are one step, which gives the same levels. The function
    returned raises DilkitError where a distortion made values that are no numbers.
    """
    tail = _tail(word)
    rounds = dtype == "uint8" and _HARMLESS.issubset(tail)
    body = Word(word.sequence[: -len(tail)]) if rounds else word

    def render(
        image: npt.NDArray[np.float32], key: SampleKey, window: Window | None = None
    ) -> npt.NDArray[Any]:
        made = body.apply(image, key, window)
        _require_numbers(made, word.label)
        if rounds:
            return levels(np.clip(made, np.float32(0), np.float32(1), out=made))
        return to_eight_bit(made, word.label) if dtype == "uint8" else made

    return render


def _tail(word: Word) -> list[str]:
    """The names of the steps at a word's end that do nothing but clip and round to 8 bits."""
    names = []
    for step in reversed(word.sequence):
        if not _is_harmless(step):
            break
        names.append(step.name)
    return names


def _is_harmless(step: Step) -> TypeGuard[Primitive]:
    return isinstance(step, Primitive) and step.name in _HARMLESS and step.params.get("bits", 8) == 8


def _require_numbers(image: npt.NDArray[np.float32], label: str) -> None:
    """The square of the length is no number where one value is none, and costs next to nothing."""
    flat = image.reshape(-1)
    if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
        raise DilkitError(
            "the distortion made values that are no numbers",
            where=label,
            found=f"{np.count_nonzero(~np.isfinite(flat))} of {flat.size}",
            expected="finite values",
        )


def storage_dtype(word: Word, clean_dtype: str = "float32") -> np.dtype[Any]:
    """uint8 where a word ends on the 8-bit grid (`... >> clip >> quantize`, `... >> jpeg(q)`); else float32.

    So nothing is clipped or rounded but by the expression, and nothing is lost by storing.
    """
    tail = _tail(word)
    rest = word.sequence[: len(word.sequence) - len(tail)]
    if rest:
        on_the_grid = isinstance(rest[-1], Primitive) and rest[-1].name in _EIGHT_BIT_ENDS
    else:
        on_the_grid = clean_dtype == "uint8"
    return np.dtype(np.uint8 if on_the_grid or _HARMLESS.issubset(tail) else np.float32)


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
