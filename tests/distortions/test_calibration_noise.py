"""Noise is as strong as it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats

from dilkit.distortions.families import noise
from dilkit.distortions.randomness import Draw

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
    counts = noise.poisson_counts(np.full((512, 512, 3), rate, np.float32), draw)
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
        counts = noise._inverted(np.full(levels.shape, 8 * rate, np.int32), levels)
    else:
        counts = noise._large(np.full(levels.shape, rate, np.float32), levels)
    assert abs(counts - exact).max() <= 1
    assert np.mean(counts != exact) <= share


@pytest.mark.parametrize("rate", [0.01, 0.06, 0.1249])
def test_poisson_counts_between_the_rates_of_the_table(rate):
    levels = np.arange(1 << 16, dtype=np.uint16)
    counts = noise._few(np.full(levels.shape, rate, np.float32), np.zeros_like(levels), levels)
    for least in (1, 2, 3):
        expected = levels.size * scipy.stats.poisson.sf(least - 1, rate)
        assert np.count_nonzero(counts >= least) == pytest.approx(expected, abs=1)


def test_poisson_counts_of_zero_are_zero():
    zero = np.zeros((9, 9, 3), np.float32)
    assert not noise.poisson_counts(zero, Draw.whole(b"k", (9, 9))).any()


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
