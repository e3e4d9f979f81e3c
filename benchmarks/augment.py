"""What making a dataset costs, in ratios taken in one run.

    python benchmarks/augment.py [--repeats 5] [--folder DIR]

First the primitives against albumentations (benchmarks/primitives.py), then the whole command on 24 JPEG
photographs of 1024 x 1024 cut into 384 tiles (288 and 4608, 8 GB, where workers are compared, so that start
and last flush weigh as little as in a real dataset), repeats in turn:
  overhead      processor time of `augment` with one worker over that of the bare distortion work (tiles in
                memory, each word applied, nothing kept): reading, cutting, hashing, digests, writing;
  plain program the same for one that only decodes and distorts, and writes: no hash, digest or file format;
  usual loop    OpenCV decodes, albumentations adds noise, PNG files are written, for four AWGN confounders in
                8 bits, over `augment`;
  two workers   wall time of one worker over that of two, and the same for the bare distortion work, which is
                as much as the machine allows.
The last two are wall times: they need two cores that nobody else uses.
"""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import albumentations as A
import cv2
import numpy as np
import primitives
import simplejpeg

from dilkit.confounders.build import augment
from dilkit.confounders.images import expand, read_image
from dilkit.distortions import SampleKey, as_float, confounder_set, pixel_hash
from dilkit.distortions.render import keep_freed_memory

FOUR = "awgn[5, 10, 15, 20] >> clip >> quantize"
EIGHT = f"({FOUR}) | (gaussian_blur(2) | poisson(2) | speckle(0.024)) >> clip >> quantize | jpeg(30)"
TILE = 256
OVERHEAD, SCALING, USUAL = 1.20, 1.8, 8.0


def photographs(folder: Path, count: int) -> Path:
    """Six photographs, turned and mirrored, as `count` JPEG files of 1024 x 1024."""
    folder.mkdir()
    squares = [
        cv2.resize(image.load("refuse"), (1024, 1024), interpolation=cv2.INTER_CUBIC)[..., ::-1]
        for image in expand(["samples:"])
    ]
    for k in range(count):
        turns, which = divmod(k, len(squares))
        square = squares[which][:, ::-1] if turns & 4 else squares[which]
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95 - turns // 8]
        cv2.imwrite(str(folder / f"{k:03d}.jpg"), np.rot90(square, turns % 4), quality)
    return folder


def tiles(image: np.ndarray) -> list[np.ndarray]:
    return [
        np.ascontiguousarray(image[y : y + TILE, x : x + TILE])
        for y in range(0, 1024, TILE)
        for x in range(0, 1024, TILE)
    ]


def bare(folder: Path, words: str, processes: int = 1) -> Callable[[], None]:
    """The distortion work alone, on tiles that are in memory."""
    chosen = confounder_set(words)
    held = [tile for file in sorted(folder.iterdir()) for tile in tiles(read_image(file))]

    def share(k: int) -> None:
        for tile in held[k::processes]:
            image, key = as_float(tile), SampleKey(0, pixel_hash(tile))
            for word in chosen:
                word.apply(image, key)

    def run() -> None:
        others = [get_context("fork").Process(target=share, args=(k,)) for k in range(1, processes)]
        for other in others:
            other.start()
        share(0)
        for other in others:
            other.join()

    return run


def command(folder: Path, words: str, out: Path, workers: int) -> Callable[[], None]:
    def run() -> None:
        augment(folder, words, out, workers=workers, overwrite=True, allow_duplicates=True)

    return run


def plain(folder: Path, out: Path, copies: int) -> Callable[[], None]:
    """Decode, cut and write each tile so often, with no hash, digest or file format."""

    def run() -> None:
        with out.open("wb", buffering=0) as file:
            for photograph in sorted(folder.iterdir()):
                pixels = simplejpeg.decode_jpeg(photograph.read_bytes(), "RGB")
                for tile in tiles(pixels):
                    for _ in range(copies):
                        file.write(tile.data)

    return run


