"""How much an evaluation costs beyond the bare forward passes, SSIM against the common loop, and the report.

    python benchmarks/evaluate.py [--data CBSD68] [--images 68] [--model dncnn|small] [--repeats 3]

Everything that is compared runs in this one process, in turns; ratios are medians over the turns. Without
`--data`, synthetic photographs of the same size are used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from dilkit import evaluate
from dilkit.checkpoint import save_weights
from dilkit.confounders.images import dead_leaves
from dilkit.evaluation.testsets import find_images
from dilkit.inference.forward import to_tensor
from dilkit.inference.nets import Net
from dilkit.metrics import ssim
from dilkit.models import build, from_config
from dilkit.recipe import Recipe, resolved, to_yaml
from dilkit.report.page import build_report

DISTORT = "awgn[5, 10, 15, 20, 30, 40, 50]"
MODELS = {"small": {"depth": 8, "width": 32}, "dncnn": {"depth": 17, "width": 64}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="a folder of images, such as CBSD68")
    parser.add_argument("--images", type=int, default=68)
    parser.add_argument("--model", choices=MODELS, default="dncnn")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    images = pictures(options.data, options.images)
    found = {
        "threads": torch.get_num_threads(),
        "grid": grid(images, options.model, options.repeats),
        "ssim": ssim_against_loop(next(iter(images.values())), max(9, options.repeats)),
        "report": report_of_runs(20),
    }
    print(json.dumps(found, indent=1))


def pictures(folder: Path | None, count: int) -> dict[str, np.ndarray]:
    if folder is not None:
        return {image.name: image.read() for image in find_images(folder)[:count]}
    return {str(i): dead_leaves(0, i, 512)[:321, :481] for i in range(count)}


def grid(images: dict[str, np.ndarray], model: str, repeats: int) -> dict[str, float]:
    """All images under seven degrees, against the same number of forward passes and nothing else."""
    net = build("dncnn", norm="none", **MODELS[model]).eval()

    @torch.inference_mode()
    def bare() -> None:
        for image in images.values():
            x = to_tensor([image.astype(np.float32) / 255])
            for _ in range(7):
                net(x)

    def ours() -> None:
        evaluate([Net("net", net)], images, DISTORT, clip=True, quantize=False, device="cpu")

    spent = turns({"bare": bare, "ours": ours}, repeats)
    ratio, cpu = spent["ours"] / spent["bare"], spent["ours, cpu"] / spent["bare, cpu"]
    return {**spent, "ratio": ratio, "ratio, cpu": cpu}


def ssim_against_loop(clean: np.ndarray, repeats: int) -> dict[str, float]:
    noise = np.random.default_rng(0).normal(0, 25, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).round().astype(np.uint8)
    assert abs(ssim(noisy, clean) - common_ssim(noisy, clean)) < 1e-12
    spent = turns({"loop": lambda: common_ssim(noisy, clean), "ours": lambda: ssim(noisy, clean)}, repeats)
    ratio, cpu = spent["loop"] / spent["ours"], spent["loop, cpu"] / spent["ours, cpu"]
    return {**spent, "speed-up": ratio, "speed-up, cpu": cpu}


def common_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Channel by channel with OpenCV and NumPy, as the usual evaluation scripts do it."""
    kernel = cv2.getGaussianKernel(11, 1.5)
    window, c1, c2, found = np.outer(kernel, kernel.T), (0.01 * 255) ** 2, (0.03 * 255) ** 2, []
    for channel in range(3):
        x, y = a[..., channel].astype(np.float64), b[..., channel].astype(np.float64)

        def blur(z: np.ndarray) -> np.ndarray:
            return cv2.filter2D(z, -1, window)[5:-5, 5:-5]

        mx, my = blur(x), blur(y)
        vx, vy, cov = blur(x**2) - mx**2, blur(y**2) - my**2, blur(x * y) - mx * my
        top = (2 * mx * my + c1) * (2 * cov + c2)
        found.append((top / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    return float(np.mean(found))


def report_of_runs(count: int) -> dict[str, float]:
    """A page about runs of 1,000 logged rows each, measured on 68 images under 7 distortions before."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [fake_run(Path(folder) / f"run-{k}", k) for k in range(count)]
        small = {str(i): dead_leaves(1, i, 64) for i in range(68)}
        trained = {run.name: run / "checkpoints" / "last.safetensors" for run in runs}
        rows = evaluate(trained, small, DISTORT, clip=True, quantize=False, device="cpu")
        out = Path(folder) / "report.html"
        started = time.perf_counter()
        build_report(runs, out, rows=rows, data=small, device="cpu")
        return {
            "runs": count,
            "seconds": time.perf_counter() - started,
            "megabytes": out.stat().st_size / 1e6,
        }


def fake_run(folder: Path, seed: int) -> Path:
    model = {"name": "dncnn", "depth": 3, "width": 8, "norm": "none"}
    recipe = Recipe.model_validate({"steps": 1, "seed": seed, "model": model})
    (folder / "checkpoints").mkdir(parents=True)
    torch.manual_seed(seed)
    notes = {"confounders": "awgn[5, 10, 15, 20]", "step": 1, "passes": 4}
    save_weights(folder / "checkpoints" / "last.safetensors", from_config(recipe.model), None, recipe, notes)
    (folder / "recipe.yaml").write_text(to_yaml(resolved(recipe)), encoding="utf-8")
    rows = ({"step": i, "passes": 4 * i, "seconds": i / 10, "loss": 0.1 + 1 / (i + 1)} for i in range(1000))
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def turns(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, in turns after one warm-up turn; and of the processor (all threads), which a
    busy machine disturbs less."""
    spent: dict[str, list[float]] = {}
    for turn in range(repeats + 1):
        for name, run in work.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            if turn:
                spent.setdefault(name, []).append(time.perf_counter() - wall)
                spent.setdefault(f"{name}, cpu", []).append(time.process_time() - cpu)
    return {name: statistics.median(values) for name, values in spent.items()}


if __name__ == "__main__":
    main()
