"""Synthetic clean images: occluding discs whose radii follow a power law, as edges in photographs do.

Source: Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001 (radii with density r**-3).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

_DISCS = 1500
_SMALLEST = 6.0
_OVER = 2
"""Discs are drawn at twice the size and averaged, so that their edges are anti-aliased."""


def dead_leaves(seed: int, index: int, size: int = 256) -> npt.NDArray[np.uint8]:
    """The `index`-th image of a seeded family: (size, size, 3) uint8 RGB."""
    import cv2

    key = int.from_bytes(blake2b(f"dead-leaves-1/{seed}/{index}/{size}".encode(), digest_size=16).digest())
    uniform = (np.random.PCG64(key).random_raw(7 * _DISCS + 3) >> np.uint64(11)) * 2.0**-53
    big = size * _OVER
    u = uniform[: 7 * _DISCS].reshape(7, _DISCS)
    largest = big / 3
    radius = 1 / np.sqrt(1 / _SMALLEST**2 - u[0] * (1 / _SMALLEST**2 - 1 / largest**2))
    x, y = u[1] * big, u[2] * big
    light = 0.05 + 0.9 * u[3]
    hue = 0.6 * (u[4:7] - 0.5) * (1 - light)
    colours = np.clip(255 * (light + hue), 0, 255)
    canvas = np.empty((big, big, 3), np.uint8)
    canvas[:] = np.rint(255 * uniform[-3:])
    for r, cx, cy, colour in zip(radius, x, y, colours.T, strict=True):
        cv2.circle(canvas, (round(cx), round(cy)), round(r), colour.tolist(), thickness=-1)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)
