"""What virtual updates cost: time, saved activations and resident memory, ours against the alternatives.

    python benchmarks/meta.py                      # every figure, on the CPU
    python benchmarks/meta.py --device cuda --bf16 # allocator figures instead of resident memory
    python benchmarks/meta.py --check              # exit 1 where a promise of docs/method.md is broken

All ratios are taken within one run: arms interleaved, medians over repeats. `u` is one forward and backward
pass, `A` the activations it saves, `P` the parameters.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import dilkit
from dilkit import models
from dilkit.confounders.episodes import Episode
from dilkit.meta.footprint import measure
from dilkit.objectives import make_objective

RATE = 0.05


class Setup:
    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(args.threads)
        self.device = torch.device(args.device)
        self.bf16 = args.bf16
        self.net = models.build("rrdb", width=args.width, growth=args.width // 2, blocks=args.blocks)
        self.net.to(self.device)
        if args.compile:
            self.net.compile()
        shape = (args.batch, 3, args.crop, args.crop)
        self.data = [
            (torch.rand(shape, device=self.device), torch.rand(shape, device=self.device)) for _ in range(4)
        ]

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = module(batch[0])
        return nn.functional.l1_loss(out.float(), batch[1])

    def batches(self, k: int) -> dict[str, tuple[Tensor, Tensor]]:
        return {f"d{i}": self.data[i % 4] for i in range(k)}

    def one_pass(self) -> None:
        torch.autograd.grad(self.loss(self.net, self.data[0]), list(self.net.parameters()))

    def native(self, k: int = 4, **kw: Any) -> Callable[[], object]:
        """A chain of k steps and one outer loss, exact."""
        net = dilkit.meta.of(self.net)
        outer = {"outer": self.data[3]}
        return lambda: net.grad(self.loss, self.batches(k), inner=RATE, outer_batches=outer, **kw)

    def higher(self, k: int = 4) -> Callable[[], object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import higher

        def run() -> object:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
            with higher.innerloop_ctx(self.net, optimizer, copy_initial_weights=False) as (fnet, stepper):
                for batch in self.batches(k).values():
                    stepper.step(self.loss(fnet, batch))
                outer = self.loss(fnet, self.data[3])
                return torch.autograd.grad(outer, list(self.net.parameters()))

        return run


def interleaved(arms: dict[str, Callable[[], object]], repeats: int, cuda: bool) -> dict[str, list[float]]:
    """Seconds per call, arms in turn; the first round is not counted. On the CPU they are seconds of work, so
    that what else the machine does weighs less; on a GPU they are those of the clock.
    """
    clock = time.perf_counter if cuda else time.process_time
    out: dict[str, list[float]] = {name: [] for name in arms}
    for i in range(repeats + 1):
        for name, run in arms.items():
            if cuda:
                torch.cuda.synchronize()
            start = clock()
            run()
            if cuda:
                torch.cuda.synchronize()
            if i:
                out[name].append(clock() - start)
    return out


def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
    return statistics.median(x / y for x, y in zip(times[a], times[b], strict=True))


def peak_memory(arm: str, args: argparse.Namespace) -> float:
    """Bytes above the idle net: the allocator's on a GPU, else the resident set of a fresh process."""
    sizes = {n: getattr(args, n) for n in ("width", "blocks", "batch", "crop", "device", "threads")}
    sizes["batch"] *= 4  # so that activations outweigh what an interpreter and its allocator hold anyway
    command = [sys.executable, __file__, "--only", arm]
    for name, value in sizes.items():
        command += [f"--{name}", str(value)]
    command += ["--bf16"] * args.bf16 + ["--compile"] * args.compile
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def only(arm: str, setup: Setup) -> None:
    arms = {
        "one step": lambda: setup.one_pass,
        "native": setup.native,
        "higher": setup.higher,
    }
    run = arms[arm]()
    if setup.device.type == "cuda":
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        print(torch.cuda.max_memory_allocated() - before)
        return
    full = setup.data
    setup.data = [(x[..., :8, :8], y[..., :8, :8]) for x, y in full]
    run()  # imports and verdicts, on crops too small to count
    setup.data = full
    before = _status("VmRSS")
    run()
    print(_status("VmHWM") - before)


