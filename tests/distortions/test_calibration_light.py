"""Every degree of weather, light and camera means what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage
import skimage.color

from dilkit.distortions import Draw, Window
from dilkit.distortions.families.camera import linear_to_srgb, srgb_to_linear
from dilkit.distortions.families.weather import plasma, stretched_plasma

FLAT = np.full((256, 256, 3), 0.5, np.float32)
DARK = np.zeros((512, 512, 3), np.float32)


@pytest.mark.parametrize(("density", "length", "opacity"), [(0.001, 9, 0.5), (0.002, 25, 1), (0.004, 5, 0.3)])
def test_rain_has_its_density_length_and_opacity(distort, density, length, opacity):
    shape = {"length": length, "angle": 90, "width": 0.05, "opacity": opacity}
    layer = distort(DARK, "rain", density=density, **shape)[..., 0].astype(float)
    streaks = density * DARK.shape[0] * DARK.shape[1]
    assert layer.sum() == pytest.approx(streaks * length * opacity / 2, rel=8 / math.sqrt(streaks))
    assert layer.max() <= 1
    starts = (layer[1:] > 0) & (layer[:-1] == 0)
    assert (layer > 0).sum() / starts.sum() == pytest.approx(length, rel=0.2)


@pytest.mark.parametrize("angle", [90, 60, 120])
def test_rain_falls_at_its_angle(distort, angle_of, angle):
    layer = distort(DARK, "rain", density=0.0005, length=31, angle=angle)[..., 0].astype(float)
    assert abs((angle_of(layer) - angle + 90) % 180 - 90) < 3


@pytest.mark.parametrize("width", [0.3, 1, 4])
def test_rain_has_its_width(distort, width):
    """The deviation of its brightness along x, where there is but one streak, which falls upright."""
    shape = {"length": 9, "angle": 90, "width": width}
    layers = (distort(DARK, "rain", density=4e-6, seed=seed, **shape)[..., 0] for seed in range(40))
    whole = (layer for layer in layers if not layer[:, [0, -1]].any())
    single = next(layer for layer in whole if scipy.ndimage.label(layer)[1] == 1)
    profile = single.sum(axis=0, dtype=float) / single.sum(dtype=float)
    place = np.arange(profile.size)
    variance = (profile * (place - (profile * place).sum()) ** 2).sum()
    assert math.sqrt(variance) == pytest.approx(width, rel=0.01)


def test_rain_blends(distort):
    streaks = distort(DARK[:64, :64], "rain", density=0.01)
    grey = FLAT[:64, :64]
    np.testing.assert_allclose(distort(grey, "rain", density=0.01), grey + streaks, atol=1e-6)
    streaks = distort(DARK[:64, :64], "rain", density=0.01, blend="screen")
    screen = distort(grey, "rain", density=0.01, blend="screen")
    np.testing.assert_allclose(screen, 1 - 0.5 * (1 - streaks), atol=1e-6)
    np.testing.assert_array_equal(distort(grey, "rain", density=0), grey)


def test_haze_is_koschmieders_law(distort, photo):
    made = distort(photo, "haze", transmission=0.3, airlight=0.8)
    np.testing.assert_allclose(made, photo * 0.3 + 0.8 * 0.7, atol=1e-6)


def test_haze_of_varying_depth_has_its_transmission_in_the_geometric_mean(distort):
    black = np.zeros((1024, 1024, 3), np.float32)
    passed = 1 - distort(black, "haze", transmission=0.4, airlight=1, variation=0.5)[..., 0].astype(float)
    depth = np.log(passed) / math.log(0.4)
    assert depth.mean() == pytest.approx(1, abs=0.15)
    assert depth.min() >= 0.5 - 1e-5
    assert depth.max() <= 1.5 + 1e-5
    assert depth.std() > 0.1


def test_fog_weighs_its_cloud(distort, photo):
    difference = distort(photo, "fog", density=1.5) * 2.5 - photo
    assert difference.min() >= -1e-5
    assert difference.max() <= 1.5 + 1e-5
    np.testing.assert_allclose(difference[..., 0], difference[..., 2], atol=1e-5)
    np.testing.assert_array_equal(distort(photo, "fog", density=0), photo)


def test_the_cloud_is_a_plasma_in_windows_too():
    whole = Draw.whole(b"cloud", (700, 900))
    cloud = plasma(whole, 2.0)
    assert cloud.mean() == pytest.approx(0.5, abs=0.15)
    assert 0.08 < cloud.std() < 0.3
    rng = np.random.default_rng(0)
    for _ in range(40):
        y, x = int(rng.integers(0, 700)), int(rng.integers(0, 900))
        h, w = int(rng.integers(1, 701 - y)), int(rng.integers(1, 901 - x))
        np.testing.assert_array_equal(plasma(whole.at(Window(y, x, h, w)), 2.0), cloud[y : y + h, x : x + w])


@pytest.mark.parametrize("decay", [1.4, 2.0])
def test_the_cloud_of_fog_is_stretched_to_all_of_0_to_1_in_windows_too(decay):
    whole = Draw.whole(b"cloud", (512, 512))
    cloud = stretched_plasma(whole, decay)
    assert cloud.min() < 0.02
    assert cloud.max() > 0.98
    part = Draw.whole(b"cloud", (300, 420))
    cloud = stretched_plasma(part, decay)
    for window in (Window(0, 0, 300, 420), Window(7, 11, 1, 409), Window(250, 333, 50, 87)):
        y, x, h, w = window
        np.testing.assert_array_equal(stretched_plasma(part.at(window), decay), cloud[y : y + h, x : x + w])


def test_the_cloud_is_smoother_the_more_it_decays():
    rough, smooth = (plasma(Draw.whole(b"cloud", (256, 256)), decay) for decay in (1.4, 3.0))
    steps = [np.abs(np.diff(cloud, axis=1)).mean() / cloud.std() for cloud in (rough, smooth)]
    assert steps[0] > 3 * steps[1]


def test_clouds_of_several_keys_average_to_one_half():
    clouds = np.array([plasma(Draw.whole(bytes([k]), (128, 128)), 2.0) for k in range(60)])
    assert clouds.mean() == pytest.approx(0.5, abs=0.08)
    assert clouds.std() == pytest.approx(0.19, abs=0.02)


def test_low_light_is_its_formula(distort, photo):
    made = distort(photo, "low_light", gamma=2.7, alpha=0.9, beta=0.6)
    np.testing.assert_allclose(made, 0.6 * (0.9 * photo.astype(float)) ** 2.7, atol=2e-6)
    np.testing.assert_allclose(distort(photo, "low_light", gamma=1), photo, atol=1e-6)


@pytest.mark.parametrize("shift", [-0.3, 0.2, 0.7])
def test_brightness_shifts_the_value_and_keeps_hue_and_saturation(distort, photo, shift):
    made = distort(photo, "brightness", shift=shift)
    value = np.clip(photo.max(axis=2) + shift, 0, 1)
    np.testing.assert_allclose(made.max(axis=2), value, atol=1e-6)
    bright = photo.max(axis=2) > 0.1
    ratio, expected = (
        made[bright] / value[bright][:, None].clip(1e-9),
        photo[bright] / photo[bright].max(axis=1, keepdims=True),
    )
    lit = value[bright] > 0.01
    np.testing.assert_allclose(ratio[lit], expected[lit], atol=1e-4)
    np.testing.assert_allclose(distort(DARK[:3, :3], "brightness", shift=0.5), 0.5)


def test_contrast_scales_about_the_mean_of_each_channel(distort, photo):
    photo = photo.astype(np.float64)
    made = distort(photo.astype(np.float32), "contrast", factor=0.3).astype(np.float64)
    np.testing.assert_allclose(made.mean(axis=(0, 1)), photo.mean(axis=(0, 1)), atol=1e-5)
    np.testing.assert_allclose(made.std(axis=(0, 1)), 0.3 * photo.std(axis=(0, 1)), rtol=1e-4)


def test_srgb_curves():
    x = np.linspace(0, 1, 100_001, dtype=np.float32)
    linear = np.where(x <= 0.04045, x / 12.92, ((x.astype(float) + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(srgb_to_linear()(x), linear, atol=1e-6)
    np.testing.assert_allclose(linear_to_srgb()(linear.astype(np.float32)), x, atol=2e-5)
    beyond = np.array([-0.1, 1.1], np.float32)
    np.testing.assert_allclose(srgb_to_linear()(beyond), [-0.1 / 12.92, 1 + 0.1 * 2.274], atol=1e-3)


CAMERAS = ["none", "huawei-nexus-6p", "sony-a7r", "olympus-e-m10", "sony-rx100-iv"]


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_without_noise_gives_the_image_back(distort, photo, camera):
    made = distort(photo, "camera_noise", shot=0, read=0, camera=camera)
    np.testing.assert_allclose(made, photo, atol=2e-4)


@pytest.mark.parametrize("level", [0.2, 0.5, 0.8])
def test_camera_noise_has_the_variance_of_the_sensor(distort, level):
    """Without matrix, gains and mosaic, in linear light: variance = shot * signal + read."""
    image = np.full_like(FLAT, level)
    plain = {"red_gain": 1, "blue_gain": 1, "mosaic": False}
    made = srgb_to_linear()(distort(image, "camera_noise", shot=2e-4, read=1e-5, **plain)).astype(float)
    signal = float(srgb_to_linear()(image)[0, 0, 0])
    assert made.mean() == pytest.approx(signal, abs=1e-4)
    assert made.var() == pytest.approx(2e-4 * signal + 1e-5, rel=0.02)


def test_white_balance_gains_magnify_the_noise_of_red_and_blue(distort):
    gains = {"red_gain": 2.0, "blue_gain": 1.5, "mosaic": False}
    noise = srgb_to_linear()(distort(FLAT, "camera_noise", shot=0, read=1e-5, **gains)).astype(float)
    deviations = noise.std(axis=(0, 1)) / math.sqrt(1e-5)
    np.testing.assert_allclose(deviations, [2.0, 1.0, 1.5], rtol=0.02)


XYZ_TO_CAMERA = {
    "huawei-nexus-6p": [1.0234, -0.2969, -0.2266, -0.5625, 1.6328, -0.0469, -0.0703, 0.2188, 0.6406],
    "sony-a7r": [0.4913, -0.0541, -0.0202, -0.613, 1.3513, 0.2906, -0.1564, 0.2151, 0.7183],
    "olympus-e-m10": [0.838, -0.263, -0.0639, -0.2887, 1.0725, 0.2496, -0.0627, 0.1427, 0.5438],
    "sony-rx100-iv": [0.6596, -0.2079, -0.0562, -0.4782, 1.3016, 0.1933, -0.097, 0.1581, 0.5181],
}


@pytest.mark.parametrize("camera", XYZ_TO_CAMERA)
def test_the_noise_of_a_camera_is_mixed_by_its_colour_matrix(distort, camera):
    """In linear light its covariance is B diag(shot * raw + read) B', B the way back from raw."""
    to_xyz = skimage.color.rgb2xyz(np.eye(3)).T  # columns: what red, green and blue are
    there = np.reshape(XYZ_TO_CAMERA[camera], (3, 3)) @ to_xyz
    there /= there.sum(axis=1, keepdims=True)  # white stays white
    there /= np.array([[1.9], [1], [1.6]])
    image = np.broadcast_to(np.array([0.5, 0.6, 0.4], np.float32), (1024, 1024, 3)).copy()
    settings = {"camera": camera, "red_gain": 1.9, "blue_gain": 1.6, "mosaic": False}
    made = distort(image, "camera_noise", shot=1e-4, read=1e-6, **settings)
    linear = srgb_to_linear()(image)[0, 0].astype(float)
    back = np.linalg.inv(there)
    expected = back @ np.diag(1e-4 * there @ linear + 1e-6) @ back.T
    found = np.cov(srgb_to_linear()(made).reshape(-1, 3).astype(float).T)
    np.testing.assert_allclose(found, expected, atol=0.008 * expected.max())


def test_a_mosaic_makes_the_noise_coarse(distort):
    gains = {"red_gain": 1.0, "blue_gain": 1.0}
    noise = srgb_to_linear()(distort(FLAT, "camera_noise", shot=0, read=1e-5, **gains)).astype(float)
    noise -= noise.mean()
    along = (noise[:, 1:] * noise[:, :-1]).mean(axis=(0, 1)) / noise.var(axis=(0, 1))
    assert along[0] > 0.4 and along[2] > 0.4
    red_sites, blue_sites = noise[::2, ::2, 0], noise[1::2, 1::2, 2]
    assert red_sites.std() == pytest.approx(math.sqrt(1e-5), rel=0.02)
    assert blue_sites.std() == pytest.approx(math.sqrt(1e-5), rel=0.02)
    np.testing.assert_allclose(
        noise[::2, 1:-1:2, 0], (noise[::2, :-2:2, 0] + noise[::2, 2::2, 0]) / 2, atol=2e-6
    )
