"""What lies on disk: the HDF5 file of a confounder dataset, all of it, and how it is read and written.

    attributes          format, layout, expression, hash, seed, coupling, storage, policy, settings, ...
    /clean              (N, H, W, 3), uint8 or float32, each item in blocks of about 64 columns (chunks)
    /distorted/LABEL    the same: one array per confounder, attributes expression, canonical, hash, scale,
                        position (real, for real pairs); without pixels where the view is virtual
    /draws/K/LABEL      the K-th further draw of a random confounder (1, 2, ...), where several are stored
    /index/             by item: source, licence, split, image, y, x, h, w, offset, pixel_hash,
                        perceptual_hash, digest (xxh3-64 of the bytes of each clean item)
    /digest/LABEL       xxh3-64 of the bytes of each distorted item, (N,) or (N, draws)
    /present/LABEL      1 for the items that have this view; missing where all have it
    /packed/...         only where items differ in size or lack a view: the pixels of the array of that name,
                        the items that there are one after another. /clean or /distorted/LABEL is then an HDF5
                        virtual view of it, (N, H, W, 3) with the greatest H and W: item i lies in its upper
                        left h x w pixels (/index/h, /index/w, divided by the view's scale), zeros elsewhere

Every array of pixels, index and digests lies in one piece and is allocated when the file is made: workers
fill it by plain writes at known offsets, readers map it, and HDF5 is asked for the small parts only. Behind
the last byte that HDF5 knows of stands a checksum (xxh3-64) of everything but pixels, since HDF5 may crash or
hang on a damaged structure. A merged file has no pixels: its arrays are virtual, and the attribute `shards`
says of what.

Layout 3 is that of files whose items all have one size and every view. Files of layout 3 with items of
several sizes, made by dilkit before layout 4, hold /clean as (pixels, 3); they are read, and no longer made.
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
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import current_process, get_context
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, get_args

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from dilkit._version import __version__
from dilkit.confounders.plan import Coupling, Plan, PlannedView, Shard, Storage, item_offsets
from dilkit.distortions import ConfounderSet, confounder_set, pixel_hash
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError, printable

Array = npt.NDArray[Any]

FORMAT = "dilkit-confounders"
LAYOUTS = (3, 4)
POLICY = "nothing is clipped or rounded but by the expression; uint8 only where it ends on the 8-bit grid"
ALIGNMENT = 4096
_HDF5 = ("v110", "v110")
"""The format of the file: chunks of a fixed array without a filter lie in one piece from HDF5 1.10 on.

HDF5 refuses such a file where it was killed with it open for writing: so it has it open only while a file is
laid out, which then begins anew.
"""
_VERSIONED = ("numpy", "opencv-python-headless", "albumentations", "pillow", "scipy")

SMALL_PARTS = 4 << 30
"""Bytes that everything but pixels may have; a file that claims more is refused unread."""
MOST_VIEWS, MOST_SIDE, MOST_SCALE = 10_000, 1 << 20, 64
_PATIENCE = 60.0
"""Seconds that HDF5 has for the small parts of a file without a checksum, of which it reads thousands in
one."""


# -- Where arrays lie --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    """Where an array lies: byte offset, dtype, shape, and the width of its column blocks (0: whole rows)."""

    offset: int
    dtype: str
    shape: tuple[int, ...]
    block: int = 0

    @property
    def nbytes(self) -> int:
        count = 1
        for side in self.shape:
            count *= side
        return count * np.dtype(self.dtype).itemsize

    def map(self, path: Path) -> Array:
        """The array as it lies in the file, read-only."""
        return np.memmap(path, self.dtype, "r", self.offset, self.shape)


Regions = dict[str, Region]


def regions(file: h5py.File) -> Regions:
    """Every array that lies in an open file, by name: `clean`, `distorted/LABEL`, `index/h`, ...

    Packed arrays go by the name of the view that is made of them.
    """
    found: Regions = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or item.shape is None or item.is_virtual:
            return
        if not item.size:
            found[name.removeprefix("packed/")] = Region(0, item.dtype.str, item.shape)
            return
        offset = None if item.external else _first_block(item) if item.chunks else item.id.get_offset()
        if offset is None or item.id.get_create_plist().get_nfilters():
            raise UsageError(
                f"the array {name!a} is not stored in one piece",
                where=file.filename,
                remedy="another program has packed it anew; copy it again or make it again",
            )
        block = item.chunks[2] if item.chunks else 0
        found[name.removeprefix("packed/")] = Region(offset, item.dtype.str, item.shape, block)

    file.visititems(visit)
    return found


def _first_block(item: h5py.Dataset) -> int | None:
    """The offset of an array in column blocks, if it has no gap."""
    if len(item.shape) != 4:
        return None
    n, h, w, channels = item.shape
    block = item.chunks[2]
    if item.chunks != (1, h, block, channels) or w % block:
        return None
    first = item.id.get_chunk_info_by_coord((0, 0, 0, 0))
    last = item.id.get_chunk_info_by_coord((n - 1, 0, w - block, 0))
    if first.byte_offset is None or last.byte_offset is None:
        return None
    whole = last.byte_offset + last.size - first.byte_offset == item.nbytes
    return int(first.byte_offset) if whole else None


def is_pixels(name: str) -> bool:
    return name == "clean" or name.startswith(("distorted/", "draws/"))


def pixels_of(label: str, draw: int = 0) -> str:
    """The name of the array that holds a confounder's pixels."""
    return f"draws/{draw}/{label}" if draw else f"distorted/{label}"