def _status(field: str) -> int:
    """Bytes, from /proc/self/status (the peak of getrusage starts at the parent's)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def first_order(setup: Setup) -> dict[str, Callable[[], object]]:
    """`dil_sf` and the loop one would write by hand, with the same inner Adam."""
    data = setup.batches(4)
    episode = Episode({k: x for k, (x, _) in data.items()}, {k: y for k, (_, y) in data.items()})
    net, twin = copy.deepcopy(setup.net), copy.deepcopy(setup.net)
    objective = make_objective("dil_sf", loss=setup.loss)
    inner = torch.optim.Adam(twin.parameters(), lr=1e-4, betas=(0.0, 0.999))

    def by_hand() -> object:
        twin.load_state_dict(net.state_dict())
        for batch in data.values():
            inner.zero_grad()
            setup.loss(twin, batch).backward()
            inner.step()
        return [p.data - q.data for p, q in zip(net.parameters(), twin.parameters(), strict=True)]

    return {"dil_sf": lambda: objective.gradients(net, episode), "by hand": by_hand}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    sizes = {"width": 32, "blocks": 1, "batch": 4, "crop": 48, "repeats": 7, "threads": 1}
    for name, default in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--device", default="cpu")
    for name in ("bf16", "compile", "check"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    setup = Setup(args)
    if args.only:
        only(args.only, setup)
    else:
        compare(args, setup)


def compare(args: argparse.Namespace, setup: Setup) -> None:
    cuda = setup.device.type == "cuda"
    size = sum(p.numel() * p.element_size() for p in setup.net.parameters())
    count = size / 4 / 1e3
    print(f"RRDB {args.width} x {args.blocks}, {count:.0f} k parameters; {args.batch} crops of {args.crop}^2")

    times = interleaved(
        {
            "u": setup.one_pass,
            "higher": setup.higher(),
            "keep=0": setup.native(),
            "keep=all": setup.native(keep="all"),
        },
        args.repeats,
        cuda,
    )
    for name in times:
        units, relative = ratio(times, name, "u"), ratio(times, name, "higher")
        print(f"time   K=4  {name:12s} {units:6.2f} u  {relative:5.3f} of higher")
    chain = interleaved(first_order(setup), 3 * args.repeats, cuda)
    by_hand = ratio(chain, "dil_sf", "by hand")
    print(f"time   K=4  first order  {by_hand:5.3f} of a loop by hand")

    a = measure(setup.net, setup.one_pass).activations
    saved = {}
    for k in (4, 32):
        for name, run in (("native", setup.native(k)), ("higher", setup.higher(k))):
            if (name, k) == ("higher", 32):
                continue
            saved[name, k] = measure(setup.net, run)
            held = saved[name, k]
            print(f"saved  K={k:<2d} {name:12s} {held.activations / a:6.2f} A + {held.weights / size:.2f} P")
    memory = {arm: peak_memory(arm, args) for arm in ("one step", "native", "higher")}
    for arm, value in memory.items():
        relative = value / memory["higher"]
        print(f"memory K=4  {arm:9s} (batch x 4) {value / 2**20:7.1f} MiB  {relative:5.3f} of higher")

    promises = {
        "keep=0 within 1.25x of higher": ratio(times, "keep=0", "higher") <= 1.25,
        "keep=all no slower than higher": ratio(times, "keep=all", "higher") <= 1.0,
        "first order within 1.02x of a loop": by_hand <= 1.02,
        "saved at K=4 within 2.1 A": saved["native", 4].activations <= 2.1 * a,
        "saved at K=32 within 5% of K=4": saved["native", 32].activations
        <= 1.05 * saved["native", 4].activations,
        "memory within 0.35x of higher": memory["native"] <= 0.35 * memory["higher"],
    }
    for promise, held in promises.items():
        print(f"{'ok    ' if held else 'BROKEN'} {promise}")
    if args.check and not all(promises.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
