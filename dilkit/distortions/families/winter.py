"""Snow and frost: layers drawn by the key, blended with the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families import _ferns, _kernels
from dilkit.distortions.families._filters import inner
from dilkit.distortions.families._lattice import Plane, lattice, plasma
from dilkit.distortions.families.noise import grey
from dilkit.distortions.params import Param
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import Image

_CELL = 5
"""Of frost: one fern grows in every 2**5 x 2**5 pixels."""
_MARGIN = 128
"""Pixels around the window whose ferns may reach into it: their reach, and a cell."""
_DARK, _LINEAR, _SQUARE = (0.209, 0.288, 0.334), (0.591, 0.624, 0.714), (0.2, 0.088, -0.048)
"""Red, green and blue of frost of brightness v: dark + linear v + square v * v; their means and deviations
are those of the photographs of frost that come with ImageNet-C."""


def _snow(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    layer = _flakes(draw, params)
    y, x, h, w = draw.window
    mirrored = Window(draw.shape[0] - y - h, draw.shape[1] - x - w, h, w)
    other = layer if mirrored == draw.window else _flakes(draw.at(mirrored), params)
    layer = layer + other[::-1, ::-1]
    whiten = np.float32(params["whiten"])
    white = grey(image)
    white *= np.float32(1.5)
    white += np.float32(0.5)
    out = np.maximum(image, white)
    out -= image
    out *= whiten
    out += image
    out += layer[..., None]
    return out


def _flakes(draw: Draw, params: Mapping[str, Any]) -> Plane:
    """(h, w): magnified normal noise, nought below the threshold, at most one, blurred along a line."""
    kernel = _kernels.line(params["length"], params["angle"])
    pad, zoom = kernel.shape[0] // 2, params["zoom"]
    y, x, h, w = draw.window
    top, y_of = _places(y, h + 2 * pad, zoom)
    left, x_of = _places(x, w + 2 * pad, zoom)
    rows, columns = top - top[0], left - left[0]
    height, width = (int((side + 2 * pad - 1) / zoom) + 2 for side in draw.shape)
    grid = Window(int(top[0]), int(left[0]), int(rows[-1]) + 2, int(columns[-1]) + 2)
    noise = Draw(draw.key, (height, width), grid).normal(1, stream="flakes")[..., 0]
    wide = noise.take(columns, axis=1)
    wide += (noise.take(columns + 1, axis=1) - wide) * x_of
    layer = wide.take(rows, axis=0)
    layer += (wide.take(rows + 1, axis=0) - layer) * y_of[:, None]
    layer *= np.float32(params["deviation"])
    layer += np.float32(params["mean"])
    layer[layer < np.float32(params["threshold"])] = 0
    np.clip(layer, np.float32(0), np.float32(1), out=layer)
    return inner(layer[..., None], kernel)[..., 0]


def _places(first: int, count: int, zoom: float) -> tuple[npt.NDArray[np.intp], Plane]:
    """Of pixels on a grid magnified `zoom` times: the corner before each, and how far it is past it."""
    places = np.arange(first, first + count) / zoom
    before = np.floor(places)
    return before.astype(np.intp), (places - before).astype(np.float32)


def _frost(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
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


def _growth(draw: Draw) -> npt.NDArray[np.uint8]:
    """(h, w): ferns, each upon those before it, neighbours headed alike."""
    y, x, h, w = draw.window
    height, width = (side + 2 * _MARGIN for side in draw.shape)
    grown = Draw(draw.key, (height, width), Window(y, x, h + 2 * _MARGIN, w + 2 * _MARGIN))
    seeds = lattice(grown, _CELL)
    lots = seeds.bits(4, stream="ferns").astype(np.int64)
    tops = ((seeds.window.y + np.arange(seeds.window.h)) << _CELL) - _MARGIN - y
    lefts = ((seeds.window.x + np.arange(seeds.window.w)) << _CELL) - _MARGIN - x
    rows = tops[:, None] + (lots[..., 0] >> 16 - _CELL)
    columns = lefts + (lots[..., 1] >> 16 - _CELL)
    kinds = lots[..., 2] * len(_ferns.LENGTHS) >> 16
    (towards,) = draw.scalars(stream="heading")
    turns = plasma(seeds, 2.0, levels=4, stream="heading ") * np.float32(1.5) + np.float32(towards)
    headings = np.floor(turns * np.float32(_ferns.DIRECTIONS)).astype(np.int64) + (lots[..., 3] * 5 >> 16)
    canvas = np.zeros((h, w), np.uint8)
    for row, column, kind, heading in zip(
        *(plane.ravel().tolist() for plane in (rows, columns, kinds, headings)), strict=True
    ):
        _lay(canvas, *_ferns.fern(kind, heading % _ferns.DIRECTIONS), row, column)
    return canvas


def _lay(canvas: _ferns.Stamp, light: _ferns.Stamp, through: _ferns.Stamp, row: int, column: int) -> None:
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


snow = REGISTRY.add(
    PrimitiveKind(
        name="snow",
        family="weather",
        summary="The image whitened, and flakes: coarse noise above a threshold, blurred along a line.",
        source="Hendrycks and Dietterich 2019, the blur a line",
        params=(
            Param("mean", float, low=-1, high=2, doc="of the noise; the more, the more flakes"),
            Param("deviation", float, default=0.3, low=0, high=2, doc="of the noise, before it is magnified"),
            Param("zoom", float, default=3.0, low=1, high=64, unit="px", doc="between values of the noise"),
            Param(
                "threshold",
                float,
                default=0.5,
                low=-1,
                high=2,
                doc="noise below it is no flake; above 1 is 1",
            ),
            Param("length", int, default=8, low=1, high=127, unit="px", doc="of the line"),
            Param("angle", float, default=80.0, low=-360, high=360, unit="degrees", doc="90 falls upright"),
            Param(
                "whiten",
                float,
                default=0.2,
                low=0,
                high=1,
                doc="how far each value goes to 1.5 grey + 0.5, where that is more",
            ),
        ),
        apply=_snow,
        degree="mean",
        random=True,
        work=lambda params: 8.0 * params["length"] + 50,
    )
)

frost = REGISTRY.add(
    PrimitiveKind(
        name="frost",
        family="weather",
        summary="image * keep + frost * weight, the frost a drawn texture of ice ferns, not a photograph.",
        source="Hendrycks and Dietterich 2019 (weights); the texture is ours",
        params=(
            Param("weight", float, low=0, high=4, doc="of the frost"),
            Param("keep", float, default=0.7, low=0, high=4, doc="weight of the image"),
        ),
        apply=_frost,
        version=2,
        degree="weight",
        random=True,
        work=lambda params: 200.0,
    )
)
