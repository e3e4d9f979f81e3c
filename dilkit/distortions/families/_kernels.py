"""Blur kernels: (rows, columns) float32, odd, sum 1; read-only, cached by their parameters."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Grid = npt.NDArray[np.float64]
Make = TypeVar("Make", bound=Callable[..., Any])


def _cached(make: Make) -> Make:
    return functools.lru_cache(maxsize=256)(make)  # type: ignore[return-value]


@_cached
def gaussian(sigma: float) -> Array:
    """One dimension: Gaussian samples, cut at 3 sigma, whose standard deviation is `sigma` pixels.

    The law that is sampled is a little wider (1.4 % for large sigma) to make up for the cut.
    """
    radius = gaussian_radius(sigma)
    low, high = sigma, max(1.0, 1.05 * sigma)
    for _ in range(30):
        middle = (low + high) / 2
        weights = _samples(middle, radius)
        narrow = 2 * math.fsum(k * k * weight for k, weight in enumerate(weights)) < sigma * sigma
        low, high = (middle, high) if narrow else (low, middle)
    return _frozen(np.array([*weights[:0:-1], *weights]))


def gaussian_radius(sigma: float) -> int:
    """Pixels that `gaussian` looks to each side."""
    return max(1, math.ceil(3 * sigma))


@_cached
def gaussian_cut(sigma: float, radius: int) -> Array:
    """One dimension: samples of the Gaussian of `sigma` pixels, cut at `radius`."""
    weights = _samples(sigma, radius)
    return _frozen(np.array([*weights[:0:-1], *weights]))


def _samples(sigma: float, radius: int) -> list[float]:
    """The right half of a sampled Gaussian: weights at 0 .. radius, which with the left half sum to 1."""
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = 2 * math.fsum(weights) - 1
    return [weight / total for weight in weights]


@_cached
def elliptic(law: str, along: float, across: float, angle: float, beta: float, radius: int) -> Array:
    """exp(-q/2) (`gaussian`), exp(-q**beta / 2) (`generalised`) or 1 / (1 + q**beta) (`plateau`).

    q is the squared distance in the ellipse of axes `along` (at `angle` degrees, counter-clockwise from the
    x axis) and `across`. Source: Real-ESRGAN, after Liu et al. 2020 (generalised, plateau).
    """
    y, x = _grid(radius)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    q = ((x * cos - y * sin) / along) ** 2 + ((x * sin + y * cos) / across) ** 2
    if law == "gaussian":
        return _frozen(np.exp(-0.5 * q))
    return _frozen(np.exp(-0.5 * q**beta) if law == "generalised" else 1 / (1 + q**beta))


@_cached
def sinc(cutoff: float, radius: int) -> Array:
    """The circular low-pass filter of `cutoff` radians a pixel: cutoff J1(cutoff r) / (2 pi r)."""
    from scipy.special import j1  # imported where it is needed: a tenth of a second

    y, x = _grid(radius)
    r = np.hypot(x, y)
    r[radius, radius] = 1
    kernel = cutoff * j1(cutoff * r) / (2 * math.pi * r)
    kernel[radius, radius] = cutoff**2 / (4 * math.pi)
    return _frozen(kernel)


@_cached
def line(length: int, angle: float) -> Array:
    """`length` points one pixel apart on a line at `angle` degrees, each shared by its four neighbours."""
    radius = line_radius(length)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    cos, sin = (round(f(math.radians(angle)), 12) for f in (math.cos, math.sin))
    for k in range(length):
        step = k - (length - 1) / 2
        y, x = radius - step * sin, radius + step * cos
        top, left = math.floor(y), math.floor(x)
        for row, wy in ((top, 1 - (y - top)), (top + 1, y - top)):
            for column, wx in ((left, 1 - (x - left)), (left + 1, x - left)):
                if wy * wx > 0:
                    kernel[row, column] += wy * wx
    return _frozen(kernel)


def line_radius(length: int) -> int:
    """Pixels that a line of `length` looks to each side."""
    return math.ceil((length - 1) / 2)


@_cached
def trail(sigma: float, angle: float, radius: int) -> Array:
    """Half a Gaussian, 0 to 2 radius pixels from the centre towards `angle` degrees, at the nearest
    pixels.
    """
    reach = 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    cos, sin = (round(f(math.radians(angle)), 12) for f in (math.cos, math.sin))
    for k in range(reach + 1):
        y, x = (int(math.copysign(math.floor(abs(k * part) + 0.5), part)) for part in (-sin, cos))
        kernel[reach + y, reach + x] += math.exp(-0.5 * (k / sigma) ** 2)
    return _frozen(kernel)


@_cached
def streak(length: int, angle: float, width: float) -> Array:
    """A line of deviation `width` across, its core 1 (so the sum is not 1)."""
    core, across = line(length, angle).astype(float), gaussian(width).astype(float)
    grow = len(across) - 1
    kernel = np.zeros((core.shape[0] + grow, core.shape[1] + grow))
    for y, x in np.argwhere(core):
        kernel[y : y + grow + 1, x : x + grow + 1] += core[y, x] * across[:, None] * across
    made = (kernel / kernel.max()).astype(np.float32)
    made[made < 1e-4] = 0
    made.flags.writeable = False
    return made


@_cached
def disk(radius: float) -> Array:
    """A disk of `radius` pixels; pixels on its edge weigh as much as of them it covers (16 x 16 samples)."""
    reach = disk_radius(radius)
    fine = (np.arange(16 * (2 * reach + 1)) + 0.5) / 16 - reach - 0.5
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2) <= radius**2
    size = 2 * reach + 1
    return _frozen(inside.reshape(size, 16, size, 16).sum(axis=(1, 3)).astype(float))


def disk_radius(radius: float) -> int:
    """Pixels that a disk looks to each side."""
    return max(0, math.ceil(radius - 0.5))


def _grid(radius: int) -> tuple[Grid, Grid]:
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    return y, x


def _frozen(kernel: Grid) -> Array:
    made = (kernel / math.fsum(kernel.ravel())).astype(np.float32)
    made.flags.writeable = False
    return made
