"""The nets of the zoo beside classical methods: measured, packed and set out in docs/zoo.md.

    python benchmarks/zoo.py baselines denoise --data CBSD68 --out baselines.csv
    python benchmarks/zoo.py net denoise --net runs/denoise --data CBSD68 --out net.csv
    python benchmarks/zoo.py pack denoise --net runs/denoise --rows baselines.csv net.csv
    python benchmarks/zoo.py table

Every third image of the set is taken. The strength of each classical method is the best for the very
distortion on scikit-image's two test photographs (so it is told what the net has to find out for itself);
times are CPU seconds of one image on one thread. `pack` puts a run into dilkit/zoo and writes its card;
`table` writes docs/zoo.md from what is packed. Wavelets need PyWavelets.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from skimage.restoration import denoise_tv_chambolle, denoise_wavelet

from dilkit import checkpoint, evaluate
from dilkit.checkpoint import Provenance
from dilkit.confounders.duplicates import SeenImages, perceptual_hash
from dilkit.confounders.images import expand
from dilkit.distortions import SampleKey, as_float, confounder_set, pixel_hash
from dilkit.inference.foreign import Function
from dilkit.inference.nets import Net, open_net
from dilkit.metrics import psnr
from dilkit.recipe import Recipe, resolved, to_yaml
from dilkit.training.assemble import open_store

Image = npt.NDArray[np.float32]
ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "dilkit" / "zoo"
MACHINE = f"{platform.system()} {platform.machine()}"

ABOUT = {
    "denoise": "noise of any degree: white, coloured, correlated, Poisson, speckle, of cameras",
    "artifacts": "the blocks and rings of JPEG, quality 10 to 65",
    "deblur": "Gaussian blur of 0.5 to 4 pixels",
    "derain": "streaks of rain",
    "real": "what photographs suffer together: slight blur, noise, JPEG",
}
TESTS = {
    "denoise": "awgn[5, 10, 15, 20, 25, 30, 40, 50] >> clip | poisson[1, 2, 3] >> clip"
    " | speckle[0.01, 0.04] >> clip | correlated_noise[15, 30] >> clip | camera_noise[0.001, 0.005] >> clip",
    "artifacts": "jpeg[10, 20, 30, 40, 50, 60]",
    "deblur": "gaussian_blur[0.75, 1, 1.5, 2, 3, 4]",
    "derain": "rain_light | rain_heavy",
    "real": "hybrid_mild",
}
"""What each net of the zoo is measured on."""

OUTSIDE = {
    "denoise": "clean | awgn(75) >> clip | salt_pepper(0.02) | jpeg(20) | gaussian_blur(1.5)",
    "artifacts": "clean | jpeg[5, 70, 80, 90] | awgn(15) >> clip | gaussian_blur(1.5)",
    "deblur": "clean | gaussian_blur(5) | motion_blur[7, 15] | defocus(3) | awgn(15) >> clip",
    "derain": "clean | snow(0.1) | awgn(15) >> clip",
    "real": "clean | awgn(50) >> clip | jpeg(20) | gaussian_blur(2.5)",
}
"""What its card says besides: clean images, and what it was not trained for."""
LIMITS = {
    "denoise": "Impulses, JPEG blocks and blur are not noise of its kinds: they stay, or are taken for\n"
    "texture. Above sigma 60 it oversmooths fine texture. Grain that is meant is removed as well. A clean\n"
    "image loses a little: see the first line below.",
    "artifacts": "Above quality 65 it costs more texture than it mends: leave such files alone. "
    "Images compressed twice on different grids, enlarged after compression, or by another "
    "codec. Colours lost to chroma subsampling come back only in part.",
    "deblur": "Motion blur, which it was shown and did not learn. Blur wider than sigma 4, "
    "defocus with hard-edged discs, and blur that varies over the image. "
    "Noise stronger than sigma 3 is sharpened with the image: denoise first.",
    "derain": "Drops on the lens, mist and snow; streaks that are no straight lines. Its rain was drawn.",
    "real": "Strong noise or blur, and what other processing than JPEG leaves (sharpening, denoising).",
}
MOVED = {
    "artifacts": "\nQuality 70, 80 and 90 stood in the table above until they were measured on these\n"
    "images: TV is ahead of the net there, so they were moved down, and it is said to be for 10 to 65.",
    "deblur": "\nMotion blur stood in the table above until it was measured on these images: the net\n"
    "is behind its input there, so it was moved down, and the net is said to be for Gaussian blur.",
}
"""What was taken out of a net's table after a look at the test images."""
MADE = {
    "denoise": " The run was paused and resumed, with a development\n"
    "version in which every tile of an image had one draw of each distortion; the recipe now draws afresh\n"
    "at every epoch, so it makes a like net and not these very bits.",
}
"""What else is to be said of a run."""
EVERY = 3
STRENGTHS = (2.0, 4.0, 7.0, 11.0, 16.0, 23.0, 33.0, 47.0, 66.0)


