"""How an item's pixels lie in the file: in strips of about 64 columns, one strip after another.

A crop in whole rows of a wide item would fetch several times its own bytes from the disk; in strips only
those that it touches. Strips are the chunks of an HDF5 array, so other programs see (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions.draw import Window

_COLUMNS = 64


def strip_width(width: int) -> int:
    """The divisor of a width that is nearest to 64, from 32 to 128; the width itself where there is none."""
    divisors = [d for d in range(_COLUMNS // 2, 2 * _COLUMNS + 1) if width % d == 0]
    return min(divisors, key=lambda d: max(d / _COLUMNS, _COLUMNS / d), default=width)


def to_strips(pixels: npt.NDArray[Any], strip: int) -> npt.NDArray[Any]:
    """An item, (H, W, 3), as its strips, (W / strip, H, strip, 3)."""
    h, w, channels = pixels.shape
    return np.ascontiguousarray(pixels.reshape(h, w // strip, strip, channels).swapaxes(0, 1))


def cut(
    values: npt.NDArray[Any], size: tuple[int, int], strip: int, window: Window | None = None
) -> npt.NDArray[Any]:
    """A window of an item, or all of it, (h, w, 3) and read-only; copied only where it crosses strips.

    Args:
        values: of the item as they lie in the file, in a row.
        size: (H, W) of the item.
    """
    y, x, h, w = window or (0, 0, *size)
    first, last = x // strip, (x + w - 1) // strip
    touched = values.reshape(-1, size[0], strip, 3)[first : last + 1, y : y + h]
    rows = touched[0] if first == last else touched.swapaxes(0, 1).reshape(h, -1, 3)
    rows.flags.writeable = False
    return rows[:, x - first * strip : x - first * strip + w]


def pieces(size: tuple[int, int], strip: int, window: Window | None = None) -> Iterator[tuple[int, int]]:
    """What of an item a window touches, as first pixel and count of pixels in the order of the file."""
    height, width = size
    if window is None:
        yield 0, height * width
        return
    y, x, h, w = window
    for number in range(x // strip, (x + w - 1) // strip + 1):
        yield (number * height + y) * strip, h * strip
