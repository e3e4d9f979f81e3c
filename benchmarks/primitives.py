"""Our primitives against albumentations on 8-bit images, one core, in one run.

Every row runs its sides in turn, in blocks, many times, and prints the ratio of their median processor times
(of one thread; OpenCV's own are off), so that what else the machine does hardly counts. `ours` is a word
applied to a (256, 256, 3) float32 image, keys and all; `8 bit` adds the way there from 8-bit pixels and back
to them (clipped and rounded). JPEG is held against its target from 8 bits to 8 bits.

    python benchmarks/primitives.py            # the table; exit code 1 where a ratio is below its target
    python benchmarks/primitives.py --all      # every primitive, ours alone too
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import albumentations as A
import cv2
import numpy as np
import skimage.data

from dilkit.distortions import SampleKey, as_float, parse
from dilkit.distortions.render import keep_freed_memory, to_levels

SIZE = 256
Run = Callable[[], Any]

ROWS: list[tuple[str, str, Callable[[], A.ImageOnlyTransform], float | None]] = [
    ("AWGN sigma 25", "awgn(25)", lambda: A.GaussNoise(std_range=(25 / 255, 25 / 255), p=1), 3),
    ("Poisson", "poisson(1)", lambda: A.ShotNoise(scale_range=(1 / 256, 1 / 256), p=1), 6),
    (
        "speckle",
        "speckle(0.024)",
        lambda: A.MultiplicativeNoise(multiplier=(0.7, 1.3), elementwise=True, per_channel=True, p=1),
        None,
    ),
    ("salt and pepper", "salt_pepper(0.05)", lambda: A.SaltAndPepper(amount=(0.05, 0.05), p=1), None),
    (
        "Gaussian blur sigma 2",
        "gaussian_blur(2)",
        lambda: A.GaussianBlur(sigma_limit=(2, 2), blur_limit=0, p=1),
        1 / 1.1,
    ),
    (
        "motion blur 15",
        "motion_blur(15, angle=30)",
        lambda: A.MotionBlur(blur_limit=(15, 15), allow_shifted=False, p=1),
        8,
    ),
    (
        "21 x 21 kernel",
        "anisotropic_blur(3, across=1.5, angle=30, radius=10)",
        lambda: A.AdvancedBlur(
            blur_limit=(21, 21), sigma_x_limit=(3, 3), sigma_y_limit=(1.5, 1.5), noise_limit=(1, 1), p=1
        ),
        None,
    ),
    ("defocus 5", "defocus(5)", lambda: A.Defocus(radius=(5, 5), alias_blur=(0.1, 0.1), p=1), None),
    ("JPEG 30", "jpeg(30)", lambda: A.ImageCompression(quality_range=(30, 30), p=1), 1 / 1.1),
    ("fog", "fog(1.5)", lambda: A.RandomFog(fog_coef_range=(0.5, 0.5), p=1), 20),
    ("haze", "haze(0.5, variation=0.5)", lambda: A.RandomFog(fog_coef_range=(0.5, 0.5), p=1), 20),
    ("rain", "rain(0.005)", lambda: A.RandomRain(p=1), None),
]
OURS = [
    "awgn(25, channels='grey')",
    "awgn(25, channels='correlated')",
    "poisson(1, peak=10)",
    "poisson(1, channels='grey')",
    "speckle(0.024, law='uniform')",
    "correlated_noise(50)",
    "camera_noise(0.01, camera='sony-a7r')",
    "sinc(1.5)",
    "glass_blur(4, sigma=1.5)",
    "elastic(29.28, sigma=2.44)",
    "elastic(488, sigma=19.52, jitter=48.8)",
    "snow(0.55, zoom=4.5, threshold=0.85, length=17, whiten=0.35)",
    "frost(0.7)",
    "webp(30)",
    "updown(0.5)",
    "downsample(4)",
    "pixelate(0.4)",
    "low_light(2.5)",
    "brightness(0.2)",
    "contrast(0.5)",
    "clip",
    "quantize",
]


def photo() -> np.ndarray:
    """A (256, 256, 3) uint8 photograph."""
    return cv2.resize(skimage.data.astronaut(), (SIZE, SIZE), interpolation=cv2.INTER_AREA)


def block(run: Run, repeats: int) -> float:
    """Processor time of one call, the mean of several in a row; two more go before to warm the caches."""
    run()
    run()
    start = time.thread_time()
    for _ in range(repeats):
        run()
    return (time.thread_time() - start) / repeats


def interleaved(runs: list[Run], seconds: float) -> list[list[float]]:
    """Times of each, taken in turn in blocks of 5 ms or more, for about so long in all."""
    first = [block(run, 3) for run in runs]
    repeats = [max(3, round(0.005 / time)) for time in first]
    turns = max(7, int(seconds / sum((n + 2) * time for n, time in zip(repeats, first, strict=True))))
    times = [[block(run, n) for run, n in zip(runs, repeats, strict=True)] for _ in range(turns)]
    return [list(column) for column in zip(*times, strict=True)]


def ours(expression: str, image: np.ndarray) -> Run:
    word, state = parse(expression), [0]

    def run() -> np.ndarray:
        state[0] += 1
        return word.apply(image, SampleKey(state[0], b"a photograph"))

    return run


def eight_bit(expression: str, image: np.ndarray) -> Run:
    word, state = parse(expression), [0]

    def run() -> np.ndarray:
        state[0] += 1
        key = SampleKey(state[0], b"a photograph")
        if word.eight_bit:
            return word.levels(image, key)
        return to_levels(word.apply(as_float(image), key))

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.5, help="time for each row")
    parser.add_argument("--all", action="store_true", help="every primitive, ours alone too")
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="both sides keep freed memory, as the workers of `dilkit augment` do; theirs gains most",
    )
    options = parser.parse_args()
    cv2.setNumThreads(0)
    if options.keep_memory:
        keep_freed_memory()
    bytes8 = photo()
    image = as_float(bytes8)
    print(f"{'':24}{'ours':>7}{'ours 8 bit':>12}{'theirs 8 bit':>14}{'theirs float':>14}   us each")
    print(f"{'':24}{'ratio: theirs 8 bit / ours':>33}{'/ ours 8 bit':>14}   target")
    missed = 0
    for name, expression, transform, target in ROWS:
        theirs = transform()
        runs = [
            ours(expression, image),
            eight_bit(expression, bytes8),
            lambda theirs=theirs: theirs(image=bytes8),
            lambda theirs=theirs: theirs(image=image),
        ]
        times = interleaved(runs, options.seconds)
        micro = [statistics.median(side) * 1e6 for side in times]
        ratio, ratio8 = micro[2] / micro[0], micro[2] / micro[1]
        ok = target is None or (ratio8 if parse(expression).eight_bit else ratio) >= target
        missed += not ok
        goal = "" if target is None else f"{target:.2f}{'' if ok else ' missed'}"
        print(f"{name:24}{micro[0]:7.0f}{micro[1]:12.0f}{micro[2]:14.0f}{micro[3]:14.0f}")
        print(f"{'':24}{ratio:33.2f}{ratio8:14.2f}   {goal}", flush=True)
    for expression in OURS if options.all else []:
        (times,) = interleaved([ours(expression, image)], options.seconds / 3)
        print(f"{expression:40}{statistics.median(times) * 1e6:9.0f}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
