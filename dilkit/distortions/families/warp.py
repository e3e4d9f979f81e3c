"""Pixels taken from elsewhere: glass blur and elastic warp."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from dilkit.distortions.algebra import distortion
from dilkit.distortions.families._filters import gaussian, gaussian_radius, separable
from dilkit.distortions.families._lattice import smooth
from dilkit.distortions.params import GLOBAL, Locality, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant
from dilkit.libraries import Array, np, npt

Index: TypeAlias = "npt.NDArray[np.intp]"

_RARE = 6
"""Standard deviations at which a displacement is cut: the Gaussian passes them once in 5e8."""
_HOPS = 8
"""Copies of copies in one turn that a colour can come through; a ninth is met once in 1,000 pixels."""
_PIECE = 1 << 13
"""Pixels moved at a time, so that what lies between stays in the cache and costs no fresh memory."""


def _copied_from(draw: Draw, delta: int, stream: str) -> Index:
    """(h, w): the place in the window whose colour each pixel has, once all have copied a random neighbour.

    They do so in turn, the last pixel of the image first. Each takes the colour that its neighbour, -delta ..
    delta - 1 px away, has by then: of one that has had its turn, the colour that it took, and so on, `_HOPS`
    times at most. A border of delta pixels keeps its own.
    """
    y, x, height, width = draw.window
    steps = draw.bits(2, stream=stream).astype(np.int32)
    steps *= 2 * delta
    steps >>= 16
    steps -= delta
    rows, columns = np.arange(height)[:, None], np.arange(width)
    moving = (rows + y > delta) & (rows + y <= draw.shape[0] - delta)
    moving = moving & (columns + x > delta) & (columns + x <= draw.shape[1] - delta)
    down, right = steps[..., 0] * moving, steps[..., 1] * moving
    follows = ((down > 0) | ((down == 0) & (right > 0))).reshape(-1)
    where = np.clip(down + rows, 0, height - 1) * width + np.clip(right + columns, 0, width - 1)
    flat = where.reshape(-1)
    for _ in range(_HOPS.bit_length() - 1):
        place = np.flatnonzero(follows)
        then = flat[place]
        flat[place], follows[place] = flat[then], follows[then]
    return where


def _glass_halo(params: Mapping[str, Any]) -> Locality:
    blur = gaussian_radius(params["sigma"])
    return Locality(2 * blur + params["iterations"] * params["delta"] * _HOPS)


def _furthest(alpha: float, sigma: float) -> float:
    """The greatest displacement of the field, in pixels."""
    return float(min(alpha, _RARE * alpha / (2 * sigma * math.sqrt(3 * math.pi))))


def _affine(lots: list[float], height: int, width: int) -> Array:
    """(height, width): the affine function of the place that has these values at three corners of a square.

    The square is about the centre, its side two thirds of the shorter side of the image; the corners are the
    lower right, the upper right and the upper left.
    """
    half = max(1, min(height, width) // 3)
    lower_right, upper_right, upper_left = lots
    downwards = (1 + (np.arange(height) - height // 2) / half) / 2
    leftwards = (1 - (np.arange(width) - width // 2) / half) / 2
    rows = upper_right + (lower_right - upper_right) * downwards
    return (rows[:, None] + (upper_left - upper_right) * leftwards).astype(np.float32)


def _moved(image: Image, down: Array, right: Array) -> Image:
    """Every pixel from its place plus (down, right) px, bilinear; beyond its edges the image is reflected."""
    height, width = image.shape[:2]
    planes = [np.ascontiguousarray(image[..., channel]) for channel in range(3)]
    out = np.empty_like(image)
    band = max(1, _PIECE // width)
    for start in range(0, height, band):
        rows = slice(start, start + band)
        top, bottom, y = _between(down[rows], np.arange(height)[rows, None], height)
        left, right_, x = _between(right[rows], np.arange(width), width)
        top *= width
        bottom *= width
        corners = top + left, top + right_, bottom + left, bottom + right_
        for channel, plane in enumerate(planes):
            a, b, c, d = (plane.take(where, mode="wrap") for where in corners)
            b -= a
            b *= x
            b += a
            d -= c
            d *= x
            d += c
            d -= b
            d *= y
            np.add(d, b, out=out[rows, :, channel])
    return out


def _between(steps: Array, places: Index, size: int) -> tuple[Index, Index, Array]:
    """Along an axis of `size`: the two whole places between which `places` + steps are, and how far on."""
    floor = np.floor(steps)
    whole = floor.astype(np.intp)
    whole += places
    first = int(whole.min())
    whole -= first
    around = max(1, 2 * size - 2)
    reflected = np.arange(first, first + int(whole.max()) + 2) % around
    reflected = np.minimum(reflected, around - reflected)
    return reflected.take(whole, mode="wrap"), reflected[1:].take(whole, mode="wrap"), steps - floor


def _elastic_locality(params: Mapping[str, Any]) -> Locality:
    if params["jitter"]:
        return GLOBAL
    return Locality(math.ceil(_furthest(params["alpha"], params["sigma"])) + 1)


@distortion(
    Param("delta", int, low=1, high=64, unit="px", doc="steps are uniform on -delta .. delta - 1"),
    Param("sigma", float, default=1.0, low=0.05, high=64, unit="px", doc="deviation of both blurs"),
    Param("iterations", int, default=2, low=1, high=16, doc="steps of each pixel"),
    family="blur",
    source="Hendrycks and Dietterich 2019, as their code runs: its exchange of pixels is a copy",
    notes="Not rounded to 8 bits between the two blurs.",
    version=2,
    locality=_glass_halo,
    degree="delta",
    random=True,
    work=lambda params: 24.0 * params["sigma"] + 100 * params["iterations"],
    symmetries=invariant("contrast", "gain", "offset", "permute"),
)
def glass_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Gaussian blur; pixels in turn copy a random neighbour, several times; the blur again."""
    kernel = gaussian(params["sigma"])
    blurred = separable(image, kernel, kernel).reshape(-1, 3)
    where = _copied_from(draw, params["delta"], "exchange 0")
    for k in range(1, params["iterations"]):
        where = where.take(_copied_from(draw, params["delta"], f"exchange {k}"))
    return separable(blurred.take(where.reshape(-1), axis=0).reshape(image.shape), kernel, kernel)


