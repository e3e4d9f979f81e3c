"""Where the arrays of a dataset lie in its file, so that they can be read and written without HDF5."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.errors import UsageError


@dataclass(frozen=True)
class Region:
    """Where an array lies: byte offset, dtype, shape, and the width of its strips (0: its rows are whole)."""

    offset: int
    dtype: str
    shape: tuple[int, ...]
    strip: int = 0

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    def map(self, path: Path) -> npt.NDArray[Any]:
        """The array as it lies in the file, read-only."""
        return np.memmap(path, self.dtype, "r", self.offset, self.shape)


Regions = dict[str, Region]


def regions(file: Any) -> Regions:
    """Every array that lies in an open file, by name (`clean`, `distorted/LABEL`, ...)."""
    import h5py

    found: Regions = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.shape is not None and not item.is_virtual:
            offset = _first_strip(item) if item.chunks else item.id.get_offset()
            if offset is None:
                raise UsageError(
                    f"the array {name} is not stored in one piece",
                    where=file.filename,
                    remedy="another program has packed it anew; copy it again or make it again",
                )
            strip = item.chunks[2] if item.chunks else 0
            found[name] = Region(offset, item.dtype.str, item.shape, strip)

    file.visititems(visit)
    return found


def is_pixels(name: str) -> bool:
    return name == "clean" or name.startswith("distorted/")


def _first_strip(item: Any) -> int | None:
    """The offset of an array in strips, if it has no gap."""
    if len(item.shape) != 4 or item.id.get_create_plist().get_nfilters():
        return None
    n, h, w, channels = item.shape
    _, _, strip, _ = item.chunks
    if item.chunks != (1, h, strip, channels):
        return None
    first = item.id.get_chunk_info_by_coord((0, 0, 0, 0))
    last = item.id.get_chunk_info_by_coord((n - 1, 0, w - strip, 0))
    if first.byte_offset is None or last.byte_offset is None:
        return None
    whole = last.byte_offset + last.size - first.byte_offset == item.nbytes
    return int(first.byte_offset) if whole else None
