"""Before and after on crops that a rule chooses, so that nobody can choose them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from dilkit.distortions import as_float, confounder_set
from dilkit.errors import UsageError
from dilkit.evaluation.degrade import Degradation
from dilkit.evaluation.grid import restore_told
from dilkit.evaluation.testsets import Data, find_images
from dilkit.inference.nets import Net
from dilkit.metrics import psnr

RULE = (
    "Of all test images under the distortion on which the nets are worst on average, those with the best, "
    "the median and the worst mean PSNR over the nets; of each, the crop whose error is the median of its "
    "crops."
)


@dataclass(frozen=True)
class Crop:
    """One place of one image.

    Attributes:
        rank: among the test images: best, median or worst.
        tiles: the clean one, the input and each net's output: a name, a PNG as a data URI, and its PSNR.
    """

    rank: str
    image: str
    distortion: str
    tiles: list[tuple[str, str, float | None]]


def choose_crops(
    rows: pd.DataFrame, nets: Sequence[Net], data: Data, settings: dict[str, Any], side: int = 160
) -> list[Crop]:
    """The crops that `RULE` names; pixels are made again, by the settings of the rows.

    Raises:
        UsageError: `data` does not hold the images of the rows.
    """
    labels = [net.label for net in nets if net.module is not None]
    own = rows[rows["net"].isin(labels) & rows["type"].ne("clean") & rows["distortion"].ne("given")]
    if not len(own):
        return []
    worst = str(own.groupby("distortion")["psnr"].mean().idxmin())
    ranked = (
        own[own["distortion"] == worst].groupby(["set", "image"])["psnr"].mean().sort_values(ascending=False)
    )
    places = {0: "best", len(ranked) - 1: "worst"}
    places = {0: "best", len(ranked) // 2: "median"} | places  # of one image or two, each once
    there = {(image.set, image.name): image for image in find_images(data)}
    word = confounder_set(settings["distort"])[worst]
    degrade = Degradation(settings["seed"], settings["clip"], settings["quantize"], settings["noise"])
    made = []
    for place, rank in sorted(places.items()):
        key = ranked.index[place]
        if key not in there:
            raise UsageError("the data does not hold a measured image", found=data, expected="/".join(key))
        clean = there[key].read()
        given = degrade(clean, word)
        outputs = {
            net.label: restore_told(net.module, given, word, net.device)
            for net in nets
            if net.module is not None
        }
        box = _median_box(as_float(clean), list(outputs.values()), side)
        tiles: list[tuple[str, str, float | None]] = [("clean", _png(as_float(clean)[box]), None)]
        for label, image in {"input": given, **outputs}.items():
            tiles.append((label, _png(image[box]), psnr(image[box], clean[box])))
        made.append(Crop(rank, "/".join(key), worst, tiles))
    return made


def unseen_crops(
    rows: pd.DataFrame, nets: Sequence[Net], data: Data, settings: dict[str, Any], side: int = 160
) -> list[Crop]:
    """The middle crop of `choose_crops` among distortions of unseen degrees, and among those of unseen types;
    among all of them where there are neither.

    Raises:
        UsageError: `data` does not hold the images of the rows.
    """
    novelty = rows["novelty"].replace("reached", "degree")
    parts = [rows[novelty == kind] for kind in ("degree", "type")]
    parts = [part for part in parts if len(part)] or [rows]
    chosen = [choose_crops(part, nets, data, settings, side) for part in parts]
    return [crops[len(crops) // 2] for crops in chosen if crops]


def crop_pixels(uri: str) -> npt.NDArray[np.uint8]:
    """The (H, W, 3) RGB pixels of one of a crop's PNG data URIs."""
    data = np.frombuffer(base64.b64decode(uri.partition(",")[2]), np.uint8)
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert decoded is not None
    return np.asarray(decoded[..., ::-1], np.uint8)


def _median_box(
    clean: npt.NDArray[np.float32], outputs: list[npt.NDArray[np.float32]], side: int
) -> tuple[slice, slice]:
    height, width = clean.shape[:2]
    side = min(side, height, width)
    error = np.mean([((out.clip(0, 1) - clean) ** 2).mean(axis=2) for out in outputs], axis=0)
    boxes = [
        (slice(y, y + side), slice(x, x + side))
        for y in range(0, height - side + 1, side)
        for x in range(0, width - side + 1, side)
    ]
    return sorted(boxes, key=lambda box: float(error[box].mean()))[len(boxes) // 2]


def _png(image: npt.NDArray[np.float32]) -> str:
    levels = np.rint(image.clip(0, 1) * 255).astype(np.uint8)
    _, file = cv2.imencode(".png", levels[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 9])
    return "data:image/png;base64," + base64.b64encode(file.tobytes()).decode()
