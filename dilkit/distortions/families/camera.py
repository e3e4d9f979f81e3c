"""Cameras: the noise of a sensor, in linear light before white balance, colour matrix and gamma; and pairs of
photographs, whose distortion no program makes again.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.families._filters import correlate
from dilkit.distortions.families.pointwise import Curve
from dilkit.distortions.params import GLOBAL, POINT, Locality, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry
from dilkit.errors import DilkitError
from dilkit.libraries import Array, np

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


def _demosaicked(planes: Array, draw: Draw) -> Array:
    """What bilinear demosaicking makes of planes (3, h, w) of which an RGGB sensor sees one a pixel."""
    rows = (np.arange(draw.window.h) + draw.window.y) % 2
    columns = (np.arange(draw.window.w) + draw.window.x) % 2
    site = rows[:, None] + columns
    masks = [(site == colour).astype(np.float32) for colour in range(3)]
    out = np.empty_like(planes)
    red_or_blue = np.array([[0.25, 0.5, 0.25], [0.5, 1, 0.5], [0.25, 0.5, 0.25]], np.float32)
    green = np.array([[0, 0.25, 0], [0.25, 1, 0.25], [0, 0.25, 0]], np.float32)
    for channel, (mask, kernel) in enumerate(zip(masks, (red_or_blue, green, red_or_blue), strict=True)):
        out[channel] = correlate((planes[channel] * mask)[..., None], kernel)[..., 0]
    return out


@functools.cache
def srgb_to_linear() -> Curve:
    """IEC 61966-2-1."""
    return Curve(lambda x: np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4))


@functools.cache
def linear_to_srgb() -> Curve:
    """IEC 61966-2-1."""
    return Curve(lambda x: np.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055))


@functools.lru_cache(maxsize=256)
def _matrices(camera: str, red_gain: float, blue_gain: float) -> tuple[Array, Array]:
    """Linear sRGB to the camera's raw colours, and back."""
    if camera == "none":
        matrix = np.eye(3)
    else:
        matrix = np.array(_XYZ_TO_CAMERA[camera]) @ np.array(_SRGB_TO_XYZ)
        matrix /= matrix.sum(axis=1, keepdims=True)
    matrix = matrix / np.array([[red_gain], [1.0], [blue_gain]])
    return matrix.round(9).astype(np.float32), np.linalg.inv(matrix).round(9).astype(np.float32)


def _transformed(planes: Array, matrix: Array) -> Array:
    out = np.empty_like(planes)
    for to in range(3):
        np.multiply(planes[0], matrix[to, 0], out=out[to])
        for at in (1, 2):
            out[to] += planes[at] * matrix[to, at]
    return out


@distortion(
    Param("shot", float, low=0, high=1, doc="variance per unit of raw signal; 1e-4 to 0.012 in phones"),
    Param("read", float, default=1e-4, low=0, high=1, doc="variance of the raw signal at black"),
    Param(
        "camera",
        str,
        default="none",
        choices=("none", *_XYZ_TO_CAMERA),
        doc="whose colour matrix; none: linear sRGB",
    ),
    Param("red_gain", float, default=2.0, low=0.1, high=10, doc="white balance; 1.9 to 2.4"),
    Param("blue_gain", float, default=1.7, low=0.1, high=10, doc="white balance; 1.5 to 1.9"),
    Param("mosaic", bool, default=True, doc="one colour a pixel (RGGB), interpolated bilinearly"),
    family="camera",
    source="Brooks et al. 2019 (model, matrices, gains); only the noise is demosaicked, as in CBDNet",
    locality=lambda params: Locality(1) if params["mosaic"] else POINT,
    degree="shot",
    random=True,
    work=lambda params: 100.0,
    symmetries=(
        Symmetry("rotate", holds="law", when=lambda params: not params["mosaic"]),
        Symmetry("flip", holds="law", when=lambda params: not params["mosaic"]),
    ),
)
def camera_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Shot and read noise of a sensor, seen through the camera's pipeline."""
    there, back = _matrices(params["camera"], params["red_gain"], params["blue_gain"])
    linear = srgb_to_linear()(np.ascontiguousarray(np.moveaxis(image, 2, 0)))
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
    made = linear_to_srgb()(_transformed(raw, back))
    return np.ascontiguousarray(np.moveaxis(made, 0, 2))


@distortion(
    Param("name", str, doc="of the set of pairs"),
    family="real",
    source="the photographs",
    locality=GLOBAL,
    degree="name",
)
def pairs(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Real degraded images of a dataset made with --pairs; it stands for them and makes none."""
    raise DilkitError(
        "real pairs are read, not made",
        where=f"pairs({params['name']!r})",
        remedy="evaluate on the folder of degraded images, or train on a dataset made with --pairs",
    )
