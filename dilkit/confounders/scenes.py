"""Synthetic clean images with texture: overlapping discs, rectangles and triangles, each shaded and textured.

Dead leaves with sizes down to a pixel, where each leaf has a gradient and a pattern (stripes, or noise with
a power-law spectrum), and half of the images are partly out of focus. Made from a seed alone, so nets trained
on them owe nothing to any photograph.

After Achddou, Gousseau and Ladjal, "Synthetic images as a regularity prior for image restoration neural
networks", SSVM 2021, with other shapes and textures.
"""

from __future__ import annotations

from hashlib import blake2b

from dilkit.libraries import cv2, np, npt

_LEAVES = 2500
_OVER = 2
"""Scenes are drawn at twice the size and averaged, so that their edges are anti-aliased."""
_NUMBERS = 20
"""Random numbers of each leaf."""


def scene(seed: int, index: int, size: int = 256) -> npt.NDArray[np.uint8]:
    """The `index`-th scene of a seeded family: (size, size, 3) uint8 RGB."""
    key = int.from_bytes(blake2b(f"scene-1/{seed}/{index}/{size}".encode(), digest_size=16).digest())
    source = np.random.PCG64(key)

    def uniform(*shape: int) -> npt.NDArray[np.float64]:
        return np.asarray((source.random_raw(int(np.prod(shape))) >> np.uint64(11)) * 2.0**-53).reshape(shape)

    big = size * _OVER
    count = max(64, round(_LEAVES * (big / 512) ** 2))
    overall = uniform(12)
    u = uniform(_NUMBERS, count)
    smallest, largest = 1.5 * 2 ** (5 * overall[0]), big / 2
    radius = 1 / np.sqrt(1 / smallest**2 - u[0] * (1 / smallest**2 - 1 / largest**2))
    x, y, turn, kind = u[1] * big, u[2] * big, 2 * np.pi * u[3], u[4]
    owner = np.zeros((big, big), np.int32)
    for i in range(count):
        centre = np.array([x[i], y[i]])
        if kind[i] < 0.4:
            cv2.circle(owner, (round(x[i]), round(y[i])), round(radius[i]), i, thickness=-1)
            continue
        if kind[i] < 0.7:
            angles = turn[i] + np.array([0, 2 + u[5, i], 4 + u[6, i]])
            reach = np.ones(3)
        else:
            half = np.arctan(0.05 + u[5, i])
            angles = turn[i] + np.array([-half, half, np.pi - half, np.pi + half])
            reach = np.ones(4)
        corners = centre + radius[i] * 1.3 * (reach * np.array([np.cos(angles), np.sin(angles)])).T
        cv2.fillConvexPoly(owner, np.rint(corners).astype(np.int32), i)

    # One colour a leaf: a grey value and a hue around that of the whole scene, less colourful towards white.
    low, high = 0.3 * overall[1] ** 2, 1 - 0.3 * overall[2] ** 2
    light = low + (high - low) * u[7]
    hue = (0.15 + 0.5 * overall[3]) * ((u[8:11] - 0.5) + 0.5 * (overall[4:7, None] - 0.5))
    colour = np.concatenate([light[None] + hue * np.minimum(1, 1.5 * (1.15 - light)), light[None]])[:3]

    rows, columns = np.mgrid[0:big, 0:big].astype(np.float32)
    across = (columns - x[owner]) * np.cos(turn)[owner] + (rows - y[owner]) * np.sin(turn)[owner]
    shade = (0.25 * (u[11] - 0.5) / radius)[owner] * across
    shade = np.clip(shade, -0.3, 0.3)
    fields = np.stack([_spectrum(uniform(2, big, big), power) for power in (0.6, 1.0, 1.5)])
    amplitude = np.where(u[12] < 0.35, 0, 0.14 * u[13] ** 2)
    which = np.minimum((3 * u[14]).astype(int), 2)
    noise = np.take_along_axis(fields, which[owner][None], 0)[0]
    period = 3 * 2 ** (4 * u[15])
    stripes = np.sin(2 * np.pi * across / period[owner] + (6.3 * u[16])[owner])
    pattern = np.where((u[17] < 0.25)[owner], stripes, noise) * amplitude[owner]
    tint = 0.8 + 0.4 * u[18]
    image = colour[:, owner] + shade + pattern * np.stack([tint, np.ones(count), 2 - tint])[:, owner]
    image = np.ascontiguousarray(image.transpose(1, 2, 0), np.float32)

    if overall[7] < 0.5:
        image = _defocused(image, 1 + 3 * overall[8], u[19][owner] < 0.5)
    image = np.clip(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), 0, 1)
    return np.asarray(np.rint(255 * image), np.uint8)


def _spectrum(u: npt.NDArray[np.float64], power: float) -> npt.NDArray[np.float32]:
    """Gaussian noise of unit deviation whose amplitude falls as frequency**-power."""
    white = np.sqrt(-2 * np.log1p(-u[0])) * np.cos(2 * np.pi * u[1])
    frequency = np.hypot(np.fft.fftfreq(len(white))[:, None], np.fft.rfftfreq(len(white))[None])
    frequency[0, 0] = np.inf
    shaped = np.fft.irfft2(np.fft.rfft2(white) * frequency**-power, s=white.shape)
    return np.asarray(shaped / shaped.std(), np.float32)


def _defocused(
    image: npt.NDArray[np.float32], sigma: float, far: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float32]:
    """The leaves of the background out of focus, those in front sharp."""
    weight = cv2.GaussianBlur(far.astype(np.float32), (0, 0), sigma)[..., None]
    return np.asarray(image + weight * (cv2.GaussianBlur(image, (0, 0), sigma) - image), np.float32)
