"""Functions of the pixel values: what a protocol must spell out (clip, quantize), and changes of light."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.params import GLOBAL, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.distortions.symmetry import Symmetry, invariant
from dilkit.libraries import Array, cv2, np, npt

_CELLS = 4096


class Curve:
    """A function on [0, 1] as a table and straight lines between its entries, which continue beyond [0, 1].

    It gives the same bits on every machine.
    """

    def __init__(self, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> None:
        self.values = function(np.linspace(0, 1, _CELLS + 1)).astype(np.float32)
        self.steps = np.diff(self.values)

    def __call__(self, values: Array) -> Array:
        place = values * np.float32(_CELLS)
        cell = np.clip(place, np.float32(0), np.float32(_CELLS - 1)).astype(np.int32)
        place -= cell
        place *= self.steps.take(cell, mode="wrap")
        place += self.values.take(cell, mode="wrap")
        return place


@functools.lru_cache(maxsize=64)
def _power(base: float, scale: float, exponent: float) -> Curve:
    return Curve(lambda x: scale * (base * x) ** exponent)


@distortion(
    family="pointwise", source="every 8-bit protocol", symmetries=invariant("rotate", "flip", "permute")
)
def clip(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Clip to [0, 1]."""
    return np.clip(image, np.float32(0), np.float32(1))


@distortion(
    Param("bits", int, default=8, low=1, high=16, unit="bit", doc="levels: 0 .. 2**bits - 1"),
    family="pointwise",
    source="every 8-bit protocol",
    symmetries=invariant("rotate", "flip", "permute"),
)
def quantize(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Round to the nearest of 2**bits levels, half to even; values outside [0, 1] stay outside."""
    top = np.float32(2 ** params["bits"] - 1)
    levels = image * top
    np.rint(levels, out=levels)
    levels /= top
    return levels


@distortion(
    Param("shift", float, low=-1, high=1, doc="added to the value"),
    family="pointwise",
    source="Hendrycks and Dietterich 2019",
    degree="shift",
    symmetries=(*invariant("rotate", "flip", "permute"), *invariant("scale", holds="fine")),
)
def brightness(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Shift the value of HSV, clipped to [0, 1]; hue and saturation stay."""
    value = np.maximum(np.maximum(image[..., :1], image[..., 1:2]), image[..., 2:])
    wanted = np.clip(value + np.float32(params["shift"]), np.float32(0), np.float32(1))
    positive = value > 0
    gain = np.divide(wanted, value, out=np.zeros_like(value), where=positive)
    return np.where(positive, image * gain, wanted)


@distortion(
    Param("factor", float, low=0, high=10, doc="1 changes nothing"),
    family="pointwise",
    source="Hendrycks and Dietterich 2019",
    locality=GLOBAL,
    degree="factor",
    symmetries=(
        *invariant("contrast", "gain", "offset", "rotate", "flip", "permute"),
        *invariant("scale", holds="fine"),
    ),
)
def contrast(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """(image - mean) * factor + mean, the mean of each channel over the whole image."""
    mean = np.array(cv2.mean(image)[:3], np.float32)
    out = image - mean
    out *= np.float32(params["factor"])
    out += mean
    return out


@distortion(
    Param("gamma", float, low=1, high=10, doc="darkens the middle tones"),
    Param("alpha", float, default=1.0, low=0, high=1, doc="dims before the power"),
    Param("beta", float, default=1.0, low=0, high=1, doc="dims after it"),
    family="pointwise",
    source="Lv, Li and Lu 2021: alpha 0.9 to 1, beta 0.5 to 1, gamma 1.5 to 5",
    degree="gamma",
    symmetries=(
        Symmetry("gain", {"beta": lambda params: 1 - params["gamma"]}),
        *invariant("rotate", "flip", "permute"),
        *invariant("scale", holds="fine"),
    ),
)
def low_light(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """beta * (alpha * image) ** gamma."""
    return _power(params["alpha"], params["beta"], params["gamma"])(image)
