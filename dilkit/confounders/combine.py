"""Change and join datasets: add confounders, drop some, merge the shards of one plan.

A change is written beside the dataset, as `FILE.changing`, and takes its place when it is whole: pixels that
stay are copied, not made again. Whatever interrupts it leaves the dataset as it was.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dilkit.confounders import format as layout
from dilkit.confounders.build import PartWriter, Workers, check_target, distort, give_name
from dilkit.confounders.duplicates import refuse_duplicates
from dilkit.confounders.format import Header, is_pixels, pixels_of, regions
from dilkit.confounders.images import Alpha, Failure, ImageHeader, Pixels
from dilkit.confounders.plan import Plan, PlannedView, Shard, real_name, require_divisible, settings_of
from dilkit.confounders.store import Store
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import DilkitError, UsageError, nearest, reason

_COPIED_AT_ONCE = 1 << 26


def add(
    path: str | Path,
    distort_with: Any,
    *,
    workers: int = 1,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> tuple[str, ...]:
    """Make further views of a dataset's clean images; gives their labels.

    The disk needs room for the whole dataset again. An interrupted call leaves the dataset as it was.

    Raises:
        UsageError: a confounder is there already, the dataset is a merged one, or another run is changing it.
        DilkitError: the disk is full, or a worker died.
    """
    path = Path(os.path.realpath(path))
    with _alone(path):
        old, new = Store(path).confounders, confounder_set(distort_with)
        twice = [word.label for word in new if word in old.words]
        if any(real_name(word) is not None for word in new):
            raise UsageError(
                "real pairs cannot be added to a dataset", where=path, remedy="make it again, with --pairs"
            )
        if twice or not len(new):
            raise UsageError(
                "these confounders are there already" if twice else "there is no distortion in the set",
                where=path,
                found=", ".join(twice) or str(new),
            )
        return _rewrite(path, ConfounderSet.of([*old, *new]), new, workers, progress)


def drop(path: str | Path, distort_with: Any) -> tuple[str, ...]:
    """Take confounders out of a dataset, which shrinks; gives their labels.

    An interrupted call leaves the dataset as it was.

    Raises:
        UsageError: one is not there, none would be left, or another run is changing the dataset.
        DilkitError: the disk is full.
    """
    path = Path(os.path.realpath(path))
    with _alone(path):
        old, gone = Store(path).confounders, confounder_set(distort_with)
        _require_there(path, gone, old)
        kept = ConfounderSet.of(word for word in old if word not in gone.words)
        if not len(kept):
            raise UsageError("no confounder would be left", where=path, remedy="delete the file instead")
        _rewrite(path, kept, ConfounderSet.of([]), 1, lambda phase, done, total: None)
        return gone.labels


def check_drop(path: str | Path, gone: Any, added: Any) -> None:
    """Raises UsageError where some of `gone` could not be dropped after `added` was added."""
    path = Path(os.path.realpath(path))
    there = [*Store(path).confounders, *confounder_set(added)]
    _require_there(path, confounder_set(gone), ConfounderSet.of(there))


def _require_there(path: Path, gone: ConfounderSet, there: ConfounderSet) -> None:
    for word in gone:
        if word not in there.words:
            raise UsageError(
                f"the dataset has no confounder {word.label!r}",
                where=path,
                expected=", ".join(there.labels),
                nearest=nearest(word.label, there.labels),
            )


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One change of a dataset at a time; its workers keep the lock until the last has stopped."""
    if not path.is_file():
        yield
        return
    with path.open("rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "another run is changing this dataset", where=path, remedy="wait until it has ended"
            ) from None
        yield


