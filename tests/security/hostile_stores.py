"""Recipes of hostile datasets: each takes a good file and makes it one that a stranger could send.

Their checksums are right, so that nothing but what is read tells them from good ones.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dilkit.confounders import format as layout
from dilkit.confounders.build import augment
from dilkit.confounders.combine import merge, shard_path
from dilkit.confounders.format import append_checksum, close_checksum, is_pixels, regions
from dilkit.confounders.store import Store
from dilkit.errors import UsageError

Recipe = Callable[[Path], object]
ESCAPE = "\x1b]0;owned\x07\x1b[31mfree\x1b[0m"


def good(path: Path) -> Path:
    """Six items of 32 x 32 under two distortions."""
    return augment("deadleaves:6@32", "awgn(5) | gaussian_blur(1)", path, tile=32, seed=3).path


def through_hdf5(path: Path, change: Callable[[h5py.File], object]) -> None:
    """Change a file by HDF5, and give it a new checksum."""
    tail = layout._TAIL.size
    count = int.from_bytes(path.read_bytes()[-tail:][:8], "little")
    os.truncate(path, path.stat().st_size - tail - 16 * count)
    with h5py.File(path, "r+", locking=False) as file:
        change(file)
        try:
            pixels = [(r.offset, r.nbytes) for name, r in regions(file).items() if is_pixels(name)]
        except (UsageError, ValueError, RuntimeError, OSError, TypeError, AttributeError):
            pixels = []
    append_checksum(path, pixels)
    close_checksum(path)


def column(name: str, values: Callable[[np.ndarray], Any]) -> Recipe:
    """Another index column in the place of a good one, of whatever type and length."""

    def make(path: Path) -> None:
        def change(file: h5py.File) -> None:
            found = values(file[f"index/{name}"][...])
            del file[f"index/{name}"]
            file.create_dataset(f"index/{name}", data=found)

        through_hdf5(path, change)

    return make


def attribute(name: str, value: Any, of: str = "/") -> Recipe:
    def make(path: Path) -> None:
        through_hdf5(path, lambda file: file[of].attrs.__setitem__(name, value))

    return make


def index_of_another_file(path: Path) -> None:
    """`index/h` is a virtual view of a file that the reader may read and its sender may not."""
    secret = path.with_name("secret.h5")
    with h5py.File(secret, "w") as file:
        file["h"] = np.full(6, 32, np.int32)

    def change(file: h5py.File) -> None:
        source = h5py.VirtualLayout((6,), np.int32)
        source[:] = h5py.VirtualSource(str(secret), "h", (6,))
        del file["index/h"]
        file.create_virtual_dataset("index/h", source)

    through_hdf5(path, change)


def link_to_another_file(path: Path) -> None:
    with h5py.File(path.with_name("secret.h5"), "w") as file:
        file["view"] = np.zeros((6, 32, 32, 3), np.float32)

    def change(file: h5py.File) -> None:
        del file["distorted/awgn(5)"]
        file["distorted/awgn(5)"] = h5py.ExternalLink("secret.h5", "view")

    through_hdf5(path, change)


def raw_data_elsewhere(path: Path) -> None:
    """HDF5's external storage: the bytes of /etc/passwd as an index column."""

    def change(file: h5py.File) -> None:
        del file["index/perceptual_hash"]
        file.create_dataset("index/perceptual_hash", (6,), "<u8", external=[("/etc/passwd", 0, 48)])

    through_hdf5(path, change)


def compressed(path: Path) -> None:
    """A gigabyte of zeros in a few kilobytes."""

    def change(file: h5py.File) -> None:
        del file["index/h"]
        file.create_dataset("index/h", (1 << 28,), "<i4", chunks=(1 << 20,), compression="gzip", fillvalue=1)

    through_hdf5(path, change)


def hours_of_work(path: Path) -> None:
    """A virtual view that would be computed for hours."""

    def change(file: h5py.File) -> None:
        old = file["distorted/awgn(5)"]
        attrs = dict(old.attrs)
        del file["distorted/awgn(5)"], file["digest/awgn(5)"]
        made = file["distorted"].create_dataset("awgn(5)", data=h5py.Empty("f4"))
        for name, value in attrs.items():
            made.attrs[name] = value
        made.attrs["expression"] = "gaussian_blur(64)**1000"
        file.attrs["storage"] = "virtual"

    through_hdf5(path, change)


