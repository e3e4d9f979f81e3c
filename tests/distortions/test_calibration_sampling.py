"""Compression, rounding and resizing are those of their formats, laws and sources."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image as Pil

from dilkit.distortions import as_float
from dilkit.distortions.render import to_levels
from dilkit.errors import UsageError

FLAT = np.full((256, 256, 3), 0.5, np.float32)


@pytest.mark.parametrize("quality", [1, 10, 30, 50, 75, 95, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
def test_jpeg_is_pillows_bit_for_bit(distort, photo, quality, subsampling):
    for image in (photo, photo[:37, :51]):
        bytes8 = np.rint(image * 255).astype(np.uint8)
        file = io.BytesIO()
        Pil.fromarray(bytes8).save(file, "JPEG", quality=quality, subsampling=subsampling)
        expected = np.asarray(Pil.open(file)).astype(np.float32) / np.float32(255)
        made = distort(np.ascontiguousarray(image), "jpeg", quality=quality, subsampling=subsampling)
        np.testing.assert_array_equal(made, expected)


def test_webp_is_pillows_and_follows_its_quality(distort, photo):
    bytes8 = np.rint(photo * 255).astype(np.uint8)
    errors = []
    for quality in (5, 30, 60, 95):
        file = io.BytesIO()
        Pil.fromarray(bytes8).save(file, "WEBP", quality=quality)
        expected = np.asarray(Pil.open(file).convert("RGB")).astype(np.float32) / np.float32(255)
        made = distort(photo, "webp", quality=quality)
        np.testing.assert_array_equal(made, expected)
        errors.append(np.mean((made - photo) ** 2))
    assert errors == sorted(errors, reverse=True)


def test_the_way_to_eight_bits_rounds_half_to_even_and_clips():
    ties = (np.arange(-300, 900) + 0.5) / 255
    around = np.concatenate([ties, np.nextafter(ties.astype(np.float32), np.float32(9)), [1e20, -1e20]])
    values = np.resize(around.astype(np.float32), (1201, 3, 1)).reshape(1201, 1, 3)
    expected = np.clip(np.rint(values * np.float32(255)), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(to_levels(values), expected)
    whole = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(to_levels(as_float(whole)), whole)


def test_clip_and_quantize(distort):
    image = np.linspace(-0.5, 1.5, 256 * 3, dtype=np.float32).reshape(16, 16, 3)
    clipped = distort(image, "clip")
    assert clipped.min() == 0
    assert clipped.max() == 1
    inside = (image > 0) & (image < 1)
    np.testing.assert_array_equal(clipped[inside], image[inside])
    rounded = distort(image, "quantize")
    np.testing.assert_array_equal(rounded, np.rint(image * np.float32(255)) / np.float32(255))
    assert rounded.max() > 1
    eight_bit = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3) / np.float32(255)
    np.testing.assert_array_equal(distort(eight_bit, "quantize"), eight_bit)
    assert len(np.unique(distort(clipped, "quantize", bits=3))) == 8


def imresize_matrix(size, factor):
    """MATLAB's imresize(., 1/factor) along one axis, from its definition, float64 (size / factor, size)."""
    matrix = np.zeros((size // factor, size))
    for i in range(size // factor):
        centre = (i + 0.5) * factor - 0.5
        for j in range(math.floor(centre - 2 * factor), math.ceil(centre + 2 * factor) + 1):
            x = abs(centre - j) / factor
            weight = 0.0
            if x <= 1:
                weight = 1.5 * x**3 - 2.5 * x**2 + 1
            elif x < 2:
                weight = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
            mirrored = -1 - j if j < 0 else 2 * size - 1 - j if j >= size else j
            matrix[i, mirrored] += weight
        matrix[i] /= matrix[i].sum()
    return matrix


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_downsample_is_matlabs_antialiased_bicubic(distort, photo, factor):
    photo = np.ascontiguousarray(photo[:, :144])
    made = distort(photo, "downsample", factor=factor)
    rows, columns = (imresize_matrix(side, factor) for side in photo.shape[:2])
    expected = np.einsum("ih,hwc,jw->ijc", rows, photo.astype(float), columns)
    np.testing.assert_allclose(made, expected, atol=2e-6)
    plane = Pil.fromarray(np.ascontiguousarray(photo[..., 1]))
    pillow = np.asarray(plane.resize((144 // factor, 120 // factor), Pil.Resampling.BICUBIC))
    np.testing.assert_allclose(made[3:-3, 3:-3, 1], pillow[3:-3, 3:-3], atol=1e-5)


def test_downsample_refuses_sides_that_do_not_divide(distort):
    with pytest.raises(UsageError, match="multiples of 3"):
        distort(FLAT, "downsample", factor=3)


def test_antialiased_resizes_are_bicubic_averages(distort, photo):
    photo = np.ascontiguousarray(photo[:, :144])
    made = distort(photo, "resize", factor=0.5, method="antialiased")
    inside = (slice(4, -4), slice(4, -4))
    np.testing.assert_allclose(made[inside], distort(photo, "downsample", factor=2)[inside], atol=1e-5)
    assert distort(photo[:31, :45], "resize", factor=0.5, method="antialiased").shape == (16, 22, 3)


@pytest.mark.parametrize("method", ["nearest", "area", "bilinear", "bicubic", "antialiased"])
def test_resize_changes_the_shape_and_keeps_what_is_flat(distort, method):
    assert distort(FLAT, "resize", factor=0.3, method=method).shape == (77, 77, 3)
    made = distort(FLAT, "resize_to", height=300, width=10, method=method)
    assert made.shape == (300, 10, 3)
    np.testing.assert_allclose(made, 0.5, atol=1e-6)


def test_methods_of_resizing_are_what_they_are_called(distort):
    image = np.random.default_rng(2).random((12, 1, 3), dtype=np.float32)
    made = {
        m: distort(image, "resize_to", height=4, width=1, method=m) for m in ("area", "nearest", "bilinear")
    }
    np.testing.assert_allclose(made["area"], image.reshape(4, 3, 1, 3).mean(axis=1), atol=1e-6)
    assert np.isin(made["nearest"], image).all()
    np.testing.assert_allclose(made["bilinear"], image[1::3], atol=1e-6)  # the middle one of three
    twice = distort(image, "resize_to", height=24, width=1, method="bilinear")[3:-3:2]
    np.testing.assert_allclose(twice, 0.75 * image[1:10] + 0.25 * image[2:11], atol=1e-6)
    quarter = 0.25
    inside, outside = (
        (lambda x: 1.25 * x**3 - 2.25 * x**2 + 1),
        (lambda x: -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)),
    )
    weights = [outside(1 + quarter), inside(quarter), inside(1 - quarter), outside(2 - quarter)]  # a = -0.75
    cubic = sum(w * image[k : k + 9] for k, w in enumerate(weights))
    made = distort(image, "resize_to", height=24, width=1, method="bicubic")
    np.testing.assert_allclose(made[3:-3:2], cubic, atol=1e-6)


def test_updown_loses_more_the_smaller_it_goes(distort, photo):
    errors = [np.mean((distort(photo, "updown", factor=f) - photo) ** 2) for f in (0.9, 0.5, 0.25)]
    assert errors == sorted(errors)
    assert distort(photo, "updown", factor=0.3).shape == photo.shape


def test_pixelate_has_the_number_of_pixels_it_says(distort, photo):
    made = distort(photo, "pixelate", factor=0.25)
    blocks = photo[:120, :148].reshape(30, 4, 37, 4, 3).mean(axis=(1, 3))
    assert made.shape == photo.shape
    assert len(np.unique(made[:, 0, 0])) <= 30
    edges = np.flatnonzero(np.abs(np.diff(made, axis=1)).max(axis=(0, 2)))
    assert len(edges) + 1 == 37  # 150 / 4, the rest cut off
    np.testing.assert_allclose(
        distort(photo[:120, :148], "pixelate", factor=0.25)[::4, ::4], blocks, atol=1e-6
    )
