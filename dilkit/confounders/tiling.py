"""Cut images into tiles: every pixel that a full tile can reach is in one, and none is invented."""

from __future__ import annotations

from dilkit.distortions.draw import Window
from dilkit.errors import UsageError


def check_tiling(tile: int, stride: int) -> None:
    """Raises UsageError where the two make no sense; `tile = 0` means whole images."""
    if tile < 0:
        raise UsageError(
            "negative tile size", where="tile", found=tile, expected="pixels, or 0 for whole images"
        )
    if tile and not 1 <= stride <= tile:
        raise UsageError(
            "the stride would skip pixels" if stride > tile else "the stride must be positive",
            where="stride",
            found=stride,
            expected=f"1 .. {tile}, the tile size",
        )


def positions(length: int, tile: int, stride: int) -> range | list[int]:
    """Where tiles start along one side; the last one is moved back to end at the border."""
    last = length - tile
    starts = range(0, last + 1, stride)
    return starts if starts[-1] == last else [*starts, last]


def boxes(height: int, width: int, tile: int, stride: int, *, keep_small: bool = True) -> list[Window]:
    """The tiles of one image, row by row.

    An image smaller than a tile on either side is kept whole, or yields nothing if not `keep_small`.
    """
    if tile == 0:
        return [Window(0, 0, height, width)]
    if height < tile or width < tile:
        return [Window(0, 0, height, width)] if keep_small else []
    return [
        Window(y, x, tile, tile)
        for y in positions(height, tile, stride)
        for x in positions(width, tile, stride)
    ]
