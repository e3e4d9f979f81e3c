"""PSNR and SSIM against the reference table, an independent library, and numbers that need no data."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dilkit.errors import UsageError
from dilkit.metrics import Reference, measured_levels, psnr, ssim

# Noisy input against clean: numpy.random.seed(0) per image, then numpy.random.normal(0, sigma / 255, HWC).
TABLE = [
    # set, sigma, PSNR float, clipped, uint8, Y; SSIM uint8, Y
    ("CBSD68", 15, 24.6188, 24.8453, 24.8438, 29.5928, 0.5731, 0.7382),
    ("CBSD68", 25, 20.1818, 20.5434, 20.5426, 25.2608, 0.3949, 0.5608),
    ("CBSD68", 50, 14.1612, 15.0035, 15.0034, 19.6422, 0.1996, 0.3230),
    ("Set5", 15, 24.6237, 25.0550, 25.0536, 29.7503, 0.5500, 0.7216),
    ("Set5", 25, 20.1867, 20.8241, 20.8233, 25.4523, 0.3708, 0.5362),
    ("Set5", 50, 14.1661, 15.3303, 15.3301, 19.8841, 0.1877, 0.3018),
]


@pytest.mark.parametrize(("name", "sigma", *"fcuyst"), TABLE)
def test_the_golden_table_to_its_last_digit(
    shared_data: Path, name: str, sigma: int, f: float, c: float, u: float, y: float, s: float, t: float
) -> None:
    files = sorted((shared_data / "test" / name).glob("*.png"))
    assert len(files) == {"CBSD68": 68, "Set5": 5}[name]
    found = []
    for file in files:
        clean = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
        noisy = clean / 255.0 + noise
        rgb, luma = Reference(clean), Reference(clean, channel="y")
        found.append(
            (
                psnr(noisy, clean, measure="float"),
                psnr(noisy, clean, measure="clipped"),
                rgb.psnr(noisy),
                luma.psnr(noisy),
                rgb.ssim(noisy),
                luma.ssim(noisy),
            )
        )
    assert [f"{v:.4f}" for v in np.mean(found, axis=0)] == [f"{v:.4f}" for v in (f, c, u, y, s, t)]


def synthetic(height: int = 70, width: int = 90, sigma: float = 25) -> tuple[np.ndarray, np.ndarray]:
    """A clean uint8 picture of ramps and stripes and a noisy uint8 one, by exact integer arithmetic."""
    y, x, c = np.mgrid[0:height, 0:width, 0:3]
    clean = ((3 * x + 5 * y * (c + 1) + 90 * ((x // 7 + y // 5) % 2)) % 256).astype(np.uint8)
    noise = ((x * 7919 + y * 104729 + c * 1299709) ** 2 // 11 % 101 - 50) * sigma / 29
    return clean, np.clip(clean + np.rint(noise), 0, 255).astype(np.uint8)


def test_committed_values_on_a_synthetic_picture() -> None:
    clean, noisy = synthetic()
    assert f"{psnr(noisy, clean):.6f}" == "20.526276"
    assert f"{psnr(noisy, clean, channel='y'):.6f}" == "25.104090"
    assert f"{psnr(noisy, clean, border=4):.6f}" == "20.516315"
    assert f"{ssim(noisy, clean):.8f}" == "0.89948744"
    assert f"{ssim(noisy, clean, channel='y'):.8f}" == "0.87685155"


@pytest.mark.parametrize("shape", [(11, 11), (40, 300), (300, 40), (130, 700)])
def test_an_independent_library_agrees(shape: tuple[int, int]) -> None:
    clean, noisy = synthetic(*shape)
    assert psnr(noisy, clean) == pytest.approx(
        peak_signal_noise_ratio(clean.astype(float), noisy.astype(float), data_range=255), abs=1e-10
    )
    _, full = structural_similarity(
        clean.astype(float),
        noisy.astype(float),
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        data_range=255,
        channel_axis=-1,
        full=True,
    )
    assert ssim(noisy, clean) == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-10)


def test_identical_images_have_infinite_psnr_and_unit_ssim() -> None:
    clean, _ = synthetic()
    assert psnr(clean, clean) == np.inf
    assert ssim(clean, clean) == pytest.approx(1, abs=1e-12)


def test_luma_is_bt601_unrounded() -> None:
    white, grey = np.full((1, 1, 3), 255, np.uint8), np.full((1, 1, 3), 0.5, np.float32)
    assert measured_levels(white, channel="y").item() == pytest.approx(235)
    assert measured_levels(grey, channel="y", measure="float").item() == pytest.approx(16 + 219 / 2)
    red = np.array([[[1.0, 0, 0]]])
    assert measured_levels(red, channel="y").item() == pytest.approx(81.481)


def test_float_images_are_clamped_and_rounded_only_when_asked() -> None:
    x = np.array([[[-0.5, 0.5004, 1.5]]])
    assert measured_levels(x).ravel().tolist() == [0, 128, 255]
    assert measured_levels(x, measure="clipped").ravel().tolist() == [0, 0.5004 * 255, 255]
    assert measured_levels(x, measure="float").ravel().tolist() == [-127.5, 0.5004 * 255, 382.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"channel": "rbg"}, "did you mean: rgb"),
        ({"measure": "uint"}, "did you mean: uint8"),
        ({"border": 40}, "leaves nothing"),
    ],
)
def test_wrong_settings_are_named(change: dict, message: str) -> None:
    clean, noisy = synthetic()
    with pytest.raises(UsageError, match=message):
        psnr(noisy, clean, **change)


def test_wrong_images_are_refused() -> None:
    clean, noisy = synthetic()
    with pytest.raises(UsageError, match="one shape"):
        psnr(noisy[:-1], clean)
    with pytest.raises(UsageError, match="RGB"):
        psnr(noisy[..., 0], clean[..., 0])
    with pytest.raises(UsageError, match="11x11"):
        ssim(noisy[:10], clean[:10])
    with pytest.raises(UsageError, match="uint8 or float"):
        psnr(noisy.astype(np.int32), clean)
