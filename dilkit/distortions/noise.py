"""Noises. Nothing is clipped or rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dilkit.distortions import _poisson
from dilkit.distortions.draw import Draw
from dilkit.distortions.primitive import GLOBAL, POINT, REGISTRY, Image, Locality, Param, PrimitiveKind


def _awgn(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    noise = draw.normal(1 if params["channels"] == "grey" else 3)
    noise *= np.float32(params["sigma"] / 255)
    return image + noise


def _poisson_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    peak = np.float32(_unique_peak(image) if params["legacy"] else params["peak"])
    rate = np.maximum(image, np.float32(0))
    rate *= peak
    noise = _poisson.counts(rate, draw)
    noise -= rate
    noise *= np.float32(params["alpha"]) / peak
    noise += image
    return noise


def _unique_peak(image: Image) -> float:
    return float(2 ** math.ceil(math.log2(len(np.unique(image)))))


def _poisson_locality(params: Mapping[str, Any]) -> Locality:
    return GLOBAL if params["legacy"] else POINT


def _speckle(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    scale = math.sqrt(params["variance"])
    if params["law"] == "uniform":
        factor = draw.uniform(3)
        factor -= np.float32(0.5 - 2.0**-25)
        scale *= math.sqrt(12)
    else:
        factor = draw.normal(3)
    factor *= np.float32(scale)
    factor += np.float32(1)
    factor *= image
    return factor


awgn = REGISTRY.add(
    PrimitiveKind(
        name="awgn",
        family="noise",
        summary="Additive white Gaussian noise.",
        source="standard protocol of Gaussian denoising; sigma on the 0..255 scale",
        params=(
            Param("sigma", float, low=0, high=255, unit="1/255", doc="standard deviation"),
            Param(
                "channels",
                str,
                default="colour",
                choices=("colour", "grey"),
                doc="colour: independent; grey: one field for all three",
            ),
        ),
        apply=_awgn,
        degree="sigma",
        random=True,
    )
)

poisson = REGISTRY.add(
    PrimitiveKind(
        name="poisson",
        family="noise",
        summary="alpha-Poisson noise: image + alpha * (Poisson(image * peak) / peak - image).",
        source="Real-ESRGAN, BSRGAN; alpha = 1 is the noise of `peak` photons at white",
        params=(
            Param("alpha", float, low=0, high=20, doc="gain on the noise; its variance is alpha**2 x / peak"),
            Param("peak", float, default=256.0, low=1e-3, high=65536, unit="photons", doc="rate at white"),
            Param(
                "legacy",
                bool,
                default=False,
                doc="peak = 2 ** ceil(log2(unique values of the whole image)), as BasicSR and KAIR do",
            ),
        ),
        apply=_poisson_noise,
        locality=_poisson_locality,
        degree="alpha",
        random=True,
    )
)

speckle = REGISTRY.add(
    PrimitiveKind(
        name="speckle",
        family="noise",
        summary="Multiplicative noise: image * (1 + n).",
        source="MATLAB imnoise (uniform law), scikit-image random_noise (Gaussian law)",
        params=(
            Param("variance", float, low=0, high=1, doc="variance of n"),
            Param("law", str, default="gaussian", choices=("gaussian", "uniform"), doc="law of n"),
        ),
        apply=_speckle,
        degree="variance",
        random=True,
    )
)
