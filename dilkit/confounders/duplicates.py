"""Which images look alike: within a dataset, between it and a test set, and among what a net has seen.

One rule for all: two images look alike where the hashes of what they look like differ in at most `NEAR` of 64
bits, one of them mirrored and turned in the eight ways of a square.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from dilkit.confounders.images import Alpha, Pixels, UnreadableImage, expand
from dilkit.errors import DilkitError
from dilkit.libraries import cv2, np, npt

NEAR = 4
"""Bits of 64.

Measured on BSD400, CBSD68 and Set5 (111,628 pairs of different pictures, each in eight ways): none is within
4 bits, and one within 5 to 11 (302003 of BSD400 and Set5's woman, at 5). Of 200 pictures changed, within 4
bits: saved as JPEG at quality 75 or 30, halved, grey, with noise of sigma 25, mirrored, turned, or turned
and saved and halved, 100 %; JPEG at quality 10, 99.5 %; gamma 0.8, 99 %; a quarter of the size, 98 %; a
border of 1 % cut off, 94 %, of 2 %, 66 %, of 5 %, 3 %.
"""

_ROUNDING = 1e-3
"""Frequencies below it, of values 0 .. 255, are rounding."""
_ENOUGH = 10_000
"""Pairs after which no more are sought: the frames of a film have too many."""
_FLAT = 0
"""The hash of an image without any structure, which says nothing."""


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits for an (H, W, 3) image, uint8 or float32 in [0, 1]; images that look alike differ in few.

    Source: the DCT hash ("pHash") of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010, of a 32 x 32 grey miniature; but the low frequencies are compared with 0 and not with
    their median, so that the hash of a mirrored image is known from that of the image.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if pixels.dtype != np.uint8:
        small *= 255
    low = cv2.dct(small)[:8, :8]
    low[0, 0] = 0  # the brightness says nothing
    return int.from_bytes(np.packbits(low > _ROUNDING).tobytes(), "little")


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


_MOST, _RATIO = 1 << 30, 64
"""Bytes that a list of hashes may have when it is read, of 134 million images; and how many times more than
when it is packed: hashes that differ hardly get smaller."""


class SeenImages:
    """The images that something has seen, by their perceptual hashes; any number of them, 8 bytes each."""

    def __init__(self, hashes: Iterable[int] | npt.NDArray[np.uint64] = ()) -> None:
        values = hashes if isinstance(hashes, np.ndarray) else np.fromiter(hashes, np.uint64)
        unique = np.unique(values.astype(np.uint64))
        self._hashes = unique[unique != _FLAT]

    def __len__(self) -> int:
        return len(self._hashes)

    def __or__(self, other: SeenImages) -> SeenImages:
        """What either has seen."""
        return SeenImages(np.concatenate([self._hashes, other._hashes]))

    def holds(self, image: Pixels) -> bool:
        """Whether one of them looks like `image`, (H, W, 3) uint8 or float32, mirrored or turned or not."""
        return self.holds_hash(perceptual_hash(image))

    def holds_hash(self, value: int) -> bool:
        """Whether one of them has a hash next to this one."""
        if value == _FLAT or not len(self):
            return False
        ways = symmetries(np.array([value], np.uint64))[:, 0]
        return any(int(np.bitwise_count(self._hashes ^ way).min()) <= NEAR for way in ways)

    def to_json(self) -> dict[str, Any]:
        """JSON-able, some 11 bytes an image."""
        packed = base64.b64encode(zlib.compress(self._hashes.astype("<u8").tobytes(), 1)).decode()
        return {"count": len(self), "near": NEAR, "hashes": packed}

    @classmethod
    def from_json(cls, value: Any) -> SeenImages:
        """What `to_json` gave, or the list of hexadecimal hashes of earlier checkpoints.

        Raises:
            DilkitError: it is neither.
        """
        try:
            if isinstance(value, list):
                return cls(int(text, 16) for text in value)
            unpacker = zlib.decompressobj()
            packed = base64.b64decode(value["hashes"])
            raw = unpacker.decompress(packed, min(_MOST, _RATIO * len(packed) or 1))
            if len(raw) % 8 or not unpacker.eof or value.get("filter"):
                raise ValueError("damaged, or with a filter, as early versions wrote it for a million images")
            return cls(np.frombuffer(raw, "<u8"))
        except (ValueError, TypeError, LookupError, AttributeError, OverflowError, zlib.error) as error:
            raise DilkitError("the list of seen images is damaged", found=str(error)[:100]) from None
