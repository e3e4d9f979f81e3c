"""Ferns of ice: branched crystals as they grow on a window, drawn once in every direction and kept.

Elementary operations in double precision, rounded to 8 bits: the same on every machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from dilkit.distortions.randomness import Draw

Stamp = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]

DIRECTIONS = 32
LENGTHS = (40, 56, 74, 96, 122, 150)
"""Of the spine in pixels: one kind of fern each."""

_FORK = 0.96
"""Radians between a branch and what it springs from: 55 degrees."""
_STEP = 0.5
"""Pixels between the points of a branch."""


@functools.lru_cache(maxsize=DIRECTIONS * len(LENGTHS))
def fern(kind: int, direction: int) -> tuple[Stamp, Stamp]:
    """Two read-only squares: its light, and how much of what is below shows through it.

    The spine, its middle in the middle of the square, heads for `direction` / DIRECTIONS of a turn.
    """
    x, y, weight = _grown(kind)
    turn = 2 * math.pi * direction / DIRECTIONS
    cos, sin = round(math.cos(turn), 12), round(math.sin(turn), 12)
    needles = np.minimum(_drawn(x * cos - y * sin, x * sin + y * cos, weight), 1)
    veil = np.minimum(3.2 * _spread(_spread(needles)), 1)
    return _bytes(np.minimum(0.85 * needles + 0.32 * veil, 1)), _bytes(1 - 0.7 * veil)


def _drawn(x: Points, y: Points, weight: Points) -> Plane:
    """Points shared among their four neighbours, with room for two `_spread`s about them."""
    reach = math.ceil(max(np.abs(x).max(), np.abs(y).max())) + 8
    side = 2 * reach + 1
    left, top = np.floor(x), np.floor(y)
    right, down = x - left, y - top
    place = ((top + reach) * side + left + reach).astype(np.int64)
    canvas = np.zeros(side * side)
    for step, share in (
        (0, (1 - right) * (1 - down)),
        (1, right * (1 - down)),
        (side, (1 - right) * down),
        (side + 1, right * down),
    ):
        canvas += np.bincount(place + step, weight * share, side * side)
    return canvas.reshape(side, side)


def _spread(plane: Plane) -> Plane:
    """The mean over 7 x 7 pixels."""
    for _ in range(2):
        sums = np.cumsum(np.pad(plane, ((4, 3), (0, 0))), axis=0)
        plane = ((sums[7:] - sums[:-7]) / 7).T
    return plane


def _bytes(plane: Plane) -> Stamp:
    made = np.rint(255 * plane).astype(np.uint8)
    made.flags.writeable = False
    return made


@functools.cache
def _grown(kind: int) -> tuple[Points, Points, Points]:
    """Points along all branches, about the middle of the spine, and their brightness."""
    lots = iter(Draw.whole(b"ferns of ice", (1, 1)).scalars(1 << 14, stream=str(kind)))
    length = LENGTHS[kind]
    spine = _line(-length / 2, 0, 0, length, 1.4 * (next(lots) - 0.5) / length)
    branches = _branches(spine, 0, 0.36 * length, 4, 0.24, lots)
    parts = [(*spine, np.linspace(0.6, 0.24, len(spine[0])))]
    for x, y, angle, weight in branches:
        parts.append((x, y, weight))
        if len(x) > 10:
            twigs = _branches((x, y), angle, 0.3 * _STEP * len(x), 3.5, 0.14, lots)
            parts += [(a, b, c) for a, b, _, c in twigs]
    x, y, weight = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return x, y, weight


def _branches(
    stem: tuple[Points, Points], angle: float, longest: float, gap: float, faint: float, lots: Iterator[float]
) -> list[tuple[Points, Points, float, Points]]:
    """Branches on both sides of a stem at `angle`, shorter towards its tip: points, angle, brightness."""
    count = len(stem[0])
    made = []
    for side in (-1, 1):
        place = gap * (0.5 + next(lots))
        while place / _STEP < count - 2:
            k = int(place / _STEP)
            length = longest * min(1, k / count / 0.12) * (1 - k / count) * (0.55 + 0.45 * next(lots))
            towards = angle + side * (_FORK + 0.3 * (next(lots) - 0.5))
            bend = -side * 0.5 / longest * next(lots)
            x, y = _line(float(stem[0][k]), float(stem[1][k]), towards, length, bend)
            made.append((x, y, towards, np.linspace(1, 0.35, len(x)) * (faint + 0.24 * next(lots))))
            place += gap * (0.6 + 0.8 * next(lots))
    return made


def _line(x: float, y: float, angle: float, length: float, bend: float) -> tuple[Points, Points]:
    """Points of an arc of curvature `bend`, as a parabola."""
    cos, sin = round(math.cos(angle), 12), round(math.sin(angle), 12)
    along = np.arange(0, max(length, _STEP), _STEP)
    aside = along * along * (bend / 2)
    return x + along * cos - aside * sin, y + along * sin + aside * cos