class MappedFile:
    """A file's bytes, mapped; nothing is read before it is looked at or expected.

    Crops jump about in a file. Left to itself the system fetches megabytes around each; so it is told not to,
    and which bytes are wanted.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._map.madvise(mmap.MADV_RANDOM)

    def array(self, region: Region) -> Array:
        """All values of an array in a row, read-only."""
        count = region.nbytes // np.dtype(region.dtype).itemsize
        if not count:
            return np.empty(0, region.dtype)
        return np.frombuffer(self._map, region.dtype, count, region.offset)

    def expect(self, start: int, count: int) -> None:
        """These bytes will be wanted: have them fetched, and return at once."""
        page = start - start % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, page, start + count - page)


def write_all(file: int, values: Array, offset: int) -> None:
    """Write a contiguous array at an offset of an open file."""
    data = values.reshape(-1).view(np.uint8).data
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count


# -- Column blocks -----------------------------------------------------------------------------------------
# A crop in whole rows of a wide item would fetch several times its own bytes from the disk; in blocks of
# columns, one block after another, only those that it touches.

_COLUMNS = 64


def block_width(width: int) -> int:
    """The divisor of a width that is nearest to 64, from 32 to 128; the width itself where there is none."""
    divisors = [d for d in range(_COLUMNS // 2, 2 * _COLUMNS + 1) if width % d == 0]
    return min(divisors, key=lambda d: max(d / _COLUMNS, _COLUMNS / d), default=width)


def to_blocks(pixels: Array, block: int) -> Array:
    """An item, (H, W, 3), as its column blocks, (W / block, H, block, 3)."""
    h, w, channels = pixels.shape
    return np.ascontiguousarray(pixels.reshape(h, w // block, block, channels).swapaxes(0, 1))


def cut(values: Array, size: tuple[int, int], block: int, window: Window | None = None) -> Array:
    """A window of an item, or all of it, (h, w, 3) and read-only; copied only where it crosses blocks.

    Args:
        values: of the item as they lie in the file, in a row.
        size: (H, W) of the item.
    """
    y, x, h, w = window or (0, 0, *size)
    first, last = x // block, (x + w - 1) // block
    touched = values.reshape(-1, size[0], block, 3)[first : last + 1, y : y + h]
    rows = touched[0] if first == last else touched.swapaxes(0, 1).reshape(h, -1, 3)
    rows.flags.writeable = False
    return rows[:, x - first * block : x - first * block + w]


def pieces(size: tuple[int, int], block: int, window: Window | None = None) -> Iterator[tuple[int, int]]:
    """What of an item a window touches, as first pixel and count of pixels in the order of the file."""
    height, width = size
    if window is None:
        yield 0, height * width
        return
    y, x, h, w = window
    for number in range(x // block, (x + w - 1) // block + 1):
        yield (number * height + y) * block, h * block


# -- The checksum behind the file --------------------------------------------------------------------------

_TAIL = struct.Struct("<QQ8s")
"""How many ranges of pixels stand before it, as pairs of offset and length; the checksum; the mark."""
_MARK = b"dilkit\x00\x01"
_READ_AT_ONCE = 1 << 20
_MOST_RANGES = 1 << 20


class Damaged(UsageError):
    """What is not pixels was changed since the file was made."""


def append_checksum(path: Path, pixels: Iterable[tuple[int, int]]) -> None:
    """Put the place of a checksum behind a file, still 0: readers take the file for unfinished.

    Args:
        pixels: offset and length of each array of pixels.
    """
    ranges = np.array(sorted(pixels), "<u8").reshape(-1, 2)
    with path.open("ab") as file:
        file.write(ranges.tobytes() + _TAIL.pack(len(ranges), 0, _MARK))


def close_checksum(path: Path) -> int:
    """Write the checksum into its place, and flush the file to the disk; gives the checksum."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file, size)
        assert tail is not None
        value = _computed(file, size, tail[0])
        os.pwrite(file.fileno(), struct.pack("<Q", value), size - 16)
        os.fsync(file.fileno())
    return value


