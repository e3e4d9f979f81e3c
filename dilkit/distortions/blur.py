"""Blurs. Widths are true standard deviations in pixels; the border is reflected, its edge not repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilkit.distortions._filters import gaussian, gaussian_radius, separable
from dilkit.distortions.draw import Draw
from dilkit.distortions.primitive import REGISTRY, Image, Locality, Param, PrimitiveKind


def _gaussian_blur(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    kernel = gaussian(params["sigma"])
    return separable(image, kernel, kernel)


gaussian_blur = REGISTRY.add(
    PrimitiveKind(
        name="gaussian_blur",
        family="blur",
        summary="Isotropic Gaussian blur.",
        source="sampled Gaussian cut at 4 sigma",
        params=(Param("sigma", float, low=0.05, high=64, unit="px", doc="standard deviation of the kernel"),),
        apply=_gaussian_blur,
        locality=lambda params: Locality(gaussian_radius(params["sigma"])),
        degree="sigma",
    )
)
