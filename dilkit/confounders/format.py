"""What a worker has made goes to the disk past the page cache, while it makes the next.

Through the cache every byte would be copied, kept and handled once more, for a file larger than most memories
that nobody reads before it is done. So neighbouring items are gathered, and a thread hands each megabyte to
the disk itself. Where the system or the item's size does not allow that, it is written as usual.

Where the arrays of a dataset lie in its file, so that they can be read and written without HDF5.

The pixels of a dataset file, mapped into memory.

Crops jump about in a file. Left to itself the system fetches megabytes around each; so it is told not to, and
which bytes are wanted.

What tells a whole, unchanged dataset file before the HDF5 library looks at it.

HDF5 may crash, or never come back, where a byte of its structure is wrong. So behind the last byte that it
knows of stands a seal: where the pixels lie, and xxh3-64 of everything else. HDF5 itself does not see it.

How an item's pixels lie in the file: in strips of about 64 columns, one strip after another.

A crop in whole rows of a wide item would fetch several times its own bytes from the disk; in strips only
those that it touches. Strips are the chunks of an HDF5 array, so other programs see (N, H, W, 3).

The HDF5 file: what it holds, and where each array lies in it.

Every array lies in one piece and is allocated when the file is made, so that workers fill it by plain writes
at known offsets, readers map it, and an interrupted file still opens. The layout, version 3:

    attributes          format, layout, expression, hash, seed, coupling, storage, policy, settings, ...
    /clean              (N, H, W, 3), in strips (strips.py); or (pixels, 3), one item after another, where
                        sizes differ
    /distorted/LABEL    the same, attributes expression, canonical, hash, scale, position; empty if virtual
    /index/             source, licence, split, image, y, x, h, w, offset, pixel_hash, perceptual_hash,
                        digest (xxh3-64 of the bytes of each clean item)
    /digest/LABEL       xxh3-64 of the bytes of each distorted item

Behind it stands a seal of all bytes but pixels (seal.py). A merged file has no pixels: its arrays are
virtual, and the attribute `shards` says of what.

What a dataset file says of itself: attributes, confounders, index, and where the arrays lie.
"""

from __future__ import annotations

import errno
import faulthandler
import functools
import importlib.metadata
import json
import mmap
import os
import re
import struct
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import xxhash

from dilkit.confounders.plan import COUPLINGS, STORAGES, Plan, Shard, View, settings_json
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError

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


_COLUMNS = 64


