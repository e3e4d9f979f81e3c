"""Randomness that depends on what is distorted and how, never on who does it or when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Window(NamedTuple):
    """A box of pixels: rows y .. y+h, columns x .. x+w."""

    y: int
    x: int
    h: int
    w: int


@dataclass(frozen=True)
class Draw:
    """The random numbers of one primitive on one image.

    Attributes:
        key: blake2b of (root seed, pixel hash of the clean image, canonical primitive, position in the
            flattened word, replicate); nothing else may enter.
        shape: (H, W) of the whole image.
        window: the part of it that is being made; fields are cut to it, so that
            `apply(image, draw)[window] == apply(image[window], draw.at(window))` for a point primitive.
    """

    key: bytes
    shape: tuple[int, int]
    window: Window
