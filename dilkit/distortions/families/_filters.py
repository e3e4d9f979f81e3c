"""Blur kernels, and filters whose every output pixel has the same bits whatever window it was computed in.

Kernels are (rows, columns) float32, odd, of sum 1, read-only, and cached by their parameters.

OpenCV's vector loops and their scalar tails round differently (fused multiply-add), so the right edge of an
image is extended until no wanted pixel falls into a tail.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar

from dilkit.libraries import Array, cv2, np, npt, special

Make = TypeVar("Make", bound=Callable[..., Any])

# -- kernels -----------------------------------------------------------------------------------------------


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
def low_pass(cutoff: float, radius: int) -> Array:
    """The circular low-pass filter of `cutoff` radians a pixel: cutoff J1(cutoff r) / (2 pi r)."""
    r = np.hypot(*_grid(radius))
    r[radius, radius] = 1
    kernel = cutoff * special.j1(cutoff * r) / (2 * math.pi * r)
    kernel[radius, radius] = cutoff**2 / (4 * math.pi)
    return _frozen(kernel)


@_cached
def line(length: int, angle: float) -> Array:
    """`length` points one pixel apart on a line at `angle` degrees, each shared by its four neighbours."""
    radius = line_radius(length)
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1))
    cos, sin = direction(angle)
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


def direction(degrees: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that mathematical libraries agree."""
    return round(math.cos(math.radians(degrees)), 12), round(math.sin(math.radians(degrees)), 12)


@_cached
def trail(sigma: float, angle: float, radius: int) -> Array:
    """Half a Gaussian, at the pixels nearest to points 0 to 2 radius from the centre towards `angle`."""
    reach = 2 * radius
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    cos, sin = direction(angle)
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
    """A disk of `radius` pixels; a pixel on its edge weighs what the disk covers of it (16 x 16 samples)."""
    reach = disk_radius(radius)
    fine = (np.arange(16 * (2 * reach + 1)) + 0.5) / 16 - reach - 0.5
    inside = (fine[:, None] ** 2 + fine[None, :] ** 2) <= radius**2
    size = 2 * reach + 1
    return _frozen(inside.reshape(size, 16, size, 16).sum(axis=(1, 3)).astype(float))


def disk_radius(radius: float) -> int:
    """Pixels that a disk looks to each side."""
    return max(0, math.ceil(radius - 0.5))


def _grid(radius: int) -> npt.NDArray[np.float64]:
    """Rows and columns, counted from the centre."""
    return np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)


def _frozen(kernel: npt.NDArray[np.float64]) -> Array:
    made = (kernel / math.fsum(kernel.ravel())).astype(np.float32)
    made.flags.writeable = False
    return made


# -- filters -----------------------------------------------------------------------------------------------

_LANES = 16
"""Elements of the widest vectors: rows of a multiple of them have no scalar tail."""
_TAIL = 24
"""Elements at the end of other rows that may fall into one, and some to spare."""
_FOURIER = 50
"""Weights from which OpenCV's filter2D may turn to Fourier transforms, whose bits depend on the window."""
_DIRECT = 7


def separable(image: Array, across: Array, down: Array) -> Array:
    """Correlate (h, w, c) with the odd kernel `down` (rows) x `across` (columns), reflected at the border."""
    width, channels = image.shape[1:]
    if width * channels % _LANES:
        image = _extended(image, right=len(across) // 2 + _TAIL // channels)
    border = cv2.BORDER_REFLECT_101
    if max(len(across), len(down)) < _FOURIER:
        out = cv2.filter2D(image, -1, across[None], borderType=border)
        out = cv2.filter2D(out, -1, down[:, None], borderType=border)
    else:
        out = cv2.sepFilter2D(image, -1, across, down, borderType=border)
    made = np.asarray(out, np.float32)
    if made.shape != image.shape:
        made = made.reshape(image.shape)
    return made if made.shape[1] == width else made[:, :width]


def correlate(image: Array, kernel: Array) -> Array:
    """Correlate (h, w, c) with an odd kernel (rows, columns), reflected at the border; zeros cost nothing."""
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    tail = _TAIL // image.shape[2]
    return inner(_extended(image, down, down, across, across + tail), kernel, tail)


def inner(image: Array, kernel: Array, tail: int = 0) -> Array:
    """Correlate (h, w, c) with a kernel where it fits: (h - rows + 1, w - columns + 1 - tail, c)."""
    rows, columns = kernel.shape
    channels = image.shape[2]
    if tail < _TAIL // channels:
        image = _extended(image, right=_TAIL // channels - tail)
        tail = _TAIL // channels
    height, width = image.shape[0] - rows + 1, image.shape[1] - columns + 1 - tail
    total = np.zeros((height, width, channels), np.float32)
    made = np.empty((height + _DIRECT - 1, width + _DIRECT - 1 + tail, channels), np.float32)
    for y in range(0, rows, _DIRECT):
        for x in range(0, columns, _DIRECT):
            block = kernel[y : y + _DIRECT, x : x + _DIRECT]
            if block.any():
                bottom, right = height + block.shape[0] - 1, width + block.shape[1] - 1 + tail
                part, into = image[y : y + bottom, x : x + right], made[:bottom, :right]
                cv2.filter2D(part, -1, block, dst=into, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
                total += into[:height, :width]
    return total


def _extended(image: Array, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    """Reflect the image beyond its edges, without repeating them."""
    out = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_REFLECT_101)
    return np.asarray(out, np.float32).reshape(*out.shape[:2], image.shape[2])
