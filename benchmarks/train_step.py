"""What a training step costs beyond the passes it needs.

    python benchmarks/train_step.py [--store FILE.h5]

Ratios, each the median over interleaved repeats of one run, data loading included. The overhead, in one
memory layout:
  erm     our step against a bare PyTorch loop: read, forward, backward, Adam;
  dil_sf  our step against a plain port of the authors' released loop: one shuffled loader per distortion, a
          copy of the net with its inner Adam, outer Adam on theta - phi;
and how much faster it has become:
  layout  our step with kernels and images in channels_last memory (`hardware.channels_last: auto`, the
          default) against the layout of earlier versions.
All read random crops from the same store, in one process, one thread. Times are CPU time, so that other work
on the machine is not measured.
"""

from __future__ import annotations

import argparse
import copy
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from torch.nn.functional import l1_loss
from torch.utils.data import DataLoader, Dataset

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import episodes
from dilkit.models import build
from dilkit.recipe import compose
from dilkit.training.assemble import assemble
from dilkit.training.loop import fit

BATCH, CROP, LIMIT = 8, 40, 1.05
PLAIN = "hardware.channels_last=false"


class Pairs(Dataset):
    """Random crops of one distortion, 8-fold symmetry, as (distorted, clean) float32 tensors."""

    def __init__(self, path: str, label: str) -> None:
        self.path, self.label, self.file = path, label, None
        with h5py.File(path) as file:
            self.n = len(file["clean"])

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.file is None:
            self.file = h5py.File(self.path)
        views, clean = self.file[f"distorted/{self.label}"], self.file["clean"]
        y, x = (random.randrange(s - CROP + 1) for s in clean.shape[1:3])
        turns, flip = random.randrange(4), random.random() < 0.5
        pair = []
        for images in (views, clean):
            image = np.rot90(images[i, y : y + CROP, x : x + CROP], turns)
            image = image[:, ::-1] if flip else image
            tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
            pair.append(tensor.float().div_(255) if tensor.dtype == torch.uint8 else tensor)
        return pair[0], pair[1]


def endless(path: str, label: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from DataLoader(Pairs(path, label), BATCH, shuffle=True, drop_last=True)


def bare_erm(path: str, labels: list[str], net: torch.nn.Module) -> Callable[[], None]:
    loaders = [endless(path, label) for label in labels]
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        for loader in loaders:
            distorted, clean = next(loader)
            (l1_loss(net(distorted), clean) / len(loaders)).backward()
        optimizer.step()

    return step


def released_dil_sf(path: str, labels: list[str], net: torch.nn.Module) -> Callable[[], None]:
    loaders = [endless(path, label) for label in labels]
    outer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
    virtual = copy.deepcopy(net)
    inner = torch.optim.Adam(virtual.parameters(), lr=1e-3, betas=(0.0, 0.999), fused=True)

    def step() -> None:
        virtual.load_state_dict(net.state_dict())
        random.shuffle(loaders)
        for loader in loaders:
            distorted, clean = next(loader)
            loss = l1_loss(virtual(distorted), clean)
            inner.zero_grad()
            loss.backward()
            inner.step()
        outer.zero_grad()
        for p, q in zip(net.parameters(), virtual.parameters(), strict=True):
            p.grad = p.data - q.data
        outer.step()

    return step


def ours(store: str, objective: str, *more: str) -> Callable[[], None]:
    words = [
        "denoise-gaussian-small",
        f"data.store={store}",
        f"objective={objective}",
        "optim.schedule=constant",
    ]
    recipe = compose([*words, "data.pairing=independent", "log.every=50", *more]).recipe
    made = assemble(recipe)
    feed = episodes(made.sampler, 0, 1_000_000)

    def step() -> None:
        fit(made.trainee, feed, made.accelerator, clip=None, after=lambda trainee, meter: True, failed=stop)

    return step


def stop(trainee: object, episode: object, error: Exception) -> None:
    raise error


def median_ratio(a: Callable[[], None], b: Callable[[], None], repeats: int, steps: int) -> tuple[float, ...]:
    """Median seconds per step of a and of b, and the median of the ratios of neighbouring repeats."""
    times: tuple[list[float], list[float]] = ([], [])
    for r in range(repeats + 1):
        for which in (0, 1) if r % 2 else (1, 0):
            start = time.process_time()
            for _ in range(steps):
                (a, b)[which]()
            if r > 0:
                times[which].append((time.process_time() - start) / steps)
    ratios = [x / y for x, y in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="an existing paired store [default: one of dead leaves, made now]")
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--steps", type=int, default=2, help="steps per repeat")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        store = args.store or str(Path(folder) / "store.h5")
        if args.store is None:
            augment(["deadleaves:48"], "awgn[5, 10, 15, 20] >> clip", store)
        with h5py.File(store) as file:
            labels = list(file["distorted"])
        failed = False
        for name, other in (("erm", bare_erm), ("dil_sf", released_dil_sf)):
            torch.manual_seed(0)
            net = build("dncnn", depth=8, width=32, norm="none")
            mine = ours(store, name, PLAIN)
            a, b, ratio = median_ratio(mine, other(store, labels, net), args.repeats, args.steps)
            failed |= ratio > LIMIT
            print(
                f"{name:8} ours {1e3 * a:7.2f} ms  plain {1e3 * b:7.2f} ms"
                f"  ratio {ratio:.3f} (at most {LIMIT})"
            )
        for name in ("erm", "dil_sf"):
            a, b, ratio = median_ratio(ours(store, name, PLAIN), ours(store, name), args.repeats, args.steps)
            print(
                f"layout, {name:8} before {1e3 * a:7.2f} ms  now {1e3 * b:7.2f} ms  {ratio:.2f} times as fast"
            )
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
