"""What a worker has made goes to the disk past the page cache, while it makes the next.

Through the cache every byte would be copied, kept and handled once more, for a file larger than most memories
that nobody reads before it is done. So neighbouring items are gathered, and a thread hands each megabyte to
the disk itself. Where the system or the item's size does not allow that, it is written as usual.
"""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_PAGE = 4096
"""Places and sizes that every disk takes are multiples of it."""
_PIECE = 1 << 20
_PIECES = 24
_GATHERED = 16
"""Of the pieces, those that may be filled at a time; the others are on their way."""
_HUGE_PAGE = 1 << 21


class _Piece:
    """Up to a megabyte of neighbouring bytes."""

    def __init__(self, memory: npt.NDArray[np.uint8]) -> None:
        self._memory = memory
        self.place = self.used = 0

    @property
    def end(self) -> int:
        return self.place + self.used

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        return self._memory[: self.used]

    def take(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Gives what found no room."""
        taken = data[: _PIECE - self.used]
        self._memory[self.used : self.used + len(taken)] = taken
        self.used += len(taken)
        return data[len(taken) :]


class Outbox:
    """Writes pixels to a file; they are there when `settle` returns."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR)
        self._disk = _open_past_the_cache(path)
        self._gathered: dict[int, _Piece] = {}  # by the place where the next byte would go
        self._sent: deque[tuple[Future[None], _Piece]] = deque()
        self._free = [_Piece(memory) for memory in _buffers()] if self._disk is not None else []
        self._writer = ThreadPoolExecutor(1, "dilkit-outbox")
        self._writing = threading.Lock()
        self._closed = False

    def put(self, place: int, values: npt.NDArray[Any]) -> None:
        """Have a contiguous array written at an offset; the array may be changed on return."""
        data = values.reshape(-1).view(np.uint8)
        if self._disk is None or place % _PAGE or len(data) % _PAGE:
            write_all(self._file, data, place)
            return
        while len(data):
            piece = self._gathered.pop(place, None) or self._take_free(place)
            data = piece.take(data)
            place = piece.end
            if piece.used == _PIECE:
                self._send(piece)
            else:
                self._gathered[place] = piece
        if len(self._gathered) > _GATHERED:
            self._send(self._gathered.pop(next(iter(self._gathered))))  # which grew longest ago

    def settle(self) -> None:
        """Wait until everything is written; raises OSError where something was not."""
        for piece in self._gathered.values():
            self._send(piece)
        self._gathered.clear()
        while self._sent:
            self._receive()

    def close(self) -> None:
        """Nothing is written any more on return, interrupted or not; what was not settled may be missing."""
        self._closed = True
        self._writer.shutdown(wait=False, cancel_futures=True)
        try:
            self._writing.acquire()
        except KeyboardInterrupt:
            self.close()
            raise
        self._writing.release()
        os.close(self._file)
        if self._disk is not None:
            os.close(self._disk)

    def _take_free(self, place: int) -> _Piece:
        while not self._free or (self._sent and self._sent[0][0].done()):
            self._receive()
        piece = self._free.pop()
        piece.place, piece.used = place, 0
        return piece

    def _send(self, piece: _Piece) -> None:
        self._sent.append((self._writer.submit(self._write, piece), piece))

    def _receive(self) -> None:
        written, piece = self._sent.popleft()
        written.result()
        self._free.append(piece)

    def _write(self, piece: _Piece) -> None:
        with self._writing:
            if not self._closed:
                self._write_now(piece)

    def _write_now(self, piece: _Piece) -> None:
        assert self._disk is not None
        count = 0
        try:
            count = os.pwrite(self._disk, piece.bytes.data, piece.place)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a disk that takes no such pieces
                raise
        write_all(self._file, piece.bytes[count:], piece.place + count)


def _buffers() -> npt.NDArray[np.uint8]:
    """(pieces, bytes), in pages of 2 MB where the system has them: less work for it, by two thirds."""
    size = _PIECES * _PIECE
    memory = mmap.mmap(-1, size + _HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(AttributeError, OSError):  # a system without
        memory.madvise(mmap.MADV_HUGEPAGE)
    values = np.frombuffer(memory, np.uint8)
    start = -values.ctypes.data % _HUGE_PAGE
    return values[start : start + size].reshape(_PIECES, _PIECE)


def write_all(file: int, values: npt.NDArray[Any], offset: int) -> None:
    """Write a contiguous array at an offset of an open file."""
    view = values.reshape(-1).view(np.uint8).data
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


def _open_past_the_cache(path: Path) -> int | None:
    """A handle for the disk itself; None where the system has none."""
    if not hasattr(os, "O_DIRECT"):
        return None
    try:
        return os.open(path, os.O_RDWR | os.O_DIRECT)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