def _rewrite(
    path: Path,
    words: ConfounderSet,
    new: ConfounderSet,
    workers: int,
    progress: Callable[[str, int, int], None],
) -> tuple[str, ...]:
    """The dataset with the confounders `words`, of which `new` are made and the others copied."""
    header = Header.read(path)
    if header.shards:
        raise UsageError(
            "a merged dataset has no pixels of its own",
            where=path,
            remedy="change its shards, then merge again",
        )
    plan = _plan_of(header, words)
    fresh = tuple(view for view in plan.views if view.expression in {str(word) for word in new})
    require_divisible(path, zip(*plan.box[:, 2:].T.tolist(), strict=True), fresh)
    for word in new:
        for h, w in sorted({*map(tuple, plan.box[:, 2:].tolist())}):
            word.extent(h, w)
    changing = path.with_name(path.name + ".changing")
    try:
        changing.unlink(missing_ok=True)
        layout.create(changing, plan)
        with h5py.File(changing, "r", locking=False) as file:
            where = regions(file)
        _copy(path, header, changing, where, {view.label for view in fresh})
        made = [view for view in fresh if plan.stored(view)]
        if made:
            part_plan = replace(plan, confounders=new, views=fresh)
            done = 0
            with Workers(PartWriter(changing, part_plan, where), workers) as pool:
                for part, _ in pool.do(distort, list(range(len(plan.parts)))):
                    first, last = plan.parts[part]
                    done += last - first
                    progress("distort", done, len(plan))
        layout.close_checksum(changing)
        changing.chmod(path.stat().st_mode & 0o777)
        give_name(changing, path)
    except OSError as error:
        raise DilkitError(
            f"writing failed: {reason(error)}",
            where=path,
            remedy="make room for the dataset again; it is as it was",
        ) from error
    finally:
        changing.unlink(missing_ok=True)
    return tuple(view.label for view in fresh)


def _copy(path: Path, header: Header, target: Path, where: layout.Regions, fresh: set[str]) -> None:
    """What stays: clean pixels, the computed columns of the index, the views that are not new."""
    kept = [name for name in where if is_pixels(name) or name.startswith(("digest/", "index/"))]
    with path.open("rb") as source, target.open("r+b") as file:
        for name in kept:
            if name.rpartition("/")[2] in fresh and not name.startswith("index/"):
                continue
            there, here = header.regions[name], where[name]
            if there.nbytes != here.nbytes:
                raise UsageError(
                    "the array has another size than this version would give it", where=path, found=name
                )
            _copy_range(source.fileno(), there.offset, file.fileno(), here.offset, there.nbytes)


def _copy_range(source: int, start: int, target: int, at: int, count: int) -> None:
    """Bytes from file to file, by the system where it can (some file systems then share them)."""
    done = 0
    while done < count:
        size = min(_COPIED_AT_ONCE, count - done)
        try:
            copied = os.copy_file_range(source, target, size, start + done, at + done)
        except (AttributeError, OSError):
            copied = os.pwrite(target, os.pread(source, size, start + done), at + done)
        if not copied:
            raise OSError("the dataset became shorter while it was copied")
        done += copied


@dataclass(frozen=True)
class RecordedImage:
    """An image of which only what the index says is known."""

    name: str
    licence: str

    @property
    def stamp(self) -> str:
        return ""

    def header(self) -> ImageHeader:
        raise NotImplementedError

    def load(self, alpha: Alpha) -> Pixels:
        raise NotImplementedError


class _RecordedPlan(Plan):
    """A plan whose real views are those of a file."""

    recorded: dict[str, Any]

    def present(self, view: PlannedView) -> Any:
        return self.recorded.get(view.label, np.ones(len(self), bool))


def _plan_of(header: Header, words: ConfounderSet) -> Plan:
    """The plan of a dataset that is there, with other confounders."""
    clean = header.regions["clean"]
    dtype = np.dtype(clean.dtype).name
    image = header.index["image"]
    numbers, first = np.unique(image, return_index=True)
    names = [
        [value.decode() for value in header.index[column][first].tolist()] for column in ("source", "licence")
    ]
    k, n = (int(part) for part in header.attrs["shard"].split("/"))
    plan = _RecordedPlan(
        settings=settings_of(header.attrs["settings"]),
        confounders=words,
        views=tuple(
            PlannedView.of(word, dtype, {view.label: view.scale for view in header.views if view.real})
            for word in words
        ),
        images=tuple(RecordedImage(*both) for both in zip(*names, strict=True)),
        image=np.searchsorted(numbers, image).astype(np.int32),
        box=np.stack([header.index[name] for name in "yxhw"], axis=1),
        clean_dtype=dtype,
        left_out=tuple(Failure(*entry) for entry in json.loads(header.attrs.get("left_out", "[]"))),
        shard=Shard(k, n, header.attrs["plan"]),
        ragged=len(clean.shape) == 2,
    )
    object.__setattr__(plan, "recorded", dict(header.present))
    return plan