def strip_width(width: int) -> int:
    """The divisor of a width that is nearest to 64, from 32 to 128; the width itself where there is none."""
    divisors = [d for d in range(_COLUMNS // 2, 2 * _COLUMNS + 1) if width % d == 0]
    return min(divisors, key=lambda d: max(d / _COLUMNS, _COLUMNS / d), default=width)


def to_strips(pixels: npt.NDArray[Any], strip: int) -> npt.NDArray[Any]:
    """An item, (H, W, 3), as its strips, (W / strip, H, strip, 3)."""
    h, w, channels = pixels.shape
    return np.ascontiguousarray(pixels.reshape(h, w // strip, strip, channels).swapaxes(0, 1))


def cut(
    values: npt.NDArray[Any], size: tuple[int, int], strip: int, window: Window | None = None
) -> npt.NDArray[Any]:
    """A window of an item, or all of it, (h, w, 3) and read-only; copied only where it crosses strips.

    Args:
        values: of the item as they lie in the file, in a row.
        size: (H, W) of the item.
    """
    y, x, h, w = window or (0, 0, *size)
    first, last = x // strip, (x + w - 1) // strip
    touched = values.reshape(-1, size[0], strip, 3)[first : last + 1, y : y + h]
    rows = touched[0] if first == last else touched.swapaxes(0, 1).reshape(h, -1, 3)
    rows.flags.writeable = False
    return rows[:, x - first * strip : x - first * strip + w]


def pieces(size: tuple[int, int], strip: int, window: Window | None = None) -> Iterator[tuple[int, int]]:
    """What of an item a window touches, as first pixel and count of pixels in the order of the file."""
    height, width = size
    if window is None:
        yield 0, height * width
        return
    y, x, h, w = window
    for number in range(x // strip, (x + w - 1) // strip + 1):
        yield (number * height + y) * strip, h * strip


FORMAT = "dilkit-confounders"
LAYOUT = 3
POLICY = "nothing is clipped or rounded but by the expression; uint8 only where it ends on the 8-bit grid"
ALIGNMENT = 4096
_HDF5 = ("v110", "v110")
"""The format of the file: chunks of a fixed array without a filter lie in one piece from HDF5 1.10 on.

HDF5 refuses such a file where it was killed with it open for writing: so it has it open only while a file is
made, which then begins anew, or changed, which is then put back (edit.py).
"""
_VERSIONED = ("numpy", "opencv-python-headless", "albumentations", "pillow", "scipy")


def create(path: Path, plan: Plan) -> None:
    """Write a file of the plan's layout with no pixel in it, and reserve its space on the disk."""
    path.touch()
    reserve(path, _small_parts(plan))  # HDF5 may crash where not even these fit
    with writing(path, "w") as file:
        _attributes_layout(file, plan)
        file.create_group("distorted")
        file.create_group("digest")
        _index(file, plan)
        for view in plan.views:
            declare_view(file, plan, view)
        add_array(file, "clean", plan.clean_dtype, pixel_shape(plan, 1))
        if plan.settings.storage == "stored":
            for view in plan.views:
                add_view(file, plan, view)
    reserve(path, path.stat().st_size)


def _small_parts(plan: Plan) -> int:
    """Bytes of everything but pixels, rather too many."""
    views = len(plan.views)
    names = max((len(f"{image.name}{image.licence}".encode()) for image in plan.images), default=0)
    return (1 << 16) + (16 + views) * 2 * ALIGNMENT + len(plan) * (96 + names + 8 * views)


@contextmanager
def writing(path: Path, mode: str) -> Iterator[Any]:
    """An HDF5 file, with an open seal behind it in the end; h5py's ways to report a full disk become one."""
    import h5py

    if mode != "w":
        strip(path)
    aligned = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
    try:
        with h5py.File(path, mode, locking=False, libver=_HDF5, **aligned) as file:
            yield file
            pixels = [(r.offset, r.nbytes) for name, r in regions(file).items() if is_pixels(name)]
        append(path, pixels)
    except RuntimeError as error:
        number = re.search(r"errno = (\d+)", str(error))
        raise OSError(int(number[1]) if number else 0, str(error)) from error


def reserve(path: Path, size: int) -> None:
    """Claim the blocks of a sparse file, so that a full disk is met now and not half-way."""
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
                raise


def pixel_shape(plan: Plan, scale: int) -> tuple[int, ...]:
    if plan.uniform:
        h, w = (int(side) // scale for side in plan.box[0, 2:])
        return len(plan), h, w, 3
    return int(plan.offsets(scale)[-1]), 3


def add_array(
    file: Any, name: str, dtype: Any, shape: Sequence[int], fill: npt.NDArray[Any] | None = None
) -> Any:
    """An array in one piece, allocated at once, without a time stamp; that of items in strips."""
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    strip = strip_width(shape[2]) if len(shape) == 4 else 0
    if strip and strip < shape[2]:
        plist.set_chunk((1, shape[1], strip, shape[3]))
    else:
        plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    parent, _, leaf = name.partition("/") if "/" in name else ("/", "", name)
    made = h5py.h5d.create(
        file.require_group(parent).id,
        leaf.encode(),
        h5py.h5t.py_create(np.dtype(dtype), logical=True),
        h5py.h5s.create_simple(tuple(shape)),
        plist,
    )
    dataset = h5py.Dataset(made)
    if fill is not None:
        dataset[...] = fill
    return dataset


def declare_view(file: Any, plan: Plan, view: View) -> None:
    """Where a confounder's digests go; for a virtual one, all that there is."""
    if plan.settings.storage == "stored":
        add_array(file, f"digest/{view.label}", "<u8", (len(plan),))
        return
    import h5py

    dataset = file["distorted"].create_dataset(view.label, data=h5py.Empty(view.dtype))
    _describe(dataset, view, len(file["distorted"]) - 1)


def add_view(file: Any, plan: Plan, view: View) -> None:
    dataset = add_array(file, f"distorted/{view.label}", view.dtype, pixel_shape(plan, view.scale))
    _describe(dataset, view, len(file["distorted"]) - 1)


def _describe(dataset: Any, view: View, position: int) -> None:
    for name in ("expression", "canonical", "hash"):
        dataset.attrs[name] = getattr(view, name)
    dataset.attrs["scale"] = view.scale
    dataset.attrs["position"] = position


def _attributes_layout(file: Any, plan: Plan) -> None:
    settings = plan.settings
    shard = plan.shard or Shard(1, 1, plan.identity)
    licences = sorted({image.licence for image in plan.images if image.licence})
    given = {
        "format": FORMAT,
        "layout": LAYOUT,
        "expression": readable(plan.confounders),
        "hash": plan.confounders.hash,
        "seed": settings.seed,
        "coupling": settings.coupling,
        "storage": settings.storage,
        "policy": POLICY,
        "settings": settings_json(settings),
        "licence": "; ".join(licences),
        "shard": f"{shard.k}/{shard.n}",
        "plan": shard.plan,
        "versions": json.dumps(_versions()),
    }
    for name, value in given.items():
        file.attrs[name] = value


@functools.cache
def _versions() -> dict[str, str]:
    from dilkit import __version__

    return {"dilkit": __version__} | {name: importlib.metadata.version(name) for name in _VERSIONED}


def readable(words: ConfounderSet) -> str:
    """The text of a set, if it can be read again; raises UsageError."""
    text = str(words)
    try:
        same = confounder_set(text) == words
    except UsageError:
        same = False
    if not same:
        raise UsageError(
            "the distortions are too many to be read again from the file",
            where="expression",
            found=f"{len(text)} characters",
            remedy="split the set over several datasets",
        )
    return text


def _index(file: Any, plan: Plan) -> None:
    def words(texts: list[str]) -> npt.NDArray[np.bytes_]:
        return np.array([text.encode() for text in texts] or [b""], np.bytes_)[plan.image]

    columns: dict[str, npt.NDArray[Any]] = {
        "source": words([image.name for image in plan.images]),
        "licence": words([image.licence for image in plan.images]),
        "split": plan.split,
        "image": plan.image,
        **{name: plan.box[:, i] for i, name in enumerate("yxhw")},
        "offset": plan.offsets()[:-1],
    }
    for name, values in columns.items():
        dtype = values.dtype if values.dtype.itemsize else np.dtype("S1")
        add_array(file, f"index/{name}", dtype, values.shape, fill=values.astype(dtype))
    add_array(file, "index/pixel_hash", "u1", (len(plan), pixel_hash_size()))
    add_array(file, "index/digest", "<u8", (len(plan),))
    add_array(file, "index/perceptual_hash", "<u8", (len(plan),))


def pixel_hash_size() -> int:
    from dilkit.distortions import pixel_hash

    return len(pixel_hash(np.zeros((1, 1, 3), np.uint8)))


Array = npt.NDArray[Any]

_ATTRIBUTES = ("expression", "hash", "seed", "coupling", "storage", "policy", "licence", "shard", "plan")
_INDEX = (
    *("source", "licence", "split", "image", "y", "x", "h", "w", "offset"),
    *("pixel_hash", "perceptual_hash", "digest"),
)


_PATIENCE = 60.0
"""Seconds that HDF5 has for the small parts of a file without a seal, of which it reads thousands in one."""


@dataclass(frozen=True)
class StoredView:
    """What the file says of one confounder."""

    label: str
    expression: str
    hash: str
    scale: int
    dtype: str


@dataclass(frozen=True)
class Head:
    """The small part of a file: attributes, confounders in order, index, seal, and where the arrays lie.

    Attributes:
        shards: the files that a merged dataset is made of.
    """

    attrs: Mapping[str, Any]
    views: tuple[StoredView, ...]
    index: Mapping[str, Array]
    regions: Mapping[str, Region]
    seal: int = 0
    shards: tuple[Path, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Head:
        """Raises UsageError where the file is foreign, of another layout, unfinished or cut short."""
        try:
            return cls._read(path)
        except UsageError:
            raise
        except FileNotFoundError:
            if path.with_name(path.name + ".tmp").exists():
                raise UsageError(
                    "the dataset is not finished",
                    where=path,
                    remedy="wait for the `dilkit augment` that is writing it, or repeat it",
                ) from None
            raise UsageError("no such dataset", where=path, remedy="make it with `dilkit augment`") from None
        except IsADirectoryError:
            raise UsageError("a folder, not a dataset", where=path) from None
        except (OSError, LookupError, RuntimeError, ValueError, TypeError, MemoryError) as error:
            raise UsageError(
                "not a whole HDF5 file",
                where=path,
                found=str(error).split("\n")[0].strip("'\""),
                remedy="it was cut short, damaged or is another kind of file; copy it again or make it again",
            ) from None

    @classmethod
    def _read(cls, path: Path) -> Head:
        real = Path(os.path.realpath(path))  # beside which the other files lie
        try:
            sealed = check(path)
        except Damaged:
            if not undo_path(real).exists():
                raise
            sealed = None
        if sealed == 0 or (sealed is None and undo_path(real).exists()):
            raise UsageError(
                "the dataset is not finished, or a change to it goes on or was interrupted",
                where=path,
                remedy="wait for the command that is writing it, or repeat it",
            )
        if sealed is None and not current_process().daemon:  # which may have no children
            require_readable(path)
        return cls._parse(path, real.parent, sealed)

    @classmethod
    def _parse(cls, path: Path, folder: Path, sealed: int | None) -> Head:
        with _opened(path) as file:
            attrs = _attributes(path, file)
            where = regions(file)
            _check_whole(path, file, where)
            views = sorted((_view(item) for item in file["distorted"].values()), key=lambda v: v[0])
            index = {name: file["index"][name][...] for name in _INDEX}
        if sealed is None:
            raise UsageError(
                "the dataset was changed by another program", where=path,
                remedy="copy it again or make it again",
            )  # fmt: skip
        shards = _check_shards(path, folder, attrs) if "shards" in attrs else ()
        pixels = ["clean", *(f"distorted/{view.label}" for _, view in views if attrs["storage"] == "stored")]
        if not shards and not {*pixels, *(f"digest/{name[10:]}" for name in pixels[1:])} <= where.keys():
            raise ValueError("an array is missing")
        return cls(attrs, tuple(view for _, view in views), index, where, sealed, shards)


def _opened(path: Path) -> Any:
    import h5py

    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")  # as somebody in this process has it open


def require_readable(path: Path) -> None:
    """Without a seal HDF5 may crash, or never come back, on what is not whole; so another process goes first.

    Raises:
        UsageError: it crashed, or took longer than a minute.
    """
    scout = get_context("fork").Process(target=_scout, args=(path,))
    scout.start()
    scout.join(_PATIENCE)
    if scout.exitcode is None:
        scout.kill()
        scout.join()
    if scout.exitcode:
        raise UsageError(
            "the file is damaged so badly that HDF5 cannot read it",
            where=path,
            remedy="copy it again or make it again",
        )


def _scout(path: Path) -> None:
    faulthandler.disable()
    with suppress(Exception):  # which this process is told, too
        Head._parse(path, path.parent, None)


def undo_path(path: Path) -> Path:
    """Where the small parts of a dataset are kept while it is being changed (`edit`)."""
    return path.with_name(path.name + ".undo")


def _attributes(path: Path, file: Any) -> dict[str, Any]:
    attrs = {name: value.item() if hasattr(value, "item") else value for name, value in file.attrs.items()}
    if attrs.get("format") != FORMAT:
        raise UsageError(
            "an HDF5 file, but not a dilkit dataset", where=path, remedy="make one with `dilkit augment`"
        )
    if attrs["layout"] != LAYOUT:
        raise UsageError(
            "a dataset of another layout",
            where=path,
            found=f"layout {attrs['layout']}",
            expected=f"layout {LAYOUT}",
            remedy="make it again" if attrs["layout"] < LAYOUT else "use a newer dilkit",
        )
    json.loads(attrs["settings"]), json.loads(attrs["versions"])
    if attrs["storage"] not in STORAGES or attrs["coupling"] not in COUPLINGS:
        raise ValueError("an unknown storage or coupling")
    return attrs | {name: attrs[name] for name in _ATTRIBUTES}


def _check_whole(path: Path, file: Any, where: Mapping[str, Region]) -> None:
    size = os.stat(path).st_size  # noqa: PTH116
    for name, region in where.items():
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is no text")
        if region.offset + region.nbytes > size:
            raise UsageError(
                "the file is cut short",
                where=path,
                found=f"{size} bytes",
                expected=f"{region.offset + region.nbytes} for {name}",
                remedy="copy it again or make it again",
            )


def _check_shards(path: Path, folder: Path, attrs: Mapping[str, Any]) -> tuple[Path, ...]:
    """A missing file would read as zeros, and another one as something else: both are refused here."""
    listed = [(folder / entry["file"], entry["seal"]) for entry in json.loads(attrs["shards"])]
    missing = [shard.name for shard, _ in listed if not shard.exists()]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(listed)} files that this dataset joins are missing",
            where=path,
            found="no " + ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else ""),
            remedy="bring them back beside it, or make and merge them again",
        )
    for shard, joined in listed:
        if f"{Head.read(shard).seal:016x}" != joined:
            raise UsageError(
                f"{shard.name} is not the file that was joined", where=path, remedy="merge the shards again"
            )
    return tuple(shard for shard, _ in listed)


def _view(item: Any) -> tuple[int, StoredView]:
    attrs = item.attrs
    label = item.name.rpartition("/")[2]
    return int(attrs["position"]), StoredView(
        label, attrs["expression"], attrs["hash"], int(attrs["scale"]), item.dtype.name
    )
