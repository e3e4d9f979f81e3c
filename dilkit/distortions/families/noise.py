"""Noises. Nothing is clipped or rounded.

Poisson counts are made by inversion, in elementary float operations that round equally on every machine.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import distortion
from dilkit.distortions.families._filters import inner
from dilkit.distortions.params import GLOBAL, POINT, Param
from dilkit.distortions.randomness import LEVELS, Draw, checked, normal_table
from dilkit.distortions.render import Image, as_float, to_levels
from dilkit.distortions.symmetry import Symmetry, invariant
from dilkit.libraries import Array, np, npt

_GREY = (0.299, 0.587, 0.114)


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


def grey(image: Image) -> Image:
    """The luminance, (h, w, 1)."""
    total = image[..., :1] * np.float32(_GREY[0])
    for channel in (1, 2):
        total += image[..., channel : channel + 1] * np.float32(_GREY[channel])
    return total


_SIGMA = Param("sigma", float, low=0, high=255, unit="1/255", doc="standard deviation")
_CHANNELS = Param(
    "channels", str, default="colour", choices=("colour", "grey"), doc="grey: the same for all three"
)


@distortion(
    _SIGMA,
    Param(
        "channels",
        str,
        default="colour",
        choices=("colour", "grey", "correlated"),
        doc="grey: the same for all three; correlated: by a covariance drawn per image",
    ),
    family="noise",
    source="standard protocol of Gaussian denoising; sigma on the 0..255 scale",
    degree="sigma",
    random=True,
    symmetries=(
        Symmetry("contrast", {"sigma": 1}),
        Symmetry("gain", {"sigma": 1}),
        *invariant("offset"),
        Symmetry("box", {"sigma": -1}, holds="law"),
        *invariant("rotate", "flip", "permute", holds="law"),
    ),
)
def awgn(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Additive white Gaussian noise."""
    scale = params["sigma"] / 255
    if params["channels"] == "correlated":
        return image + _mixed(draw, scale)
    noise = draw.normal(1 if params["channels"] == "grey" else 3)
    noise *= np.float32(scale)
    if noise.shape != image.shape:
        return image + noise
    noise += image
    return noise