def _is_white(params: Mapping[str, Any]) -> bool:
    """Whether the smoothed noise is of single pixels, and no affine map (of three corners) comes with it."""
    return bool(params["sigma"] < 8 and not params["jitter"])


@distortion(
    Param(
        "alpha",
        float,
        low=0,
        high=4096,
        unit="px",
        doc="of the noise; displacements have deviation alpha / (6.14 sigma)",
    ),
    Param("sigma", float, default=4.0, low=0.5, high=512, unit="px", doc="of the smoothing Gaussian"),
    Param(
        "jitter",
        float,
        default=0.0,
        low=0,
        high=4096,
        unit="px",
        doc="of an affine map: how far three corners move, at most",
    ),
    family="warp",
    source="Simard et al. 2003; Hendrycks and Dietterich 2019, its two interpolations made one",
    locality=_elastic_locality,
    degree="alpha",
    random=True,
    work=lambda params: 100.0,
    symmetries=(
        *invariant("contrast", "gain", "offset", "permute"),
        Symmetry("rotate", holds="law", when=_is_white),
        Symmetry("flip", holds="law", when=_is_white),
        Symmetry("scale", {"alpha": 2, "sigma": 1, "jitter": 1}, holds="fine"),
    ),
)
def elastic(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Pixels displaced by smooth noise and, with jitter, by an affine map; bilinear, reflected."""
    alpha, sigma, jitter = params["alpha"], params["sigma"], params["jitter"]
    limit = np.float32(_furthest(alpha, sigma))
    field = smooth(draw, sigma) * np.float32(alpha)
    down, right = (np.clip(field[..., axis], -limit, limit) for axis in (0, 1))
    if jitter:
        height, width = image.shape[:2]
        lots = [jitter * (2 * lot - 1) for lot in draw.scalars(6, stream="corners")]
        down += _affine(lots[:3], height, width)
        right += _affine(lots[3:], height, width)
    return _moved(image, down, right)
