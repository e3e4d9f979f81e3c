"""What a dataset file says of itself: attributes, confounders, index, and where the arrays lie."""

from __future__ import annotations

import faulthandler
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import current_process, get_context
from pathlib import Path
from typing import Any

import numpy.typing as npt

from dilkit.confounders import seal
from dilkit.confounders.layout import FORMAT, LAYOUT
from dilkit.confounders.plan import COUPLINGS, STORAGES
from dilkit.confounders.regions import Region, regions
from dilkit.errors import UsageError

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
            sealed = seal.check(path)
        except seal.Damaged:
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
