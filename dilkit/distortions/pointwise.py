"""Steps that a protocol must spell out: clipping and rounding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dilkit.distortions.draw import Draw
from dilkit.distortions.primitive import REGISTRY, Image, Param, PrimitiveKind


def _clip(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    return np.clip(image, np.float32(0), np.float32(1))


def _quantize(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    top = np.float32(2 ** params["bits"] - 1)
    levels = image * top
    np.rint(levels, out=levels)
    levels /= top
    return levels


clip = REGISTRY.add(
    PrimitiveKind(
        name="clip",
        family="pointwise",
        summary="Clip to [0, 1].",
        source="every 8-bit protocol",
        params=(),
        apply=_clip,
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
    )
)