@distortion(
    Param("alpha", float, low=0, high=20, doc="gain on the noise; its variance is alpha**2 x / peak"),
    Param("peak", float, default=256.0, low=1e-3, high=65536, unit="photons", doc="rate at white"),
    Param("legacy", bool, default=False, doc="as BasicSR: peak = 2 ** ceil(log2(levels in use)), in 8 bits"),
    _CHANNELS,
    family="noise",
    source="Real-ESRGAN, BSRGAN; alpha = 1 is the noise of `peak` photons at white",
    locality=lambda params: GLOBAL if params["legacy"] else POINT,
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
def poisson(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """alpha-Poisson noise: image + alpha * (Poisson(image * peak) / peak - image)."""
    seen, peak = grey(image) if params["channels"] == "grey" else image, params["peak"]
    if params["legacy"]:
        levels = to_levels(seen).reshape(seen.shape)
        seen, peak = as_float(levels), 1 << (len(np.unique(levels)) - 1).bit_length()
    gain = np.float32(params["alpha"]) / np.float32(peak)
    out = np.empty_like(image)
    for rows, part in draw.bands():
        rate = np.clip(seen[rows], np.float32(0), np.float32(np.inf))
        rate *= np.float32(peak)
        noise = poisson_counts(rate, part)
        noise -= rate
        noise *= gain
        np.add(image[rows], noise, out=out[rows])
    return out


@distortion(
    Param("variance", float, low=0, high=1, doc="variance of n"),
    Param("law", str, default="gaussian", choices=("gaussian", "uniform"), doc="law of n"),
    family="noise",
    source="MATLAB imnoise (uniform law), scikit-image random_noise (Gaussian law)",
    degree="variance",
    random=True,
    symmetries=(*invariant("gain"), *invariant("rotate", "flip", "permute", holds="law")),
)
def speckle(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Multiplicative noise: image * (1 + n)."""
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


@distortion(
    Param("sigma", float, low=0, high=1024, unit="1/255", doc="deviation before the box filter"),
    Param("radius", int, default=1, low=1, high=7, unit="px", doc="the box is 2 radius + 1 wide"),
    family="noise",
    source="masked image training for denoising (CVPR 2023): 3x3 box, sigma 40 to 55",
    degree="sigma",
    random=True,
    work=lambda params: (2.0 * params["radius"] + 1) ** 2,
    symmetries=(
        Symmetry("contrast", {"sigma": 1}),
        Symmetry("gain", {"sigma": 1}),
        *invariant("offset"),
        *invariant("rotate", "flip", "permute", holds="law"),
    ),
)
def correlated_noise(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Spatially correlated noise: N(0, sigma) after a box filter, which narrows it."""
    radius = params["radius"]
    size = 2 * radius + 1
    box = np.full((size, size), params["sigma"] / 255 / size**2, np.float32)
    return image + inner(draw.normal(3, pad=radius), box)


@distortion(
    Param("amount", float, low=0, high=1, doc="fraction of values replaced"),
    Param("salt", float, default=0.5, low=0, high=1, doc="fraction of those that become 1"),
    _CHANNELS,
    family="noise",
    source="scikit-image random_noise; Hendrycks and Dietterich 2019 (impulse noise)",
    degree="amount",
    random=True,
    symmetries=invariant("rotate", "flip", "permute", holds="law"),
)
def salt_pepper(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    """Impulse noise: values replaced by 1 (salt) or 0 (pepper)."""
    lot = draw.uniform(1 if params["channels"] == "grey" else 3)
    amount, salt = params["amount"], params["salt"]
    out = np.where(lot < np.float32(amount), np.float32(0), image)
    out[np.broadcast_to(lot < np.float32(amount * salt), out.shape)] = 1
    return out


# -- Poisson counts ----------------------------------------------------------------------------------------

_SMALL = 10
_STEPS = 8
_BITS = 5
_TABLE_DIGEST = "b838b78c40a38a80"


def poisson_counts(rate: Array, draw: Draw, *, stream: str = "") -> Array:
    """Poisson counts of the rates (h, w, c), rates >= 0, as float32.

    From a rate of 10 up: the asymptotic expansion of the inverse law (Giles, Algorithm 955, ACM TOMS 2016),
    which picks the next count to that of the exact inverse at under 0.06 % of the levels (0.4 % above a rate
    of 4000, where float32 rounds). Below: the exact inverse on a grid of 1/8, plus an independent count for
    the rest of the rate, since Poisson laws add up.
    """
    channels = rate.shape[2]
    levels = draw.bits(channels, stream=stream).reshape(-1)
    rest = draw.bits(channels, stream=stream + ":rest").reshape(-1)
    flat = rate.reshape(-1)
    where = np.flatnonzero(flat < np.float32(_SMALL))
    if not len(where):
        return _large(flat, levels).reshape(rate.shape)
    if len(where) == len(flat):
        return _few(flat, levels, rest).reshape(rate.shape)
    out = _large(np.clip(flat, np.float32(_SMALL), np.float32(np.inf)), levels)
    out[where] = _few(flat.take(where), levels.take(where), rest.take(where))
    return out.reshape(rate.shape)


def _large(rate: Array, levels: npt.NDArray[np.uint16]) -> Array:
    f = np.float32
    root = np.sqrt(rate)
    z = normal_table().take(levels, mode="wrap")
    zz = z * z
    # rate + root z + (1/3 + zz/6) - z (1/36 + zz/72) / root + (-8/405 + 7 zz/810 + zz zz/270) / rate
    third = zz * f(1 / 72)
    third += f(1 / 36)
    third *= z
    fourth = zz * f(1 / 270)
    fourth += f(7 / 810)
    fourth *= zz
    fourth -= f(8 / 405)
    fourth /= root
    fourth -= third
    fourth /= root
    zz *= f(1 / 6)
    zz += f(1 / 3)
    fourth += zz
    z *= root
    fourth += z
    fourth += rate
    return np.floor(fourth, out=fourth)


def _few(rate: Array, levels: npt.NDArray[np.uint16], rest: npt.NDArray[np.uint16]) -> Array:
    f = np.float32
    row = np.floor(rate * f(_STEPS))
    d = rate - row * f(1 / _STEPS)
    count = _inverted(row.astype(np.int32), levels)
    u = rest * f(1 / LEVELS)
    u += f(0.5 / LEVELS)
    count += u < d * (f(1) - d * f(1 / 2) * (f(1) - d * f(1 / 3) * (f(1) - d * f(1 / 4))))
    more = np.flatnonzero(u < d * d * f(1 / 2))
    d, u = d[more], u[more]
    count[more] += u < d * d * (f(1 / 2) - d * (f(1 / 3) - d * f(1 / 8)))
    count[more] += u < d * d * d * (f(1 / 6) - d * f(1 / 8))
    return count.astype(np.float32)


def _inverted(row: npt.NDArray[np.int32], levels: npt.NDArray[np.uint16]) -> npt.NDArray[np.int32]:
    """The exact inverse at (level + 1/2) / 65536 of the rates row / 8: from a guide, then up end by end."""
    ends, guide = _ends(), _guide()
    first = row << 8
    first |= levels >> 8
    count = guide.take(first, mode="wrap")
    row <<= _BITS
    beyond = levels >= ends.take(row + count, mode="wrap")
    count += beyond
    left = np.flatnonzero(beyond)
    while len(left):
        left = left[levels.take(left) >= ends.take(row.take(left) + count.take(left))]
        count[left] += 1
    return count


@functools.cache
def _ends() -> npt.NDArray[np.int32]:
    """The level at which each count gives way to the next; 32 counts for each rate below 10, step 1/8."""
    rows = np.full((_SMALL * _STEPS, 1 << _BITS), LEVELS, np.int32)
    for step, ends in enumerate(rows):
        rate = step / _STEPS
        mass = total = math.exp(-rate)
        for count in range(len(ends)):
            ends[count] = max(0, min(LEVELS, math.ceil(total * LEVELS - 0.5)))
            mass *= rate / (count + 1)
            total += mass
    table = checked(rows.reshape(-1), _TABLE_DIGEST, "the Poisson law")
    table.flags.writeable = False
    return table


@functools.cache
def _guide() -> npt.NDArray[np.int32]:
    """The count at levels 0, 256, 512 .. of each of those rates."""
    rows = _ends().reshape(-1, 1 << _BITS)
    return np.concatenate([np.searchsorted(row, np.arange(0, LEVELS, 256), "right") for row in rows]).astype(
        np.int32
    )
