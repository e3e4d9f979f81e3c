"""Metrics beside PSNR and SSIM: a registry of them, and those of well-kept libraries (`dilkit[metrics]`).

Images are compared as PSNR and SSIM compare them (clamped and rounded unless told otherwise), in RGB. No
library is loaded unless its metric is asked for.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.errors import UsageError
from dilkit.registry import Registry

Levels = npt.NDArray[np.float64]
Compare = Callable[[Levels, Levels], float]
"""(restored, clean), both (H, W, 3) RGB on the 0..255 scale -> value."""

_MS_SSIM_SIDE = 11 * 2**4
"""The window of 11 on the image halved four times: torchmetrics takes no smaller side."""


@dataclass(frozen=True)
class Metric:
    """A further metric. `dilkit.register(Metric("mine", lambda: compare))` adds one.

    Attributes:
        name: its column in the rows.
        make: loads what it needs and returns the comparison.
        higher_is_better: the direction.
        library: the package it comes from, named where it is missing.
        weights: which weights it downloads or needs; empty for none.
    """

    name: str
    make: Callable[[], Compare]
    higher_is_better: bool = True
    library: str = ""
    weights: str = ""


def _ms_ssim() -> Compare:
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as measure

    def compare(a: Levels, b: Levels) -> float:
        if min(b.shape[:2]) < _MS_SSIM_SIDE:
            raise UsageError(
                "an image is too small for ms_ssim, which halves it four times",
                found=f"{b.shape[1]}x{b.shape[0]} pixels compared",
                expected=f"sides of at least {_MS_SSIM_SIDE}",
                remedy="leave out --metric ms_ssim, or measure larger images",
            )
        return float(measure(_unit(a), _unit(b), data_range=1.0))

    return compare


def _lpips() -> Compare:
    importlib.import_module("torchvision")  # torchmetrics asks for it no sooner than at the first image
    from torchmetrics.functional.image import learned_perceptual_image_patch_similarity as measure

    return lambda a, b: float(measure(_unit(a).float(), _unit(b).float(), net_type="alex", normalize=True))


def _dists() -> Compare:
    importlib.import_module("torchvision")
    from torchmetrics.functional.image import deep_image_structure_and_texture_similarity as measure

    return lambda a, b: float(measure(_unit(a).float(), _unit(b).float()))


def _niqe() -> Compare:
    measure = importlib.import_module("pyiqa").create_metric("niqe")
    return lambda a, _: float(measure(_unit(a).float()))


def _accept(name: str, metric: Metric) -> None:
    if not isinstance(metric, Metric) or not name.isidentifier():
        raise UsageError(
            "not a metric",
            where=name,
            found=type(metric).__name__,
            expected="a Metric whose name is an identifier",
        )
    if name in ("psnr", "ssim"):
        raise UsageError("the name is taken", where=name, expected="another name than psnr and ssim")


METRICS: Registry[Metric] = Registry("metric", check=_accept, is_one=lambda x: isinstance(x, Metric))
_BOTH = "torchmetrics and torchvision"
for _metric in (
    Metric("ms_ssim", _ms_ssim, library="torchmetrics"),
    Metric("lpips", _lpips, False, _BOTH, "torchvision's AlexNet (ImageNet, 233 MB)"),
    Metric("dists", _dists, False, _BOTH, "torchvision's VGG16 (ImageNet, 528 MB)"),
    Metric("niqe", _niqe, False, "pyiqa (mind its licence: not free for every use)"),
):
    METRICS.add(_metric)


def make_metrics(names: Sequence[str]) -> dict[str, Compare]:
    """The comparisons by name.

    Raises:
        UsageError: an unknown metric, or one whose library or weights are not there.
    """
    made: dict[str, Compare] = {}
    for name in names:
        metric = METRICS.get(name)
        try:
            made[name] = metric.make()
        except ImportError as error:
            raise UsageError(
                f"the metric {name} cannot be used",
                found=str(error).splitlines()[0],
                expected=f"{metric.library}; weights: {metric.weights or 'none'}",
                remedy=f"pip install {(error.name or metric.library).partition('.')[0]}",
            ) from None
    return made


def check_metric(metric: Metric, side: int = 192) -> None:
    """The conformance check of a metric, on an image of `side` squared pixels with weak and strong noise.

    Raises:
        UsageError: it is not registered under its name's rules, returns no number, changes its arguments or
            its mind, or finds the noisier image better than it says.
    """
    _accept(metric.name, metric)
    compare = metric.make()
    random = np.random.default_rng(0)
    coarse = random.uniform(40, 215, (side // 16, side // 16, 3)).repeat(16, 0).repeat(16, 1)
    clean = np.rint(coarse)
    weak, strong = (np.rint((clean + random.normal(0, s, clean.shape)).clip(0, 255)) for s in (4, 40))
    kept = [x.copy() for x in (weak, strong, clean)]
    values = [compare(weak, clean), compare(strong, clean), compare(weak, clean)]
    if not all(isinstance(v, float | int) and not math.isnan(v) for v in values):
        raise UsageError("the metric returns no number", where=metric.name, found=values)
    if any(not np.array_equal(a, b) for a, b in zip(kept, (weak, strong, clean), strict=True)):
        raise UsageError("the metric changes the images it is given", where=metric.name)
    if values[0] != values[2]:
        raise UsageError(
            "the metric gives two values for the same images",
            where=metric.name,
            found=f"{values[0]}, {values[2]}",
        )
    if (values[0] > values[1]) is not metric.higher_is_better:
        raise UsageError(
            "weak noise is measured as worse than strong noise",
            where=metric.name,
            found=f"{values[0]:.4g} for sigma 4, {values[1]:.4g} for sigma 40",
            expected="higher_is_better to say which is better",
        )


def _unit(levels: Levels) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)[None] / 255))
