"""Snow and frost are as thick as they say."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm

from dilkit.distortions import Draw, Window
from dilkit.distortions.families.frost import DIRECTIONS, LENGTHS, fern, frost_texture

BLACK = np.zeros((400, 402, 3), np.float32)
PLAIN = {"zoom": 1, "length": 1, "whiten": 0}


@pytest.mark.parametrize(
    ("mean", "deviation", "threshold"), [(0.1, 0.3, 0.5), (0.55, 0.3, 0.9), (0.3, 0.1, 0.2)]
)
def test_flakes_cover_what_the_normal_law_leaves_above_the_threshold(distort, mean, deviation, threshold):
    params = {"mean": mean, "deviation": deviation, "threshold": threshold}
    layer = distort(BLACK, "snow", **params, **PLAIN)[..., 0].astype(float)
    np.testing.assert_array_equal(layer, layer[::-1, ::-1])  # itself and its turned copy
    share = norm.sf(threshold, mean, deviation)
    assert (layer > 0).mean() == pytest.approx(1 - (1 - share) ** 2, abs=0.01)
    z, top = np.random.default_rng(0).normal(mean, deviation, 10**6), 1
    assert layer.mean() == pytest.approx(2 * np.where(z < threshold, 0, np.clip(z, 0, top)).mean(), rel=0.03)
    assert layer.max() <= 2


@pytest.mark.parametrize("zoom", [2, 4])
def test_magnified_noise_is_interpolated(distort, zoom):
    """Between two values straight lines: less deviation, so fewer flakes; they are as wide as the zoom."""
    params = {"mean": 0.4, "threshold": 0.6, "zoom": zoom, "length": 1, "whiten": 0}
    layer = distort(BLACK, "snow", **params)[..., 0]
    gains = [math.hypot(1 - k / zoom, k / zoom) for k in range(zoom)]
    share = np.mean([norm.sf(0.6, 0.4, 0.3 * a * b) for a, b in itertools.product(gains, gains)])
    assert (layer > 0).mean() == pytest.approx(1 - (1 - share) ** 2, abs=0.015)


@pytest.mark.parametrize("length", [5, 17])
def test_the_line_keeps_the_light_and_spreads_it(distort, length):
    layers = [
        distort(BLACK, "snow", mean=0.1, zoom=1, length=n, angle=90, whiten=0)[..., 0].astype(float)
        for n in (1, length)
    ]
    assert layers[1].mean() == pytest.approx(layers[0].mean(), abs=0.006)
    assert layers[1].var() == pytest.approx(layers[0].var() / length, rel=0.2)
    lengthwise = [np.corrcoef(layer[:-3].ravel(), layer[3:].ravel())[0, 1] for layer in layers]
    assert lengthwise == pytest.approx([0, 1 - 3 / length], abs=0.06)
    across = np.corrcoef(layers[1][:, :-1].ravel(), layers[1][:, 1:].ravel())[0, 1]
    assert abs(across) < 0.05


@pytest.mark.parametrize("angle", [60, 120])
def test_snow_falls_at_its_angle(distort, angle_of, angle):
    layer = distort(BLACK, "snow", mean=0.1, zoom=1, length=31, angle=angle, whiten=0)[..., 0].astype(float)
    assert abs((angle_of(layer) - angle + 90) % 180 - 90) < 3


def test_snow_whitens(distort, photo):
    made = distort(photo, "snow", mean=-1, deviation=0, whiten=0.3)  # not one flake
    grey = photo.astype(float) @ [0.299, 0.587, 0.114]
    expected = 0.7 * photo + 0.3 * np.maximum(photo, 1.5 * grey[..., None] + 0.5)
    np.testing.assert_allclose(made, expected, atol=1e-6)


def test_frost_weighs_its_texture(distort, photo):
    black = np.zeros_like(photo)
    texture = distort(black, "frost", weight=0.75, keep=0.6) / 0.75
    assert 0.2 <= texture.min() < 0.35
    assert 0.9 < texture.max() <= 1.0001
    made = distort(photo, "frost", weight=0.75, keep=0.6)
    np.testing.assert_allclose(made, 0.6 * photo + 0.75 * texture, atol=1e-6)


def test_frost_is_bluish_and_as_bright_as_photographs_of_it():
    textures = np.stack([frost_texture(Draw.whole(bytes([k]), (128, 128))) for k in range(40)])
    red, green, blue = textures.mean(axis=(0, 1, 2), dtype=float)
    assert (red, green, blue) == pytest.approx((0.57, 0.65, 0.70), abs=0.03)
    grey = textures.mean(axis=3)
    assert np.percentile(grey, 5) < 0.4
    assert np.percentile(grey, 95) > 0.9
    assert grey.std(axis=(1, 2)).mean() == pytest.approx(0.18, abs=0.02)
    bright = grey > 0.95
    assert np.ptp(textures[bright], axis=1).max() < 0.09  # white


def test_frost_of_a_window_is_its_cut():
    whole = Draw.whole(b"frost", (300, 420))
    texture = frost_texture(whole)
    rng = np.random.default_rng(0)
    for _ in range(20):
        y, x = int(rng.integers(0, 300)), int(rng.integers(0, 420))
        h, w = int(rng.integers(1, 301 - y)), int(rng.integers(1, 421 - x))
        part = frost_texture(whole.at(Window(y, x, h, w)))
        np.testing.assert_array_equal(part, texture[y : y + h, x : x + w])


def axis_of(light):
    """The direction of a fern's main axis in radians, y downwards, modulo half a turn; and its length."""
    y, x = (places - len(light) // 2 for places in np.nonzero(light > 60))
    covariance = np.cov(x, y)
    angle = 0.5 * math.atan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])
    return angle, np.ptp(x * math.cos(angle) + y * math.sin(angle))


@pytest.mark.parametrize("kind", range(len(LENGTHS)))
def test_ferns_have_their_length_and_direction(kind):
    straight, length = axis_of(fern(kind, 0)[0])
    assert length == pytest.approx(LENGTHS[kind], rel=0.2)
    for direction in (5, 8, 20, 31):
        light, through = fern(kind, direction)
        assert light.shape == through.shape == (len(light), len(light))
        assert len(light) // 2 + 32 <= 128  # so that the margin around a window holds it
        assert not light[[0, -1]].any() and not light[:, [0, -1]].any()
        turned = axis_of(light)[0] - straight - 2 * math.pi * direction / DIRECTIONS
        assert abs(math.remainder(turned, math.pi)) < math.radians(3)
