"""What random paired crops cost, in ratios taken in one run.

    python benchmarks/read.py [--folder DIR] [--rounds 7]

A crop is 64 x 64 pixels of a 256 x 256 tile: the clean one and its four AWGN views. One of each of 96 tiles,
in random order, is read from PNG files as people do (OpenCV decodes, the crop is cut), from a stored dataset
(in 8 bits and in float32) and from a virtual one, in turn; from datasets in batches of 8, asking for the next
batch ahead, as the sampler of episodes does. The page cache is warm (everything was read before) or cold (the
files' pages are dropped before each round; where the system does not, this part says so). There, the disk
alone is asked, ahead in the same way, for the whole rows of the crops, for their strips, and for no more than
their own bytes, which no layout can undercut; cold float32, four times what PNG files hold, has no goal.
The last lines are whole training episodes of 8 crops: five float32 tensors, turned and scaled.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.format import block_width, pieces
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window

FLOAT = "awgn[5, 10, 15, 20]"
EIGHT_BIT = f"{FLOAT} >> clip >> quantize"
CROP, TILE, BATCH = 64, 256, 8
STORED, VIRTUAL = 25.0, 8.0

Picks = list[tuple[int, Window]]
Read = Callable[[list[Picks]], None]
"""Of a round's batches of crops."""


