"""A dataset as other programs keep theirs: folders, LMDB, deepinv's HDF5, webdataset's tar files.

The same forms are read as sets of real pairs: `images.Pairs`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import h5py
import numpy as np

from dilkit.confounders.format import Array
from dilkit.confounders.store import Store
from dilkit.distortions import as_float
from dilkit.distortions.render import to_levels
from dilkit.errors import DilkitError, UsageError, nearest, reason

StoreForm = Literal["folders", "lmdb", "deepinv", "webdataset"]
Progress = Callable[[int, int], None]
"""(items done, items in all)"""

_PER_TAR = 1000
"""Items of a tar file."""


@dataclass(frozen=True)
class ExportedStore:
    """What was written.

    Attributes:
        items: how many clean images.
        names: by label, what its folder, database or array is called.
        rounded: labels whose values were clipped to [0, 1] and rounded to 8 bits, as PNG files need.
    """

    path: Path
    items: int
    names: dict[str, str]
    rounded: tuple[str, ...] = ()


def export_store(
    store: Store | str | Path,
    out: str | Path,
    to: StoreForm,
    *,
    labels: Sequence[str] | None = None,
    split: str | None = None,
    progress: Progress = lambda done, total: None,
) -> ExportedStore:
    """Write a dataset in another form.

    Args:
        out: a folder that is not there yet, or is empty; for deepinv an HDF5 file that is not there yet.
        to: `folders`, PNG files in `clean/` and a folder for each confounder, as BasicSR, KAIR and neosr read
            them (`dataroot_gt`, `dataroot_lq`); `lmdb`, the same as `clean.lmdb` and so on, in BasicSR's form
            (PNG bytes in BGR, `meta_info.txt`); `deepinv`, one HDF5 file with x_train and y0_train, y1_train,
            ... (N, 3, H, W) float32, for items of one size; `webdataset`, tar files of 1000 items,
            KEY.clean.png and KEY.LABEL.png.
        labels: the confounders to write; all by default.
        split: the items to write; all by default.

    Raises:
        UsageError: an unknown form or label, something is there already, or items of several sizes or without
            a view where the form has no place for them.
        DilkitError: the disk is full, or a package is missing.
    """
    store, out = store if isinstance(store, Store) else Store(store), Path(out)
    if to not in get_args(StoreForm):
        raise UsageError(
            "unknown form",
            where="--to",
            found=to,
            expected=" or ".join(get_args(StoreForm)),
            nearest=nearest(to, get_args(StoreForm)),
        )
    chosen = tuple(labels) if labels is not None else store.labels
    present = {label: store.has(label) for label in chosen}  # names an unknown one
    items = store.items(split).tolist()
    names = _names(chosen)
    if out.exists() and (not out.is_dir() or any(out.iterdir()) or to == "deepinv"):
        raise UsageError("the output exists already", where=out, remedy="choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if to == "deepinv":
            _to_deepinv(store, out, items, names, present, split, progress)
        else:
            out.mkdir(exist_ok=True)
            write = {"folders": _to_folders, "lmdb": _to_lmdb, "webdataset": _to_tars}[to]
            write(store, out, items, names, present, progress)
            _write_index(store, out, items, names)
    except OSError as error:
        raise DilkitError(f"writing failed: {reason(error)}", where=out, remedy="make room") from error
    float_labels = (view.label for view in store.header.views if view.dtype == "float32")
    rounded = tuple(label for label in float_labels if label in names) if to != "deepinv" else ()
    return ExportedStore(out, len(items), names, rounded)


def _names(labels: Sequence[str]) -> dict[str, str]:
    """A file name for every label, each different: awgn(5)>>clip becomes awgn_5_clip."""
    names: dict[str, str] = {}
    for label in labels:
        plain = re.sub(r"[^A-Za-z0-9+-]+", "_", label).strip("_")[:60] or "confounder"
        name, count = plain, 1
        while name in {"clean", *names.values()}:
            count += 1
            name = f"{plain}_{count}"
        names[label] = name
    return names


def _png(pixels: Array) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(to_levels(pixels)[..., ::-1]))
    assert done
    return data.tobytes()


def _images(
    store: Store, item: int, names: dict[str, str], present: dict[str, Any]
) -> Iterator[tuple[str, Array]]:
    """The clean item and the views that it has, by name."""
    yield "clean", store.clean(item)
    for label, name in names.items():
        if present[label][item]:
            yield name, store.view(item, label)


def _to_folders(
    store: Store,
    out: Path,
    items: list[int],
    names: dict[str, str],
    present: dict[str, Any],
    progress: Progress,
) -> None:
    for name in ("clean", *names.values()):
        (out / name).mkdir()
    for number, item in enumerate(items):
        for name, pixels in _images(store, item, names, present):
            (out / name / f"{number:06d}.png").write_bytes(_png(pixels))
        progress(number + 1, len(items))


def _to_lmdb(
    store: Store,
    out: Path,
    items: list[int],
    names: dict[str, str],
    present: dict[str, Any],
    progress: Progress,
) -> None:
    try:
        import lmdb
    except ImportError:
        raise DilkitError("writing LMDB needs the lmdb package", remedy="pip install lmdb") from None
    size = 2 * len(items) * max(store.header.index["h"] * store.header.index["w"]).item() * 3 + (1 << 24)
    folders = {name: out / f"{name}.lmdb" for name in ("clean", *names.values())}
    databases = {name: lmdb.open(str(folder), map_size=size) for name, folder in folders.items()}
    lines: dict[str, list[str]] = {name: [] for name in folders}
    try:
        for number, item in enumerate(items):
            for name, pixels in _images(store, item, names, present):
                with databases[name].begin(write=True) as transaction:
                    transaction.put(f"{number:06d}".encode(), _png(pixels))
                lines[name].append(f"{number:06d}.png ({pixels.shape[0]},{pixels.shape[1]},3) 1\n")
            progress(number + 1, len(items))
    except lmdb.Error as error:
        raise DilkitError(f"writing failed: {error}", where=out, remedy="make room") from error
    finally:
        for database in databases.values():
            database.close()
    for name, folder in folders.items():
        (folder / "meta_info.txt").write_text("".join(lines[name]), encoding="utf-8")


def _to_tars(
    store: Store,
    out: Path,
    items: list[int],
    names: dict[str, str],
    present: dict[str, Any],
    progress: Progress,
) -> None:
    for first in range(0, len(items), _PER_TAR):
        with tarfile.open(out / f"{first // _PER_TAR:06d}.tar", "w") as archive:
            for number, item in enumerate(items[first : first + _PER_TAR], first):
                for name, pixels in _images(store, item, names, present):
                    data = _png(pixels)
                    member = tarfile.TarInfo(f"{number:06d}.{name}.png")
                    member.size = len(data)
                    archive.addfile(member, io.BytesIO(data))
                progress(number + 1, len(items))


def _to_deepinv(
    store: Store,
    out: Path,
    items: list[int],
    names: dict[str, str],
    present: dict[str, Any],
    split: str | None,
    progress: Progress,
) -> None:
    sizes = {store.size(item) for item in items}
    if len(sizes) > 1:
        raise UsageError(
            "deepinv's arrays hold images of one size",
            where=store.path,
            found=f"{len(sizes)} sizes",
            remedy="make the dataset in tiles, with --small skip",
        )
    for label, there in present.items():
        if not there[items].all():
            raise UsageError(
                f"not every item has {label}",
                where=store.path,
                remedy="export those that are complete: --label",
            )
    ((h, w),) = sizes
    part = {None: "train", "train": "train", "validation": "val"}.get(split, split)
    tmp = out.with_name(out.name + ".tmp")
    try:
        with h5py.File(tmp, "w") as file:
            file.attrs["stacked"] = len(names)  # deepinv: as many measurements of each image
            clean = file.create_dataset(f"x_{part}", (len(items), 3, h, w), "f4")
            arrays = {}
            for k, label in enumerate(names):
                scale = store.scale(label)
                shape = (len(items), 3, h // scale, w // scale)
                arrays[label] = file.create_dataset(f"y{k}_{part}", shape, "f4")
                arrays[label].attrs["label"] = label
            for number, item in enumerate(items):
                clean[number] = as_float(store.clean(item)).transpose(2, 0, 1)
                for label, array in arrays.items():
                    array[number] = as_float(store.view(item, label)).transpose(2, 0, 1)
                progress(number + 1, len(items))
        tmp.replace(out)
    finally:
        tmp.unlink(missing_ok=True)


def _write_index(store: Store, out: Path, items: list[int], names: dict[str, str]) -> None:
    """Where each image is from, and what the confounders are."""
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "source", "licence", "split", "y", "x", "h", "w"])
        for number, item in enumerate(items):
            texts = [store.index[name][item].decode() for name in ("source", "licence", "split")]
            writer.writerow([f"{number:06d}", *texts, *(int(store.index[name][item]) for name in "yxhw")])
    about = {name: {"label": label, "expression": str(store.word(label))} for label, name in names.items()}
    about_all = {"confounders": about, "seed": store.attrs["seed"], "hash": store.attrs["hash"]}
    (out / "confounders.json").write_text(json.dumps(about_all, indent=1), encoding="utf-8")