def stored_checksum(path: Path) -> int | None:
    """The checksum as it stands in the file; 0 while the file is being made, None without one."""
    with path.open("rb") as file:
        tail = _tail(file, file.seek(0, os.SEEK_END))
    return tail and tail[1]


def checked_checksum(path: Path) -> int | None:
    """The checksum of a file; 0 while it is being made, None where it has none.

    Raises:
        Damaged: what stands in the file is another.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _tail(file, size)
        if tail is not None and tail[1] and tail[1] != _computed(file, size, tail[0]):
            raise Damaged(
                f"{path.name}: attributes, index or digests were changed",
                where=path,
                remedy="copy it again or make it again",
            )
    return tail and tail[1]


def _tail(file: BinaryIO, size: int) -> tuple[int, int] | None:
    """The number of ranges, and the checksum."""
    if size < _TAIL.size:
        return None
    file.seek(size - _TAIL.size)
    count, value, mark = _TAIL.unpack(file.read(_TAIL.size))
    return (count, value) if mark == _MARK else None


def _computed(file: BinaryIO, size: int, count: int) -> int:
    """xxh3-64 of all bytes that are neither pixels nor the checksum; 0 where the ranges make no sense."""
    start = size - _TAIL.size - 16 * count
    if start < 0 or count > _MOST_RANGES:
        return 0
    file.seek(start)
    ranges = np.frombuffer(file.read(16 * count), "<u8").reshape(-1, 2).tolist()
    if size - sum(length for _, length in ranges) > SMALL_PARTS:
        return 0
    digest = xxhash.xxh3_64()
    position = 0
    for start, length in [*ranges, (size - 16, 0)]:
        if not position <= start <= size - length:
            return 0
        file.seek(position)
        while position < start:
            block = file.read(min(_READ_AT_ONCE, start - position))
            if not block:
                return 0
            digest.update(block)
            position += len(block)
        position += length
    return digest.intdigest() or 1


# -- Laying a file out -------------------------------------------------------------------------------------


def create(path: Path, plan: Plan) -> None:
    """Write a file of the plan's layout with no pixel in it, and reserve its space on the disk."""
    path.touch()
    reserve(path, _small_parts(plan))  # HDF5 may crash where not even these fit
    with writing(path) as file:
        _write_attributes(file, plan)
        for name in ("distorted", "digest"):
            file.create_group(name)
        _write_index(file, plan)
        for view in plan.views:
            if plan.stored(view):
                add_array(
                    file,
                    f"digest/{view.label}",
                    "<u8",
                    (len(plan), plan.draws(view))[: 1 + (plan.draws(view) > 1)],
                )
            if view.real:
                present = plan.present(view)
                add_array(file, f"present/{view.label}", "u1", (len(plan),), fill=present.astype(np.uint8))
            if not plan.stored(view):
                _describe(
                    file["distorted"].create_dataset(view.label, data=h5py.Empty(view.dtype)), view, plan
                )
        _add_pixels(file, plan, "clean", plan.clean_dtype, 1, None)
        for view in plan.views:
            for draw in range(plan.draws(view) if plan.stored(view) else 0):
                name = pixels_of(view.label, draw)
                made = _add_pixels(
                    file, plan, name, view.dtype, view.scale, plan.present(view) if view.real else None
                )
                if not draw:
                    _describe(made, view, plan)
    reserve(path, path.stat().st_size)