def photographs(folder: Path) -> Path:
    """96 tiles of real photographs, as PNG files."""
    from dilkit.confounders.images import expand

    folder.mkdir()
    for image in expand(["samples:"]):
        square = cv2.resize(image.load("refuse"), (1024, 1024), interpolation=cv2.INTER_CUBIC)
        for k in range(16):
            y, x = TILE * (k // 4), TILE * (k % 4)
            tile = square[y : y + TILE, x : x + TILE, ::-1]
            cv2.imwrite(str(folder / f"{Path(image.name).stem}{k:02d}.png"), tile)
    return folder


def as_png(store: Store, folder: Path) -> list[list[str]]:
    """The views of a dataset as files, one folder per confounder, as people keep them."""
    names = []
    for item in range(len(store)):
        images = [store.clean(item), *(store.view(item, label) for label in store.labels)]
        names.append([str(folder / f"{item}-{k}.png") for k in range(len(images))])
        for name, image in zip(names[-1], images, strict=True):
            cv2.imwrite(name, image[..., ::-1])
    return names


def from_png(names: list[list[str]]) -> Read:
    def read(batches: list[Picks]) -> None:
        for picks in batches:
            _ = [
                [cv2.imread(name)[y : y + h, x : x + w, ::-1] for name in names[item]]
                for item, (y, x, h, w) in picks
            ]

    return read


def from_store(store: Store) -> Read:
    def expect(picks: Picks) -> None:
        for item, window in picks:
            store.expect(item, store.labels, window)

    def read(batches: list[Picks]) -> None:
        expect(batches[0])
        for picks, following in zip(batches, [*batches[1:], []], strict=True):
            expect(following)
            _ = [
                [
                    store.clean(item, window, expected=True).copy(),
                    *(view.copy() for view in store.views(item, store.labels, window, expected=True)),
                ]
                for item, window in picks
            ]

    return read


def from_disk(store: Store, layout: str) -> Read:
    """The bytes alone: of the strips or the rows that crops lie in, or as many as crops themselves have."""
    regions = [store.header.regions[name] for name in ("clean", *(f"distorted/{k}" for k in store.labels))]

    def wanted(picks: Picks) -> list[tuple[int, int]]:
        found = []
        for item, window in picks:
            touched = {
                "strips": [*pieces((TILE, TILE), block_width(TILE), window)],
                "rows": [*pieces((TILE, TILE), TILE, window)],
                "crops": [(window.y * TILE, CROP * CROP)],
            }
            for region in regions:
                pixel = 3 * np.dtype(region.dtype).itemsize
                for start, count in touched[layout]:
                    found.append((region.offset + (item * TILE * TILE + start) * pixel, count * pixel))
        return found

    def read(batches: list[Picks]) -> None:
        file = os.open(store.path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
        for picks, following in zip([[], *batches], [*batches, []], strict=True):
            for start, count in wanted(following):
                os.posix_fadvise(file, start, count, os.POSIX_FADV_WILLNEED)
            _ = [os.pread(file, count, start) for start, count in wanted(picks)]
        os.close(file)

    return read


def forget(paths: list[Path]) -> None:
    """Drop the files' pages from the page cache."""
    for path in paths:
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def in_turn(
    reads: dict[str, Read], rounds: int, items: int, clock: Callable[[], float], before: Callable[[], None]
) -> dict[str, float]:
    """The median seconds a crop of each, the crops of a round the same for all."""
    draw = np.random.default_rng(0)
    times: dict[str, list[float]] = {name: [] for name in reads}
    for _ in range(rounds):
        order, corners = draw.permutation(items), draw.integers(TILE - CROP + 1, size=(items, 2)).tolist()
        picks = [(int(i), Window(y, x, CROP, CROP)) for i, (y, x) in zip(order, corners, strict=True)]
        batches = [picks[i : i + BATCH] for i in range(0, items, BATCH)]
        for name, read in reads.items():
            before()
            began = clock()
            read(batches)
            times[name].append((clock() - began) / items)
    return {name: statistics.median(spent) for name, spent in times.items()}


def table(title: str, times: dict[str, float], goals: dict[str, float]) -> bool:
    met = True
    base = times["PNG files"]
    print(title)
    for name, spent in times.items():
        goal = goals.get(name)
        ok = goal is None or base / spent >= goal
        met &= ok
        bound = "" if goal is None else f"  at least {goal:g}{'' if ok else ' MISSED'}"
        print(f"  {name:32}{spent * 1e6:9.0f} us{base / spent:9.1f} x{bound}", flush=True)
    return met


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder by default")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        return 0 if measure(Path(temporary), options.rounds) else 1


def measure(work: Path, rounds: int) -> bool:
    source = photographs(work / "photos")
    stores = {
        "stored, 8 bits": (EIGHT_BIT, "stored"),
        "stored, float32": (FLOAT, "stored"),
        "virtual, float32": (FLOAT, "virtual"),
        "virtual, 8 bits": (EIGHT_BIT, "virtual"),
    }
    made = {
        name: Store(augment(source, words, work / f"{k}.h5", storage=storage, allow_duplicates=True).path)
        for k, (name, (words, storage)) in enumerate(stores.items())
    }
    (work / "png").mkdir()
    names = as_png(made["stored, 8 bits"], work / "png")
    reads = {"PNG files": from_png(names)} | {name: from_store(store) for name, store in made.items()}
    goals = {"stored, 8 bits": STORED, "stored, float32": STORED, "virtual, float32": VIRTUAL}
    items = len(names)
    cpu = time.process_time
    in_turn(reads, 2, items, cpu, lambda: None)
    met = table("warm page cache, processor time", in_turn(reads, rounds, items, cpu, lambda: None), goals)
    if hasattr(os, "posix_fadvise"):
        os.sync()
        files = [store.path for store in made.values()] + [Path(name) for row in names for name in row]

        def cold() -> None:
            for store in made.values():
                store.close()
            forget(files)
            for store in made.values():
                store.clean(0, Window(0, 0, 1, 1))

        for bits in ("8 bits", "float32"):
            store = made[f"stored, {bits}"]
            for layout in ("rows", "strips", "crops"):
                reads[f"the disk alone, {layout}, {bits}"] = from_disk(store, layout)
        times = in_turn(reads, rounds, items, time.perf_counter, cold)
        del goals["stored, float32"]
        met &= table("cold page cache, wall time", times, goals)
    else:
        print("cold page cache: this system cannot drop a file's pages")
    for name, store in made.items():
        sampler = EpisodeSampler(store, batch=8, crop=CROP)
        spent = [_once(lambda step=step, s=sampler: s.episode(step), cpu) for step in range(100)]
        print(f"episode of 8 paired crops, {name:20}{statistics.median(spent) * 1e3:8.2f} ms")
    return met


def _once(run: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    run()
    return clock() - began


if __name__ == "__main__":
    sys.exit(main())
