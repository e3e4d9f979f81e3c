"""Every degree means what it says."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import scipy.stats
from PIL import Image as Pil

from dilkit.distortions import _poisson, as_float
from dilkit.distortions.draw import Draw
from dilkit.distortions.eight_bit import to_levels
from dilkit.errors import UsageError

FLAT = np.full((256, 256, 3), 0.5, np.float32)


def residual(distort, image, name, **params):
    return (distort(image, name, **params) - image).astype(float)


@pytest.mark.parametrize("sigma", [0, 1, 5, 25, 50, 75])
@pytest.mark.parametrize("channels", ["colour", "grey"])
def test_awgn_sigma(distort, sigma, channels):
    noise = residual(distort, FLAT, "awgn", sigma=sigma, channels=channels) * 255
    n = noise.size if channels == "colour" else noise.size / 3
    assert abs(noise.std() - sigma) <= 4 * sigma / math.sqrt(2 * n) + 1e-5
    assert abs(noise.mean()) <= 4 * sigma / math.sqrt(n) + 1e-5
    equal = np.allclose(noise[..., 0], noise[..., 1], atol=1e-4)
    assert equal == (channels == "grey" or sigma == 0)


def test_awgn_sigma_to_a_part_in_a_thousand(distort):
    noise = residual(distort, np.zeros((1600, 1600, 3), np.float32), "awgn", sigma=25) * 255
    assert noise.std() == pytest.approx(25, rel=0.001)
    assert scipy.stats.kurtosis(noise.ravel()) == pytest.approx(0, abs=0.01)


def test_awgn_does_not_clip(distort):
    assert distort(np.ones_like(FLAT), "awgn", sigma=50).max() > 1.5


@pytest.mark.parametrize("rate", [0.003, 0.1, 0.124, 1.06, 3.3, 9.99, 10, 11.7, 40.2, 255.5, 3000])
def test_poisson_counts_follow_the_law(rate):
    draw = Draw.whole(b"calibration", (512, 512))
    counts = _poisson.counts(np.full((512, 512, 3), rate, np.float32), draw)
    n = counts.size
    assert np.array_equal(counts, np.rint(counts))
    assert counts.min() >= 0
    edges = np.unique(scipy.stats.poisson.ppf(np.linspace(0.02, 0.98, 30), rate))
    bins = np.concatenate([[-1], edges, [np.inf]])
    seen = np.histogram(counts, bins=bins + 0.5)[0]
    expected = np.diff(scipy.stats.poisson.cdf(bins, rate)) * n
    seen, expected = seen[expected > 5], expected[expected > 5]
    chi = ((seen - expected) ** 2 / expected).sum()
    assert chi < scipy.stats.chi2.ppf(1 - 1e-4, max(1, len(seen) - 1))
    assert abs(counts.mean(dtype=float) - rate) < 4 * math.sqrt(rate / n) + 1e-5


@pytest.mark.parametrize(
    ("rate", "share"),
    [(0.125, 0), (9.875, 0), (10, 6e-4), (13.7, 6e-4), (256, 6e-4), (4000, 6e-4), (65536, 4e-3)],
)
def test_poisson_counts_are_the_inverse_of_the_law_at_every_level(rate, share):
    levels = np.arange(1 << 16, dtype=np.uint16)
    exact = scipy.stats.poisson.ppf((levels + 0.5) / levels.size, float(np.float32(rate)))
    if rate < 10:
        counts = _poisson._inverted(np.full(levels.shape, 8 * rate, np.int32), levels)
    else:
        counts = _poisson._large(np.full(levels.shape, rate, np.float32), levels)
    assert abs(counts - exact).max() <= 1
    assert np.mean(counts != exact) <= share


@pytest.mark.parametrize("rate", [0.01, 0.06, 0.1249])
def test_poisson_counts_between_the_rates_of_the_table(rate):
    levels = np.arange(1 << 16, dtype=np.uint16)
    counts = _poisson._few(np.full(levels.shape, rate, np.float32), np.zeros_like(levels), levels)
    for least in (1, 2, 3):
        expected = levels.size * scipy.stats.poisson.sf(least - 1, rate)
        assert np.count_nonzero(counts >= least) == pytest.approx(expected, abs=1)


def test_poisson_counts_of_zero_are_zero():
    zero = np.zeros((9, 9, 3), np.float32)
    assert not _poisson.counts(zero, Draw.whole(b"k", (9, 9))).any()


@pytest.mark.parametrize("peak", [4, 256])
@pytest.mark.parametrize("alpha", [0.5, 1, 3])
def test_poisson_variance_has_slope_alpha_squared_over_peak(distort, alpha, peak):
    levels = np.linspace(0.05, 0.95, 10, dtype=np.float32)
    variances = []
    for level in levels:
        noise = residual(distort, np.full_like(FLAT, level), "poisson", alpha=alpha, peak=peak)
        variances.append(noise.var())
        assert abs(noise.mean()) < 4 * math.sqrt(variances[-1] / noise.size) + 1e-6
    slope, offset = np.polyfit(levels, variances, 1)
    assert slope == pytest.approx(alpha**2 / peak, rel=0.02)
    assert abs(offset) < 0.01 * slope


def legacy_noise(image, channels):
    """The rounded image that the legacy law counts, and its peak, from their definition."""
    seen = image @ np.array([0.299, 0.587, 0.114]) if channels == "grey" else image
    seen = np.clip(np.rint(255 * seen), 0, 255) / 255
    return seen, 2 ** math.ceil(math.log2(len(np.unique(seen))))


@pytest.mark.parametrize("channels", ["colour", "grey"])
@pytest.mark.parametrize("name", ["clip", "gaussian_blur", "brightness", "quantize"])
def test_poisson_legacy_peak_is_the_power_of_two_above_the_number_of_levels(distort, photo, name, channels):
    """Of the image rounded to 8 bits: a blurred one has a value of its own in nearly every pixel."""
    params = {"gaussian_blur": {"sigma": 2}, "brightness": {"shift": -0.7}, "quantize": {"bits": 4}}
    image = distort(photo, name, **params.get(name, {})) * np.float32(1.2)
    seen, peak = legacy_noise(image, channels)
    made = distort(image, "poisson", alpha=1, legacy=True, channels=channels)
    noise = made.astype(float) - image
    counts = (noise[..., 0] + seen if channels == "grey" else noise + seen) * peak
    np.testing.assert_allclose(counts, np.rint(counts), atol=1e-3)
    assert np.any(np.rint(counts) % 2 == 1)  # or the peak would be too high
    assert noise.var() == pytest.approx(seen.mean() / peak, rel=0.05)


@pytest.mark.parametrize("law", ["gaussian", "uniform"])
@pytest.mark.parametrize("variance", [0.005, 0.024, 0.2])
def test_speckle_variance(distort, law, variance):
    for level in (0.25, 0.75):
        factor = distort(np.full_like(FLAT, level), "speckle", variance=variance, law=law) / level - 1
        n = factor.size
        assert factor.astype(float).var() == pytest.approx(variance, rel=6 * math.sqrt(2 / n))
        assert abs(factor.mean(dtype=float)) < 4 * math.sqrt(variance / n)
        kurtosis = scipy.stats.kurtosis(factor.ravel().astype(float), fisher=False)
        assert kurtosis == pytest.approx(3 if law == "gaussian" else 1.8, rel=0.03)


def test_channel_correlated_awgn_has_its_sigma_over_channels_and_a_covariance_per_image(distort):
    found = []
    for seed in range(40):
        noise = residual(distort, FLAT[:64, :64], "awgn", sigma=20, channels="correlated", seed=seed)
        covariance = np.cov((noise * 255).reshape(-1, 3).T)
        assert np.trace(covariance) / 3 == pytest.approx(400, rel=0.08)
        found.append(covariance / np.sqrt(np.outer(covariance.diagonal(), covariance.diagonal())))
    off_diagonal = np.array(found)[:, 0, 1]
    assert abs(off_diagonal).max() > 0.4
    assert off_diagonal.min() < 0 < off_diagonal.max()


def test_grey_poisson_adds_one_field_of_the_luminance(distort):
    image = np.broadcast_to(np.array([0.9, 0.5, 0.1], np.float32), (256, 256, 3)).copy()
    noise = residual(distort, image, "poisson", alpha=2, peak=64, channels="grey")
    np.testing.assert_allclose(noise[..., 0], noise[..., 2], atol=1e-6)
    grey = 0.299 * 0.9 + 0.587 * 0.5 + 0.114 * 0.1
    assert noise[..., 0].var() == pytest.approx(4 * grey / 64, rel=0.03)


@pytest.mark.parametrize("radius", [1, 3])
def test_correlated_noise_is_box_filtered(distort, radius):
    size = 2 * radius + 1
    noise = residual(distort, FLAT, "correlated_noise", sigma=50, radius=radius) * 255
    assert noise.std() == pytest.approx(50 / size, rel=0.02)
    correlation = (noise[:, 1:] * noise[:, :-1]).mean() / noise.var()
    assert correlation == pytest.approx(1 - 1 / size, abs=0.02)
    beyond = (noise[:, size:] * noise[:, :-size]).mean() / noise.var()
    assert abs(beyond) < 0.02
    edge = noise[0].std(), noise[:, -1].std()
    assert edge == pytest.approx((50 / size, 50 / size), rel=0.15)


@pytest.mark.parametrize("channels", ["colour", "grey"])
@pytest.mark.parametrize("salt", [0, 0.3, 1])
def test_salt_and_pepper_amounts(distort, salt, channels):
    made = distort(FLAT, "salt_pepper", amount=0.1, salt=salt, channels=channels)
    assert (made == 1).mean() == pytest.approx(0.1 * salt, abs=0.003)
    assert (made == 0).mean() == pytest.approx(0.1 * (1 - salt), abs=0.003)
    together = ((made != 0.5).any(axis=2) == (made != 0.5).all(axis=2)).all()
    assert together == (channels == "grey")


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
    assert made.sum() == pytest.approx(100.5 + 50.5 * zooms.mean(), abs=0.1)


@pytest.mark.parametrize("shape", [(40, 41), (41, 40)])
def test_zoom_blur_is_about_the_centre(distort, shape):
    image = np.random.default_rng(3).random((*shape, 3), dtype=np.float32)
    turned = distort(np.ascontiguousarray(image[::-1, ::-1]), "zoom_blur", zoom=1.3, step=0.1)
    np.testing.assert_allclose(distort(image, "zoom_blur", zoom=1.3, step=0.1), turned[::-1, ::-1], atol=0.02)


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
