"""Blurs. Widths are in pixels; the border is reflected, its edge not repeated.

Where no radius cuts it, `gaussian_blur` has its standard deviation exactly. The kernels in two dimensions are
samples of their laws, as those of the papers are: below half a pixel they are narrower than they say.

Angles are in degrees, counter-clockwise from the x axis. Where a kernel has a `radius`, it is
2 radius + 1 pixels wide, and 0 stands for as wide as its law needs (3 sigma where the law is sampled a little
wider to keep its standard deviation, 4 sigma in two dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families import _kernels
from dilkit.distortions.families._filters import correlate, separable
from dilkit.distortions.params import GLOBAL, Locality, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant

_SIGMA = Param("sigma", float, low=0.05, high=64, unit="px", doc="standard deviation")
_ALONG = replace(_SIGMA, doc="width along the axis, of the law whose samples are the kernel")
_ACROSS = Param(
    "across",
    float,
    default=0.0,
    low=0,
    high=64,
    unit="px",
    doc="deviation across the axis; 0: sigma, a circle",
)
_ANGLE = Param("angle", float, default=0.0, low=-360, high=360, unit="degrees", doc="of the axis")
_RADIUS = Param(
    "radius", int, default=0, low=0, high=256, unit="px", doc="half the kernel; 0: as wide as it needs"
)
_SHAPE = Param("beta", float, low=0.1, high=16, doc="shape; 1 is the Gaussian for the generalised law")
_CUT = Param("radius", int, default=10, low=1, high=64, unit="px", doc="half the kernel")


def _gaussian_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    sigma, radius = params["sigma"], params["radius"]
    kernel = _kernels.gaussian_cut(sigma, radius) if radius else _kernels.gaussian(sigma)
    return separable(image, kernel, kernel)


def _elliptic(law: str, image: Image, params: Mapping[str, Any]) -> Image:
    across = params["across"] or params["sigma"]
    sizes = params["sigma"], across, params["angle"], params.get("beta", 1.0)
    return correlate(image, _kernels.elliptic(law, *sizes, _reach(params)))


def _anisotropic_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return _elliptic("gaussian", image, params)


def _generalised_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return _elliptic("generalised", image, params)


def _plateau_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return _elliptic("plateau", image, params)


def _gaussian_halo(params: Mapping[str, Any]) -> Locality:
    return Locality(params["radius"] or _kernels.gaussian_radius(params["sigma"]))


def _reach(params: Mapping[str, Any]) -> int:
    widest = max(params["sigma"], params["across"])
    return int(params["radius"]) or max(1, math.ceil(4 * widest))


def _halo(params: Mapping[str, Any]) -> Locality:
    return Locality(_reach(params))


def _elliptic_work(params: Mapping[str, Any]) -> float:
    return (2.0 * _reach(params) + 1) ** 2


_ELLIPTIC = (
    *invariant("contrast", "offset", "permute"),
    Symmetry("rotate", angles=("angle",)),
    Symmetry("flip", angles=("angle",)),
    Symmetry("scale", {"sigma": 1, "across": 1, "radius": 1}, holds="fine"),
)


def _sinc(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return correlate(image, _kernels.sinc(params["cutoff"], params["radius"]))


def _motion_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return correlate(image, _kernels.line(params["length"], params["angle"]))


def _motion_trail(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return correlate(image, _kernels.trail(params["sigma"], params["angle"], params["radius"]))


def _defocus(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return correlate(image, _kernels.disk(params["radius"]))


def _zoom_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    height, width = image.shape[:2]
    count = math.floor((params["zoom"] - 1) / params["step"] + 1e-9)
    total = image * np.float32(2)
    for k in range(1, count + 1):
        zoom = 1 + k * params["step"]
        about = np.array([[zoom, 0, (1 - zoom) * (width - 1) / 2], [0, zoom, (1 - zoom) * (height - 1) / 2]])
        total += cv2.warpAffine(
            image, about, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
        )
    total /= np.float32(count + 2)
    return total


gaussian_blur = REGISTRY.add(
    PrimitiveKind(
        name="gaussian_blur",
        family="blur",
        summary="Isotropic Gaussian blur.",
        source="Gaussian samples; where no radius cuts them, of exactly that deviation",
        params=(_SIGMA, _RADIUS),
        notes="Kernels that merely sample the law, as SciPy's and OpenCV's do, are narrower than they say "
        "below 1 px. Mean PSNR against the clean image on CBSD68, here and there, in dB: 41.2 and "
        "62.3 at 0.3, 36.4 and 42.1 at 0.4, 32.9 and 34.1 at 0.5, 28.5 both at 0.7; equal within 0.02"
        " from there on.",
        apply=_gaussian_blur,
        locality=_gaussian_halo,
        degree="sigma",
        work=lambda params: 4.0 * (params["radius"] or 3 * params["sigma"]) + 2,
        symmetries=(
            *invariant("contrast", "offset", "rotate", "flip", "permute"),
            Symmetry("scale", {"sigma": 1, "radius": 1}, holds="fine"),
        ),
    )
)

anisotropic_blur = REGISTRY.add(
    PrimitiveKind(
        name="anisotropic_blur",
        family="blur",
        summary="Gaussian blur of width sigma along an axis and `across` it.",
        source="BSRGAN, Real-ESRGAN",
        params=(_ALONG, _ACROSS, _ANGLE, _RADIUS),
        apply=_anisotropic_blur,
        locality=_halo,
        degree="sigma",
        work=_elliptic_work,
        symmetries=_ELLIPTIC,
    )
)

generalised_blur = REGISTRY.add(
    PrimitiveKind(
        name="generalised_blur",
        family="blur",
        summary="Blur by exp(-q**beta / 2), q the squared distance in the ellipse of sigma and `across`.",
        source="Real-ESRGAN, after Liu et al. 2020",
        params=(_ALONG, _ACROSS, _SHAPE, _ANGLE, _CUT),
        apply=_generalised_blur,
        locality=_halo,
        degree="sigma",
        work=_elliptic_work,
        symmetries=_ELLIPTIC,
    )
)

plateau_blur = REGISTRY.add(
    PrimitiveKind(
        name="plateau_blur",
        family="blur",
        summary="Blur by 1 / (1 + q**beta), q the squared distance in the ellipse of sigma and `across`.",
        source="Real-ESRGAN, after Liu et al. 2020",
        params=(_ALONG, _ACROSS, _SHAPE, _ANGLE, _CUT),
        apply=_plateau_blur,
        locality=_halo,
        degree="sigma",
        work=_elliptic_work,
        symmetries=_ELLIPTIC,
    )
)

sinc = REGISTRY.add(
    PrimitiveKind(
        name="sinc",
        family="blur",
        summary="Circular low-pass filter: ringing and overshoot.",
        source="Real-ESRGAN, section 3.3",
        params=(
            Param("cutoff", float, low=0.1, high=math.pi, unit="radians/px", doc="frequency kept up to"),
            _CUT,
        ),
        apply=_sinc,
        locality=lambda params: Locality(params["radius"]),
        degree="cutoff",
        work=lambda params: (2.0 * params["radius"] + 1) ** 2,
        symmetries=(
            *invariant("contrast", "offset", "rotate", "flip", "permute"),
            Symmetry("scale", {"cutoff": -1, "radius": 1}, holds="fine"),
        ),
    )
)

motion_blur = REGISTRY.add(
    PrimitiveKind(
        name="motion_blur",
        family="blur",
        summary="Blur along a line of `length` points one pixel apart.",
        source="uniform motion during exposure",
        params=(Param("length", int, low=1, high=255, unit="px", doc="points on the line"), _ANGLE),
        apply=_motion_blur,
        locality=lambda params: Locality(_kernels.line_radius(params["length"])),
        degree="length",
        work=lambda params: 4.0 * params["length"],
        symmetries=(
            *invariant("contrast", "offset", "permute"),
            Symmetry("rotate", angles=("angle",)),
            Symmetry("flip", angles=("angle",)),
            Symmetry("scale", {"length": 1}, holds="fine"),
        ),
    )
)

motion_trail = REGISTRY.add(
    PrimitiveKind(
        name="motion_trail",
        family="blur",
        summary="Blur along a line to one side, by half a Gaussian at 2 radius + 1 points one pixel apart.",
        source="Hendrycks and Dietterich 2019, motion blur (ImageMagick's)",
        params=(
            Param("sigma", float, low=0.1, high=64, unit="px", doc="deviation of the whole Gaussian"),
            Param("radius", int, default=10, low=1, high=64, unit="px", doc="half as long as the line"),
            _ANGLE,
        ),
        apply=_motion_trail,
        locality=lambda params: Locality(2 * params["radius"]),
        degree="sigma",
        notes="The border is reflected; theirs is repeated.",
        work=lambda params: 10.0 * params["radius"],
        symmetries=(
            *invariant("contrast", "offset", "permute"),
            Symmetry("rotate", angles=("angle",)),
            Symmetry("scale", {"sigma": 1, "radius": 1}, holds="fine"),
        ),
    )
)

defocus = REGISTRY.add(
    PrimitiveKind(
        name="defocus",
        family="blur",
        summary="Blur by a disk, its edge weighed by the area it covers.",
        source="circle of confusion of a thin lens",
        params=(Param("radius", float, low=0.1, high=64, unit="px", doc="of the disk"),),
        apply=_defocus,
        locality=lambda params: Locality(_kernels.disk_radius(params["radius"])),
        degree="radius",
        work=lambda params: (2.0 * _kernels.disk_radius(params["radius"]) + 1) ** 2,
        symmetries=(
            *invariant("contrast", "offset", "rotate", "flip", "permute"),
            Symmetry("scale", {"radius": 1}, holds="fine"),
        ),
    )
)

zoom_blur = REGISTRY.add(
    PrimitiveKind(
        name="zoom_blur",
        family="blur",
        summary="Mean of the image, twice, and the image magnified by 1 + step .. zoom about its centre.",
        source="Hendrycks and Dietterich 2019",
        params=(
            Param("zoom", float, low=1, high=4, doc="greatest magnification, where the steps meet it"),
            Param("step", float, default=0.01, low=0.001, high=1, doc="between magnifications"),
        ),
        apply=_zoom_blur,
        locality=lambda params: GLOBAL,
        degree="zoom",
        version=3,
        work=lambda params: 20.0 * (params["zoom"] - 1) / params["step"] + 10,
        symmetries=(*invariant("contrast", "offset", "permute"), *invariant("scale", holds="fine")),
    )
)
