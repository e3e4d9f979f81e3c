"""What a plan will cost, from one real tile."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dilkit.confounders.crew import one_thread
from dilkit.confounders.plan import Plan
from dilkit.confounders.reading import UnreadableImage
from dilkit.distortions import SampleKey, as_float, pixel_hash
from dilkit.errors import DilkitError

_TRIALS = 3
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
    """Read one image and distort one tile of it, and multiply.

    Raises:
        DilkitError: none of the first images can be read.
    """
    pixels = _first_tile(plan)
    with one_thread():
        read = _time(lambda: plan.images[0].load(plan.settings.alpha))
        make = _time(lambda: _views(plan, pixels)) if plan.settings.storage == "stored" else 0.0
    share = float(plan.box[:, 2:].astype(np.int64).prod(axis=1).sum()) / (pixels.shape[0] * pixels.shape[1])
    nbytes = plan.nbytes()
    work = (read * len(plan.images) + make * share) / workers
    folder = next(p for p in out.absolute().parents if p.exists())
    return Estimate(
        images=len(plan.images),
        items=len(plan),
        nbytes=nbytes,
        seconds=max(work, sum(nbytes.values()) / _WRITE_RATE),
        free=shutil.disk_usage(folder).free,
    )


def _first_tile(plan: Plan) -> np.ndarray:
    for item in np.flatnonzero(np.append(True, plan.image[1:] != plan.image[:-1]))[:20]:
        y, x, h, w = plan.window(int(item))
        try:
            return plan.images[plan.image[item]].load(plan.settings.alpha)[y : y + h, x : x + w]
        except UnreadableImage:
            continue
    raise DilkitError("none of the first images can be read", where=plan.images[0].name)


def _views(plan: Plan, pixels: np.ndarray) -> None:
    image, key = (
        as_float(pixels),
        SampleKey(plan.settings.seed, pixel_hash(pixels), 0, plan.settings.coupling),
    )
    for word in plan.confounders:
        word.apply(image, key)


def _time(work: Callable[[], object]) -> float:
    times = []
    for _ in range(_TRIALS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)
