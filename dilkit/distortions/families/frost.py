"""Frost: branched ferns of ice, as they grow on a window, drawn by the key and laid over the image.

A fern is drawn once in every direction and kept: elementary operations in double precision, rounded to
8 bits, the same on every machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from dilkit.distortions.algebra import distortion
from dilkit.distortions.families._lattice import lattice, plasma
from dilkit.distortions.params import Param
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry
from dilkit.libraries import np, npt

Stamp: TypeAlias = "npt.NDArray[np.uint8]"
Points: TypeAlias = "npt.NDArray[np.float64]"

_CELL = 5
"""Of frost: one fern grows in every 2**5 x 2**5 pixels."""
_MARGIN = 128
"""Pixels around the window whose ferns may reach into it: their reach, and a cell."""
_DARK, _LINEAR, _SQUARE = (0.209, 0.288, 0.334), (0.591, 0.624, 0.714), (0.2, 0.088, -0.048)
"""Red, green and blue of frost of brightness v: dark + linear v + square v * v; their means and deviations
are those of the photographs of frost that come with ImageNet-C."""


@distortion(
    Param("weight", float, low=0, high=4, doc="of the frost"),
    Param("keep", float, default=0.7, low=0, high=4, doc="weight of the image"),
    family="weather",
    source="Hendrycks and Dietterich 2019 (weights); the texture is ours",
    version=2,
    degree="weight",
    random=True,
    work=lambda params: 200.0,
    symmetries=(Symmetry("gain", {"weight": 1}), Symmetry("offset", when=lambda params: params["keep"] == 1)),
)
def frost(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """image * keep + frost * weight, the frost a drawn texture of ice ferns, not a photograph."""
    out = frost_texture(draw)
    out *= np.float32(params["weight"])
    out += image * np.float32(params["keep"])
    return out


def frost_texture(draw: Draw) -> Image:
    """(h, w, 3) in [0, 1]: ferns of ice, bluish white, thicker here and there, on a dark ground."""
    f = np.float32
    thickness = plasma(draw, 2.0, levels=6, stream="thickness ")
    grain = draw.uniform(1, stream="grain")[..., 0]
    grain -= f(0.5)
    grain *= f(0.3)
    light = _growth(draw) * f(1 / 255)
    light *= thickness * f(0.5) + f(0.55)
    light += (thickness * f(0.55) + grain) * thickness
    np.clip(light, f(0), f(1), out=light)
    out = np.empty((*light.shape, 3), np.float32)
    for channel, (dark, linear, square) in enumerate(zip(_DARK, _LINEAR, _SQUARE, strict=True)):
        out[..., channel] = (light * f(square) + f(linear)) * light + f(dark)
    return out


def _growth(draw: Draw) -> Stamp:
    """(h, w): ferns, each on top of those before it, neighbours with similar headings."""
    y, x, h, w = draw.window
    height, width = (side + 2 * _MARGIN for side in draw.shape)
    grown = Draw(draw.key, (height, width), Window(y, x, h + 2 * _MARGIN, w + 2 * _MARGIN))
    seeds = lattice(grown, _CELL)
    lots = seeds.bits(4, stream="ferns").astype(np.int64)
    tops = ((seeds.window.y + np.arange(seeds.window.h)) << _CELL) - _MARGIN - y
    lefts = ((seeds.window.x + np.arange(seeds.window.w)) << _CELL) - _MARGIN - x
    rows = tops[:, None] + (lots[..., 0] >> 16 - _CELL)
    columns = lefts + (lots[..., 1] >> 16 - _CELL)
    kinds = lots[..., 2] * len(LENGTHS) >> 16
    (towards,) = draw.scalars(stream="heading")
    turns = plasma(seeds, 2.0, levels=4, stream="heading ") * np.float32(1.5) + np.float32(towards)
    headings = np.floor(turns * np.float32(DIRECTIONS)).astype(np.int64) + (lots[..., 3] * 5 >> 16)
    canvas = np.zeros((h, w), np.uint8)
    for row, column, kind, heading in zip(
        *(plane.ravel().tolist() for plane in (rows, columns, kinds, headings)), strict=True
    ):
        _lay(canvas, *fern(kind, heading % DIRECTIONS), row, column)
    return canvas


def _lay(canvas: Stamp, light: Stamp, through: Stamp, row: int, column: int) -> None:
    """Lay a fern on the canvas, its middle at (row, column); of what is below, `through` / 256 shows."""
    size = len(light)
    top, left = row - size // 2, column - size // 2
    y, x = max(top, 0), max(left, 0)
    bottom, right = min(top + size, canvas.shape[0]), min(left + size, canvas.shape[1])
    if y >= bottom or x >= right:
        return
    part, cut = canvas[y:bottom, x:right], (slice(y - top, bottom - top), slice(x - left, right - left))
    below = np.multiply(part, through[cut], dtype=np.uint16)
    below >>= 8
    np.maximum(below, light[cut], out=part, casting="unsafe")


# -- ferns -------------------------------------------------------------------------------------------------

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


def _drawn(x: Points, y: Points, weight: Points) -> Points:
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


def _spread(plane: Points) -> Points:
    """The mean over 7 x 7 pixels."""
    for _ in range(2):
        sums = np.cumsum(np.pad(plane, ((4, 3), (0, 0))), axis=0)
        plane = ((sums[7:] - sums[:-7]) / 7).T
    return plane


def _bytes(plane: Points) -> Stamp:
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
