"""Glass and elastic warp move pixels as far as they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.ndimage

from dilkit.distortions import Draw, Window, elastic
from dilkit.distortions.families._lattice import smooth
from dilkit.distortions.families.warp import _moved

SIDE = 256
PLACES = np.stack([*np.mgrid[:SIDE, :SIDE], np.zeros((SIDE, SIDE))], axis=2).astype(np.float32)
"""An image that says where each pixel came from: its row in red, its column in green."""


def steps(distort, name, margin, **params):
    """How far down and to the right of it each pixel was taken from, (h, w, 2), away from the border."""
    moved = (distort(PLACES, name, **params) - PLACES)[margin:-margin, margin:-margin, :2]
    return moved.astype(float)


def test_a_step_through_glass_is_uniform_on_minus_delta_to_delta_less_one(distort):
    """Of one pixel: all neighbours come later, so nothing is copied on."""
    found = steps(distort, "glass_blur", 8, delta=1, sigma=0.05, iterations=1)
    whole = np.rint(found)
    assert np.abs(found - whole).max() < 0.1  # the blur of 0.05 px leaves them whole
    n = whole[..., 0].size
    for axis in (0, 1):
        values, counts = np.unique(whole[..., axis], return_counts=True)
        assert values.tolist() == [-1, 0]
        assert ((counts - n / 2) ** 2).sum() * 2 / n < 30
    centred = whole + 0.5
    for a, b in (
        (centred[..., 0], centred[..., 1]),
        (centred[1:], centred[:-1]),
        (centred[:, 1:], centred[:, :-1]),
    ):
        assert abs((a * b).mean()) < 5 * 0.25 / math.sqrt(n)


def copied_in_turn(side: int, delta: int, iterations: int) -> np.ndarray:
    """How far each pixel's colour came, as the code of ImageNet-C does it, one pixel after the other."""
    places = np.mgrid[:side, :side].transpose(1, 2, 0).astype(float)
    image, rng = places.copy(), np.random.default_rng(5)
    for _ in range(iterations):
        lots = rng.integers(-delta, delta, (side, side, 2))
        for h in range(side - delta, delta, -1):
            for w in range(side - delta, delta, -1):
                image[h, w] = image[h + lots[h, w, 0], w + lots[h, w, 1]]
    return (image - places)[40:-40, 40:-40]


@pytest.mark.parametrize(("delta", "iterations"), [(2, 1), (2, 3), (4, 2)])
def test_glass_copies_neighbours_in_turn(distort, delta, iterations):
    found = steps(distort, "glass_blur", 40, delta=delta, sigma=0.05, iterations=iterations)
    theirs = copied_in_turn(180, delta, iterations)
    assert found.mean(axis=(0, 1)) == pytest.approx(theirs.mean(axis=(0, 1)), abs=0.12 * delta)
    assert found.std(axis=(0, 1)) == pytest.approx(theirs.std(axis=(0, 1)), rel=0.06)
    far = [np.mean(np.abs(moved[..., 0]) > delta * iterations) for moved in (found, theirs)]
    assert far[0] == pytest.approx(far[1], abs=0.02)


def test_glass_blurs_before_and_after(distort):
    """Its mean response to a line has the variance of two Gaussians and of the steps between them."""
    line = np.zeros((2000, 65, 3), np.float32)
    line[:, 32] = 1
    profile = distort(line, "glass_blur", delta=1, sigma=1.1, iterations=2)[..., 0].mean(axis=0, dtype=float)
    x = np.arange(65) - 32
    assert profile.sum() == pytest.approx(1, abs=0.02)
    centre = (profile * x).sum() / profile.sum()
    assert centre == pytest.approx(1, abs=0.1)  # taken from half a pixel to the left, twice
    variance = (profile * (x - centre) ** 2).sum() / profile.sum()
    assert variance == pytest.approx(2 * 1.1**2 + 2 * 3 / 12, rel=0.05)


def test_the_smooth_noise_has_its_deviation_and_width():
    for sigma in (1.5, 2.44, 7.9, 8.0, 19.52, 40.0):
        side = 800 if sigma > 10 else 400
        planes = [smooth(Draw.whole(bytes([k]), (side, side)), sigma).astype(float) for k in range(6)]
        expected = 1 / (2 * sigma * math.sqrt(3 * math.pi))
        variance = np.mean([np.mean(plane**2) for plane in planes])
        assert math.sqrt(variance) == pytest.approx(expected, rel=0.05 if sigma < 10 else 0.12)
        lag = round(sigma)
        for plane in (np.stack(planes), np.stack(planes).swapaxes(1, 2)):
            along = np.mean(plane[:, lag:] * plane[:, :-lag]) / variance
            assert along == pytest.approx(math.exp(-((lag / sigma) ** 2) / 4), abs=0.05)


