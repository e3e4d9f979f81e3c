"""What a plan will cost, from a few of its images."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import xxhash

from dilkit.confounders.crew import ONE_THREAD
from dilkit.confounders.perceptual import perceptual_hash
from dilkit.confounders.pixels import renderer
from dilkit.confounders.plan import Plan
from dilkit.confounders.reading import Pixels, UnreadableImage
from dilkit.confounders.sources import CleanImage
from dilkit.distortions import SampleKey, as_float, pixel_hash
from dilkit.errors import DilkitError

_TRIED, _MEASURED = 20, 4
"""Images that are tried, and of those that can be read, measured."""

_WRITE_RATE = 400e6
"""Bytes per second that a modest disk takes."""


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, times in seconds.

    Attributes:
        nbytes: `clean` and each label.
        seconds: with the given number of workers; the disk's rate is assumed to be 400 MB/s.
        free: what the disk of the output has left.
    """

    images: int
    items: int
    nbytes: dict[str, int]
    seconds: float
    free: int

    @property
    def total(self) -> int:
        return sum(self.nbytes.values())


def estimate(plan: Plan, out: Path, workers: int) -> Estimate:
    """Read a few images, distort a tile of each, and multiply by pixels.

    Raises:
        DilkitError: none of the images that were tried can be read.
    """
    with ONE_THREAD:
        reading, making = _seconds_per_pixel(plan)
    last = np.flatnonzero(np.append(plan.image[1:] != plan.image[:-1], True))
    extents = (plan.box[last, :2] + plan.box[last, 2:]).astype(np.int64)  # the last tile ends at the border
    pixels = plan.box[:, 2:].astype(np.int64).prod(axis=1).sum()
    nbytes = plan.nbytes()
    work = float(reading * extents.prod(axis=1).sum() + making * pixels) / workers
    folder = next(p for p in out.absolute().parents if p.exists())
    return Estimate(
        images=len(plan.images),
        items=len(plan),
        nbytes=nbytes,
        seconds=max(work, sum(nbytes.values()) / _WRITE_RATE),
        free=shutil.disk_usage(folder).free,
    )


def _seconds_per_pixel(plan: Plan) -> tuple[float, float]:
    """Of reading images, and of making the items cut from them, measured on some of the images."""
    count, area, read, tile_area, made = len(plan.images), 0, 0.0, 0, 0.0
    tried = random.Random(0).sample(range(count), min(_TRIED, count))
    measured = 0
    for image in tried:
        source = plan.images[image]
        try:
            pixels = source.load(plan.settings.alpha)
        except UnreadableImage:
            continue
        read += _time(partial(_read, plan, source))
        area += pixels.shape[0] * pixels.shape[1]
        y, x, h, w = plan.window(plan.items_of(image).start)
        tile = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        made += _time(partial(_items, plan, tile))
        tile_area += tile.shape[0] * tile.shape[1]
        measured += 1
        if measured == _MEASURED:
            break
    if not measured:
        raise DilkitError("none of the images that were tried can be read", where=plan.images[tried[0]].name)
    return read / area, made / tile_area


def _read(plan: Plan, source: CleanImage) -> None:
    perceptual_hash(source.load(plan.settings.alpha))


def _items(plan: Plan, tile: Pixels) -> None:
    """The work on one item, but for writing."""
    key = SampleKey(plan.settings.seed, pixel_hash(tile), 0, plan.settings.coupling)
    xxhash.xxh3_64_intdigest(tile.data)
    if plan.settings.storage == "virtual":
        return
    image = as_float(tile)
    for view, word in zip(plan.views, plan.confounders, strict=True):
        made = renderer(word, view.dtype, view.scale)(image, key, None)
        xxhash.xxh3_64_intdigest(np.ascontiguousarray(made).data)


def _time(work: Callable[[], object]) -> float:
    """The shorter of two trials: what is done first pays for much that is done once."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
