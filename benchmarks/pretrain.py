"""Pre-training against few real pairs: nets fine-tuned on 5, 20 and 80 pairs of PolyU, tested on 20 others.

They start from scratch, from ERM, from DIL, from lookahead (the chain of DIL on mixed batches: its control),
from a net with the symmetry of contrast, and from the zoo's denoiser.

    python benchmarks/pretrain.py --data PolyU --out runs/pretrain

The split is fixed by name: scenes in the order of a hash of their names, test scenes first, so that no scene
is on both sides. Rates are chosen on 5 of the first 20 training pairs, with the other 15 trained on, never on
the test pairs; but the third rate of each grid, and lookahead, were added after a first look at results on
these. Pre-training is on synthetic images under the preset real_denoise, with equal
passes. What is there already is not made again. Rows are in OUT/rows.csv, the table goes to stdout.
"""

from __future__ import annotations

import argparse
import csv
import re
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from dilkit.confounders.build import augment
from dilkit.confounders.images import Pairs, read_image
from dilkit.distortions import as_float
from dilkit.inference.nets import open_net
from dilkit.metrics import psnr
from dilkit.training.run import train

Files = tuple[Path, Path]
"""A clean image and its degraded counterpart."""

SIZES, TEST = (5, 20, 80), 20
MIDDLE = slice(128, 384)
NET = [
    "zoo/denoise", "objective.name=erm", "model.equivariant=false", "model.clip_maps=none", "loss=l1",
    "optim.name=adam", "validate=null", "test.sets=[]",
]  # fmt: skip
SYNTHETIC = [
    "data.sources=[samples:free,scenes:120,deadleaves:40]", "data.distort=real_denoise", "data.batch=4",
    "data.crop=48", "data.pairing=paired",
]  # fmt: skip
SYMMETRIC = ["model.equivariant=contrast"]
STARTS = {
    "scratch": [],
    "erm": [],
    "dil_sf": ["objective.name=dil_sf"],
    "lookahead": ["objective.name=lookahead"],
    "symmetric": SYMMETRIC,
    "zoo": [*SYMMETRIC, "model.clip_maps=signed"],
}
"""Where a net starts from: what its recipe says beside `NET`."""
RATES = {"scratch": (1e-3, 3e-3, 1e-2), "zoo": (1e-4, 5e-4, 2e-3)}
PRE_RATES, FINE_RATES = (1e-3, 3e-3, 1e-2), (2e-4, 1e-3, 3e-3)


def split(folder: Path) -> tuple[list[Files], list[Files]]:
    """Training and test pairs."""
    found = Pairs("polyu", str(folder / "clean"), str(folder / "noisy")).files()
    pairs = [(clean.path, degraded.path) for clean, degraded in found]  # type: ignore[attr-defined]
    scenes: dict[str, list[Files]] = {}
    for pair in pairs:
        scenes.setdefault(re.sub(r"_+\d+$", "", pair[0].stem), []).append(pair)
    test: list[Files] = []
    for name in sorted(scenes, key=lambda name: blake2b(name.encode()).digest()):
        if len(test) + len(scenes[name]) <= TEST:
            test += scenes[name]
    return [pair for pair in pairs if pair not in test], sorted(test)


def store_of(pairs: Sequence[Files], path: Path) -> Path:
    """A dataset of real pairs."""
    if not path.exists():
        listed = path.with_suffix(".csv")
        with listed.open("w", newline="") as file:
            csv.writer(file).writerows(
                [["clean", "degraded"], *[[c.resolve(), d.resolve()] for c, d in pairs]]
            )
        augment([], [], path, pairs=[f"polyu={listed}"], allow_duplicates=True)
    return path


def run(words: list[str], out: Path) -> Path:
    if not (out / "net.safetensors").exists():
        train([*NET, *words], out, resume=out.exists())
    return out


def measured(net: Path | str | None, pairs: Sequence[Files]) -> list[float]:
    """PSNR of the middle 256 x 256 pixels of each image, restored, in 8 bits; of the input without a net."""
    model = open_net(net).module.eval() if net is not None else None
    found = []
    for clean, degraded in pairs:
        image, target = (as_float(read_image(file))[MIDDLE, MIDDLE] for file in (degraded, clean))
        if model is not None:
            batch = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
            with torch.inference_mode():
                image = model(batch)[0].permute(1, 2, 0).numpy()
        found.append(psnr(image, target))
    return found


