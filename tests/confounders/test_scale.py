"""Large plans are quick to look at, and a worker's memory does not grow with the dataset."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dilkit.confounders.build import augment, plan_for
from dilkit.confounders.images import Alpha, ImageHeader, Pixels, dead_leaves
from dilkit.confounders.inspect import estimate
from dilkit.confounders.plan import Settings, make_plan
from dilkit.distortions import confounder_set
from dilkit.errors import DilkitError


def test_a_plan_of_a_hundred_thousand_tiles_is_dry_run_in_seconds(tmp_path: Path) -> None:
    began = time.process_time()
    plan, failures = plan_for("deadleaves:25500@160", "awgn[5, 10, 15, 20]", tile=80, stride=80)
    found = estimate(plan, tmp_path / "x.h5", workers=2)
    assert found.items == 25_500 * 4 == 102_000 and not failures
    assert found.nbytes["awgn(5)"] == 102_000 * 80 * 80 * 3 * 4
    assert found.seconds > 10
    assert time.process_time() - began < 60
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class SlowImage:
    """Takes 20 ms to read, however small it is."""

    name: str
    side: int
    licence: str = ""
    stamp: str = ""

    def header(self) -> ImageHeader:
        return ImageHeader(self.side, self.side, 8)

    def load(self, alpha: Alpha) -> Pixels:
        time.sleep(0.02)
        return np.zeros((self.side, self.side, 3), np.uint8)


def test_an_estimate_counts_images_as_well_as_pixels(tmp_path: Path) -> None:
    """By pixels alone, forty small images beside a large one would cost nothing."""
    images = [SlowImage(str(k), 512 if k == 20 else 16) for k in range(41)]
    plan = make_plan([(image, image.header()) for image in images], confounder_set("clean"), Settings(0, 0))
    assert estimate(plan, tmp_path / "x.h5", workers=1).seconds >= 41 * 0.02
    assert estimate(plan, tmp_path / "x.h5", workers=41).items == 41


def test_an_estimate_does_without_damaged_images(tmp_path: Path) -> None:
    for name, side in (("a", 64), ("b", 64)):
        Image.fromarray(dead_leaves(0, side, side)).save(tmp_path / f"{name}.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-200])
    plan, _ = plan_for(tmp_path, "awgn(5)", tile=16, stride=16)
    assert estimate(plan, tmp_path / "x.h5", workers=2).items == 32
    (tmp_path / "b.png").unlink()
    with pytest.raises(DilkitError, match=r"a.png: none of the images"):
        estimate(plan_for(tmp_path, "awgn(5)", tile=16, stride=16)[0], tmp_path / "x.h5", workers=2)


def test_memory_is_that_of_one_image_whatever_their_number(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for i in range(24):
        pixels = draw.integers(0, 255, (512, 512, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02d}.png", compress_level=0)

    def peak(limit: int) -> float:
        """MB above what the process had before."""
        reader, writer = os.pipe()

        def work() -> None:
            augment(folder, "awgn(5) | awgn(10)", tmp_path / f"{limit}.h5", limit=2)
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            augment(folder, "awgn(5) | awgn(10)", tmp_path / f"{limit}-.h5", limit=limit)
            os.write(writer, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before).encode())

        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        os.close(writer)
        return int(os.read(reader, 100)) / 1024

    assert (tmp_path / "images").exists() and peak(24) < 60  # the dataset has 150 MB
