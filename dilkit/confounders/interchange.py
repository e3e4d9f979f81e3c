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
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

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
    if to not in (forms := get_args(StoreForm)):
        raise UsageError(
            "unknown form", where="--to", found=to, expected=" or ".join(forms), nearest=nearest(to, forms)
        )
    chosen = tuple(labels) if labels is not None else store.labels
    present = {label: store.has(label) for label in chosen}  # raises for an unknown one
    items = store.items(split).tolist()
    names = _names(chosen)
    if out.exists() and (not out.is_dir() or any(out.iterdir()) or to == "deepinv"):
        raise UsageError("the output exists already", where=out, remedy="choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if to == "deepinv":
            part = {None: "train", "validation": "val"}.get(split, str(split))
            opened = _deepinv(store, out, items, names, part)
        else:
            out.mkdir(exist_ok=True)
            largest = max(h * w for h, w in map(store.size, items))
            open_form = {"folders": _folders, "lmdb": _lmdb, "webdataset": _tars}[to]
            opened = open_form(out, ["clean", *names.values()], len(items), largest)
        with opened as put:
            for number, item in enumerate(items):
                put(number, "clean", store.clean(item))
                for label, name in names.items():
                    if present[label][item]:
                        put(number, name, store.view(item, label))
                progress(number + 1, len(items))
        if to != "deepinv":
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


Put = Callable[[int, str, Array], object]
"""(number of the item, name of the image, pixels (h, w, 3)): write one image."""


@contextmanager
def _folders(out: Path, names: Sequence[str], count: int, largest: int) -> Iterator[Put]:
    for name in names:
        (out / name).mkdir()
    yield lambda number, name, pixels: (out / name / f"{number:06d}.png").write_bytes(_png(pixels))


@contextmanager
def _lmdb(out: Path, names: Sequence[str], count: int, largest: int) -> Iterator[Put]:
    try:
        import lmdb
    except ImportError:
        raise DilkitError("writing LMDB needs the lmdb package", remedy="pip install lmdb") from None
    size = 2 * count * largest * 3 + (1 << 24)
    databases = {name: lmdb.open(str(out / f"{name}.lmdb"), map_size=size) for name in names}
    lines: dict[str, list[str]] = {name: [] for name in names}

    def put(number: int, name: str, pixels: Array) -> None:
        with databases[name].begin(write=True) as transaction:
            transaction.put(f"{number:06d}".encode(), _png(pixels))
        lines[name].append(f"{number:06d}.png ({pixels.shape[0]},{pixels.shape[1]},3) 1\n")

    try:
        yield put
    except lmdb.Error as error:
        raise DilkitError(f"writing failed: {error}", where=out, remedy="make room") from error
    finally:
        for database in databases.values():
            database.close()
    for name in names:
        (out / f"{name}.lmdb" / "meta_info.txt").write_text("".join(lines[name]), encoding="utf-8")


@contextmanager
def _tars(out: Path, names: Sequence[str], count: int, largest: int) -> Iterator[Put]:
    with ExitStack() as archives:
        archive: tarfile.TarFile

        def put(number: int, name: str, pixels: Array) -> None:
            nonlocal archive
            if number % _PER_TAR == 0 and name == "clean":
                archives.close()
                file = tarfile.open(out / f"{number // _PER_TAR:06d}.tar", "w")  # noqa: SIM115
                archive = archives.enter_context(file)
            data = _png(pixels)
            member = tarfile.TarInfo(f"{number:06d}.{name}.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        yield put


@contextmanager
def _deepinv(store: Store, out: Path, items: list[int], names: dict[str, str], split: str) -> Iterator[Put]:
    sizes = {store.size(item) for item in items}
    if len(sizes) > 1:
        raise UsageError(
            "deepinv's arrays hold images of one size",
            where=store.path,
            found=f"{len(sizes)} sizes",
            remedy="make the dataset in tiles, with --small skip",
        )
    for label in names:
        if not store.has(label)[items].all():
            raise UsageError(
                f"not every item has {label}",
                where=store.path,
                remedy="export those that are complete: --label",
            )
    ((h, w),) = sizes
    tmp = out.with_name(out.name + ".tmp")
    try:
        with h5py.File(tmp, "w") as file:
            file.attrs["stacked"] = len(names)  # deepinv: as many measurements of each image
            arrays = {"clean": file.create_dataset(f"x_{split}", (len(items), 3, h, w), "f4")}
            for k, (label, name) in enumerate(names.items()):
                shape = (len(items), 3, h // store.scale(label), w // store.scale(label))
                arrays[name] = file.create_dataset(f"y{k}_{split}", shape, "f4")
                arrays[name].attrs["label"] = label

            def put(number: int, name: str, pixels: Array) -> None:
                arrays[name][number] = as_float(pixels).transpose(2, 0, 1)

            yield put
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