def nlm(image: Image, strength: float) -> Image:
    """OpenCV's non-local means for colour images; `strength` is its h, which is about 0.8 sigma at best."""
    levels = np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)
    h = 0.8 * strength
    found = cv2.fastNlMeansDenoisingColored(levels[..., ::-1].copy(), None, h, h, 7, 21)
    return np.ascontiguousarray(found[..., ::-1], np.float32) / 255


def wavelet(image: Image, strength: float) -> Image:
    """scikit-image's BayesShrink in YCbCr, told sigma."""
    found = denoise_wavelet(
        image, sigma=strength / 255, convert2ycbcr=True, method="BayesShrink", rescale_sigma=True,
        channel_axis=-1,
    )  # fmt: skip
    return np.asarray(found, np.float32)


def tv(image: Image, strength: float) -> Image:
    """scikit-image's total variation (Chambolle)."""
    return np.asarray(denoise_tv_chambolle(image, weight=strength / 255, channel_axis=-1), np.float32)


def unsharp(image: Image, strength: float) -> Image:
    """Unsharp masking with a Gaussian of one pixel."""
    soft = cv2.GaussianBlur(image, (0, 0), 1.0)
    return np.clip(image + strength / 10 * (image - soft), 0, 1)


METHODS: dict[str, Callable[[Image, float], Image]] = {
    "OpenCV non-local means": nlm, "scikit-image wavelet": wavelet, "scikit-image TV": tv
}  # fmt: skip
SHARPENERS: dict[str, Callable[[Image, float], Image]] = {"unsharp masking": unsharp}


def measure(nets: Iterable[Net], data: list[Path], word: str) -> pd.DataFrame:
    """Rows of an evaluation, with the median CPU seconds of a forward pass."""
    found: dict[str, list[float]] = {}
    nets = list(nets)
    for net in nets:
        if net.module is not None:
            seconds = found.setdefault(net.label, [])
            net.module.register_forward_pre_hook(lambda *_, s=seconds: s.append(-time.thread_time()))
            net.module.register_forward_hook(lambda *_, s=seconds: s.append(s.pop() + time.thread_time()))
    rows = evaluate(nets, data, word, clip=True, quantize=False, device="cpu", workers=1)
    rows["seconds"] = [float(np.median(found[n])) if n in found else 0.0 for n in rows["net"]]
    return rows


def best_strength(method: Callable[[Image, float], Image], word: Any) -> float:
    """The strength with the highest mean PSNR on the held-out photographs."""
    scores = dict.fromkeys(STRENGTHS, 0.0)
    for source in expand(["samples:test"]):
        clean = np.ascontiguousarray(as_float(source.load("refuse"))[40:232, 60:252])
        bad = np.clip(word.apply(clean, SampleKey(7, pixel_hash(clean))), 0, 1)
        for strength in STRENGTHS:
            scores[strength] += psnr(method(bad, strength), clean)
    return max(scores, key=scores.__getitem__)


def baselines(name: str, data: list[Path]) -> pd.DataFrame:
    """Rows of the classical methods and of the input itself."""
    found = []
    methods = SHARPENERS if name == "deblur" else METHODS
    for word in confounder_set(TESTS[name]):
        nets = [Net("input", None)]
        for label, method in methods.items():
            strength = best_strength(method, word)
            nets.append(Net(label, Function(lambda image, m=method, s=strength: m(image, s))))
        found.append(measure(nets, data, str(word)))
        print(found[-1].groupby("net")["psnr"].mean().to_dict(), str(word), flush=True)
    return pd.concat(found, ignore_index=True)


