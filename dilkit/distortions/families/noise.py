"""Noises. Nothing is clipped or rounded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.families import _poisson
from dilkit.distortions.families._filters import inner
from dilkit.distortions.params import GLOBAL, POINT, Locality, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image, as_float, to_levels
from dilkit.distortions.symmetry import Symmetry, invariant

_GREY = (0.299, 0.587, 0.114)
_INFINITE = np.float32(np.inf)


def _awgn(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    scale = params["sigma"] / 255
    if params["channels"] == "correlated":
        return image + _mixed(draw, scale)
    noise = draw.normal(1 if params["channels"] == "grey" else 3)
    noise *= np.float32(scale)
    if noise.shape != image.shape:
        return image + noise
    noise += image
    return noise


def _mixed(draw: Draw, scale: float) -> Image:
    """Noise of a random covariance between channels, the mean of its three variances `scale` squared."""
    weights = draw.scalars(3, stream="eigenvalues")
    total = math.fsum(weights)
    axes = _orthogonal(draw.normal_scalars(9, stream="axes"))
    gains = [scale * math.sqrt(3 * weight / total) for weight in weights]
    fields = [draw.normal(1, stream=f"axis {k}")[..., 0] for k in range(3)]
    out = np.empty((*fields[0].shape, 3), np.float32)
    for channel in range(3):
        part = fields[0] * np.float32(gains[0] * axes[0][channel])
        for k in (1, 2):
            part += fields[k] * np.float32(gains[k] * axes[k][channel])
        out[..., channel] = part
    return out


def _orthogonal(numbers: tuple[float, ...]) -> list[list[float]]:
    """Three orthonormal vectors, uniform over rotations for normal numbers (Gram-Schmidt)."""
    axes: list[list[float]] = []
    for start in (0, 3, 6):
        vector = list(numbers[start : start + 3])
        for axis in axes:
            along = sum(a * v for a, v in zip(axis, vector, strict=True))
            vector = [v - along * a for a, v in zip(axis, vector, strict=True)]
        length = math.sqrt(sum(v * v for v in vector))
        axes.append([v / length for v in vector])
    return axes


def _poisson_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    seen, peak = grey(image) if params["channels"] == "grey" else image, params["peak"]
    if params["legacy"]:
        levels = to_levels(seen).reshape(seen.shape)
        seen, peak = as_float(levels), 1 << (len(np.unique(levels)) - 1).bit_length()
    gain = np.float32(params["alpha"]) / np.float32(peak)
    out = np.empty_like(image)
    for rows, part in draw.bands():
        rate = np.clip(seen[rows], np.float32(0), _INFINITE)
        rate *= np.float32(peak)
        noise = _poisson.counts(rate, part)
        noise -= rate
        noise *= gain
        np.add(image[rows], noise, out=out[rows])
    return out


def grey(image: Image) -> Image:
    """The luminance, (h, w, 1)."""
    total = image[..., :1] * np.float32(_GREY[0])
    for channel in (1, 2):
        total += image[..., channel : channel + 1] * np.float32(_GREY[channel])
    return total


def _poisson_locality(params: Mapping[str, Any]) -> Locality:
    return GLOBAL if params["legacy"] else POINT


def _speckle(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    scale = math.sqrt(params["variance"])
    if params["law"] == "uniform":
        factor = draw.uniform(3)
        factor -= np.float32(0.5 - 2.0**-25)
        scale *= math.sqrt(12)
    else:
        factor = draw.normal(3)
    factor *= np.float32(scale)
    factor += np.float32(1)
    factor *= image
    return factor


def _correlated_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    radius = params["radius"]
    size = 2 * radius + 1
    box = np.full((size, size), params["sigma"] / 255 / size**2, np.float32)
    return image + inner(draw.normal(3, pad=radius), box)


def _salt_pepper(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    lot = draw.uniform(1 if params["channels"] == "grey" else 3)
    amount, salt = params["amount"], params["salt"]
    out = np.where(lot < np.float32(amount), np.float32(0), image)
    out[np.broadcast_to(lot < np.float32(amount * salt), out.shape)] = 1
    return out


_SIGMA = Param("sigma", float, low=0, high=255, unit="1/255", doc="standard deviation")
_CHANNELS = Param(
    "channels",
    str,
    default="colour",
    choices=("colour", "grey"),
    doc="colour: each channel for itself; grey: the same for all three",
)

awgn = REGISTRY.add(
    PrimitiveKind(
        name="awgn",
        family="noise",
        summary="Additive white Gaussian noise.",
        source="standard protocol of Gaussian denoising; sigma on the 0..255 scale",
        params=(
            _SIGMA,
            Param(
                "channels",
                str,
                default="colour",
                choices=("colour", "grey", "correlated"),
                doc="colour: independent; grey: one field; correlated: by a covariance drawn per image",
            ),
        ),
        apply=_awgn,
        degree="sigma",
        random=True,
        symmetries=(
            Symmetry("contrast", {"sigma": 1}),
            *invariant("offset"),
            Symmetry("box", {"sigma": -1}, holds="law"),
            *invariant("rotate", "flip", "permute", holds="law"),
        ),
    )
)

poisson = REGISTRY.add(
    PrimitiveKind(
        name="poisson",
        family="noise",
        summary="alpha-Poisson noise: image + alpha * (Poisson(image * peak) / peak - image).",
        source="Real-ESRGAN, BSRGAN; alpha = 1 is the noise of `peak` photons at white",
        params=(
            Param("alpha", float, low=0, high=20, doc="gain on the noise; its variance is alpha**2 x / peak"),
            Param("peak", float, default=256.0, low=1e-3, high=65536, unit="photons", doc="rate at white"),
            Param(
                "legacy",
                bool,
                default=False,
                doc="peak = 2 ** ceil(log2(levels in use)), the image rounded to 8 bits, as BasicSR does",
            ),
            _CHANNELS,
        ),
        apply=_poisson_noise,
        locality=_poisson_locality,
        degree="alpha",
        random=True,
        version=2,
        work=lambda params: 50.0,
        symmetries=(
            Symmetry("gain", {"peak": -1}, when=lambda params: not params["legacy"]),
            Symmetry("box", {"peak": 2}, holds="law", when=lambda params: not params["legacy"]),
            *invariant("rotate", "flip", holds="law"),
            Symmetry("permute", holds="law", when=lambda params: params["channels"] == "colour"),
        ),
    )
)

speckle = REGISTRY.add(
    PrimitiveKind(
        name="speckle",
        family="noise",
        summary="Multiplicative noise: image * (1 + n).",
        source="MATLAB imnoise (uniform law), scikit-image random_noise (Gaussian law)",
        params=(
            Param("variance", float, low=0, high=1, doc="variance of n"),
            Param("law", str, default="gaussian", choices=("gaussian", "uniform"), doc="law of n"),
        ),
        apply=_speckle,
        degree="variance",
        random=True,
        symmetries=(*invariant("gain"), *invariant("rotate", "flip", "permute", holds="law")),
    )
)

correlated_noise = REGISTRY.add(
    PrimitiveKind(
        name="correlated_noise",
        family="noise",
        summary="Spatially correlated noise: N(0, sigma) after a box filter, which narrows it.",
        source="masked image training for denoising (CVPR 2023): 3x3 box, sigma 40 to 55",
        params=(
            Param("sigma", float, low=0, high=1024, unit="1/255", doc="deviation before the box filter"),
            Param("radius", int, default=1, low=1, high=7, unit="px", doc="the box is 2 radius + 1 wide"),
        ),
        apply=_correlated_noise,
        degree="sigma",
        random=True,
        work=lambda params: (2.0 * params["radius"] + 1) ** 2,
        symmetries=(
            Symmetry("contrast", {"sigma": 1}),
            *invariant("offset"),
            *invariant("rotate", "flip", "permute", holds="law"),
        ),
    )
)

salt_pepper = REGISTRY.add(
    PrimitiveKind(
        name="salt_pepper",
        family="noise",
        summary="Impulse noise: values replaced by 1 (salt) or 0 (pepper).",
        source="scikit-image random_noise; Hendrycks and Dietterich 2019 (impulse noise)",
        params=(
            Param("amount", float, low=0, high=1, doc="fraction of values replaced"),
            Param("salt", float, default=0.5, low=0, high=1, doc="fraction of those that become 1"),
            _CHANNELS,
        ),
        apply=_salt_pepper,
        degree="amount",
        random=True,
        symmetries=invariant("rotate", "flip", "permute", holds="law"),
    )
)
