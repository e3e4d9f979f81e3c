"""A hash of what an image looks like: near-duplicates differ in few bits.

Source: the DCT hash ("pHash") of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010, of a 32 x 32 grey miniature; but the low frequencies are compared with 0 and not with their
median, so that the hash of a mirrored image is known from that of the image.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dilkit.confounders.reading import Pixels

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