@pytest.mark.parametrize("sigma", [2.44, 11.0, 170.8])
def test_the_smooth_noise_of_a_window_is_its_cut(sigma):
    whole = Draw.whole(b"field", (150, 203))
    plane = smooth(whole, sigma)
    assert plane.shape == (150, 203, 2)
    rng = np.random.default_rng(0)
    for _ in range(25):
        y, x = int(rng.integers(0, 150)), int(rng.integers(0, 203))
        h, w = int(rng.integers(1, 151 - y)), int(rng.integers(1, 204 - x))
        part = smooth(whole.at(Window(y, x, h, w)), sigma)
        np.testing.assert_array_equal(part, plane[y : y + h, x : x + w])


@pytest.mark.parametrize(("alpha", "sigma"), [(12.2, 2.44), (29.28, 2.44), (60.0, 5.0)])
def test_elastic_displaces_by_its_alpha(distort, alpha, sigma):
    found = steps(distort, "elastic", 20, alpha=alpha, sigma=sigma)
    assert found.std(axis=(0, 1)) == pytest.approx(
        [alpha / (2 * sigma * math.sqrt(3 * math.pi))] * 2, rel=0.1
    )
    assert found.mean(axis=(0, 1)) == pytest.approx([0, 0], abs=0.03 * alpha / sigma)
    halo = elastic(alpha, sigma=sigma).locality.halo
    assert 3.5 * found.std() < np.abs(found).max() < halo < 1.2 * 6 * found.std() + 2


@pytest.mark.parametrize(
    ("name", "params"),
    [("elastic", {"alpha": 60, "sigma": 2}), ("glass_blur", {"delta": 5, "sigma": 0.6, "iterations": 4})],
)
def test_windows_of_what_is_moved_are_cuts(distort, name, params):
    """Many and small, since few pixels come from far away."""
    image = np.random.default_rng(1).random((97, 110, 3), dtype=np.float32)
    whole = distort(image, name, **params)
    for y in range(0, 97, 6):
        for x in range(0, 110, 10):
            window = Window(y, x, min(6, 97 - y), 10)
            made = distort(image, name, window=window, **params)
            np.testing.assert_array_equal(made, whole[y : y + window.h, x : x + window.w])


def test_jitter_takes_three_corners_from_as_far_as_it_says(distort):
    image = PLACES[:224, :224]
    corners = np.array([[112 + 74, 112 + 74], [112 - 74, 112 + 74], [112 - 74, 112 - 74]])
    inner = np.mgrid[60:164, 60:164].reshape(2, -1).T
    basis = np.c_[inner, np.ones(len(inner))]
    found = []
    for seed in range(60):
        made = distort(image, "elastic", seed=seed, alpha=0, jitter=20)
        moved = (made - image)[60:164, 60:164, :2].reshape(-1, 2).astype(float)
        fit, *_ = np.linalg.lstsq(basis, moved, rcond=None)
        np.testing.assert_allclose(basis @ fit, moved, atol=1e-3)  # affine
        found.append(np.c_[corners, np.ones(3)] @ fit)
    lots = np.array(found) / 20
    assert np.abs(lots).max() <= 1.001
    assert np.abs(lots).max() > 0.95
    np.testing.assert_allclose(lots.var(axis=0), 1 / 3, rtol=0.5)
    assert lots.var() == pytest.approx(1 / 3, rel=0.1)
    assert abs(lots.mean()) < 0.1


def test_pixels_are_interpolated_linearly_and_reflected(photo):
    rng = np.random.default_rng(0)
    for spread in (3, 400):
        down, right = (rng.uniform(-spread, spread, photo.shape[:2]).astype(np.float32) for _ in range(2))
        y, x = np.mgrid[: photo.shape[0], : photo.shape[1]]
        expected = [
            scipy.ndimage.map_coordinates(
                photo[..., c].astype(float), [y + down, x + right], order=1, mode="mirror"
            )
            for c in range(3)
        ]
        np.testing.assert_allclose(_moved(photo, down, right), np.stack(expected, axis=2), atol=1e-4)
    point = np.full((1, 1, 3), 0.3, np.float32)
    np.testing.assert_array_equal(_moved(point, *np.full((2, 1, 1), 5.5, np.float32)), point)


def test_nothing_moves_without_alpha(distort, photo):
    np.testing.assert_array_equal(distort(photo, "elastic", alpha=0), photo)


def test_elastic_looks_everywhere_only_with_jitter():
    assert elastic(29.28, sigma=2.44).locality.name == "halo"
    assert elastic(29.28, sigma=2.44, jitter=1).locality.name == "global"
