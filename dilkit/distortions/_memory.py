"""Fresh pages are slow: half the time of many primitives goes to the kernel clearing them."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB of freed memory for its next arrays; for workers, not for libraries.

    Doubles the speed of primitives that need several arrays of the image's size. Does nothing, and says so,
    where the C library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 25) and mallopt(_TRIM_THRESHOLD, 1 << 28))
