"""Lossy file formats, as a round trip through the encoder that everybody's files come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dilkit.distortions.draw import Draw
from dilkit.distortions.primitive import GLOBAL, REGISTRY, Image, Param, PrimitiveKind


def to_uint8(image: Image) -> npt.NDArray[np.uint8]:
    """[0, 1] float32 -> 0 .. 255, clipped and rounded half to even."""
    levels = image * np.float32(255)
    np.rint(levels, out=levels)
    np.clip(levels, np.float32(0), np.float32(255), out=levels)
    return levels.astype(np.uint8)


def to_float(image: npt.NDArray[np.uint8]) -> Image:
    """0 .. 255 -> [0, 1] float32, correctly rounded."""
    return np.divide(image, np.float32(255), dtype=np.float32)


_SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def _jpeg(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING[params["subsampling"]]]
    return _through(image, ".jpg", [cv2.IMWRITE_JPEG_QUALITY, params["quality"], *sampling])


def _through(image: Image, extension: str, options: list[int]) -> Image:
    bgr = cv2.cvtColor(to_uint8(image), cv2.COLOR_RGB2BGR)
    _, file = cv2.imencode(extension, bgr, options)
    decoded = np.asarray(cv2.imdecode(file, cv2.IMREAD_COLOR), np.uint8)
    return to_float(np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB), np.uint8))


jpeg = REGISTRY.add(
    PrimitiveKind(
        name="jpeg",
        family="compression",
        summary="JPEG round trip in RGB; clips and rounds to 8 bit, as the format does.",
        source="libjpeg-turbo, baseline, standard tables: the bits that Pillow gives",
        params=(
            Param("quality", int, low=1, high=100, unit="quality", doc="as in Pillow; lower is worse"),
            Param("subsampling", str, default="4:2:0", choices=("4:2:0", "4:2:2", "4:4:4"), doc="of chroma"),
        ),
        apply=_jpeg,
        locality=lambda params: GLOBAL,
        degree="quality",
    )
)
