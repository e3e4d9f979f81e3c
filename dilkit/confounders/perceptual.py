"""A hash of what an image looks like: near-duplicates differ in few bits.

Source: the DCT hash ("pHash") of Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions", 2010: signs of the low frequencies of a 32 x 32 grey miniature against their median.
"""

from __future__ import annotations

import numpy as np

from dilkit.confounders.reading import Pixels


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits for an (H, W, 3) image, uint8 or float32 in [0, 1]."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float32)
    if pixels.dtype != np.uint8:
        small *= 255
    low = cv2.dct(small)[:8, :8].reshape(-1)
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "little")