def of_net(name: str, source: str, data: list[Path]) -> pd.DataFrame:
    """Rows of the net, on the distortions of its table and on those outside its training."""
    net = open_net(source)
    net = Net(f"zoo:{name}", net.module, net.trained, f"zoo:{name}", net.metadata)
    return measure([net], data, f"{TESTS[name]} | {OUTSIDE[name]}")


def pack(name: str, source: str, rows: list[Path]) -> None:
    """Put a run into the zoo."""
    run = Path(source)
    folder = ZOO / name
    folder.mkdir(parents=True, exist_ok=True)
    loaded = checkpoint.load(checkpoint.find_checkpoint(source))
    notes = {key: value for key, value in loaded.metadata.items() if key not in ("format", "weights")}
    notes["versions"] = {**notes["versions"], "platform": MACHINE}
    if notes.get("images") is None:  # a run that looked at no image to note it
        seen = open_store(loaded.recipe).seen_images(loaded.recipe.data.split)
        chosen = SeenImages(
            [perceptual_hash(i.load("refuse")) for i in expand(loaded.recipe.validation.images)]
        )
        known = Provenance.from_metadata({**notes, "images": seen.to_json(), "selection": chosen.to_json()})
        notes |= known.to_metadata()
    checkpoint.save_weights(folder / "net.safetensors", loaded.net, None, loaded.recipe, notes)
    (folder / "net.safetensors").chmod(0o644)
    (folder / "recipe.yaml").write_text(to_yaml(resolved(loaded.recipe)), encoding="utf-8")
    log = pd.read_csv(run / "metrics.csv")
    log.round(5).to_csv(folder / "log.csv", index=False)
    kept = ["net", "set", "image", "distortion", "type", "degree", "psnr", "ssim", "input_psnr", "seconds"]
    whole = pd.concat([pd.read_csv(path) for path in rows], ignore_index=True)[kept]
    decimals = {"psnr": 4, "ssim": 5, "input_psnr": 4, "seconds": 4}
    whole.round(decimals).to_csv(folder / "rows.csv", index=False)
    index = json.loads((ZOO / "index.json").read_text(encoding="utf-8"))
    index[name] = {
        "about": ABOUT[name],
        "parameters": sum(p.numel() for p in loaded.net.parameters()),
        "licence": "MIT",
        "test": TESTS[name],
        "weights": checkpoint.digest(folder / "net.safetensors"),
    }
    order = {known: index[known] for known in ABOUT if known in index}
    (ZOO / "index.json").write_text(json.dumps(order, indent=1) + "\n", encoding="utf-8")
    (folder / "card.md").write_text(card(name, loaded.recipe, log), encoding="utf-8")


