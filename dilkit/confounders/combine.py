"""Add confounders to a dataset, or drop some, without touching the pixels of the others.

HDF5 changes its small parts in place, so these are first copied to `FILE.undo`; whatever interrupts a change,
the next one begins by putting them back.

Join the shards of one plan: a small file whose arrays are views into theirs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dilkit.confounders import format as layout
from dilkit.confounders import format as seal
from dilkit.confounders.build import Crew, Desk, check_target, distort, give_name, sync_folder
from dilkit.confounders.duplicates import refuse_duplicates
from dilkit.confounders.format import Head, is_pixels, regions, undo_path
from dilkit.confounders.plan import Plan, Settings, View, check_divisible
from dilkit.confounders.store import Store
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import DilkitError, UsageError, nearest, reason

_BLOCK = 1 << 20


def add(
    path: str | Path,
    distort_with: Any,
    *,
    workers: int = 1,
    progress: Callable[[str, int, int], None] = lambda phase, done, total: None,
) -> tuple[str, ...]:
    """Make further views of a dataset's clean images; gives their labels.

    An interrupted call leaves the dataset as it was.

    Raises:
        UsageError: a confounder is there already, the dataset is a merged one, or another run is changing it.
        DilkitError: the disk is full, or a worker died.
    """
    path = Path(os.path.realpath(path))
    with _alone(path):
        recover(path)
        return _add(path, distort_with, workers, progress)


def _add(
    path: Path, distort_with: Any, workers: int, progress: Callable[[str, int, int], None]
) -> tuple[str, ...]:
    store = Store(path)
    head = _changeable(path)
    old, new = store.confounders, confounder_set(distort_with)
    twice = [word.label for word in new if word in old.words]
    if twice or not len(new):
        raise UsageError(
            "these confounders are there already" if twice else "there is no distortion in the set",
            where=path,
            found=", ".join(twice) or str(new),
        )
    plan = _plan_of(head, new)
    check_divisible(path, zip(*plan.box[:, 2:].T.tolist(), strict=True), plan.views)
    with _changing(path, head):
        with layout.writing(path, "r+") as file:
            for view in plan.views:
                layout.declare_view(file, plan, view)
                if plan.settings.storage == "stored":
                    layout.add_view(file, plan, view)
            _rename(file, ConfounderSet.of([*old, *new]))
        layout.reserve(path, path.stat().st_size)
        if plan.settings.storage == "stored":
            with h5py.File(path, "r", locking=False) as file:
                desk = Desk(path, plan, regions(file))
            done = 0
            with Crew(desk, workers) as crew:
                for part, _ in crew.do(distort, list(range(len(plan.parts)))):
                    first, last = plan.parts[part]
                    done += last - first
                    progress("distort", done, len(plan))
        seal.close(path)
    return tuple(view.label for view in plan.views)


def drop(path: str | Path, distort_with: Any) -> tuple[str, ...]:
    """Take confounders out of a dataset; gives their labels. The file does not shrink.

    Raises:
        UsageError: one is not there, none would be left, or another run is changing the dataset.
    """
    path = Path(os.path.realpath(path))
    gone = confounder_set(distort_with)
    with _alone(path):
        if recover(path) and not any(word in Store(path).confounders for word in gone):
            return gone.labels
        return _drop(path, gone)


def _drop(path: Path, gone: ConfounderSet) -> tuple[str, ...]:
    store = Store(path)
    head = _changeable(path)
    old = store.confounders
    _require_there(path, gone, old)
    if not any(word not in gone.words for word in old):
        raise UsageError("no confounder would be left", where=path, remedy="delete the file instead")
    with _changing(path, head, dropping=str(gone)):
        _cut(path, gone)
    return gone.labels


def check_drop(path: str | Path, gone: Any, added: Any) -> None:
    """Raises UsageError where some of `gone` could not be dropped after `added` was added."""
    path = Path(os.path.realpath(path))
    with _alone(path):
        recover(path)
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


def _cut(path: Path, gone: ConfounderSet) -> None:
    with layout.writing(path, "r+") as file:
        for label in gone.labels:
            del file[f"distorted/{label}"]
            if f"digest/{label}" in file:
                del file[f"digest/{label}"]
        old = confounder_set(file.attrs["expression"])
        _rename(file, ConfounderSet.of(word for word in old if word not in gone.words))
    seal.close(path)


def recover(path: Path) -> bool:
    """Take back what an interrupted change has left, or finish a drop; says whether there was one."""
    undo = undo_path(path)
    if not undo.exists():
        return False
    with undo.open("rb") as saved:
        notes = json.loads(saved.readline())
    try:
        sealed = seal.check(path)
    except seal.Damaged:
        if seal.claimed(path) != notes["seal"]:
            raise
        sealed = None
    if sealed:  # nothing was changed yet, or all is done, or the file is another
        undo.unlink()
        return bool(notes["dropping"]) and sealed != notes["seal"]
    try:
        _put_back(path)
        if notes["dropping"]:
            _cut(path, confounder_set(notes["dropping"]))
    except OSError as error:
        raise DilkitError(
            f"writing failed: {reason(error)}", where=path,
            remedy="make room, then repeat the command, which finishes it",
        ) from error  # fmt: skip
    undo.unlink()
    return True


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


def _put_back(path: Path) -> None:
    """Make the dataset what it was before a change."""
    seal.strip(path)
    with undo_path(path).open("rb") as saved, path.open("r+b") as file:
        notes = json.loads(saved.readline())
        for start, length in notes["ranges"]:
            file.seek(start)
            for size in _blocks(length):
                file.write(saved.read(size))
        file.truncate(notes["size"])
        os.fsync(file.fileno())


def _changeable(path: Path) -> Head:
    head = Head.read(path)
    if head.shards:
        raise UsageError(
            "a merged dataset has no pixels of its own",
            where=path,
            remedy="change its shards, then merge again",
        )
    return head


def _plan_of(head: Head, words: ConfounderSet) -> Plan:
    clean = head.regions["clean"]
    dtype = np.dtype(clean.dtype).name
    return Plan(
        settings=Settings(**json.loads(head.attrs["settings"])),
        confounders=words,
        views=tuple(View.of(word, dtype) for word in words),
        images=(),
        image=head.index["image"],
        box=np.stack([head.index[name] for name in "yxhw"], axis=1),
        clean_dtype=dtype,
        ragged=len(clean.shape) == 2,
    )


def _rename(file: Any, words: ConfounderSet) -> None:
    for position, label in enumerate(words.labels):
        file[f"distorted/{label}"].attrs["position"] = position
    file.attrs["expression"] = layout.readable(words)
    file.attrs["hash"] = words.hash


@contextmanager
def _changing(path: Path, head: Head, dropping: str = "") -> Iterator[None]:
    """Save what may be changed; put it back on an error, forget it on success.

    HDF5 may have written over what was to be dropped, so a drop is finished next time; what is put back
    before has no seal.
    """
    _save(path, head, dropping)
    try:
        yield
    except BaseException as error:
        if not dropping:
            _put_back(path)
            undo_path(path).unlink()
        if isinstance(error, OSError):
            done = "repeat the command, which finishes it" if dropping else "the dataset is as it was"
            raise DilkitError(
                f"writing failed: {reason(error)}", where=path, remedy=f"make room; {done}"
            ) from error
        raise
    undo_path(path).unlink()


def _save(path: Path, head: Head, dropping: str) -> None:
    size = path.stat().st_size - (seal.TAIL if dropping else 0)
    pixels = sorted((r.offset, r.nbytes) for name, r in head.regions.items() if is_pixels(name))
    ranges, position = [], 0
    for start, length in [*pixels, (size, 0)]:
        if start > position:
            ranges.append((position, start - position))
        position = start + length
    undo = undo_path(path)
    tmp = undo.with_name(undo.name + ".tmp")
    try:
        with tmp.open("wb") as saved, path.open("r+b") as file:
            notes = {"seal": head.seal, "size": size, "ranges": ranges, "dropping": dropping}
            saved.write(json.dumps(notes).encode() + b"\n")
            for start, length in ranges:
                file.seek(start)
                for block in _blocks(length):
                    saved.write(file.read(block))
            saved.flush()
            os.fsync(saved.fileno())
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise DilkitError(f"the dataset cannot be changed: {reason(error)}", where=path) from None
    tmp.replace(undo)
    sync_folder(undo.parent)


def _blocks(length: int) -> Iterator[int]:
    for start in range(0, length, _BLOCK):
        yield min(_BLOCK, length - start)


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
    heads = _in_order(paths)
    if not allow_duplicates:
        _refuse_duplicates([head for _, head in heads])
    tmp = out.with_name(out.name + ".joining")
    try:
        _write(tmp, out, heads)
        seal.close(tmp)
        give_name(tmp, out)
    except OSError as error:
        raise DilkitError(f"the shards cannot be joined: {reason(error)}", where=out) from error
    finally:
        tmp.unlink(missing_ok=True)
    return out


def _write(tmp: Path, out: Path, heads: list[tuple[Path, Head]]) -> None:
    import h5py

    with layout.writing(tmp, "w") as file:
        _attributes(file, out, heads)
        file.create_group("distorted")
        for name in heads[0][1].index:
            _index_column(file, name, [head for _, head in heads])
        for path, head in heads[:1]:
            with h5py.File(path, locking=False) as first:
                for view in head.views:
                    _copy_view(file, first, view.label, out, heads)
                _join(file, "clean", first["clean"], out, heads)


def _refuse_duplicates(heads: list[Head]) -> None:
    names: list[str] = []
    hashes: list[int] = []
    for head in heads:
        _, first = np.unique(head.index["image"], return_index=True)
        names += [name.decode() for name in head.index["source"][first]]
        hashes += head.index["perceptual_hash"][first].tolist()
    refuse_duplicates(names, hashes, {})


def _in_order(paths: list[Path]) -> list[tuple[Path, Head]]:
    heads = [(path, Head.read(path)) for path in paths]
    if not heads:
        raise UsageError("no shards given")
    for path, head in heads:
        if head.shards:
            raise UsageError(
                "this is a joined dataset itself", where=path,
                remedy="name its shards: " + ", ".join(shard.name for shard in head.shards[:3]),
            )  # fmt: skip
    first_path, first = heads[0]
    k_of: dict[int, Path] = {}
    n = int(first.attrs["shard"].split("/")[1])
    for path, head in heads:
        k, found = (int(part) for part in head.attrs["shard"].split("/"))
        same = [head.attrs[name] == first.attrs[name] for name in ("plan", "hash", "settings", "layout")]
        if found != n or not all(same):
            raise UsageError(
                f"this shard belongs to another dataset than {first_path.name}", where=path,
                found=f"{k}/{found} of plan {head.attrs['plan']}",
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
    by_path = dict(heads)
    return [(k_of[k], by_path[k_of[k]]) for k in sorted(k_of)]


def _attributes(file: Any, out: Path, heads: list[tuple[Path, Head]]) -> None:
    for name, value in heads[0][1].attrs.items():
        file.attrs[name] = value
    listed = [{"file": _beside(out, path), "seal": f"{head.seal:016x}"} for path, head in heads]
    file.attrs["shards"] = json.dumps(listed)
    file.attrs["shard"] = "1/1"
    licences = {part for _, head in heads for part in head.attrs["licence"].split("; ") if part}
    file.attrs["licence"] = "; ".join(sorted(licences))


def _index_column(file: Any, name: str, heads: list[Head]) -> None:
    columns, before = [], 0
    for head in heads:
        column = head.index[name]
        columns.append(column + before if name in _SUMMED else column)
        if name == "image":
            before += int(column[-1]) + 1
        elif name == "offset":
            before = int(columns[-1][-1]) + int(head.index["h"][-1]) * int(head.index["w"][-1])
    joined = np.concatenate(columns)
    layout.add_array(file, f"index/{name}", joined.dtype, joined.shape, fill=joined)


def _copy_view(file: Any, first: Any, label: str, out: Path, heads: list[tuple[Path, Head]]) -> None:
    name = f"distorted/{label}"
    if first[name].shape is None:
        first.copy(name, file["distorted"], label)
        return
    made = _join(file, name, first[name], out, heads)
    for key, value in first[name].attrs.items():
        made.attrs[key] = value
    _join(file, f"digest/{label}", first[f"digest/{label}"], out, heads)


def _join(file: Any, name: str, like: Any, out: Path, heads: list[tuple[Path, Head]]) -> Any:
    import h5py

    shapes = [head.regions[name].shape for _, head in heads]
    ends = np.cumsum([0, *(shape[0] for shape in shapes)])
    virtual = h5py.VirtualLayout((int(ends[-1]), *shapes[0][1:]), like.dtype)
    for (path, _), shape, start in zip(heads, shapes, ends, strict=False):
        source = (text.replace("%", "%%") for text in (_beside(out, path), name))  # HDF5 fills in %b
        virtual[int(start) : int(start) + shape[0]] = h5py.VirtualSource(*source, shape, like.dtype)
    return file.create_virtual_dataset(name, virtual)


def _beside(out: Path, path: Path) -> str:
    """The way from the folder of `out` to a shard, where links lead elsewhere, too."""
    folder = Path(os.path.realpath(path.parent))
    return os.path.relpath(folder / path.name, os.path.realpath(out.parent))
