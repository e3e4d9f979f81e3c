"""Lossy file formats, as a round trip through the encoder that everybody's files come from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.params import GLOBAL, Locality, Param
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import Image, Levels, as_float, to_levels
from dilkit.libraries import cv2, np, pillow, simplejpeg

_BLOCK = 16
_HALO = _BLOCK + 4
"""Whole blocks with a pixel to spare, and more than the 4 columns up to which libjpeg upsamples otherwise."""
_SAMPLING = ("4:2:0", "4:2:2", "4:4:4")


def _jpeg(image: Levels, params: Mapping[str, Any], draw: Draw) -> Levels:
    """Whole blocks within the window; one pixel within their edge depends on nothing outside them."""
    rows, columns = _blocks(draw.window, draw.shape)
    if image[rows, columns].shape == image.shape:
        return _through_jpeg(image, params)
    out = image.copy()
    if out[rows, columns].size:
        out[rows, columns] = _through_jpeg(image[rows, columns], params)
    return out


def _blocks(window: Window, shape: tuple[int, int]) -> tuple[slice, slice]:
    """The largest part of a window, counted from its corner, of whole 16 x 16 blocks of the image."""
    y, x, h, w = window
    top, left = -(-y // _BLOCK) * _BLOCK - y, -(-x // _BLOCK) * _BLOCK - x
    bottom = h if y + h == shape[0] else (y + h) // _BLOCK * _BLOCK - y
    right = w if x + w == shape[1] else (x + w) // _BLOCK * _BLOCK - x
    return slice(top, max(top, bottom)), slice(left, max(left, right))


def _through_jpeg(image: Levels, params: Mapping[str, Any]) -> Levels:
    sampling = getattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR_" + params["subsampling"].replace(":", ""))
    settings = [cv2.IMWRITE_JPEG_QUALITY, params["quality"], cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    _, file = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    return np.asarray(simplejpeg.decode_jpeg(file, "RGB", fastdct=False, fastupsample=False))


def _webp(image: Levels, params: Mapping[str, Any], draw: Draw) -> Levels:
    file = io.BytesIO()
    pillow.fromarray(image).save(file, "WEBP", quality=params["quality"])
    with pillow.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


@distortion(
    Param("quality", int, low=1, high=100, unit="quality", doc="as in Pillow; lower is worse"),
    Param("subsampling", str, default="4:2:0", choices=_SAMPLING, doc="of chroma"),
    family="compression",
    source="libjpeg-turbo, baseline, standard tables: the bits that Pillow gives",
    levels=_jpeg,
    locality=Locality(_HALO),
    degree="quality",
    work=lambda params: 50.0,
)
def jpeg(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """JPEG round trip in RGB; clips and rounds to 8 bit, as the format does."""
    return as_float(_jpeg(to_levels(image), params, draw))


@distortion(
    Param("quality", int, low=0, high=100, unit="quality", doc="as in Pillow; lower is worse"),
    family="compression",
    source="libwebp, as Pillow calls it; the bits may change with its version",
    levels=_webp,
    locality=GLOBAL,
    degree="quality",
    work=lambda params: 300.0,
)
def webp(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Lossy WebP round trip; clips and rounds to 8 bit, as the format does."""
    return as_float(_webp(to_levels(image), params, draw))
