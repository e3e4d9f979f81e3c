"""What a worker does: read images into the file, distort what is there. No HDF5, only writes at offsets."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from dilkit.confounders.layout import Region, Regions
from dilkit.confounders.perceptual import perceptual_hash
from dilkit.confounders.pixels import renderer
from dilkit.confounders.plan import Plan
from dilkit.confounders.reading import Pixels, UnreadableImage
from dilkit.confounders.sources import Failure, failure
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
    held: Held | None = None
    offsets: dict[int, npt.NDArray[np.int64]] = field(default_factory=dict)

    def open(self) -> Desk:
        self.file = os.open(self.path, os.O_RDWR)
        self.offsets = {scale: self.plan.offsets(scale) for scale in {1, *(v.scale for v in self.plan.views)}}
        return self

    def close(self) -> None:
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
        _write_all(self.file, np.ascontiguousarray(values, region.dtype), region.offset + row * width)

    def write_pixels(self, name: str, item: int, scale: int, values: Pixels) -> int:
        """Put an item's pixels in their place; gives their digest."""
        region = self.regions[name]
        values = np.ascontiguousarray(values)
        _write_all(self.file, values, region.offset + self.start(region, item, scale))
        return xxhash.xxh3_64_intdigest(values.data)

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
        return np.frombuffer(raw, region.dtype).reshape(h, w, 3)

    def start(self, region: Region, item: int, scale: int) -> int:
        return int(self.offsets[scale][item]) * 3 * np.dtype(region.dtype).itemsize


def _write_all(file: int, values: npt.NDArray[Any], offset: int) -> None:
    view = values.reshape(-1).view(np.uint8).data
    while view:
        count = os.pwrite(file, view, offset)
        view, offset = view[count:], offset + count


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
        digests[item - first] = desk.write_pixels("clean", item, 1, tile)
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
            digests[row, item - first] = desk.write_pixels(f"distorted/{view.label}", item, view.scale, made)
    for row, view in enumerate(plan.views):
        desk.write(f"digest/{view.label}", first, digests[row])
    return []
