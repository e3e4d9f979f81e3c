"""Smooth random planes: numbers drawn at the corners of cells, interpolated; a window gives its cut.

All but the Gaussian of `smooth` are elementary operations, which round in the same way on every machine.
"""

from __future__ import annotations

import math

from dilkit.distortions.families._filters import gaussian, separable
from dilkit.distortions.randomness import Draw, Window
from dilkit.libraries import Array, np

_LEVELS = 8
_COARSE = 4.0
"""A Gaussian of more than twice so many cells is sampled on cells of twice the size."""


def plasma(draw: Draw, decay: float, *, levels: int = _LEVELS, stream: str = "") -> Array:
    """(h, w) in [0, 1], mean 1/2, standard deviation about 0.2: midpoint displacement.

    It begins with cells of 2**levels pixels; each halving of them adds a uniform displacement, `decay`
    times smaller than the one before.
    """
    amplitudes = [decay**-level for level in range(levels + 1)]
    plane = _displaced(draw, amplitudes, stream)
    plane = plane[: draw.window.h, : draw.window.w] * np.float32(0.5 / math.hypot(*amplitudes))
    plane += np.float32(0.5)
    return np.clip(plane, np.float32(0), np.float32(1), out=plane)


def stretched_plasma(draw: Draw, decay: float) -> Array:
    """(h, w): a plasma stretched to all of [0, 1] over the square of the next power of two that holds the
    image.

    It begins with no displacement at the corners of that square; each halving adds one, `decay` ** 2 times
    smaller than the one before. The extremes are those at every eighth pixel. Source: Hendrycks and
    Dietterich 2019 (there, one displacement at a time and periodic).
    """
    levels = max(4, (max(draw.shape) - 1).bit_length())
    size = 1 << levels
    square = Draw(draw.key, (size, size), Window(0, 0, size, size))
    amplitudes = [0.0] + [decay ** (-2 * level) for level in range(levels)]
    coarse = _displaced(square, amplitudes[:-3], "", left_out=3)
    low, high = coarse.min(), coarse.max()
    plane = _displaced(square.at(draw.window), amplitudes, "")[: draw.window.h, : draw.window.w] - low
    plane /= high - low
    return np.clip(plane, np.float32(0), np.float32(1), out=plane)


def _displaced(draw: Draw, amplitudes: list[float], stream: str, left_out: int = 0) -> Array:
    """At the corners of the window's cells of 2**left_out pixels: the displacements of all coarser cells."""
    levels = len(amplitudes) - 1 + left_out
    plane = _corners(draw, levels, amplitudes[0], stream)
    for level, amplitude in enumerate(amplitudes[1:], start=1):
        scale = levels - level
        plane = _refined(plane, draw.window, scale)
        plane += _corners(draw, scale, amplitude, stream)
    return plane


def smooth(draw: Draw, sigma: float, *, stream: str = "") -> Array:
    """(h, w, 2): uniform noise on [-1, 1) after a Gaussian of `sigma` pixels; no border.

    Its standard deviation is 1 / (2 sigma sqrt(3 pi)), from a sigma of about 1 px. From 8 px up the noise is
    that of cells of 2, 4, 8 .. pixels, at least four to a sigma, and straight lines between them.
    """
    scale = max(0, math.floor(math.log2(sigma / _COARSE)))
    kernel = gaussian(sigma / 2**scale)
    pad = len(kernel) // 2
    noise = lattice(draw, scale).bits(2, pad=pad, stream=stream) * np.float32(2.0**-15)
    noise -= np.float32(1 - 2.0**-16)
    planes = separable(noise, kernel, kernel)[pad:-pad, pad:-pad] * np.float32(2.0**-scale)
    for finer in range(scale - 1, -1, -1):
        planes = _refined(planes, draw.window, finer)
    return planes[: draw.window.h, : draw.window.w]


def cells(window: Window, scale: int) -> Window:
    """The corners of the cells of 2**scale pixels that a window touches."""
    y, x = window.y >> scale, window.x >> scale
    bottom, right = (window.y + window.h - 1) >> scale, (window.x + window.w - 1) >> scale
    return Window(y, x, bottom - y + 2, right - x + 2)


def lattice(draw: Draw, scale: int) -> Draw:
    """The draw of what is at the corners of the cells of 2**scale pixels, cut to those of the window."""
    height, width = ((side - 1 >> scale) + 2 for side in draw.shape)
    return Draw(draw.key, (height, width), cells(draw.window, scale))


def _corners(draw: Draw, scale: int, amplitude: float, stream: str) -> Array:
    """Uniform displacements on [-amplitude, amplitude) at the corners of the window's cells."""
    bits = lattice(draw, scale).bits(1, stream=f"{stream}cells {scale}")
    lot = bits[..., 0] * np.float32(2 * amplitude / 65536)
    lot -= np.float32(amplitude)
    return lot


def _refined(plane: Array, window: Window, scale: int) -> Array:
    """From the corners of the window's cells of 2**(scale + 1) pixels to those of 2**scale."""
    wanted, before = cells(window, scale), cells(window, scale + 1)
    finer = _halved(plane)
    y, x = wanted.y - 2 * before.y, wanted.x - 2 * before.x
    return finer[y : y + wanted.h, x : x + wanted.w]


def _halved(plane: Array) -> Array:
    """Bilinear values at the corners and midpoints of the cells: (2 h - 1, 2 w - 1)."""
    height, width = plane.shape[:2]
    out = np.empty((2 * height - 1, 2 * width - 1, *plane.shape[2:]), np.float32)
    out[::2, ::2] = plane
    half = np.float32(0.5)
    np.multiply(plane[:, 1:] + plane[:, :-1], half, out=out[::2, 1::2])
    np.multiply(out[2::2] + out[:-2:2], half, out=out[1::2])
    return out
