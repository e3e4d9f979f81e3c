"""What the data cost a training step: a step that makes its episode against a step on a repeated one.

    python benchmarks/feed.py [--device cuda]

For four and for sixteen confounders, from a store, from a virtual store and straight from images; the small
recipe's net and batch, one process, one thread, in CPU time, so that other work on the machine is not
measured, after the first epochs. Each ratio is the median over interleaved repeats of one run. On a GPU the
paper's net is trained, episodes are made ahead by processes, and the clock on the wall counts.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import Episode, EpisodeSampler, PairDataset, Pairing, episodes
from dilkit.confounders.interchange import export_store
from dilkit.confounders.store import Store
from dilkit.distortions.render import keep_freed_memory
from dilkit.recipe import compose
from dilkit.training.assemble import assemble
from dilkit.training.loop import fit

LIMIT = 1.05
SETS = {4: "awgn[5, 10, 15, 20] >> clip", 16: "awgn[5:80:5] >> clip"}


def steps(words: list[str]) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """(a step with its data, the same step on a repeated episode, wait for the device)."""
    recipe = compose(words).recipe
    made = assemble(recipe)
    trainee, accelerator, sampler = made.trainee, made.accelerator, made.sampler
    fresh = iter(episodes(sampler, 0, 1_000_000, workers=recipe.data.workers))
    for step in range(
        2 * len(made.store.items(recipe.data.split)) // recipe.data.batch
    ):  # what is decoded once stays decoded
        same = repeat(accelerator.move(sampler.episode(step)))

    def one(source: object) -> Callable[[], None]:
        def step() -> None:
            fit(trainee, source, accelerator, clip=None, after=lambda t, m: True, failed=stop)  # type: ignore[arg-type]

        return step

    def wait() -> None:
        if accelerator.device.type == "cuda":
            torch.cuda.synchronize()

    return one(fresh), one(same), wait


def stop(trainee: object, episode: Episode, error: Exception) -> None:
    raise error


def compare(
    words: list[str], repeats: int, per_repeat: int, clock: Callable[[], float]
) -> tuple[float, float, float]:
    """Median ms per step with and without making the data, and the median of the ratios of neighbours."""
    fed, bare, wait = steps(words)
    times: dict[int, list[float]] = {0: [], 1: []}
    for r in range(repeats + 1):
        for which in (0, 1) if r % 2 else (1, 0):
            wait()
            start = clock()
            for _ in range(per_repeat):
                (fed, bare)[which]()
            wait()
            if r:
                times[which].append(1e3 * (clock() - start) / per_repeat)
    ratios = [a / b for a, b in zip(times[0], times[1], strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def pairs(work: Path, rounds: int = 7) -> bool:
    """Plain pairs for anybody's loop: `PairDataset` in a DataLoader of torch against reading PNG pairs, and
    against episodes, in CPU time an element of 64 x 64 crops, four AWGN confounders in 8 bits.

    The process keeps freed memory, as one that trains does anyhow: else chance decides which of them pays for
    fresh pages.
    """
    keep_freed_memory()
    words = "awgn[5, 10, 15, 20] >> clip >> quantize"
    store = Store(augment("deadleaves:144", words, work / "pairs.h5", allow_duplicates=True).path)
    folder = export_store(store, work / "png", "folders")
    names = [folder.names[label] for label in store.labels]

    class Files(Dataset[Any]):
        """What people write."""

        def __len__(self) -> int:
            return len(store) * len(names)

        def __getitem__(self, index: int) -> Any:
            label, item = divmod(index, len(store))
            images: list[Any] = [
                cv2.imread(f"{work}/png/{n}/{item:06d}.png") for n in (names[label], "clean")
            ]
            y, x = torch.randint(0, 193, (2,)).tolist()
            crops = [
                image[y : y + 64, x : x + 64, ::-1].transpose(2, 0, 1) / np.float32(255) for image in images
            ]
            return [torch.from_numpy(np.ascontiguousarray(crop)) for crop in crops]

    def loop(data: Dataset[Any]) -> float:
        began, count = time.process_time(), 0
        collate = getattr(data, "collate", None)
        for _ in DataLoader(data, batch_size=8, shuffle=True, collate_fn=collate):
            count += 8
        return (time.process_time() - began) / count

    def drawn(pairing: Pairing) -> float:
        sampler = EpisodeSampler(store, batch=8, crop=64, pairing=pairing)
        began = time.process_time()
        for _ in episodes(
            sampler, 0, len(sampler)
        ):  # which holds one while it makes the next, as a loader does
            pass
        return (time.process_time() - began) / (len(sampler) * 8 * (4 if pairing == "independent" else 1))

    times: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in {
            "PNG pairs": lambda: loop(Files()),
            "PairDataset": lambda: loop(PairDataset(store, crop=64)),
            "episodes, independent": lambda: drawn("independent"),
            "PairDataset, all views": lambda: loop(PairDataset(store, crop=64, views=True)),
            "episodes, paired": lambda: drawn("paired"),
        }.items():
            times.setdefault(name, []).append(run())
    medians = {name: statistics.median(spent) for name, spent in times.items()}
    for name, spent in medians.items():
        print(f"{name:24}{spent * 1e6:8.0f} us{medians['PNG pairs'] / spent:8.1f} x", flush=True)
    met = medians["PNG pairs"] >= 20 * medians["PairDataset"]
    for ours, theirs in (("PairDataset", "independent"), ("PairDataset, all views", "paired")):
        ratios = [a / b for a, b in zip(times[ours], times[f"episodes, {theirs}"], strict=True)]
        met &= statistics.median(ratios) <= LIMIT
        print(f"{ours} against episodes, {theirs}: {statistics.median(ratios):.3f} (at most {LIMIT})")
    return met


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, help="processes that make episodes [default: 0, on a GPU 8]")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="steps per repeat")
    parser.add_argument("--pairs-only", action="store_true", help="no training, plain pairs alone")
    args = parser.parse_args()
    gpu = args.device != "cpu"
    workers = args.workers if args.workers is not None else 8 * gpu
    base = ["denoise-gaussian", "gpu"] if gpu else ["denoise-gaussian-small"]
    clock = time.perf_counter if gpu else time.process_time
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        if not gpu:
            failed |= not pairs(Path(folder))
        if args.pairs_only:
            return int(failed)
        for n, distort in SETS.items():
            for storage in ("stored", "virtual"):
                augment(["deadleaves:24"], distort, Path(folder) / f"{storage}{n}.h5", storage=storage)
            for name, data in (
                ("stored", [f"data.store={folder}/stored{n}.h5"]),
                ("virtual", [f"data.store={folder}/virtual{n}.h5"]),
                ("images", ["data.sources=[deadleaves:24]", f"data.distort={distort}"]),
            ):
                words = [*base, *data, "steps=1000000", "optim.schedule=constant", "test.distort=null"]
                words += [f"hardware.device={args.device}", f"data.workers={workers}", "data.pairing=paired"]
                fed, bare, ratio = compare(words, args.repeats, args.steps, clock)
                failed |= ratio > LIMIT
                print(
                    f"{n:2} confounders, {name:8} fed {fed:8.2f} ms  repeated {bare:8.2f} ms"
                    f"  ratio {ratio:.3f} (at most {LIMIT})",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
