"""What tells a whole, unchanged dataset file before the HDF5 library looks at it.

HDF5 may crash, or never come back, where a byte of its structure is wrong. So behind the last byte that it
knows of stands a seal: where the pixels lie, and xxh3-64 of everything else. HDF5 itself does not see it.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import xxhash

from dilkit.errors import UsageError

_TAIL = struct.Struct("<QQ8s")
"""How many ranges of pixels stand before it, as pairs of offset and length; the hash; the mark."""
TAIL = _TAIL.size
_MARK = b"dilkit\x00\x01"
_BLOCK = 1 << 20


class Damaged(UsageError):
    """What is not pixels was changed since the file was made."""


def append(path: Path, pixels: Iterable[tuple[int, int]]) -> None:
    """Put a seal without a hash behind a file: readers take it for unfinished.

    Args:
        pixels: offset and length of each array of pixels.
    """
    ranges = np.array(sorted(pixels), "<u8").reshape(-1, 2)
    with path.open("ab") as file:
        file.write(ranges.tobytes() + _TAIL.pack(len(ranges), 0, _MARK))


def strip(path: Path) -> None:
    """Take the seal off, before HDF5 changes the file."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        if (tail := _tail(file, size)) is not None:
            file.truncate(size - _TAIL.size - 16 * tail[0])


def close(path: Path) -> int:
    """Write the hash into the seal, and flush the file to the disk; gives the hash."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file, size)
        assert tail is not None
        value = _hash(file, size, tail[0])
        os.pwrite(file.fileno(), struct.pack("<Q", value), size - 16)
        os.fsync(file.fileno())
    return value


def claimed(path: Path) -> int | None:
    """The hash that stands in the seal, unchecked; 0 while the file is being made, None without a seal."""
    with path.open("rb") as file:
        tail = _tail(file, file.seek(0, os.SEEK_END))
    return tail and tail[1]


def check(path: Path) -> int | None:
    """The hash in the seal of a file; 0 while it is being made, None where it has no seal.

    Raises:
        Damaged: the file has another.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file, size)
        if tail is not None and tail[1] and tail[1] != _hash(file, size, tail[0]):
            raise Damaged(
                f"{path.name}: attributes, index or digests were changed",
                where=path,
                remedy="copy it again or make it again",
            )
    return tail and tail[1]


def _tail(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """The number of ranges, and the hash."""
    if size < _TAIL.size:
        return None
    file.seek(size - _TAIL.size)
    count, value, mark = _TAIL.unpack(file.read(_TAIL.size))
    return (count, value) if mark == _MARK else None


def _hash(file: BinaryIO, size: int, count: int) -> int:
    """xxh3-64 of all bytes that are neither pixels nor the hash.

    0 only where the ranges make no sense, or a change that begins meanwhile takes the end away.
    """
    start = size - _TAIL.size - 16 * count
    if start < 0:
        return 0
    file.seek(start)
    held = file.read(16 * count)
    if len(held) < 16 * count:
        return 0
    ranges = np.frombuffer(held, "<u8").reshape(-1, 2).tolist()
    digest = xxhash.xxh3_64()
    position = 0
    for start, length in [*ranges, (size - 16, 0)]:
        if not position <= start <= size - length:
            return 0
        file.seek(position)
        while position < start:
            block = file.read(min(_BLOCK, start - position))
            if not block:
                return 0
            digest.update(block)
            position += len(block)
        position += length
    return digest.intdigest() or 1
