"""Further metrics, through well-kept libraries: the extra `dilkit[metrics]`. None is loaded unless asked for.

Images are compared as PSNR and SSIM compare them (clamped and rounded unless told otherwise), in RGB.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.errors import UsageError, nearest

Levels = npt.NDArray[np.float64]
Compare = Callable[[Levels, Levels], float]
"""(restored, clean), (H, W, 3) on 0..255 -> value."""

_MS_SSIM_SIDE = 11 * 2**4
"""The window of 11 on the image halved four times: torchmetrics takes no smaller side."""


@dataclass(frozen=True)
class Extra:
    """Attributes:
    higher_is_better: the direction.
    weights: which weights it downloads or needs; empty for none.
    library: the package it comes from.
    """

    name: str
    higher_is_better: bool
    weights: str
    library: str
    make: Callable[[], Compare]


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


EXTRAS = {
    extra.name: extra
    for extra in (
        Extra("ms_ssim", True, "", "torchmetrics", _ms_ssim),
        Extra(
            "lpips", False, "torchvision's AlexNet (ImageNet, 233 MB)", "torchmetrics and torchvision", _lpips
        ),
        Extra(
            "dists", False, "torchvision's VGG16 (ImageNet, 528 MB)", "torchmetrics and torchvision", _dists
        ),
        Extra("niqe", False, "", "pyiqa (mind its licence: not free for every use)", _niqe),
    )
}


def make_extras(names: Sequence[str]) -> dict[str, Compare]:
    """The metrics by name.

    Raises:
        UsageError: an unknown metric, or one whose library or weights are not there.
    """
    made: dict[str, Compare] = {}
    for name in names:
        if name not in EXTRAS:
            raise UsageError(
                f"unknown metric {name!r}", expected=", ".join(EXTRAS), nearest=nearest(name, EXTRAS)
            )
        try:
            made[name] = EXTRAS[name].make()
        except ImportError as error:
            raise UsageError(
                f"the metric {name} cannot be used",
                found=str(error).splitlines()[0],
                expected=f"{EXTRAS[name].library}; weights: {EXTRAS[name].weights or 'none'}",
                remedy=f"pip install {(error.name or EXTRAS[name].library).partition('.')[0]}",
            ) from None
    return made


def _unit(levels: Levels) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(levels.transpose(2, 0, 1)[None] / 255))