def joined(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """A merged dataset whose list of shards is changed."""
    for k in (1, 2):
        augment("deadleaves:2@16", "awgn(5)", shard_path(path, k, 2), tile=16, shard=(k, 2))
    merge([shard_path(path, k, 2) for k in (1, 2)], path, overwrite=True)
    entries = json.loads(Store(path).attrs["shards"])
    change(entries)
    through_hdf5(path, lambda file: file.attrs.__setitem__("shards", json.dumps(entries)))


def pipe_among_the_shards(path: Path) -> None:
    def change(entries: list[dict[str, str]]) -> None:
        os.mkfifo(path.with_name("pipe"))
        entries[0]["file"] = "pipe"

    joined(path, change)


def shard_outside(path: Path) -> None:
    joined(path, lambda entries: entries[0].__setitem__("file", "../../../../etc/passwd"))


def absolute_shard(path: Path) -> None:
    joined(path, lambda entries: entries[0].__setitem__("file", "/etc/passwd"))


def shard_that_is_itself(path: Path) -> None:
    joined(path, lambda entries: entries[0].__setitem__("file", path.name))


STORES: dict[str, tuple[Recipe, str]] = {
    "negative height": (column("h", lambda h: -h), "index column h has values"),
    "huge height": (column("h", lambda h: h + np.int32(2**31 - 100)), "index column h has values"),
    "negative place": (column("y", lambda y: y - np.int32(5)), "index column y has values"),
    "short column": (column("w", lambda w: w[:2]), "index column w has"),
    "text for numbers": (column("h", lambda h: h.astype("S4")), "index column h is of type"),
    "wider numbers": (column("h", lambda h: h.astype(np.float64)), "index column h is of type"),
    "other sizes than the pixels": (column("h", lambda h: h * 2), "offset does not follow"),
    "offsets that lead elsewhere": (column("offset", lambda o: o + 7), "offset does not follow"),
    "no items": (column("h", lambda h: h[:0]), "0 items|not stored in one piece"),
    "escapes in the names": (
        column("source", lambda s: np.array([ESCAPE.encode()] * len(s))), "what cannot be shown",
    ),
    "escapes in the split": (
        column("split", lambda s: np.array([b"\x1b[2Jtrain"] * len(s))), "what cannot be shown",
    ),
    "escapes in the licence": (attribute("licence", ESCAPE), "licence is not a line of text"),
    "escapes in the versions": (
        attribute("versions", json.dumps({"dilkit": "1\x1b[2J"})), "settings and versions is not a line",
    ),
    "escapes in an expression": (
        attribute("expression", "awgn(5)\x1b[2J", "distorted/awgn(5)"), "is not a line of text",
    ),
    "number for text": (attribute("licence", 7), "licence is not a line of text"),
    "scale 0": (attribute("scale", 0, "distorted/awgn(5)"), r"scale of awgn\(5\) is 0"),
    "scale below 0": (attribute("scale", -2, "distorted/awgn(5)"), r"scale of awgn\(5\) is -2"),
    "huge scale": (attribute("scale", 2**40, "distorted/awgn(5)"), r"scale of awgn\(5\) is"),
    "scale of other sizes": (attribute("scale", 2, "distorted/awgn(5)"), "not that of its items"),
    "seed out of range": (attribute("seed", -1), "seed is not a whole number"),
    "a shard of nothing": (attribute("shard", "1/0x7"), "shard is not k/n"),
    "index of another file": (index_of_another_file, "index column h is missing, or is a view"),
    "link to another file": (link_to_another_file, "is a link"),
    "raw data elsewhere": (raw_data_elsewhere, "not stored in one piece"),
    "a compressed gigabyte": (compressed, "not stored in one piece"),
    "a pipe among the shards": (pipe_among_the_shards, "a pipe, socket or device"),
    "a shard outside the folder": (shard_outside, "outside the folder"),
    "a shard by its full path": (absolute_shard, "outside the folder"),
    "a dataset that joins itself": (shard_that_is_itself, "a joined dataset among the shards"),
}  # fmt: skip
"""By what is wrong: how the file is made, and what is said of it."""
