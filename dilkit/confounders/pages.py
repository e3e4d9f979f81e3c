"""The pixels of a dataset file, mapped into memory.

Crops jump about in a file. Left to itself the system fetches megabytes around each; so it is told not to, and
which bytes are wanted.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.confounders.regions import Region


class Pages:
    """A file's bytes; nothing is read before it is looked at or expected."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)

    def array(self, region: Region) -> npt.NDArray[Any]:
        """All values of an array in a row, read-only."""
        count = int(np.prod(region.shape, dtype=np.int64))
        return np.frombuffer(self._map, region.dtype, count, region.offset)

    def expect(self, start: int, count: int) -> None:
        """These bytes will be wanted: have them fetched, and return at once."""
        page = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, page, start + count - page)
