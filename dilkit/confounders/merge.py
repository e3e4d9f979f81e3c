"""Join the shards of one plan: a small file whose arrays are views into theirs."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dilkit.confounders import layout, seal
from dilkit.confounders.builder import check_target
from dilkit.confounders.draft import give_name
from dilkit.confounders.duplicates import refuse_duplicates
from dilkit.confounders.head import Head
from dilkit.errors import DilkitError, UsageError, reason

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
