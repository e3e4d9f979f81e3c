"""Time and memory of exact meta-gradients, ours against `higher`, over nets and numbers of steps.

    python benchmarks/meta.py                                # every net, K = 1, 4, 16, 32, on the CPU
    python benchmarks/meta.py --nets mlp-10m --steps 8 32    # some of it
    python benchmarks/meta.py --plot curve.png               # time against memory, K = 16
    python benchmarks/meta.py --device cuda --bf16           # allocator figures instead of resident memory
    python benchmarks/meta.py --check                        # exit 1 where a promise of docs/meta.md breaks

Ratios are taken within one run, arms interleaved, medians over repeats; on the CPU in seconds of work of one
thread, so that what else the machine does weighs less. Memory is the peak of a fresh process above idle.
`u` is one forward and backward pass, `A` the activations it saves.
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
from torch.nn.attention import SDPBackend, sdpa_kernel

import dilkit
from dilkit.meta.footprint import measure

RATE = 0.01


class Attend(nn.Module):
    """Four transformer blocks over a sequence of 64."""

    def __init__(self, width: int = 96, blocks: int = 4) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, blocks, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class UNet(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def block(i: int, o: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(i, o, 3, padding=1), nn.SiLU(), nn.Conv2d(o, o, 3, padding=1), nn.SiLU()
            )

        self.down = nn.ModuleList([block(3, width), block(width, 2 * width), block(2 * width, 4 * width)])
        self.up = nn.ModuleList([block(6 * width, 2 * width), block(3 * width, width)])
        self.out = nn.Conv2d(width, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down[0](x)
        b = self.down[1](nn.functional.avg_pool2d(a, 2))
        c = self.down[2](nn.functional.avg_pool2d(b, 2))
        b = self.up[0](torch.cat([nn.functional.interpolate(c, scale_factor=2), b], 1))
        a = self.up[1](torch.cat([nn.functional.interpolate(b, scale_factor=2), a], 1))
        return self.out(a)


def mlp(width: int, layers: int = 3) -> nn.Module:
    body = [m for _ in range(layers - 1) for m in (nn.Linear(width, width), nn.Tanh())]
    return nn.Sequential(*body, nn.Linear(width, width))


def rrdb() -> nn.Module:
    from dilkit.models import build

    return build("rrdb", width=32, growth=16, blocks=1)


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp-1m": (lambda: mlp(577), (64, 577)),
    "mlp-10m": (lambda: mlp(1826), (32, 1826)),
    "u-net": (UNet, (4, 3, 32, 32)),
    "transformer": (Attend, (8, 64, 96)),
    "rrdb": (rrdb, (4, 3, 48, 48)),
}


class Setup:
    def __init__(self, name: str, device: str, bf16: bool) -> None:
        torch.manual_seed(0)
        torch.set_num_threads(1)
        make, shape = NETS[name]
        self.device, self.bf16 = torch.device(device), bf16
        self.net = make().to(self.device)
        self.batch = (torch.rand(shape, device=self.device), torch.rand(shape, device=self.device))
        self.query = (torch.rand(shape, device=self.device), torch.rand(shape, device=self.device))

    def loss(self, module: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            out = module(batch[0])
        return (out.float() - batch[1]).square().mean()

    def one_pass(self) -> None:
        torch.autograd.grad(self.loss(self.net, self.batch), list(self.net.parameters()))

    def native(self, k: int, **settings: Any) -> Callable[[], object]:
        """A chain of k steps and one outer loss, exact."""
        meta = dilkit.meta.of(self.net)
        return lambda: meta.grad(
            self.loss, [self.batch], inner=RATE, steps=k, outer_batches=[self.query], **settings
        )

    def higher(self, k: int) -> Callable[[], object]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import higher

        def run() -> object:
            optimizer = torch.optim.SGD(self.net.parameters(), lr=RATE)
            whole = higher.innerloop_ctx(self.net, optimizer, copy_initial_weights=False)
            with sdpa_kernel(SDPBackend.MATH), whole as (fnet, stepper):  # the fused one has one derivative
                for _ in range(k):
                    stepper.step(self.loss(fnet, self.batch))
                return torch.autograd.grad(self.loss(fnet, self.query), list(self.net.parameters()))

        return run

    def arm(self, name: str, k: int) -> Callable[[], object]:
        return {
            "one pass": lambda: self.one_pass,
            "higher": lambda: self.higher(k),
            "keep=0": lambda: self.native(k),
            "keep=half": lambda: self.native(k, keep=k // 2),
            "keep=auto": lambda: self.native(k, keep="auto"),
            "recompute": lambda: self.native(k, keep_weights="recompute"),
        }[name]()


def interleaved(arms: dict[str, Callable[[], object]], repeats: int, cuda: bool) -> dict[str, list[float]]:
    """Seconds per call, arms in turn; the first round is not counted."""
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


def peak_memory(args: argparse.Namespace, net: str, arm: str, k: int) -> float:
    """Bytes above the idle net: the allocator's on a GPU, else the resident set of a fresh process."""
    command = [sys.executable, __file__, "--only", arm, "--nets", net, "--steps", str(k)]
    command += ["--device", args.device] + ["--bf16"] * args.bf16
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def only(arm: str, setup: Setup, k: int) -> None:
    if setup.device.type == "cuda":
        run = setup.arm(arm, k)
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        print(torch.cuda.max_memory_allocated() - before)
        return
    tiny = Setup("mlp-1m", "cpu", setup.bf16)
    tiny.net, tiny.batch, tiny.query = nn.Linear(2, 2), *((torch.ones(1, 2), torch.ones(1, 2)),) * 2
    tiny.arm(arm, 2)()  # imports, on a net too small to count
    run = setup.arm(arm, k)
    before = status("VmRSS")
    run()
    print(max(0, status("VmHWM") - before))


