"""Filters whose every output pixel has the same bits whatever window it was computed in.

OpenCV's vector loops and their scalar tails round differently (fused multiply-add), so the right edge of an
image is extended until no wanted pixel falls into a tail. OpenCV's own threads are switched off: processes
are what we scale by, and its pool does not survive a fork.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

cv2.setNumThreads(0)

BORDER = cv2.BORDER_REFLECT_101
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
        image = extended(image, right=len(across) // 2 + _TAIL // channels)
    if max(len(across), len(down)) < _FOURIER:
        out = cv2.filter2D(image, -1, across[None], borderType=BORDER)
        out = cv2.filter2D(out, -1, down[:, None], borderType=BORDER)
    else:
        out = cv2.sepFilter2D(image, -1, across, down, borderType=BORDER)
    made = np.asarray(out, np.float32)
    if made.shape != image.shape:
        made = made.reshape(image.shape)
    return made if made.shape[1] == width else made[:, :width]


def correlate(image: Array, kernel: Array) -> Array:
    """Correlate (h, w, c) with an odd kernel (rows, columns), reflected at the border; zeros cost nothing."""
    down, across = kernel.shape[0] // 2, kernel.shape[1] // 2
    tail = _TAIL // image.shape[2]
    return inner(extended(image, down, down, across, across + tail), kernel, tail)


def inner(image: Array, kernel: Array, tail: int = 0) -> Array:
    """Correlate (h, w, c) with a kernel where it fits: (h - rows + 1, w - columns + 1 - tail, c)."""
    rows, columns = kernel.shape
    channels = image.shape[2]
    if tail < _TAIL // channels:
        image = extended(image, right=_TAIL // channels - tail)
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


def extended(image: Array, top: int = 0, bottom: int = 0, left: int = 0, right: int = 0) -> Array:
    """Reflect the image beyond its edges, without repeating them."""
    out = cv2.copyMakeBorder(image, top, bottom, left, right, BORDER)
    return np.asarray(out, np.float32).reshape(*out.shape[:2], image.shape[2])