def card(name: str, recipe: Recipe, log: pd.DataFrame) -> str:
    """What a user has to know of a net, as Markdown."""
    facts = json.loads((ZOO / "index.json").read_text(encoding="utf-8"))[name]
    rows = pd.read_csv(ZOO / name / "rows.csv")
    own = rows[rows["net"] == f"zoo:{name}"]
    outside = "\n".join(
        f"| `{word.label}` | {found['input_psnr'].mean():.2f} | {found['psnr'].mean():.2f} |"
        for word in confounder_set(OUTSIDE[name])
        if len(found := own[own["distortion"] == word.label])
    )
    images = {image.name: image.licence for image in expand(["samples:free"])}
    photographs = "\n".join(f"- `{image}`: {licence}" for image, licence in images.items())
    validated = log.dropna(subset=["val/seen"])
    first, last = validated.iloc[0], validated.iloc[-1]
    return f"""# zoo:{name}

Removes {facts["about"]}.
{facts["parameters"]:,} parameters; `dilkit restore photo.jpg --net {name}`.

## What it saw

Distortions:

{chr(10).join(f"- `{word}`" for word in confounder_set(recipe.data.distort))}

Images: {", ".join(f"`{source}`" for source in recipe.data.sources or ())}. Scenes and dead leaves are drawn
by dilkit from a seed. The photographs and textures are those of scikit-image with a stated free licence:

{photographs}

## What it does

Mean PSNR in dB over every third image of CBSD68 ({own["image"].nunique()} images, none of them seen, nor used
to choose a weight or a setting); `rows.csv` has each.

{table(name)}

The strength of each classical method is the best for each line on two other photographs; the net is told
nothing.

## Where it fails

{LIMITS[name]}

Besides the table, mean PSNR on the same images:{MOVED.get(name, "")}

| | input | output |
|---|---|---|
{outside}

## How it was made

    dilkit train zoo/{name} --out runs/{name}

One run, seed {recipe.seed}; {recipe.steps} steps in {log["seconds"].iloc[-1] / 60:.0f} minutes of a busy core
({MACHINE}, bfloat16 forward passes). On two photographs that no net of the zoo is trained on, the mean over
its distortions went from {first["val/seen"]:.2f} dB at step {first["step"]:.0f}
to {last["val/seen"]:.2f} dB at step {last["step"]:.0f} (`log.csv`).
The last checkpoint is shipped; no weight and no setting was chosen on CBSD68.{MADE.get(name, "")}

## Licence

{facts["licence"]}, as dilkit. No image is part of it, and each that it was trained on may be used for any
purpose.
"""


def table(name: str) -> str:
    """Mean PSNR by distortion and method, and seconds an image, as Markdown."""
    rows = pd.read_csv(ZOO / name / "rows.csv")
    rows = rows[rows["distortion"].isin(confounder_set(TESTS[name]).labels)]
    means = rows.pivot_table("psnr", "distortion", "net", sort=False)
    order = ["input", *(n for n in means if n not in ("input", f"zoo:{name}")), f"zoo:{name}"]
    lines = ["| | " + " | ".join(order) + " |", "|---" * (len(order) + 1) + "|"]
    for label, values in means[order].iterrows():
        best = max(values)
        cells = [f"**{v:.2f}**" if v == best else f"{v:.2f}" for v in values]
        lines.append(f"| `{label}` | " + " | ".join(cells) + " |")
    spent = rows.groupby("net")["seconds"].median()
    cells = [f"{spent[net]:.2f}" if spent[net] else "-" for net in order]
    return "\n".join([*lines, "| CPU seconds an image | " + " | ".join(cells) + " |"])


def write_page() -> None:
    """The tables of every packed net into docs/zoo.md, between its two marks."""
    page = ROOT / "docs" / "zoo.md"
    head, _, rest = page.read_text(encoding="utf-8").partition("<!-- nets -->\n")
    index = json.loads((ZOO / "index.json").read_text(encoding="utf-8"))
    parts = [
        f"### zoo:{name}\n\n{facts['about'][0].upper() + facts['about'][1:]}.\n\n{table(name)}\n"
        for name, facts in index.items()
    ]
    page.write_text(
        f"{head}<!-- nets -->\n{chr(10).join(parts)}<!-- end -->{rest.partition('<!-- end -->')[2]}", "utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["baselines", "net", "pack", "table"])
    parser.add_argument("name", nargs="?", default="denoise", choices=list(TESTS))
    parser.add_argument("--net", help="the run, or any net")
    parser.add_argument("--data", type=Path, help="a folder of test images")
    parser.add_argument("--rows", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if given.what == "pack":
        pack(given.name, given.net, given.rows)
        return
    if given.what == "table":
        write_page()
        return
    data = sorted(path for path in given.data.iterdir() if path.suffix == ".png")[::EVERY]
    started = time.perf_counter()
    rows = baselines(given.name, data) if given.what == "baselines" else of_net(given.name, given.net, data)
    rows.to_csv(given.out, index=False)
    print(rows.groupby(["distortion", "net"], sort=False)["psnr"].mean().round(2).to_string())
    print(f"{len(data)} images, {time.perf_counter() - started:.0f} s, {platform.machine()}, one thread")


if __name__ == "__main__":
    main()
