"""Changes of resolution. `resize`, `resize_to` and `downsample` change the shape of the image."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.params import GLOBAL, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image, Size
from dilkit.distortions.symmetry import Symmetry, invariant
from dilkit.errors import UsageError
from dilkit.libraries import cv2, np, pillow

METHODS = {"nearest": "NEAREST", "area": "AREA", "bilinear": "LINEAR", "bicubic": "CUBIC"}
"""Interpolations by the names that OpenCV has for them."""
_ANTIALIASED = "antialiased"


def _resized(image: Image, height: int, width: int, method: str) -> Image:
    size = (max(1, width), max(1, height))
    if method == _ANTIALIASED:
        planes = (pillow.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(3))
        return np.stack(
            [np.asarray(plane.resize(size, pillow.Resampling.BICUBIC)) for plane in planes], axis=2
        )
    return np.asarray(
        cv2.resize(image, size, interpolation=getattr(cv2, f"INTER_{METHODS[method]}")), np.float32
    )


def _by_factor(image: Image, factor: float, method: str) -> Image:
    height, width = image.shape[:2]
    return _resized(image, round(height * factor), round(width * factor), method)


def _resize_size(params: Mapping[str, Any], size: Size, clean: Size) -> Size:
    height, width = clean if params["of"] == "clean" else size
    return max(1, round(height * params["factor"])), max(1, round(width * params["factor"]))


def _every(image: Image, factor: int, axis: int) -> Image:
    """Antialiased bicubic samples, one in `factor` along an axis; the border is mirrored with its edge."""
    taps = _cubic(factor)
    before = (len(taps) - factor) // 2
    count = image.shape[axis] // factor
    pad = [(0, 0)] * 3
    pad[axis] = (before, before)
    padded = np.pad(image, pad, mode="symmetric")
    total: Image | None = None
    for k, weight in enumerate(taps):
        index: list[Any] = [slice(None)] * 3
        index[axis] = slice(k, k + factor * (count - 1) + 1, factor)
        part = padded[tuple(index)] * np.float32(weight)
        total = part if total is None else np.add(total, part, out=total)
    return np.ascontiguousarray(total)


@functools.cache
def _cubic(factor: int) -> tuple[float, ...]:
    """Weights of Keys' kernel (a = -1/2) stretched by `factor`, about the centre of `factor` pixels."""
    count = 4 * factor - factor % 2
    weights = []
    for k in range(count):
        x = abs(k - (count - 1) / 2) / factor
        inside = 1.5 * x**3 - 2.5 * x**2 + 1
        outside = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights.append(inside if x <= 1 else outside)
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)


_LINEAR = invariant("contrast", "gain", "offset", "permute")
_COARSER = Symmetry("scale", {"factor": -1}, holds="fine", when=lambda params: params["factor"] < 1)


def _smooth(*methods: str) -> tuple[Symmetry, ...]:
    """Rotation and flip, which `nearest` alone breaks: of two pixels as near it takes the left and upper."""

    def when(params: Mapping[str, Any]) -> bool:
        return all(params[method] != "nearest" for method in methods)

    return Symmetry("rotate", when=when), Symmetry("flip", when=when)


def _method(name: str, default: str, doc: str) -> Param:
    doc += "; OpenCV's, or Pillow's bicubic with antialiasing"
    return Param(name, str, default=default, choices=(*METHODS, _ANTIALIASED), doc=doc)


@distortion(
    Param("factor", float, low=1 / 64, high=16, doc="new side by old side, rounded to whole pixels"),
    _method("method", "bicubic", "interpolation"),
    Param(
        "of",
        str,
        default="image",
        choices=("image", "clean"),
        doc="whose sides are multiplied: this image's, or the clean image's",
    ),
    family="resampling",
    source="as BSRGAN and Real-ESRGAN chain them; no antialiasing but by area or where it is asked for",
    locality=GLOBAL,
    degree="factor",
    size_after=_resize_size,
    symmetries=(*_LINEAR, *_smooth("method")),
)
def resize(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Resize by a factor; the shape changes."""
    before = image.shape[0], image.shape[1]
    return _resized(image, *_resize_size(params, before, draw.clean or before), params["method"])


@distortion(
    Param("height", int, low=1, high=65536, unit="px", doc="new height"),
    Param("width", int, low=1, high=65536, unit="px", doc="new width"),
    _method("method", "bicubic", "interpolation"),
    family="resampling",
    source="OpenCV; the last step of a degradation chain",
    locality=GLOBAL,
    size_after=lambda params, size, clean: (params["height"], params["width"]),
    symmetries=(*_LINEAR, *_smooth("method")[1:]),
)
def resize_to(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Resize to a fixed number of pixels; the shape changes."""
    return _resized(image, params["height"], params["width"], params["method"])


@distortion(
    Param("factor", float, low=1 / 64, high=16, doc="of the first resize"),
    _method("there", "area", "interpolation of the first resize"),
    _method("back", "bicubic", "interpolation of the second"),
    family="resampling",
    source="Real-ESRGAN's resize steps, brought back to the size they came from",
    locality=GLOBAL,
    degree="factor",
    symmetries=(*_LINEAR, *_smooth("there", "back"), _COARSER),
)
def updown(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Resize by a factor and back again; the shape stays."""
    there = _by_factor(image, params["factor"], params["there"])
    return _resized(there, image.shape[0], image.shape[1], params["back"])


@distortion(
    Param("factor", int, low=2, high=16, doc="old side by new side"),
    Param(
        "method",
        str,
        default=_ANTIALIASED,
        choices=(_ANTIALIASED, *METHODS),
        doc="antialiased: MATLAB's bicubic; else OpenCV's",
    ),
    family="resampling",
    source="super-resolution protocol: MATLAB imresize, bicubic (Keys 1981, a = -1/2), antialiased",
    locality=GLOBAL,
    degree="factor",
    size_after=lambda params, size, clean: (size[0] // params["factor"], size[1] // params["factor"]),
    symmetries=(*_LINEAR, *_smooth("method")),
)
def downsample(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Downsample by a whole factor; the shape changes."""
    factor, method = params["factor"], params["method"]
    height, width = image.shape[:2]
    if height % factor or width % factor:
        raise UsageError(
            f"downsample({factor}) cannot take this image",
            found=f"{height} x {width} pixels",
            expected=f"sides that are multiples of {factor}",
            remedy=f"choose a tile size that is a multiple of {factor}",
        )
    if method == _ANTIALIASED:
        return _every(_every(image, factor, 0), factor, 1)
    return _resized(image, height // factor, width // factor, method)


@distortion(
    Param("factor", float, low=1 / 64, high=1, doc="small side by full side"),
    family="resampling",
    source="Hendrycks and Dietterich 2019",
    locality=GLOBAL,
    degree="factor",
    symmetries=(*_LINEAR, _COARSER),
)
def pixelate(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Downsample by box averages and magnify the pixels back."""
    height, width = image.shape[:2]
    small = max(1, int(width * params["factor"])), max(1, int(height * params["factor"]))
    planes = [pillow.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(3)]
    boxes = [plane.resize(small, pillow.Resampling.BOX) for plane in planes]
    return np.stack(
        [np.asarray(box.resize((width, height), pillow.Resampling.NEAREST)) for box in boxes], axis=2
    )
