"""Functions of one value, by a table and straight lines between its entries: the same bits everywhere."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

CELLS = 4096


class Curve:
    """A function on [0, 1], continued by straight lines beyond it."""

    def __init__(self, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> None:
        self.values = function(np.linspace(0, 1, CELLS + 1)).astype(np.float32)
        self.steps = np.diff(self.values)

    def __call__(self, values: Array) -> Array:
        place = values * np.float32(CELLS)
        cell = np.clip(place, np.float32(0), np.float32(CELLS - 1)).astype(np.int32)
        place -= cell
        place *= self.steps.take(cell, mode="wrap")
        place += self.values.take(cell, mode="wrap")
        return place


@functools.cache
def srgb_to_linear() -> Curve:
    """IEC 61966-2-1."""
    return Curve(lambda x: np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4))


@functools.cache
def linear_to_srgb() -> Curve:
    """IEC 61966-2-1."""
    return Curve(lambda x: np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055))


@functools.lru_cache(maxsize=64)
def power_curve(base: float, scale: float, exponent: float) -> Curve:
    """scale (base x) ** exponent."""
    return Curve(lambda x: scale * (base * x) ** exponent)


@functools.lru_cache(maxsize=64)
def attenuation(transmission: float, variation: float) -> Curve:
    """transmission ** (1 + variation (2 x - 1)): what passes a veil whose thickness varies with x."""
    return Curve(lambda x: transmission ** (1 + variation * (2 * x - 1)))
