"""Lossy file formats, as a round trip through the encoder that everybody's files come from."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import simplejpeg
from PIL import Image as Pil

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.params import GLOBAL, Locality, Param
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import Apply, ApplyLevels, Levels, as_float, to_levels

_BLOCK = 16
_HALO = _BLOCK + 4
"""Whole blocks with a pixel to spare, and more than the 4 columns up to which libjpeg upsamples otherwise."""
_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


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
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[params["subsampling"]]]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, params["quality"], *sampling])
    return np.asarray(simplejpeg.decode_jpeg(file, "RGB", fastdct=False, fastupsample=False))


def _webp(image: Levels, params: Mapping[str, Any], draw: Draw) -> Levels:
    file = io.BytesIO()
    Pil.fromarray(image).save(file, "WEBP", quality=params["quality"])
    with Pil.open(file) as decoded:
        return np.asarray(decoded.convert("RGB"))


def _on_levels(levels: ApplyLevels) -> Apply:
    return lambda image, params, draw: as_float(levels(to_levels(image), params, draw))


jpeg = REGISTRY.add(
    PrimitiveKind(
        name="jpeg",
        family="compression",
        summary="JPEG round trip in RGB; clips and rounds to 8 bit, as the format does.",
        source="libjpeg-turbo, baseline, standard tables: the bits that Pillow gives",
        params=(
            Param("quality", int, low=1, high=100, unit="quality", doc="as in Pillow; lower is worse"),
            Param("subsampling", str, default="4:2:0", choices=tuple(_SAMPLING), doc="of chroma"),
        ),
        apply=_on_levels(_jpeg),
        levels=_jpeg,
        locality=lambda params: Locality(_HALO),
        degree="quality",
        work=lambda params: 50.0,
    )
)

webp = REGISTRY.add(
    PrimitiveKind(
        name="webp",
        family="compression",
        summary="Lossy WebP round trip; clips and rounds to 8 bit, as the format does.",
        source="libwebp, as Pillow calls it; the bits may change with its version",
        params=(Param("quality", int, low=0, high=100, unit="quality", doc="as in Pillow; lower is worse"),),
        apply=_on_levels(_webp),
        levels=_webp,
        locality=lambda params: GLOBAL,
        degree="quality",
        work=lambda params: 300.0,
    )
)