_SUMMED = ("image", "offset")


def shard_path(out: Path, k: int, n: int) -> Path:
    """Where part k of n of a dataset goes: `train.h5` becomes `train.2-of-8.h5`."""
    return out.with_name(f"{out.stem}.{k}-of-{n}{out.suffix}")


def shards_of(out: Path) -> list[Path]:
    """The shards that lie beside `out`."""
    name = re.compile(rf"{re.escape(out.stem)}\.\d+-of-\d+{re.escape(out.suffix)}")
    found = sorted(path for path in out.parent.glob("*") if name.fullmatch(path.name))
    if not found:
        raise UsageError(
            "no shards lie beside the output", where=out, expected=shard_path(out, 1, 8).name,
            remedy="name the shards, or make them with --shard 1/8 and so on",
        )  # fmt: skip
    return found


def merge(
    shards: Sequence[str | Path], out: str | Path, *, allow_duplicates: bool = False, overwrite: bool = False
) -> Path:
    """Join shards into one dataset, in order, without copying pixels (HDF5 virtual datasets).

    The shards must stay where they are, relative to `out`; a reader refuses the dataset where one is missing.

    Raises:
        UsageError: a shard is missing, twice there, unfinished, or of another plan.
        DilkitError: images look alike, unless that is allowed, or the file cannot be written.
    """
    out, paths = Path(out), [Path(shard) for shard in shards]
    out = check_target(out, overwrite)
    for path in paths:
        if out.exists() and path.exists() and path.samefile(out):
            raise UsageError("the output is one of the shards", where=out, remedy="choose another name")
    headers = _in_order(paths)
    if not allow_duplicates:
        _refuse_duplicates([header for _, header in headers])
    tmp = out.with_name(out.name + ".joining")
    try:
        _write(tmp, out, headers)
        layout.close_checksum(tmp)
        give_name(tmp, out)
    except OSError as error:
        raise DilkitError(f"the shards cannot be joined: {reason(error)}", where=out) from error
    finally:
        tmp.unlink(missing_ok=True)
    return out


def _write(tmp: Path, out: Path, headers: list[tuple[Path, Header]]) -> None:
    with layout.writing(tmp) as file:
        _attributes(file, out, headers)
        file.create_group("distorted")
        for name in headers[0][1].index:
            _index_column(file, name, [header for _, header in headers])
        for path, header in headers[:1]:
            with h5py.File(path, locking=False) as first:
                for view in header.views:
                    _copy_view(file, first, view.label, out, headers)
                _join(file, "clean", first["clean"], out, headers)


def _refuse_duplicates(headers: list[Header]) -> None:
    names: list[str] = []
    hashes: list[int] = []
    for header in headers:
        _, first = np.unique(header.index["image"], return_index=True)
        names += [name.decode() for name in header.index["source"][first]]
        hashes += header.index["perceptual_hash"][first].tolist()
    refuse_duplicates(names, hashes, {})


def _in_order(paths: list[Path]) -> list[tuple[Path, Header]]:
    headers = [(path, Header.read(path)) for path in paths]
    if not headers:
        raise UsageError("no shards given")
    for path, header in headers:
        if header.shards:
            raise UsageError(
                "this is a joined dataset itself", where=path,
                remedy="name its shards: " + ", ".join(shard.name for shard in header.shards[:3]),
            )  # fmt: skip
    first_path, first = headers[0]
    k_of: dict[int, Path] = {}
    n = int(first.attrs["shard"].split("/")[1])
    for path, header in headers:
        k, found = (int(part) for part in header.attrs["shard"].split("/"))
        same = [header.attrs[name] == first.attrs[name] for name in ("plan", "hash", "settings", "layout")]
        if found != n or not all(same):
            raise UsageError(
                f"this shard belongs to another dataset than {first_path.name}", where=path,
                found=f"{k}/{found} of plan {header.attrs['plan']}",
                expected=f"k/{n} of plan {first.attrs['plan']}",
            )  # fmt: skip
        if k in k_of:
            raise UsageError(f"shard {k}/{n} is there twice", where=path, found=k_of[k].name)
        k_of[k] = path
    missing = sorted(set(range(1, n + 1)) - set(k_of))
    if missing:
        raise UsageError(
            f"{len(missing)} of {n} shards are missing",
            found="no " + ", ".join(f"{k}/{n}" for k in missing[:8]),
            remedy=f"make them first: --shard {missing[0]}/{n}",
        )  # fmt: skip
    by_path = dict(headers)
    return [(k_of[k], by_path[k_of[k]]) for k in sorted(k_of)]


