"""A hash of what an image looks like: near-duplicates differ in few bits.

Source: the DCT hash ("pHash") of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010, of a 32 x 32 grey miniature; but the low frequencies are compared with 0 and not with their
median, so that the hash of a mirrored image is known from that of the image.

Images that look alike, within a dataset or between it and a test set.

Whether a test image was in training: its perceptual hash is among, or next to, those trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.confounders.images import Alpha, Pixels, UnreadableImage, expand
from dilkit.errors import DilkitError

_NOTHING = 1e-3
"""Frequencies below it, of values 0 .. 255, are rounding."""


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits for an (H, W, 3) image, uint8 or float32 in [0, 1]."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if pixels.dtype != np.uint8:
        small *= 255
    low = cv2.dct(small)[:8, :8]
    low[0, 0] = 0  # the brightness says nothing
    return int.from_bytes(np.packbits(low > _NOTHING).tobytes(), "little")


def symmetries(hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """What the images hash to, turned and mirrored in the eight ways; (8, N), first as they are.

    Mirroring changes the sign of every other frequency, so its bit.
    """
    bits = np.unpackbits(hashes.astype("<u8").view(np.uint8)).reshape(-1, 8, 8)
    odd = (np.arange(8) % 2).astype(np.uint8)
    turned = [
        way ^ (across * odd) ^ (down * odd[:, None])
        for way in (bits, bits.swapaxes(1, 2))
        for across in (0, 1)
        for down in (0, 1)
    ]
    return np.packbits(np.stack(turned), axis=-1).reshape(8, -1, 8).view("<u8")[..., 0]


NEAR = 6
"""Hashes that differ in at most so many of 64 bits belong to near-duplicates."""

_ENOUGH = 10_000
"""Pairs after which no more are sought: the frames of a film have too many."""

_FLAT = 0
"""The hash of an image without any structure, which says nothing."""


def near_pairs(
    hashes: Sequence[int],
    near: int = NEAR,
    *,
    excluded: int = 0,
    inside: bool = True,
    most: int | None = None,
) -> list[tuple[int, int]]:
    """Positions (i < j) of hashes that differ in at most `near` bits, one of them turned or mirrored or not.

    Two such hashes agree in at least one of `near + 1` bands of bits, so only those that do are compared.

    Args:
        excluded: the last so many hashes are of excluded images, which are not compared with each other.
        inside: whether the others are.
        most: stop when so many are found.
    """
    count, own = len(hashes), len(hashes) - excluded
    values = symmetries(np.array(hashes, np.uint64)).reshape(-1)
    owner = np.arange(len(values)) % count
    values[values[owner] == _FLAT] = _FLAT
    edges = [64 * band // (near + 1) for band in range(near + 2)]
    found: set[tuple[int, int]] = set()
    for low, high in pairwise(edges):
        band = values >> np.uint64(low) & np.uint64((1 << high - low) - 1)
        order = np.argsort(band, kind="stable")
        order = order[values[order] != _FLAT]
        groups = np.split(order, np.flatnonzero(np.diff(band[order])) + 1)
        for group in groups:
            for i in group[(group < count) & (inside | (group >= own))]:
                close = owner[group[np.bitwise_count(values[group] ^ values[i]) <= near]]
                close = close[(close != i) & ((close < own) | (i < own))]
                found.update((int(min(i, j)), int(max(i, j))) for j in close)
                if most is not None and len(found) >= most:
                    return sorted(found)
    return sorted(found)


def hashes_of(sources: Iterable[str | Path], alpha: Alpha = "refuse") -> dict[str, int]:
    """The perceptual hash of every image of the sources, by name; a DilkitError where one cannot be read."""
    found = {}
    for image in expand(sources):
        try:
            found[image.name] = perceptual_hash(image.load(alpha))
        except UnreadableImage as error:
            raise DilkitError(
                "an excluded image cannot be read, so nothing can be compared with it",
                where=image.name,
                found=error.message,
                remedy="repair it, or take it out of the excluded folder",
            ) from None
    return found


def refuse_duplicates(
    names: Sequence[str],
    hashes: Sequence[int],
    excluded: Mapping[str, int],
    *,
    allow: bool = False,
    again: str = "",
) -> None:
    """Raises DilkitError where an image looks like one that is excluded or, unless allowed, like another.

    `again` says how to go on when an image has been removed.
    """
    labels = [*names, *(f"{name} (excluded)" for name in excluded)]
    pairs = near_pairs([*hashes, *excluded.values()], excluded=len(excluded), inside=not allow, most=_ENOUGH)
    if not pairs:
        return
    shown = [f"{labels[i]} ~ {labels[j]}" for i, j in pairs[:10]]
    if len(pairs) > len(shown):
        shown.append(f"and {len(pairs) - len(shown)} more")
    inside = any(j < len(names) for _, j in pairs)
    least = "at least " if len(pairs) >= _ENOUGH else ""
    raise DilkitError(
        f"{least}{len(pairs)} pairs of images look alike" if len(pairs) > 1 else "two images look alike",
        found="\n            ".join(shown),
        remedy=f"remove one of each from the sources{again}"
        + (", or give --allow-duplicates" if inside else ""),
    )


NEAR_leaks = 3
"""Bits of 64 in which the same picture, saved anew, may differ."""


class Trained:
    """The images a net was trained on, by perceptual hash (16 hexadecimal digits each)."""

    def __init__(self, hashes: Sequence[str]) -> None:
        self._hashes = np.array([int(text, 16) for text in hashes], np.uint64)

    def holds(self, image: npt.NDArray[Any]) -> bool:
        """Whether one of them looks like `image`, (H, W, 3) uint8 or float32."""
        if not len(self._hashes):
            return False
        distance = np.bitwise_count(self._hashes ^ np.uint64(perceptual_hash(image)))
        return bool(distance.min() <= NEAR_leaks)
