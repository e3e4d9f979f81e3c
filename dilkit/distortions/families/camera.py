"""Noise as a camera makes it: in linear light, before white balance, colour matrix and gamma."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families import _curves
from dilkit.distortions.families._filters import correlate
from dilkit.distortions.params import POINT, Locality, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image

Planes = npt.NDArray[np.float32]

_SRGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_XYZ_TO_CAMERA = {
    "huawei-nexus-6p": ((1.0234, -0.2969, -0.2266), (-0.5625, 1.6328, -0.0469), (-0.0703, 0.2188, 0.6406)),
    "sony-a7r": ((0.4913, -0.0541, -0.0202), (-0.613, 1.3513, 0.2906), (-0.1564, 0.2151, 0.7183)),
    "olympus-e-m10": ((0.838, -0.263, -0.0639), (-0.2887, 1.0725, 0.2496), (-0.0627, 0.1427, 0.5438)),
    "sony-rx100-iv": ((0.6596, -0.2079, -0.0562), (-0.4782, 1.3016, 0.1933), (-0.097, 0.1581, 0.5181)),
}
_AT_RED_OR_BLUE: Planes = np.array([[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]], np.float32)
_AT_GREEN: Planes = np.array([[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]], np.float32)
_BILINEAR = (_AT_RED_OR_BLUE, _AT_GREEN, _AT_RED_OR_BLUE)


def _camera_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    there, back = _matrices(params["camera"], params["red_gain"], params["blue_gain"])
    linear = _curves.srgb_to_linear()(np.ascontiguousarray(np.moveaxis(image, 2, 0)))
    raw = _transformed(linear, there)
    variance = np.maximum(raw, np.float32(0))
    variance *= np.float32(params["shot"])
    variance += np.float32(params["read"])
    noise = np.sqrt(variance, out=variance)
    if params["mosaic"]:
        noise *= draw.normal(1)[..., 0]
        noise = _demosaicked(noise, draw)
    else:
        noise *= np.moveaxis(draw.normal(3), 2, 0)
    raw += noise
    made = _curves.linear_to_srgb()(_transformed(raw, back))
    return np.ascontiguousarray(np.moveaxis(made, 0, 2))


def _demosaicked(planes: Planes, draw: Draw) -> Planes:
    """What bilinear demosaicking makes of planes (3, h, w) of which an RGGB sensor sees one a pixel."""
    rows = (np.arange(draw.window.h) + draw.window.y) % 2
    columns = (np.arange(draw.window.w) + draw.window.x) % 2
    site = rows[:, None] + columns
    masks = [(site == colour).astype(np.float32) for colour in range(3)]
    out = np.empty_like(planes)
    for channel, (mask, kernel) in enumerate(zip(masks, _BILINEAR, strict=True)):
        out[channel] = correlate((planes[channel] * mask)[..., None], kernel)[..., 0]
    return out


@functools.lru_cache(maxsize=256)
def _matrices(camera: str, red_gain: float, blue_gain: float) -> tuple[Planes, Planes]:
    """Linear sRGB to the camera's raw colours, and back."""
    if camera == "none":
        matrix = np.eye(3)
    else:
        matrix = np.array(_XYZ_TO_CAMERA[camera]) @ np.array(_SRGB_TO_XYZ)
        matrix /= matrix.sum(axis=1, keepdims=True)
    matrix = matrix / np.array([[red_gain], [1.0], [blue_gain]])
    return matrix.round(9).astype(np.float32), np.linalg.inv(matrix).round(9).astype(np.float32)


def _transformed(planes: Planes, matrix: Planes) -> Planes:
    out = np.empty_like(planes)
    for to in range(3):
        np.multiply(planes[0], matrix[to, 0], out=out[to])
        for at in (1, 2):
            out[to] += planes[at] * matrix[to, at]
    return out


camera_noise = REGISTRY.add(
    PrimitiveKind(
        name="camera_noise",
        family="camera",
        summary="Shot and read noise of a sensor, seen through the camera's pipeline.",
        source="Brooks et al. 2019 (model, matrices, gains); only the noise is demosaicked, as in CBDNet",
        params=(
            Param(
                "shot", float, low=0, high=1, doc="variance per unit of raw signal; 1e-4 to 0.012 in phones"
            ),
            Param("read", float, default=1e-4, low=0, high=1, doc="variance of the raw signal at black"),
            Param(
                "camera",
                str,
                default="none",
                choices=("none", *_XYZ_TO_CAMERA),
                doc="whose colour matrix; none: the sensor sees linear sRGB",
            ),
            Param("red_gain", float, default=2.0, low=0.1, high=10, doc="white balance; 1.9 to 2.4"),
            Param("blue_gain", float, default=1.7, low=0.1, high=10, doc="white balance; 1.5 to 1.9"),
            Param("mosaic", bool, default=True, doc="one colour a pixel (RGGB), interpolated bilinearly"),
        ),
        apply=_camera_noise,
        locality=lambda params: Locality(1) if params["mosaic"] else POINT,
        degree="shot",
        random=True,
        work=lambda params: 100.0,
    )
)
