"""Functions of the pixel values: what a protocol must spell out (clip, quantise), and changes of light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families._curves import power_curve
from dilkit.distortions.params import GLOBAL, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant


def _clip(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return np.clip(image, np.float32(0), np.float32(1))


def _quantize(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    top = np.float32(2 ** params["bits"] - 1)
    levels = image * top
    np.rint(levels, out=levels)
    levels /= top
    return levels


def _brightness(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    value = np.maximum(np.maximum(image[..., :1], image[..., 1:2]), image[..., 2:])
    wanted = np.clip(value + np.float32(params["shift"]), np.float32(0), np.float32(1))
    positive = value > 0
    gain = np.divide(wanted, value, out=np.zeros_like(value), where=positive)
    return np.where(positive, image * gain, wanted)


def _contrast(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    mean = np.array(cv2.mean(image)[:3], np.float32)
    out = image - mean
    out *= np.float32(params["factor"])
    out += mean
    return out


def _low_light(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return power_curve(params["alpha"], params["beta"], params["gamma"])(image)


clip = REGISTRY.add(
    PrimitiveKind(
        name="clip",
        family="pointwise",
        summary="Clip to [0, 1].",
        source="every 8-bit protocol",
        params=(),
        apply=_clip,
        symmetries=invariant("rotate", "flip", "permute"),
    )
)

quantize = REGISTRY.add(
    PrimitiveKind(
        name="quantize",
        family="pointwise",
        summary="Round to the nearest of 2**bits levels, half to even; values outside [0, 1] stay outside.",
        source="every 8-bit protocol",
        params=(Param("bits", int, default=8, low=1, high=16, unit="bit", doc="levels: 0 .. 2**bits - 1"),),
        apply=_quantize,
        symmetries=invariant("rotate", "flip", "permute"),
    )
)

brightness = REGISTRY.add(
    PrimitiveKind(
        name="brightness",
        family="pointwise",
        summary="Shift the value of HSV, clipped to [0, 1]; hue and saturation stay.",
        source="Hendrycks and Dietterich 2019",
        params=(Param("shift", float, low=-1, high=1, doc="added to the value"),),
        apply=_brightness,
        degree="shift",
        symmetries=invariant("rotate", "flip", "permute"),
    )
)

contrast = REGISTRY.add(
    PrimitiveKind(
        name="contrast",
        family="pointwise",
        summary="(image - mean) * factor + mean, the mean of each channel over the whole image.",
        source="Hendrycks and Dietterich 2019",
        params=(Param("factor", float, low=0, high=10, doc="1 changes nothing"),),
        apply=_contrast,
        locality=lambda params: GLOBAL,
        degree="factor",
        symmetries=invariant("contrast", "offset", "rotate", "flip", "permute"),
    )
)

low_light = REGISTRY.add(
    PrimitiveKind(
        name="low_light",
        family="pointwise",
        summary="beta * (alpha * image) ** gamma.",
        source="Lv, Li and Lu 2021: alpha 0.9 to 1, beta 0.5 to 1, gamma 1.5 to 5",
        params=(
            Param("gamma", float, low=1, high=10, doc="darkens the middle tones"),
            Param("alpha", float, default=1.0, low=0, high=1, doc="dims before the power"),
            Param("beta", float, default=1.0, low=0, high=1, doc="dims after it"),
        ),
        apply=_low_light,
        degree="gamma",
        symmetries=(
            Symmetry("gain", {"beta": lambda params: 1 - params["gamma"]}),
            *invariant("rotate", "flip", "permute"),
        ),
    )
)
