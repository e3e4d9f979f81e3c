"""Rain, haze and fog: layers drawn by the key, laid over the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families import _curves, _kernels
from dilkit.distortions.families._filters import inner
from dilkit.distortions.families._lattice import plasma, stretched_plasma
from dilkit.distortions.params import Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant


def _rain(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    kernel = _kernels.streak(params["length"], params["angle"], params["width"])
    streaks = inner(_drops(draw, params["density"], kernel.shape[0] // 2), kernel)
    streaks *= np.float32(params["opacity"])
    np.minimum(streaks, np.float32(1), out=streaks)
    if params["blend"] == "add":
        return image + streaks
    out = np.float32(1) - image
    out *= np.float32(1) - streaks
    return np.subtract(np.float32(1), out, out=out)


def _drops(draw: Draw, density: float, pad: int) -> Image:
    """(h, w, 1): zero, or where a streak is, its brightness, uniform on (0, 1]."""
    lot = draw.uniform(1, pad=pad)
    return np.where(lot < np.float32(density), np.float32(1) - lot * np.float32(1 / max(density, 1e-9)), 0)


def _haze(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    transmission, airlight = params["transmission"], np.float32(params["airlight"])
    through: Any = np.float32(transmission)
    if params["variation"]:
        veil = _curves.attenuation(transmission, params["variation"])
        through = veil(plasma(draw, 2.0))[..., None]
    out = image - airlight
    out *= through
    out += airlight
    return out


def _still(params: Mapping[str, Any]) -> bool:
    return not params["variation"]


def _fog(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    density = np.float32(params["density"])
    cloud = stretched_plasma(draw, params["decay"])
    cloud *= density
    out = image + cloud[..., None]
    out /= np.float32(1) + density
    return out


rain = REGISTRY.add(
    PrimitiveKind(
        name="rain",
        family="weather",
        summary="Bright streaks of one direction.",
        source="additive model of Li et al. 2016; screen blend of Luo et al. 2015",
        params=(
            Param("density", float, low=0, high=0.5, unit="streaks/px", doc="0.002 is light, 0.02 heavy"),
            Param("length", int, default=15, low=1, high=127, unit="px", doc="of a streak"),
            Param("angle", float, default=80.0, low=-360, high=360, unit="degrees", doc="90 falls upright"),
            Param("width", float, default=0.5, low=0.05, high=8, unit="px", doc="deviation across a streak"),
            Param("opacity", float, default=0.8, low=0, high=1, doc="brightness of the brightest streak"),
            Param("blend", str, default="add", choices=("add", "screen"), doc="how streaks meet the image"),
        ),
        apply=_rain,
        degree="density",
        random=True,
        work=lambda params: 4.0 * params["length"] * (8 * params["width"] + 1),
        symmetries=(
            Symmetry("offset", when=lambda params: params["blend"] == "add"),
            Symmetry("rotate", angles=("angle",), holds="law"),
            Symmetry("flip", angles=("angle",), holds="law"),
            Symmetry("scale", {"length": 1, "width": 1, "density": -2}, holds="fine"),
            *invariant("permute"),
        ),
    )
)

haze = REGISTRY.add(
    PrimitiveKind(
        name="haze",
        family="weather",
        summary="image * t + airlight * (1 - t), t the transmission.",
        source="Koschmieder's law; Narasimhan and Nayar 2002",
        params=(
            Param("transmission", float, low=0.001, high=1, doc="fraction of the light that passes"),
            Param("airlight", float, default=0.9, low=0, high=1, doc="grey value of the veil"),
            Param(
                "variation",
                float,
                default=0.0,
                low=0,
                high=1,
                doc="how far the optical depth varies about its mean, as a fraction; 0: nowhere",
            ),
        ),
        apply=_haze,
        degree="transmission",
        random=True,
        work=lambda params: 50.0,
        symmetries=(*invariant("permute"), Symmetry("rotate", when=_still), Symmetry("flip", when=_still)),
    )
)

fog = REGISTRY.add(
    PrimitiveKind(
        name="fog",
        family="weather",
        summary="(image + density * cloud) / (1 + density), the cloud a plasma fractal on all of [0, 1].",
        source="Hendrycks and Dietterich 2019, with a cloud that can be made in windows",
        notes="1 stands for the brightest value of the image.",
        params=(
            Param("density", float, low=0, high=10, doc="weight of the cloud"),
            Param(
                "decay",
                float,
                default=2.0,
                low=1,
                high=8,
                doc="higher is smoother: its square is the ratio of one scale to the next",
            ),
        ),
        apply=_fog,
        version=2,
        degree="density",
        random=True,
        work=lambda params: 50.0,
        symmetries=invariant("permute"),
    )
)
