"""Add confounders to a dataset, or drop some, without touching the pixels of the others.

HDF5 changes its small parts in place, so these are first copied to `FILE.undo`; whatever interrupts a change,
the next one begins by putting them back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dilkit.confounders import layout
from dilkit.confounders.crew import Crew
from dilkit.confounders.draft import seal_file
from dilkit.confounders.plan import Plan, Settings, View
from dilkit.confounders.store import Head, Store
from dilkit.confounders.work import Desk, distort
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import DilkitError, UsageError, nearest

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
        UsageError: a confounder is there already, or the dataset is a merged one.
        DilkitError: the disk is full, or a worker died.
    """
    path = Path(path)
    recover(path)
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
    with _changing(path, head):
        with h5py.File(
            path, "r+", alignment_threshold=layout.ALIGNMENT, alignment_interval=layout.ALIGNMENT
        ) as file:
            file["seal"][0] = 0
            for view in plan.views:
                layout.declare_view(file, plan, view)
                if plan.settings.storage == "stored":
                    layout.add_view(file, plan, view)
            _rename(file, ConfounderSet.of([*old, *new]))
        layout.reserve(path)
        if plan.settings.storage == "stored":
            with h5py.File(path, "r") as file:
                desk = Desk(path, plan, layout.regions(file))
            done = 0
            with Crew(desk, workers) as crew:
                for part, _ in crew.do(distort, list(range(len(plan.parts)))):
                    first, last = plan.parts[part]
                    done += last - first
                    progress("distort", done, len(plan))
        seal_file(path, path)
    return tuple(view.label for view in plan.views)


def drop(path: str | Path, distort_with: Any) -> tuple[str, ...]:
    """Take confounders out of a dataset; gives their labels. The file does not shrink..

    Raises:
        UsageError: one is not there, or none would be left.
    """
    path = Path(path)
    recover(path)
    store = Store(path)
    head = _changeable(path)
    old, gone = store.confounders, confounder_set(distort_with)
    for word in gone:
        if word not in old.words:
            raise UsageError(
                f"the dataset has no confounder {word.label!r}",
                where=path,
                expected=", ".join(store.labels),
                nearest=nearest(word.label, store.labels),
            )
    left = ConfounderSet.of(word for word in old if word not in gone.words)
    if not len(left):
        raise UsageError("no confounder would be left", where=path, remedy="delete the file instead")
    with _changing(path, head, dropping=str(gone)):
        with h5py.File(path, "r+") as file:
            for label in gone.labels:
                del file[f"distorted/{label}"]
                if f"digest/{label}" in file:
                    del file[f"digest/{label}"]
            _rename(file, left)
        seal_file(path, path)
    return gone.labels


def recover(path: Path) -> bool:
    """Put back what an interrupted change has left; says whether there was one."""
    undo = _undo_path(path)
    if not undo.exists():
        return False
    with undo.open("rb") as saved:
        notes = json.loads(saved.readline())
        with path.open("r+b") as file:
            for start, length in notes["ranges"]:
                file.seek(start)
                for size in _blocks(length):
                    file.write(saved.read(size))
            file.truncate(notes["size"])
            os.fsync(file.fileno())
    undo.unlink()
    if notes["dropping"]:
        drop(path, notes["dropping"])
    return True


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
    file.attrs["expression"] = layout.bounded("expression", str(words))
    file.attrs["hash"] = words.hash


@contextmanager
def _changing(path: Path, head: Head, dropping: str = "") -> Iterator[None]:
    """Save what may be changed; put it back on an error, forget it on success."""
    _save(path, head, dropping)
    try:
        yield
    except OSError as error:
        recover(path)
        raise DilkitError(
            f"writing failed: {error.strerror or error}", where=path,
            remedy="the dataset is as it was; make room and repeat the command",
        ) from error  # fmt: skip
    except BaseException:
        recover(path)
        raise
    _undo_path(path).unlink()


def _save(path: Path, head: Head, dropping: str) -> None:
    size = path.stat().st_size
    pixels = sorted((r.offset, r.nbytes) for name, r in head.regions.items() if layout.is_pixels(name))
    ranges, position = [], 0
    for start, length in [*pixels, (size, 0)]:
        if start > position:
            ranges.append((position, start - position))
        position = start + length
    undo = _undo_path(path)
    tmp = undo.with_name(undo.name + ".tmp")
    try:
        with tmp.open("wb") as saved, path.open("r+b") as file:
            saved.write(json.dumps({"size": size, "ranges": ranges, "dropping": dropping}).encode() + b"\n")
            for start, length in ranges:
                file.seek(start)
                for block in _blocks(length):
                    saved.write(file.read(block))
            saved.flush()
            os.fsync(saved.fileno())
    except OSError as error:
        tmp.unlink(missing_ok=True)
        raise DilkitError(f"the dataset cannot be changed: {error.strerror or error}", where=path) from None
    tmp.replace(undo)


def _undo_path(path: Path) -> Path:
    return path.with_name(path.name + ".undo")


def _blocks(length: int) -> Iterator[int]:
    for start in range(0, length, _BLOCK):
        yield min(_BLOCK, length - start)