def interval(values: np.ndarray) -> str:
    """Mean and 95 % bootstrap interval over the images of (seeds, images)."""
    draw = np.random.default_rng(0).integers(values.shape[1], size=(2000, values.shape[1]))
    means = values.mean(axis=0)[draw].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{values.mean():.2f} [{low:.2f}, {high:.2f}]"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="PolyU, with the folders clean and noisy")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--passes", type=int, default=800, help="of pre-training")
    parser.add_argument("--steps", type=int, default=200, help="of fine-tuning, of two crops each")
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    out = args.out
    out.mkdir(parents=True, exist_ok=True)
    pool, test = split(args.data)

    def subset(seed: int, count: int) -> list[Files]:
        order = np.random.default_rng(seed).permutation(len(pool))
        return [pool[i] for i in order[:count]]

    def tuned(start: str, init: str, rate: float, pairs: list[Files], name: str, seed: int = 0) -> Path:
        words = [*STARTS[start], "objective.name=erm", f"data.store={store_of(pairs, out / f'{name}.h5')}"]
        words += ["data.sources=null", "data.distort=null", "data.batch=2", "data.crop=64", f"seed={seed}"]
        words += [f"steps={args.steps}", f"optim.lr={rate}", "optim.schedule={name: cosine, warmup: 20}"]
        return run(
            [*words, *([f"init={init}"] if init else [])],
            out / f"{Path(init).name if start not in RATES else start}-{name}-{rate:g}-{seed}",
        )

    chosen, held = subset(0, 20)[:15], subset(0, 20)[15:]
    rows: list[dict[str, object]] = []

    def note(start: str, pairs: int, seed: int, net: Path | str | None, rate: float | None) -> None:
        for file, value in zip(test, measured(net, test), strict=True):
            rows.append(
                {
                    "start": start,
                    "pairs": pairs,
                    "seed": seed,
                    "rate": rate,
                    "image": file[0].stem,
                    "psnr": value,
                }
            )
        pd.DataFrame(rows).to_csv(out / "rows.csv", index=False)

    note("input", 0, 0, None, None)
    for start, own in STARTS.items():
        init = "zoo:denoise" if start == "zoo" else ""
        if start not in RATES:
            made = {}
            for rate in PRE_RATES:
                words = [*own, *SYNTHETIC, f"passes={args.passes}", "steps=null", f"optim.lr={rate}"]
                made[rate] = run(words, out / f"pre-{start}-{rate:g}")
            best = max(PRE_RATES, key=lambda rate: float(np.mean(measured(made[rate], held))))
            init = str(made[best])
        if init:
            note(start, 0, 0, init, None)
        rates = RATES.get(start, FINE_RATES)
        scores = {r: np.mean(measured(tuned(start, init, r, chosen, "choice"), held)) for r in rates}
        rate = max(rates, key=lambda rate: float(scores[rate]))
        print(start, init, {r: round(float(v), 2) for r, v in scores.items()}, flush=True)
        for seed in range(args.seeds):
            for count in SIZES:
                net = tuned(start, init, rate, subset(seed, count), f"{count}of{seed}", seed)
                note(start, count, seed, net, rate)
    print(table(pd.DataFrame(rows)))
    return 0


def table(rows: pd.DataFrame) -> str:
    """In Markdown: PSNR, then what each start gains over ERM on the same images; columns are sizes."""
    columns = (0, *SIZES)
    head = " | ".join("as it is" if n == 0 else f"{n} pairs" for n in columns)
    cells = {
        key: own.pivot(index="seed", columns="image", values="psnr").to_numpy()
        for key, own in rows.groupby(["start", "pairs"], sort=False)
    }
    lines = [f"| from | {head} |", "|---" * (len(columns) + 1) + "|"]
    for start in rows.start.unique():
        shown = [interval(cells[start, n]) if (start, n) in cells else "" for n in columns]
        lines.append(f"| {start} | " + " | ".join(shown) + " |")
    lines += ["", f"| more than from ERM | {head} |", "|---" * (len(columns) + 1) + "|"]
    for start in [start for start in rows.start.unique() if start not in ("erm", "input")]:
        both = [(cells.get((start, n)), cells.get(("erm", n))) for n in columns]
        shown = [interval(a - b) if a is not None and b is not None else "" for a, b in both]
        lines.append(f"| {start} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
