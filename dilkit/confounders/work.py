"""What a worker does: read images into the file, distort what is there. No HDF5, only writes at offsets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from dilkit.confounders.outbox import Outbox, write_all
from dilkit.confounders.perceptual import perceptual_hash
from dilkit.confounders.pixels import renderer
from dilkit.confounders.plan import Plan
from dilkit.confounders.reading import Pixels, UnreadableImage
from dilkit.confounders.regions import Region, Regions
from dilkit.confounders.sources import Failure, failure
from dilkit.confounders.strips import cut, to_strips
from dilkit.distortions import SampleKey, as_float, pixel_hash


class Held(NamedTuple):
    """An image of the plan with its perceptual hash, or why it cannot be used."""

    image: int
    pixels: Pixels | None
    looks: int
    problem: Failure | None


@dataclass
class Desk:
    """What one process needs to work on one dataset."""

    path: Path
    plan: Plan
    regions: Regions
    file: int = -1
    outbox: Outbox = field(init=False)
    held: Held | None = None
    offsets: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    def open(self) -> Desk:
        self.file = os.open(self.path, os.O_RDWR)
        self.outbox = Outbox(self.path)
        self.offsets = {scale: self.plan.offsets(scale) for scale in {1, *(v.scale for v in self.plan.views)}}
        return self

    def close(self) -> None:
        try:
            self.outbox.close()
        finally:
            os.close(self.file)

    def hold(self, image: int) -> Held:
        """An image, read once for all the parts that are made of it in turn."""
        if self.held is None or self.held.image != image:
            self.held = None  # before the next is read, so that memory is that of one
            self.held = _load(self.plan, image)
        return self.held

    def write(self, name: str, row: int, values: npt.NDArray[Any]) -> None:
        """Put rows of an index or digest array in their place."""
        region = self.regions[name]
        width = region.nbytes // region.shape[0]
        write_all(self.file, np.ascontiguousarray(values, region.dtype), region.offset + row * width)

    def write_clean(self, item: int, tile: Pixels) -> int:
        """Put an item's clean pixels in their place; gives their digest. Its views will soon need them."""
        region = self.regions["clean"]
        write_all(self.file, _laid(region, tile), region.offset + self.start(region, item, 1))
        return xxhash.xxh3_64_intdigest(tile.data)

    def write_view(self, label: str, item: int, scale: int, made: Pixels) -> int:
        """Have a view's pixels put in their place, by the time of `settle`; gives their digest."""
        region = self.regions[f"distorted/{label}"]
        made = np.ascontiguousarray(made)
        self.outbox.put(region.offset + self.start(region, item, scale), _laid(region, made))
        return xxhash.xxh3_64_intdigest(made.data)

    def read(self, name: str, row: int) -> bytes:
        """A row of an index array."""
        region = self.regions[name]
        width = region.nbytes // region.shape[0]
        return os.pread(self.file, width, region.offset + row * width)

    def read_clean(self, item: int) -> Pixels:
        region = self.regions["clean"]
        _, _, h, w = self.plan.window(item)
        count = h * w * 3 * np.dtype(region.dtype).itemsize
        raw = os.pread(self.file, count, region.offset + self.start(region, item, 1))
        return cut(np.frombuffer(raw, region.dtype), (h, w), region.strip or w)

    def start(self, region: Region, item: int, scale: int) -> int:
        return int(self.offsets[scale][item]) * 3 * np.dtype(region.dtype).itemsize


def _laid(region: Region, pixels: Pixels) -> Pixels:
    """An item as it lies in the file."""
    return to_strips(pixels, region.strip) if region.strip else pixels


def ingest(desk: Desk, part: int) -> list[Failure]:
    """Read the images of a part, cut and write their items, with hashes; gives those that failed."""
    plan, failures = desk.plan, []
    first, last = plan.parts[part]
    digests = np.zeros(last - first, "<u8")
    seen = np.zeros(last - first, "<u8")
    hashes = [b""] * (last - first)
    for item in range(first, last):
        _, pixels, looks, problem = desk.hold(int(plan.image[item]))
        if problem is not None and problem not in failures:
            failures.append(problem)
        if pixels is None:
            hashes[item - first] = bytes(desk.regions["index/pixel_hash"].shape[1])
            continue
        y, x, h, w = plan.window(item)
        tile = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        digests[item - first] = desk.write_clean(item, tile)
        hashes[item - first] = pixel_hash(tile)
        seen[item - first] = looks
    desk.write("index/digest", first, digests)
    desk.write("index/perceptual_hash", first, seen)
    desk.write("index/pixel_hash", first, np.frombuffer(b"".join(hashes), np.uint8))
    return failures


def _load(plan: Plan, image: int) -> Held:
    try:
        pixels = plan.load(image)
    except UnreadableImage as error:
        return Held(image, None, 0, failure(plan.images[image], error))
    return Held(image, pixels, perceptual_hash(pixels), None)


def distort(desk: Desk, part: int) -> list[Failure]:
    """Make and write every view of a part's items; it cannot fail but by an exception."""
    plan, settings = desk.plan, desk.plan.settings
    desk.held = None
    first, last = plan.parts[part]
    digests = np.zeros((len(plan.views), last - first), "<u8")
    renders = [
        renderer(word, view.dtype, view.scale)
        for view, word in zip(plan.views, plan.confounders, strict=True)
    ]
    for item in range(first, last):
        image = as_float(desk.read_clean(item))
        key = SampleKey(settings.seed, desk.read("index/pixel_hash", item), 0, settings.coupling)
        for row, (view, render) in enumerate(zip(plan.views, renders, strict=True)):
            made = render(image, key, None)
            digests[row, item - first] = desk.write_view(view.label, item, view.scale, made)
    desk.outbox.settle()
    for row, view in enumerate(plan.views):
        desk.write(f"digest/{view.label}", first, digests[row])
    return []