def _small_parts(plan: Plan) -> int:
    """Bytes of everything but pixels, rather too many."""
    arrays = sum(plan.draws(view) for view in plan.views)
    names = max((len(f"{image.name}{image.licence}".encode()) for image in plan.images), default=0)
    mappings = 0 if plan.uniform else 200 * (1 + arrays)
    return (1 << 16) + (16 + arrays) * 2 * ALIGNMENT + len(plan) * (96 + names + 9 * arrays + mappings)


@contextmanager
def writing(path: Path) -> Iterator[h5py.File]:
    """A new HDF5 file, with an open checksum behind it in the end; h5py's ways to report a full disk become
    one."""
    aligned = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
    try:
        with h5py.File(path, "w", locking=False, libver=_HDF5, **aligned) as file:
            yield file
            pixels = [(r.offset, r.nbytes) for name, r in regions(file).items() if is_pixels(name)]
        append_checksum(path, pixels)
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


def add_array(file: h5py.File, name: str, dtype: Any, shape: Sequence[int], fill: Array | None = None) -> Any:
    """An array in one piece, allocated at once, without a time stamp; that of items in column blocks."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    block = block_width(shape[2]) if len(shape) == 4 and shape[0] else 0
    if block and block < shape[2]:
        plist.set_chunk((1, shape[1], block, shape[3]))
    else:
        plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plist.set_obj_track_times(False)
    parent, _, leaf = name.rpartition("/")
    made = h5py.h5d.create(
        file.require_group(parent or "/").id,
        leaf.encode(),
        h5py.h5t.py_create(np.dtype(dtype), logical=True),
        h5py.h5s.create_simple(tuple(shape)),
        plist,
    )
    dataset = h5py.Dataset(made)
    if fill is not None:
        dataset[...] = fill
    return dataset


def _add_pixels(
    file: h5py.File, plan: Plan, name: str, dtype: str, scale: int, present: npt.NDArray[np.bool_] | None
) -> h5py.Dataset:
    """The place of an array's pixels; gives the array that other programs see."""
    sizes = plan.box[:, 2:].astype(np.int64) // scale
    there = np.flatnonzero(present) if present is not None else np.arange(len(plan))
    if plan.uniform and present is None:
        return add_array(file, name, dtype, (len(plan), *sizes[0].tolist(), 3))
    if plan.uniform:
        packed = add_array(file, f"packed/{name}", dtype, (len(there), *sizes[0].tolist(), 3))
    else:
        packed = add_array(file, f"packed/{name}", dtype, (int(sizes[there].prod(axis=1).sum()), 3))
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    plist.set_layout(h5py.h5d.VIRTUAL)  # though there may be no item to map
    shape = (len(plan), *plan.largest(scale), 3)
    seen, source = h5py.h5s.create_simple(shape), h5py.h5s.create_simple(packed.shape)
    at = packed.name.encode()
    start = 0
    for first, count in _runs(there) if plan.uniform else ((int(item), 1) for item in there):
        h, w = sizes[first].tolist()
        seen.select_hyperslab((first, 0, 0, 0), (count, h, w, 3))
        if plan.uniform:
            source.select_hyperslab((start, 0, 0, 0), (count, h, w, 3))
            start += count
        else:
            source.select_hyperslab((start, 0), (h * w, 3))
            start += h * w
        plist.set_virtual(seen, b".", at, source)
    parent, _, leaf = name.rpartition("/")
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    seen.select_all()
    return h5py.Dataset(
        h5py.h5d.create(file.require_group(parent or "/").id, leaf.encode(), kind, seen, plist)
    )