def _attributes(file: Any, out: Path, headers: list[tuple[Path, Header]]) -> None:
    for name, value in headers[0][1].attrs.items():
        file.attrs[name] = value
    listed = [{"file": _beside(out, path), "seal": f"{header.checksum:016x}"} for path, header in headers]
    file.attrs["shards"] = json.dumps(listed)
    file.attrs["shard"] = "1/1"
    licences = {part for _, header in headers for part in header.attrs["licence"].split("; ") if part}
    file.attrs["licence"] = "; ".join(sorted(licences))
    left_out = [entry for _, header in headers for entry in json.loads(header.attrs.get("left_out", "[]"))]
    if left_out:  # those found before the plan was divided stand in every shard
        file.attrs["left_out"] = json.dumps([list(entry) for entry in dict.fromkeys(map(tuple, left_out))])


def _index_column(file: Any, name: str, headers: list[Header]) -> None:
    columns, before = [], 0
    for header in headers:
        column = header.index[name]
        columns.append(column + before if name in _SUMMED else column)
        if name == "image":
            before += int(column[-1]) + 1
        elif name == "offset":
            before = int(columns[-1][-1]) + int(header.index["h"][-1]) * int(header.index["w"][-1])
    joined = np.concatenate(columns)
    layout.add_array(file, f"index/{name}", joined.dtype, joined.shape, fill=joined)


def _copy_view(file: Any, first: Any, label: str, out: Path, headers: list[tuple[Path, Header]]) -> None:
    name = f"distorted/{label}"
    if any(label in header.present for _, header in headers):
        present = np.concatenate(
            [header.present.get(label, np.ones(len(header.index["h"]), bool)) for _, header in headers]
        )
        layout.add_array(file, f"present/{label}", "u1", present.shape, fill=present.astype(np.uint8))
    elif f"present/{label}" in first:
        count = sum(len(header.index["h"]) for _, header in headers)
        layout.add_array(file, f"present/{label}", "u1", (count,), fill=np.ones(count, np.uint8))
    if first[name].shape is None:
        first.copy(name, file["distorted"], label)
        return
    made = _join(file, name, first[name], out, headers)
    for key, value in first[name].attrs.items():
        made.attrs[key] = value
    digests = _join(file, f"digest/{label}", first[f"digest/{label}"], out, headers)
    for draw in range(1, digests.shape[1] if digests.ndim == 2 else 1):
        _join(file, pixels_of(label, draw), first[pixels_of(label, draw)], out, headers)


def _join(file: Any, name: str, like: Any, out: Path, headers: list[tuple[Path, Header]]) -> Any:
    """A virtual array of those of the shards, each in the upper left where its items are smaller."""
    shapes = []
    for path, _ in headers:
        with h5py.File(path, "r", locking=False) as shard:
            shapes.append(shard[name].shape)
    ends = np.cumsum([0, *(shape[0] for shape in shapes)])
    largest = tuple(max(sides) for sides in zip(*(shape[1:] for shape in shapes), strict=True))
    virtual = h5py.VirtualLayout((int(ends[-1]), *largest), like.dtype)
    for (path, _), shape, start in zip(headers, shapes, ends, strict=False):
        source = (text.replace("%", "%%") for text in (_beside(out, path), name))  # HDF5 fills in %b
        place = (slice(int(start), int(start) + shape[0]), *(slice(0, side) for side in shape[1:]))
        virtual[place] = h5py.VirtualSource(*source, shape, like.dtype)
    return file.create_virtual_dataset(name, virtual)


def _beside(out: Path, path: Path) -> str:
    """The way from the folder of `out` to a shard, where links lead elsewhere, too."""
    folder = Path(os.path.realpath(path.parent))
    found = os.path.relpath(folder / path.name, os.path.realpath(out.parent))
    if found.startswith(".."):
        raise UsageError(
            "a shard lies outside the folder of the dataset",
            where=path,
            expected=f"in {out.parent}, or in a folder there",
            remedy="merge into the folder of the shards, or move them there",
        )
    return found