def status(field: str) -> int:
    """Bytes, from /proc/self/status (the peak of getrusage starts at the parent's)."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def first_order(setup: Setup) -> float:
    """A first-order chain against the loop one would write by hand, with the same inner Adam."""
    from dilkit.meta.first_order import FirstOrderChain

    net, twin = copy.deepcopy(setup.net), copy.deepcopy(setup.net)
    make = lambda params: torch.optim.Adam(params, lr=1e-4, betas=(0.0, 0.999))  # noqa: E731
    chain, inner = FirstOrderChain(make), make(twin.parameters())

    def by_hand() -> object:
        twin.load_state_dict(net.state_dict())
        for _ in range(4):
            inner.zero_grad()
            setup.loss(twin, setup.batch).backward()
            inner.step()
        return [p.data - q.data for p, q in zip(net.parameters(), twin.parameters(), strict=True)]

    steps = [{"a": lambda module: setup.loss(module, setup.batch)}] * 4
    times = interleaved(
        {"chain": lambda: chain.run(net, steps), "by hand": by_hand}, 15, setup.device.type == "cuda"
    )
    return ratio(times, "chain", "by hand")


def saved(setup: Setup, ks: tuple[int, int]) -> list[float]:
    """Activations held, in A, for two numbers of steps."""
    a = max(1, measure(setup.net, setup.one_pass).activations)
    return [measure(setup.net, setup.native(k)).activations / a for k in ks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--plot", type=Path)
    for name in ("bf16", "check"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        only(args.only, Setup(args.nets[0], args.device, args.bf16), args.steps[0])
        return
    broken = []
    print("net          K   u: keep=0  higher   time/higher: keep=0  auto   memory/higher: keep=0  recompute")
    for name in args.nets:
        setup = Setup(name, args.device, args.bf16)
        for k in args.steps:
            arms = ("one pass", "higher", "keep=0", "keep=auto")
            times = interleaved({a: setup.arm(a, k) for a in arms}, args.repeats, args.device != "cpu")
            slow, auto = ratio(times, "keep=0", "higher"), ratio(times, "keep=auto", "higher")
            units = [ratio(times, a, "one pass") for a in ("keep=0", "higher")]
            held = {a: peak_memory(args, name, a, k) for a in ("higher", "keep=0", "recompute")}
            small = [held[a] / held["higher"] for a in ("keep=0", "recompute")]
            print(
                f"{name:11s} {k:2d} {units[0]:11.2f} {units[1]:7.2f} {slow:22.2f} {auto:10.2f} "
                f"{small[0]:22.2f} {small[1]:10.2f}   ({held['higher'] / 2**20:.0f} MiB)",
                flush=True,
            )
            if slow > 1.35 or (auto > 1.05 and k > 1):
                broken.append(f"time of {name} at K={k}")
        chain, (few, many) = first_order(setup), saved(setup, (4, 32))
        print(
            f"{name:11s} first order {chain:.3f} of a loop by hand; {few:.2f} A at K=4, {many:.2f} A at K=32"
        )
        if chain > 1.05 or many > 1.05 * few:
            broken.append(f"first order or activations of {name}")
    if args.plot:
        curve(args, args.plot)
    for promise in broken:
        print(f"BROKEN {promise}")
    if args.check and broken:
        sys.exit(1)


def curve(args: argparse.Namespace, path: Path) -> None:
    """Time against memory at K = 16, one line a net, in units of higher's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    arms = ("recompute", "keep=0", "keep=half", "keep=auto")
    figure, axes = plt.subplots(figsize=(6, 4))
    for name in args.nets:
        setup = Setup(name, args.device, args.bf16)
        times = interleaved(
            {a: setup.arm(a, 16) for a in ("higher", *arms)}, args.repeats, args.device != "cpu"
        )
        whole = peak_memory(args, name, "higher", 16)
        points = [(peak_memory(args, name, a, 16) / whole, ratio(times, a, "higher")) for a in arms]
        axes.plot(*zip(*points, strict=True), "o-", label=name)
    axes.plot(1, 1, "k*", label="higher")
    axes.set(
        xlabel="peak memory / higher's", ylabel="time / higher's", title="K = 16; recompute, keep=0, 8, all"
    )
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")


if __name__ == "__main__":
    main()