def usual(folder: Path, out: Path) -> Callable[[], None]:
    """What people write: a loop over files, sigmas and tiles, and a PNG for each."""
    noises = {s: A.GaussNoise(std_range=(s / 255, s / 255), p=1) for s in (5, 10, 15, 20)}

    def run() -> None:
        for file in sorted(folder.iterdir()):
            for k, tile in enumerate(tiles(cv2.imread(str(file)))):
                cv2.imwrite(str(out / f"{file.stem}-{k}-clean.png"), tile)
                for sigma, noise in noises.items():
                    cv2.imwrite(str(out / f"{file.stem}-{k}-{sigma}.png"), noise(image=tile)["image"])

    return run


def in_turn(
    runs: list[Callable[[], None]], repeats: int, clock: Callable[[], float], fresh: Callable[[], None]
) -> list[float]:
    """The median time of each, taken in turn, each into a fresh folder."""
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats + 1):
        for mine, run in zip(times, runs, strict=True):
            fresh()
            began = clock()
            run()
            mine.append(clock() - began)
    return [statistics.median(mine[1:]) for mine in times]


def say(name: str, ratio: float, goal: float | None, at_most: bool, times: list[float]) -> bool:
    met = goal is None or (ratio <= goal if at_most else ratio >= goal)
    bound = (
        "" if goal is None else f"{'at most' if at_most else 'at least'} {goal:g}{'' if met else ' MISSED'}"
    )
    print(f"{name:48}{ratio:7.2f}  {bound:18} {'  '.join(f'{t:.3f} s' for t in times)}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--command-only", action="store_true", help="leave out the primitives")
    options = parser.parse_args()
    met = True
    if not options.command_only:
        sys.argv = [sys.argv[0]]
        met = primitives.main() == 0
    cv2.setNumThreads(1)
    keep_freed_memory()  # as the command does
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        met &= measure(Path(temporary), options.repeats)
    return 0 if met else 1


def measure(work: Path, repeats: int) -> bool:
    source, target = photographs(work / "photos", 24), work / "made"
    cpu, wall = time.process_time, time.perf_counter

    def fresh() -> None:
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        os.sync()
        gc.collect()

    def ours(words: str, workers: int, source: Path = source) -> Callable[[], None]:
        return command(source, words, target / "out.h5", workers)

    met = True
    for name, words, views, goal in (
        ("8 mixed confounders", EIGHT, 8, OVERHEAD),
        ("4 AWGN confounders", FOUR, 4, None),  # the plain program is above 1.2
    ):
        rest = [plain(source, target / "out.bin", copies) for copies in (0, 1 + views)]
        runs = [ours(words, 1), bare(source, words), *rest]
        times = in_turn(runs, repeats, cpu, fresh)
        met &= say(f"one worker / distorting alone, {name}", times[0] / times[1], goal, True, times[:2])
        for name, spent in zip(("decoding, distorting", "the same and writing"), times[2:], strict=True):
            say(f"  a plain program: {name}", 1 + spent / times[1], None, True, [spent])
    runs = [usual(source, target), ours(FOUR, 1)]
    times = in_turn(runs, repeats, cpu, fresh)
    say("usual loop / one worker, processor time", times[0] / times[1], None, False, times)
    times = in_turn([*runs, ours(FOUR, 2)], repeats, wall, fresh)
    met &= say("usual loop / the command on two cores", times[0] / times[2], USUAL, False, times)
    some, many = photographs(work / "some", 96), photographs(work / "many", 288)
    times = in_turn([bare(some, EIGHT, processes) for processes in (1, 2)], repeats, wall, fresh)
    say("distorting alone, one process / two processes", times[0] / times[1], None, False, times)
    times = in_turn([ours(EIGHT, workers, many) for workers in (1, 2)], repeats, wall, fresh)
    return met & say("one worker / two workers, 8 confounders", times[0] / times[1], SCALING, False, times)


if __name__ == "__main__":
    sys.exit(main())
