"""Time and memory of exact meta-gradients, ours against `higher`, over nets and numbers of steps.

    python benchmarks/meta.py                         # every net, K = 1, 4, 16, 32, on the CPU
    python benchmarks/meta.py --nets u-net --steps 4 32 --save rows.json    # some of it; rows add up
    python benchmarks/meta.py --from rows.json --plot curve.svg    # table and curve of saved rows
    python benchmarks/meta.py --device cuda --bf16    # allocator figures instead of resident memory
    python benchmarks/meta.py --check                 # exit 1 where a promise of docs/meta.md breaks

Ratios are taken within one run, arms interleaved, medians over repeats; on the CPU in seconds of work of one
thread, so that what else the machine does weighs less. Memory is the peak of a forked process above the idle
net. `u` is one forward and backward pass, `A` the activations it saves.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import statistics
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
from dilkit.meta.footprint import saved_activations

RATE = 0.01
Row = dict[str, Any]
TIME = ("higher", "keep=0", "keep=auto")
MEMORY = ("higher", "keep=0", "recompute")
CURVE_AT, CURVE = 16, ("higher", "recompute", "keep=0", "keep=half", "keep=auto")


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
    "rrdb": (rrdb, (2, 3, 32, 32)),
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


def peak_memory(setup: Setup, arm: str, k: int) -> float:
    """Bytes above the idle net: the allocator's on a GPU, else the resident set of a forked process."""
    if setup.device.type == "cuda":
        run = setup.arm(arm, k)
        run()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    receive, send = os.pipe()
    if not os.fork():
        run, before = setup.arm(arm, k), status("VmRSS")
        run()
        os.write(send, str(max(0, status("VmHWM") - before)).encode())
        os._exit(0)
    os.close(send)
    os.wait()
    with os.fdopen(receive) as pipe:
        return float(pipe.read())


def status(field: str) -> int:
    """Bytes, from /proc/self/status."""
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


def saved_units(setup: Setup, ks: tuple[int, int]) -> list[float]:
    """Activations held, in A, for two numbers of steps."""
    a = max(1, saved_activations(setup.net, setup.one_pass))
    return [saved_activations(setup.net, setup.native(k)) / a for k in ks]


def measured(args: argparse.Namespace, name: str, k: int) -> Row:
    """One row: seconds in units of higher's and of one pass, bytes, by arm."""
    setup = Setup(name, args.device, args.bf16)
    tiny = Setup("mlp-1m", args.device, args.bf16)
    tiny.net = nn.Linear(2, 2).to(tiny.device)
    tiny.batch = tiny.query = (torch.ones(1, 2, device=tiny.device), torch.ones(1, 2, device=tiny.device))
    for arm in MEMORY:
        tiny.arm(arm, 2)()  # what first calls load, on a net too small to count
    held = {arm: peak_memory(setup, arm, k) for arm in (CURVE if k == CURVE_AT else MEMORY)}
    arms = CURVE if k == CURVE_AT else TIME
    times = interleaved({a: setup.arm(a, k) for a in ("one pass", *arms)}, args.repeats, args.device != "cpu")
    return {
        "net": name,
        "k": k,
        "time": {a: ratio(times, a, "higher") for a in arms},
        "units": ratio(times, "higher", "one pass"),
        "memory": held,
    }


def table(rows: list[Row]) -> str:
    lines = [
        '| net | K | time, `keep=0` | time, `"auto"` | memory, `keep=0` | memory, `"recompute"` | higher |',
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        small = [row["memory"][a] / row["memory"]["higher"] for a in ("keep=0", "recompute")]
        time = f"{row['time']['keep=0']:.2f} | {row['time']['keep=auto']:.2f}"
        theirs = f"{row['units']:.1f} u, {row['memory']['higher'] / 2**20:.0f} MiB"
        lines.append(f"| {row['net']} | {row['k']} | {time} | {small[0]:.2f} | {small[1]:.2f} | {theirs} |")
    return "\n".join(lines)


def curve(rows: list[Row], path: Path) -> None:
    """Time against memory at K = 16, one line a net, in units of higher's."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "dilkit"  # the same figures give the same file
    figure, axes = plt.subplots(figsize=(6.4, 4))
    marks = {"recompute": "s", "keep=0": "o", "keep=half": "^", "keep=auto": "D"}
    for row in (row for row in rows if row["k"] == CURVE_AT):
        points = [(row["memory"][a] / row["memory"]["higher"], row["time"][a]) for a in marks]
        (line,) = axes.plot(*zip(*points, strict=True), label=row["net"])
        for point, mark in zip(points, marks.values(), strict=True):
            axes.plot(*point, mark, color=line.get_color())
    axes.plot(1, 1, "k*", markersize=11)
    for arm, mark in marks.items():
        axes.plot([], [], mark, color="grey", label=arm.replace("=half", "=8"))
    axes.plot([], [], "k*", label="higher")
    axes.set(
        xlabel="peak memory / higher's", ylabel="time / higher's", title=f"K = {CURVE_AT}", xlim=(0, None)
    )
    axes.legend(fontsize="small")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 4, 16, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--save", type=Path, help="a JSON file that rows are added to, or replaced in")
    parser.add_argument("--from", dest="source", type=Path, help="measure nothing, show saved rows")
    parser.add_argument("--plot", type=Path, help="draw time against memory (needs rows of K = 16)")
    for name in ("bf16", "check"):
        parser.add_argument(f"--{name}", action="store_true")
    args = parser.parse_args()
    rows: list[Row] = json.loads(args.source.read_text()) if args.source else []
    broken = []
    for name in [] if args.source else args.nets:
        for k in args.steps:
            row = measured(args, name, k)
            rows.append(row)
            print(table([row]).splitlines()[-1], flush=True)
            slow, auto = row["time"]["keep=0"], row["time"]["keep=auto"]
            if slow > 1.4 or (auto > 1.05 and k > 1):
                broken.append(f"time of {name} at K={k}")
            if args.save:
                saved = json.loads(args.save.read_text()) if args.save.exists() else []
                kept = [r for r in saved if (r["net"], r["k"]) != (name, k)]
                order = {n: i for i, n in enumerate(NETS)}
                kept = sorted([*kept, row], key=lambda r: (order[r["net"]], r["k"]))
                args.save.write_text(json.dumps(kept, indent=1))
        if args.check:
            setup = Setup(name, args.device, args.bf16)
            chain, (few, many) = first_order(setup), saved_units(setup, (4, 32))
            print(f"{name}: a first-order chain {chain:.3f} of a loop by hand; "
                  f"{few:.2f} A at K=4, {many:.2f} A at K=32")  # fmt: skip
            if chain > 1.25 or many > 1.05 * few:
                broken.append(f"first order or activations of {name}")
    print(table(rows))
    if args.plot:
        curve(rows, args.plot)
    for promise in broken:
        print(f"BROKEN {promise}")
    if args.check and broken:
        sys.exit(1)


if __name__ == "__main__":
    main()
