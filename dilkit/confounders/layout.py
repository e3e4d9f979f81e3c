"""The HDF5 file: what it holds, and where each array lies in it.

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
"""

from __future__ import annotations

import errno
import functools
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.confounders import seal
from dilkit.confounders.plan import Plan, Shard, View, settings_json
from dilkit.confounders.regions import is_pixels, regions
from dilkit.confounders.strips import strip_width
from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.errors import UsageError

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
        _attributes(file, plan)
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
        seal.strip(path)
    aligned = {"alignment_threshold": ALIGNMENT, "alignment_interval": ALIGNMENT}
    try:
        with h5py.File(path, mode, locking=False, libver=_HDF5, **aligned) as file:
            yield file
            pixels = [(r.offset, r.nbytes) for name, r in regions(file).items() if is_pixels(name)]
        seal.append(path, pixels)
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


def _attributes(file: Any, plan: Plan) -> None:
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
