"""Blurs have the widths, lengths and bands that they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

FLAT = np.full((256, 256, 3), 0.5, np.float32)


def kernel_of(distort, name, size=129, **params):
    """The response to a point, float64 (size, size)."""
    point = np.zeros((size, size, 3), np.float32)
    point[size // 2, size // 2] = 1
    return distort(point, name, **params)[..., 0].astype(float)


def moments(kernel):
    """Total, standard deviations along y and x, and the covariance."""
    y, x = np.mgrid[: kernel.shape[0], : kernel.shape[1]] - kernel.shape[0] // 2
    total = kernel.sum()
    return total, math.sqrt((kernel * y * y).sum()), math.sqrt((kernel * x * x).sum()), (kernel * x * y).sum()


@pytest.mark.parametrize("sigma", [0.6, 1, 2, 4.2, 5, 10])
def test_gaussian_blur_has_its_sigma(distort, sigma):
    total, down, across, skew = moments(kernel_of(distort, "gaussian_blur", sigma=sigma))
    assert total == pytest.approx(1, abs=1e-5)
    assert down == pytest.approx(sigma, rel=0.003)
    assert across == pytest.approx(sigma, rel=0.003)
    assert abs(skew) < 1e-4


def test_gaussian_blur_keeps_what_is_flat(distort):
    np.testing.assert_allclose(distort(FLAT, "gaussian_blur", sigma=3), FLAT, atol=1e-6)


@pytest.mark.parametrize(("sigma", "across", "angle"), [(3, 1, 0), (3, 1, 90), (4, 1.5, 30), (2, 2, 45)])
def test_anisotropic_blur_has_its_widths_along_and_across_its_axis(distort, sigma, across, angle):
    kernel = kernel_of(distort, "anisotropic_blur", sigma=sigma, across=across, angle=angle)
    total, down, right, skew = moments(kernel)
    assert total == pytest.approx(1, abs=1e-5)
    covariance = np.array([[right**2, -skew], [-skew, down**2]])  # y upwards
    axis = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    normal = np.array([-axis[1], axis[0]])
    assert math.sqrt(axis @ covariance @ axis) == pytest.approx(sigma, rel=0.005)
    assert math.sqrt(normal @ covariance @ normal) == pytest.approx(across, rel=0.005)
    assert axis @ covariance @ normal == pytest.approx(0, abs=0.01)


def test_a_radius_cuts_the_kernel(distort):
    kernel = kernel_of(distort, "anisotropic_blur", sigma=4, across=3, radius=3)
    assert kernel[64 - 3 : 68, 64 - 3 : 68].sum() == pytest.approx(1, abs=1e-5)
    assert np.count_nonzero(kernel) == 49


def test_generalised_blur_of_shape_one_is_the_gaussian(distort):
    shape = {"sigma": 2, "across": 1, "angle": 20, "radius": 10}
    generalised = kernel_of(distort, "generalised_blur", beta=1, **shape)
    np.testing.assert_allclose(generalised, kernel_of(distort, "anisotropic_blur", **shape), atol=1e-7)


@pytest.mark.parametrize("name", ["generalised_blur", "plateau_blur"])
@pytest.mark.parametrize("beta", [0.5, 1.5, 4])
def test_generalised_and_plateau_laws(distort, name, beta):
    kernel = kernel_of(distort, name, sigma=3, across=2, angle=0, beta=beta)
    y, x = np.mgrid[-64:65, -64:65]
    q = (x / 3.0) ** 2 + (y / 2.0) ** 2
    law = np.exp(-0.5 * q**beta) if name == "generalised_blur" else 1 / (1 + q**beta)
    law[(abs(x) > 10) | (abs(y) > 10)] = 0
    np.testing.assert_allclose(kernel, law / law.sum(), atol=1e-6)


@pytest.mark.parametrize("cutoff", [math.pi / 3, 2.0])
def test_sinc_keeps_frequencies_below_its_cutoff_and_stops_those_above(distort, cutoff):
    transform = np.abs(np.fft.fft2(kernel_of(distort, "sinc", cutoff=cutoff, radius=60)))
    frequency = 2 * math.pi * np.fft.fftfreq(129)
    radius = np.hypot(*np.meshgrid(frequency, frequency))
    assert transform[radius < cutoff - 0.3].min() > 0.9
    assert transform[(radius > cutoff + 0.3)].max() < 0.1


@pytest.mark.parametrize(("cutoff", "radius"), [(math.pi / 3, 10), (2.5, 3), (0.7, 5)])
def test_sinc_is_the_transform_of_a_disk_of_frequencies(distort, cutoff, radius):
    frequency = np.linspace(-cutoff, cutoff, 2001)
    chord = np.sqrt(cutoff**2 - frequency**2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    down, across = y[..., None], x[..., None] * frequency
    over_chord = np.where(down == 0, 2 * chord, 2 * np.sin(down * chord) / np.where(down == 0, 1, down))
    law = (over_chord * np.cos(across)).sum(axis=-1)
    made = kernel_of(distort, "sinc", cutoff=cutoff, radius=radius)
    middle = slice(64 - radius, 65 + radius)
    np.testing.assert_allclose(made[middle, middle], law / law.sum(), atol=2e-5)


@pytest.mark.parametrize(("length", "angle"), [(1, 0), (9, 0), (8, 0), (15, 90), (15, 45), (21, 33)])
def test_motion_blur_has_its_length_and_angle(distort, length, angle):
    total, down, right, skew = moments(kernel_of(distort, "motion_blur", length=length, angle=angle))
    assert total == pytest.approx(1, abs=1e-5)
    covariance = np.array([[right**2, -skew], [-skew, down**2]])
    axis = np.array([math.cos(math.radians(angle)), math.sin(math.radians(angle))])
    normal = np.array([-axis[1], axis[0]])
    assert axis @ covariance @ axis == pytest.approx((length**2 - 1) / 12, abs=0.3)
    assert normal @ covariance @ normal < 0.3


@pytest.mark.parametrize("radius", [0.5, 2, 4.3, 10])
def test_defocus_is_a_disk_of_its_radius(distort, radius):
    kernel = kernel_of(distort, "defocus", radius=radius)
    assert kernel.sum() == pytest.approx(1, abs=1e-5)
    assert 1 / kernel.max() == pytest.approx(max(1, math.pi * radius**2), rel=0.02)
    assert moments(kernel)[1] ** 2 == pytest.approx(radius**2 / 4 + 1 / 12 * (radius > 1), abs=0.1)


@pytest.mark.parametrize(("sigma", "radius", "angle"), [(3, 10, 0), (8, 15, 90), (5, 6, -45)])
def test_a_trail_is_half_a_gaussian_towards_its_angle(distort, sigma, radius, angle):
    image = np.zeros((121, 121, 3), np.float32)
    image[60, 60] = 1
    made = distort(image, "motion_trail", sigma=sigma, radius=radius, angle=angle)[..., 0].astype(float)
    assert made.sum() == pytest.approx(1, abs=1e-5)
    k = np.arange(2 * radius + 1)
    weights = np.exp(-(k**2) / (2 * sigma**2))
    mean = np.average(k, weights=weights)
    y, x = np.indices(made.shape) - 60
    away = -mean * np.array([-np.sin(np.radians(angle)), np.cos(np.radians(angle))])
    assert ((made * y).sum(), (made * x).sum()) == pytest.approx(away, abs=0.3)


def test_zoom_blur_leaves_the_centre_and_smears_outwards(distort):
    image = np.zeros((101, 101, 3), np.float32)
    image[50, 50] = image[50, 90] = 1
    made = distort(image, "zoom_blur", zoom=1.2, step=0.05)[..., 0]
    assert made[50, 50] == pytest.approx(1, abs=0.05)
    assert made[50, 85] == 0
    assert made[50, 90:].sum() > 0.5
    np.testing.assert_array_equal(distort(image, "zoom_blur", zoom=1), image)


@pytest.mark.parametrize(("zoom", "step", "greatest"), [(1.2, 0.02, 1.2), (1.3, 0.03, 1.3), (1.26, 0.1, 1.2)])
def test_zoom_blur_magnifies_up_to_its_zoom_and_no_further(distort, zoom, step, greatest):
    zooms = np.arange(1, greatest + 1e-9, step)
    line, edge = np.zeros((2, 3, 201, 3), np.float32)
    line[:, 150] = edge[:, :151] = 1
    made = distort(line, "zoom_blur", zoom=zoom, step=step)[1, :, 0]
    assert np.flatnonzero(made > 1e-4).max() == math.floor(100 + 51 * greatest)
    made = distort(edge, "zoom_blur", zoom=zoom, step=step)[1, :, 0]
    assert made.sum() == pytest.approx(100.5 + 50.5 * np.mean([1, *zooms]), abs=0.1)


@pytest.mark.parametrize("shape", [(40, 41), (41, 40)])
def test_zoom_blur_is_about_the_centre(distort, shape):
    image = np.random.default_rng(3).random((*shape, 3), dtype=np.float32)
    turned = distort(np.ascontiguousarray(image[::-1, ::-1]), "zoom_blur", zoom=1.3, step=0.1)
    np.testing.assert_allclose(distort(image, "zoom_blur", zoom=1.3, step=0.1), turned[::-1, ::-1], atol=0.02)