def _runs(items: npt.NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Neighbouring numbers as first and count."""
    for run in np.split(items, np.flatnonzero(np.diff(items) != 1) + 1):
        if len(run):
            yield int(run[0]), len(run)


def _describe(dataset: h5py.Dataset, view: PlannedView, plan: Plan) -> None:
    for name in ("expression", "canonical", "hash"):
        dataset.attrs[name] = getattr(view, name)
    dataset.attrs["scale"] = view.scale
    dataset.attrs["position"] = plan.views.index(view)
    if view.real:
        dataset.attrs["real"] = 1


def _write_attributes(file: h5py.File, plan: Plan) -> None:
    settings = plan.settings
    shard = plan.shard or Shard(1, 1, plan.identity)
    licences = sorted({image.licence for image in plan.images if image.licence})
    given = {
        "format": FORMAT,
        "layout": LAYOUTS[0] if plan.uniform and not any(view.real for view in plan.views) else LAYOUTS[1],
        "expression": readable(plan.confounders),
        "hash": plan.confounders.hash,
        "seed": settings.seed,
        "coupling": settings.coupling,
        "storage": settings.storage,
        "policy": POLICY,
        "settings": json.dumps(settings.table(), sort_keys=True),
        "licence": "; ".join(licences),
        "shard": f"{shard.k}/{shard.n}",
        "plan": shard.plan,
        "versions": json.dumps(_versions()),
    }
    if plan.left_out:
        given["left_out"] = json.dumps([[failure.name, failure.reason] for failure in plan.left_out])
    for name, value in given.items():
        file.attrs[name] = value


@functools.cache
def _versions() -> dict[str, str]:
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


def _write_index(file: h5py.File, plan: Plan) -> None:
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
    add_array(file, "index/pixel_hash", "u1", (len(plan), PIXEL_HASH))
    add_array(file, "index/digest", "<u8", (len(plan),))
    add_array(file, "index/perceptual_hash", "<u8", (len(plan),))


PIXEL_HASH = len(pixel_hash(np.zeros((1, 1, 3), np.uint8)))
"""Bytes."""


# -- Reading the small part of a file ----------------------------------------------------------------------

_ATTRIBUTES = ("expression", "hash", "seed", "coupling", "storage", "policy", "licence", "shard", "plan")
_INDEX = {
    **dict.fromkeys(("source", "licence", "split"), "S"),
    **dict.fromkeys(("image", "y", "x", "h", "w"), "<i4"),
    "offset": "<i8",
    "pixel_hash": "|u1",
    **dict.fromkeys(("perceptual_hash", "digest"), "<u8"),
}


class Hostile(ValueError):
    """A value that dilkit never writes."""


@dataclass(frozen=True)
class StoredView:
    """What the file says of one confounder.

    Attributes:
        stored: whether its pixels lie in the file; they are made when they are read otherwise.
        real: whether they come from photographs, so that no expression makes them again.
        draws: how many draws of it are stored.
    """

    label: str
    expression: str
    hash: str
    scale: int
    dtype: str
    stored: bool = True
    real: bool = False
    draws: int = 1


@dataclass(frozen=True)
class Header:
    """The small part of a file: attributes, confounders in order, index, checksum, and where the arrays lie.

    Attributes:
        present: by label of the views that some items lack: which have it, (N,) bool.
        shards: the files that a merged dataset is made of.
    """

    attrs: Mapping[str, Any]
    views: tuple[StoredView, ...]
    index: Mapping[str, Array]
    regions: Mapping[str, Region]
    checksum: int = 0
    shards: tuple[Path, ...] = ()
    present: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path, *, joined: bool = False) -> Header:
        """Raises UsageError where the file is foreign, of another layout, unfinished, cut short or hostile.

        Args:
            joined: it is a shard, which may have none itself.
        """
        try:
            return cls._read(path, joined)
        except UsageError:
            raise
        except FileNotFoundError:
            if path.with_name(path.name + ".tmp").exists():
                raise UsageError(
                    "the dataset is not finished",
                    where=path,
                    remedy="wait for the `dilkit augment` that is writing it, or repeat it",
                ) from None
            raise UsageError(
                "no such dataset",
                where=path,
                remedy="make it with `dilkit augment`; a recipe names its own by data.store=FILE.h5",
            ) from None
        except Hostile as error:
            raise UsageError(
                f"the file holds something that dilkit never writes: {error}",
                where=path,
                remedy="do not use it; get it again from whom you trust, or make it again",
            ) from None
        except (
            OSError,
            LookupError,
            RuntimeError,
            ValueError,
            TypeError,
            MemoryError,
            RecursionError,
        ) as error:
            raise UsageError(
                "not a whole HDF5 file",
                where=path,
                found=printable(str(error).split("\n")[0].strip("'\"")),
                remedy="it was cut short, damaged or is another kind of file; copy it again or make it again",
            ) from None

    @classmethod
    def _read(cls, path: Path, joined: bool) -> Header:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise UsageError("a folder, not a dataset", where=path)
        if not stat.S_ISREG(mode):
            raise UsageError("not a file: a pipe, socket or device", where=path)
        real = Path(os.path.realpath(path))  # beside which the other files lie
        if real.with_name(real.name + ".undo").exists():
            raise UsageError(
                "a change of this dataset by an earlier dilkit was interrupted",
                where=path,
                remedy="make it again, or finish the change with the version that began it",
            )
        checksum = checked_checksum(path)
        if checksum == 0:
            raise UsageError(
                "the dataset is not finished",
                where=path,
                remedy="wait for the command that is writing it, or repeat it",
            )
        if checksum is None and not current_process().daemon:  # which may have no children
            require_readable(path)
        return cls._parse(path, real.parent, checksum, joined)

    @classmethod
    def _parse(cls, path: Path, folder: Path, checksum: int | None, joined: bool = False) -> Header:
        with _opened(path) as file:
            attrs = _attributes(path, file)
            if joined and "shards" in attrs:
                raise Hostile("a joined dataset among the shards of another")
            where = regions(file)
            _require_inside_file(path, where)
            if "distorted" not in file or not isinstance(_own(file, "distorted"), h5py.Group):
                raise ValueError("an array is missing")
            views = _views(file, attrs)
        if checksum is None:
            raise UsageError(
                "the dataset was changed by another program", where=path,
                remedy="copy it again or make it again",
            )  # fmt: skip
        index = _index(path, where)
        merged = "shards" in attrs
        present = _present(path, where, views, len(index["h"]))
        if not merged:
            _require_pixels(where, views, index, present, attrs["layout"])
        shards = _shards(path, folder, attrs, index) if merged else ()
        return cls(attrs, views, index, where, checksum, shards, present)


def _opened(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        if "locking flag" not in str(error):
            raise
        return h5py.File(path, "r")  # as somebody in this process has it open


def require_readable(path: Path) -> None:
    """Without a checksum HDF5 may crash or hang on what is not whole; so another process goes first.

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
        Header._parse(path, path.parent, None)


def _own(file: h5py.File, name: str) -> Any:
    """An object that lies in the file itself: no soft or external link leads elsewhere."""
    parent: Any = file
    for part in name.split("/"):
        if not isinstance(parent, h5py.Group) or not isinstance(
            parent.get(part, getlink=True), h5py.HardLink
        ):
            raise Hostile(f"{printable(name)} is a link")
        parent = parent[part]
    return parent


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.isprintable():
        shown = printable(value) if isinstance(value, str) else type(value).__name__
        raise Hostile(f"{printable(name)} is not a line of text: {shown}")
    return value


def _attributes(path: Path, file: h5py.File) -> dict[str, Any]:
    attrs = {name: value.item() if hasattr(value, "item") else value for name, value in file.attrs.items()}
    if attrs.get("format") != FORMAT:
        raise UsageError(
            "an HDF5 file, but not a dilkit dataset", where=path, remedy="make one with `dilkit augment`"
        )
    layout = attrs["layout"]
    if layout not in LAYOUTS:
        older = isinstance(layout, int) and layout < LAYOUTS[0]
        raise UsageError(
            "a dataset of another layout",
            where=path,
            found=f"layout {printable(str(layout))}",
            expected="layout " + " or ".join(map(str, LAYOUTS)),
            remedy="make it again with `dilkit augment`" if older else "use a newer dilkit",
        )
    for name in attrs:
        _text("the name of an attribute", name)
    for name in (*_ATTRIBUTES, "settings", "versions", *({"shards", "left_out"} & attrs.keys())):
        if name != "seed":
            _text(f"the attribute {name}", attrs[name])
    if type(attrs["seed"]) is not int or not 0 <= attrs["seed"] < 1 << 63:
        raise Hostile("the seed is not a whole number from 0 to 2**63 - 1")
    if not re.fullmatch(r"\d{1,6}/\d{1,6}", attrs["shard"]):
        raise Hostile("the attribute shard is not k/n")
    settings, versions = json.loads(attrs["settings"]), json.loads(attrs["versions"])
    if not isinstance(settings, dict) or not isinstance(versions, dict) or "dilkit" not in versions:
        raise Hostile("settings or versions are not tables")
    for name, value in [*settings.items(), *versions.items()]:
        _text("settings and versions", f"{name} {value}")
    if attrs["storage"] not in get_args(Storage) or attrs["coupling"] not in get_args(Coupling):
        raise ValueError("an unknown storage or coupling")
    return attrs


def _require_inside_file(path: Path, where: Mapping[str, Region]) -> None:
    size = path.stat().st_size
    for name, region in where.items():
        if not isinstance(name, str):
            raise TypeError(f"the name {name!r} is no text")
        if region.offset < 0 or region.offset + region.nbytes > size:
            raise UsageError(
                "the file is cut short",
                where=path,
                found=f"{size} bytes",
                expected=f"{region.offset + region.nbytes} for {printable(name)}",
                remedy="copy it again or make it again",
            )


def _views(file: h5py.File, attrs: Mapping[str, Any]) -> tuple[StoredView, ...]:
    group = file["distorted"]
    if not 1 <= len(group) <= MOST_VIEWS:
        raise Hostile(f"{len(group)} confounders")
    found: dict[int, StoredView] = {}
    for label in group:
        item = _own(file, f"distorted/{_text('a label', label)}")
        scale, position = int(item.attrs["scale"]), int(item.attrs["position"])
        if not 1 <= scale <= MOST_SCALE:
            raise Hostile(f"the scale of {label} is {scale}")
        if item.dtype.name not in ("uint8", "float32"):
            raise Hostile(f"{label} is of type {printable(item.dtype.name)}")
        digest = file.get(f"digest/{label}")
        draws = digest.shape[1] if isinstance(digest, h5py.Dataset) and digest.ndim == 2 else 1
        expression, hash_ = (_text(f"{name} of {label}", item.attrs[name]) for name in ("expression", "hash"))
        real, stored = "real" in item.attrs, item.shape is not None
        if not stored and (real or attrs["storage"] != "virtual"):
            raise ValueError("an array is missing")
        found[position] = StoredView(label, expression, hash_, scale, item.dtype.name, stored, real, draws)
    if len(found) != len(group):
        raise Hostile("two confounders have one position")
    return tuple(found[position] for position in sorted(found))


def _index(path: Path, where: Mapping[str, Region]) -> dict[str, Array]:
    """The index, read past HDF5 and checked: sizes that make sense, text that can be shown."""
    for name, kind in _INDEX.items():
        region = where.get(f"index/{name}")
        if region is None:
            raise Hostile(f"the index column {name} is missing, or is a view of something else")
        dtype = np.dtype(region.dtype)
        if (dtype.kind if kind == "S" else dtype.str) != kind:
            raise Hostile(f"the index column {name} is of type {printable(dtype.str)}, not {kind}")
    count = where["index/h"].shape[0] if where["index/h"].shape else 0
    if not 1 <= count < 1 << 31:
        raise Hostile(f"{count} items")
    for name in _INDEX:
        shape = (count, PIXEL_HASH) if name == "pixel_hash" else (count,)
        if where[f"index/{name}"].shape != shape:
            raise Hostile(f"the index column {name} has {where[f'index/{name}'].shape} values, not {shape}")
    found = {name: np.array(where[f"index/{name}"].map(path)) for name in _INDEX}
    for name in ("image", "y", "x"):
        if found[name].min() < 0 or found[name].max() >= max(count, MOST_SIDE):
            raise Hostile(
                f"the index column {name} has values from {found[name].min()} to {found[name].max()}"
            )
    for name in "hw":
        if found[name].min() < 1 or found[name].max() > MOST_SIDE:
            raise Hostile(
                f"the index column {name} has values from {found[name].min()} to {found[name].max()}"
            )
    if not np.array_equal(found["offset"], item_offsets(found["h"], found["w"])[:-1]):
        raise Hostile("the index column offset does not follow from the sizes")
    if np.any(np.diff(found["image"]) < 0):
        raise Hostile("the items are not in the order of their images")
    for name in ("source", "licence", "split"):
        _require_text(name, found[name])
    return found


def _require_text(name: str, column: Array) -> None:
    raw = column.view(np.uint8).reshape(len(column), -1)
    suspect = (raw > 126) | ((raw < 32) & (raw != 0))
    if raw.shape[1] > 1:
        suspect[:, 1:] |= (raw[:, :-1] == 0) & (raw[:, 1:] != 0)
    for value in np.unique(column[suspect.any(axis=1)]).tolist():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            text = "\x00"
        if not text.isprintable():
            raise Hostile(f"the index column {name} holds what cannot be shown: {ascii(value)[:100]}")


def _present(
    path: Path, where: Mapping[str, Region], views: Sequence[StoredView], count: int
) -> dict[str, npt.NDArray[np.bool_]]:
    found = {}
    for view in views:
        region = where.get(f"present/{view.label}")
        if region is None:
            if view.real:
                raise ValueError("an array is missing")
            continue
        if region.dtype != "|u1" or region.shape != (count,):
            raise Hostile(f"present/{view.label} has the wrong type or shape")
        values = np.array(region.map(path))
        if values.max() > 1:
            raise Hostile(f"present/{view.label} holds other values than 0 and 1")
        if not values.all():
            found[view.label] = values.astype(bool)
    return found


def _require_pixels(
    where: Mapping[str, Region],
    views: Sequence[StoredView],
    index: Mapping[str, Array],
    present: Mapping[str, npt.NDArray[np.bool_]],
    layout: int,
) -> None:
    """Every array is there, and has the pixels that the index says."""
    arrays: list[tuple[str, str, int, npt.NDArray[np.bool_] | None]] = [("clean", "", 1, None)]
    for view in views:
        if view.stored:
            if not 1 <= view.draws <= MOST_VIEWS:
                raise Hostile(f"{view.draws} draws of {view.label}")
            digest = where.get(f"digest/{view.label}")
            if digest is None:
                raise ValueError("an array is missing")
            if digest.dtype != "<u8" or digest.shape[0] != len(index["h"]):
                raise Hostile(f"digest/{view.label} has the wrong type or shape")
            arrays += [
                (pixels_of(view.label, draw), view.dtype, view.scale, present.get(view.label))
                for draw in range(view.draws)
            ]
        if (index["h"] % view.scale).any() or (index["w"] % view.scale).any():
            raise Hostile(f"the scale {view.scale} of {view.label} does not divide the items")
    for name, dtype, scale, there in arrays:
        region = where.get(name)
        if region is None:
            raise ValueError("an array is missing")
        if np.dtype(region.dtype).name not in ("uint8", "float32") or (
            dtype and region.dtype != np.dtype(dtype).str
        ):
            raise Hostile(f"{name} is of type {printable(region.dtype)}")
        pixels = int(item_offsets(index["h"], index["w"], scale, there)[-1])
        sides = {(int(index["h"][0]) // scale, int(index["w"][0]) // scale)}
        if len(region.shape) == 4:
            one = bool((index["h"] == index["h"][0]).all() and (index["w"] == index["w"][0]).all())
            fits = one and region.shape[1:3] in sides and region.shape[3] == 3
        else:
            fits = len(region.shape) == 2 and region.shape[1] == 3
        if not fits or region.nbytes != pixels * 3 * np.dtype(region.dtype).itemsize:
            raise Hostile(f"{name} has the shape {region.shape}, which is not that of its items")


def _shards(
    path: Path, folder: Path, attrs: Mapping[str, Any], index: Mapping[str, Array]
) -> tuple[Path, ...]:
    """A missing file would read as zeros, and another one as something else: both are refused here."""
    entries = json.loads(attrs["shards"])
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_VIEWS:
        raise Hostile("the attribute shards is not a list of files")
    listed = []
    for entry in entries:
        name, joined = entry["file"], entry["seal"]
        if not isinstance(name, str) or not isinstance(joined, str) or "\0" in name:
            raise Hostile("the attribute shards is not a list of files")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise UsageError(
                "a shard outside the folder of the dataset",
                where=path,
                found=printable(name),
                expected="shards beside the dataset, or in folders there",
                remedy="put the shards beside it, then merge them again: dilkit augment --merge",
            )
        listed.append((folder / name, joined))
    missing = [shard.name for shard, _ in listed if not shard.exists()]
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(listed)} files that this dataset joins are missing",
            where=path,
            found="no " + ", ".join(map(printable, missing[:5])) + (" ..." if len(missing) > 5 else ""),
            remedy="bring them back beside it, or make and merge them again",
        )
    sizes = []
    for shard, joined in listed:
        header = Header.read(shard, joined=True)
        if f"{header.checksum:016x}" != joined:
            raise UsageError(
                f"{printable(shard.name)} is not the file that was joined",
                where=path,
                remedy="merge the shards again",
            )
        sizes.append(np.stack([header.index["h"], header.index["w"]]))
    if not np.array_equal(np.concatenate(sizes, axis=1), np.stack([index["h"], index["w"]])):
        raise Hostile("the index is not that of the shards")
    return tuple(shard for shard, _ in listed)
