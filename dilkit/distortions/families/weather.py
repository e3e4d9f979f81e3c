"""Rain, haze, fog and snow: layers drawn by the key, laid over the image."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.families._filters import inner, line, streak
from dilkit.distortions.families._lattice import plasma, stretched_plasma
from dilkit.distortions.families.noise import grey
from dilkit.distortions.families.pointwise import Curve
from dilkit.distortions.params import Param
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant
from dilkit.libraries import Array, np, npt


def _drops(draw: Draw, density: float, pad: int) -> Image:
    """(h, w, 1): zero, or where a streak is, its brightness, uniform on (0, 1]."""
    lot = draw.uniform(1, pad=pad)
    return np.where(lot < np.float32(density), np.float32(1) - lot * np.float32(1 / max(density, 1e-9)), 0)


@functools.lru_cache(maxsize=64)
def _attenuation(transmission: float, variation: float) -> Curve:
    """transmission ** (1 + variation (2 x - 1)): what passes a veil whose thickness varies with x."""
    return Curve(lambda x: transmission ** (1 + variation * (2 * x - 1)))


def _still(params: Mapping[str, Any]) -> bool:
    return not params["variation"]


@distortion(
    Param("density", float, low=0, high=0.5, unit="streaks/px", doc="0.002 is light, 0.02 heavy"),
    Param("length", int, default=15, low=1, high=127, unit="px", doc="of a streak"),
    Param("angle", float, default=80.0, low=-360, high=360, unit="degrees", doc="90 falls upright"),
    Param("width", float, default=0.5, low=0.05, high=8, unit="px", doc="deviation across a streak"),
    Param("opacity", float, default=0.8, low=0, high=1, doc="brightness of the brightest streak"),
    Param("blend", str, default="add", choices=("add", "screen"), doc="how streaks meet the image"),
    family="weather",
    source="additive model of Li et al. 2016; screen blend of Luo et al. 2015",
    degree="density",
    random=True,
    work=lambda params: 4.0 * params["length"] * (8 * params["width"] + 1),
    symmetries=(
        Symmetry("offset", when=lambda params: params["blend"] == "add"),
        Symmetry("rotate", angles=("angle",), holds="law"),
        Symmetry("flip", angles=("angle",), holds="law"),
        Symmetry("scale", {"length": 1, "width": 1, "density": -2}, holds="fine"),
        *invariant("permute"),
    ),
)
def rain(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Bright streaks of one direction."""
    kernel = streak(params["length"], params["angle"], params["width"])
    streaks = inner(_drops(draw, params["density"], kernel.shape[0] // 2), kernel)
    streaks *= np.float32(params["opacity"])
    np.minimum(streaks, np.float32(1), out=streaks)
    if params["blend"] == "add":
        return image + streaks
    out = np.float32(1) - image
    out *= np.float32(1) - streaks
    return np.subtract(np.float32(1), out, out=out)


@distortion(
    Param("transmission", float, low=0.001, high=1, doc="fraction of the light that passes"),
    Param("airlight", float, default=0.9, low=0, high=1, doc="grey value of the veil"),
    Param(
        "variation",
        float,
        default=0.0,
        low=0,
        high=1,
        doc="of the optical depth about its mean, as a fraction",
    ),
    family="weather",
    source="Koschmieder's law; Narasimhan and Nayar 2002",
    degree="transmission",
    random=True,
    work=lambda params: 50.0,
    symmetries=(
        Symmetry("gain", {"airlight": 1}),
        *invariant("permute"),
        *(Symmetry(group, when=_still) for group in ("rotate", "flip", "scale")),
    ),
)
def haze(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """image * t + airlight * (1 - t), t the transmission."""
    transmission, airlight = params["transmission"], np.float32(params["airlight"])
    through: Any = np.float32(transmission)
    if params["variation"]:
        veil = _attenuation(transmission, params["variation"])
        through = veil(plasma(draw, 2.0))[..., None]
    out = image - airlight
    out *= through
    out += airlight
    return out


@distortion(
    Param("density", float, low=0, high=10, doc="weight of the cloud"),
    Param(
        "decay", float, default=2.0, low=1, high=8, doc="its square divides the displacement at each halving"
    ),
    family="weather",
    source="Hendrycks and Dietterich 2019, with a cloud that can be made in windows",
    notes="1 stands for the brightest value of the image.",
    version=2,
    degree="density",
    random=True,
    work=lambda params: 50.0,
    symmetries=invariant("permute"),
)
def fog(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """(image + density * cloud) / (1 + density), the cloud a plasma fractal on all of [0, 1]."""
    density = np.float32(params["density"])
    cloud = stretched_plasma(draw, params["decay"])
    cloud *= density
    out = image + cloud[..., None]
    out /= np.float32(1) + density
    return out


@distortion(
    Param("mean", float, low=-1, high=2, doc="of the noise; a higher mean gives more flakes"),
    Param("deviation", float, default=0.3, low=0, high=2, doc="of the noise, before it is magnified"),
    Param("zoom", float, default=3.0, low=1, high=64, unit="px", doc="between values of the noise"),
    Param("threshold", float, default=0.5, low=-1, high=2, doc="noise below it gives no flake"),
    Param("length", int, default=8, low=1, high=127, unit="px", doc="of the line"),
    Param("angle", float, default=80.0, low=-360, high=360, unit="degrees", doc="90 falls upright"),
    Param("whiten", float, default=0.2, low=0, high=1, doc="how far values rise towards 1.5 grey + 0.5"),
    family="weather",
    source="Hendrycks and Dietterich 2019, the blur a line",
    degree="mean",
    random=True,
    work=lambda params: 8.0 * params["length"] + 50,
    symmetries=(
        Symmetry("rotate", angles=("angle",), holds="law"),
        Symmetry("flip", angles=("angle",), holds="law"),
        Symmetry("scale", {"zoom": 1, "length": 1}, holds="fine"),
    ),
)
def snow(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """The image whitened, and flakes: coarse noise above a threshold, blurred along a line."""
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


def _flakes(draw: Draw, params: Mapping[str, Any]) -> Array:
    """(h, w): magnified normal noise, zero below the threshold, at most one, blurred along a line."""
    kernel = line(params["length"], params["angle"])
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


def _places(first: int, count: int, zoom: float) -> tuple[npt.NDArray[np.intp], Array]:
    """Of pixels on a grid magnified `zoom` times: the corner before each, and how far it is past it."""
    places = np.arange(first, first + count) / zoom
    before = np.floor(places)
    return before.astype(np.intp), (places - before).astype(np.float32)
