"""The numbers of `inspect` are those of scikit-image, and a contact sheet shows what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from dilkit.confounders.build import augment
from dilkit.confounders.inspect import GAIN, Row, draw, statistics
from dilkit.confounders.store import Store
from dilkit.distortions import as_float


def levels(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)


def test_the_statistics_are_those_of_another_implementation(tmp_path: Path) -> None:
    words = "awgn(25) | jpeg(10) | gaussian_blur(2) | contrast(0.5)"
    store = Store(augment("samples:", words, tmp_path / "x.h5", tile=64, limit=2).path)
    items = np.unique(np.linspace(0, len(store) - 1, 7).astype(int))
    for label, found in statistics(store, 7).items():
        rows = []
        for item in items:
            clean, view = store.clean(item), store.view(item, label)
            error = (as_float(view).astype(np.float64) - as_float(clean)) * 255
            ssim = structural_similarity(
                clean, levels(view), channel_axis=2, gaussian_weights=True, sigma=1.5,
                use_sample_covariance=False, data_range=255, full=True,
            )[1]  # fmt: skip
            psnr = peak_signal_noise_ratio(clean, levels(view), data_range=255)
            rows.append((psnr, ssim[5:-5, 5:-5].mean(), error.mean(), error.var()))
        psnr, ssim, bias, variance = np.mean(rows, axis=0)
        expected = {"psnr": psnr, "ssim": ssim, "bias": bias, "std": variance**0.5}
        assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_contact_sheet_shows_the_views_and_what_they_changed(tmp_path: Path) -> None:
    clean = np.full((170, 170, 3), 0.4, np.float32)
    clean[85, 85] = 1
    views = {"brighter": clean + np.float32(0.05), "smaller": clean[::2, ::2]}
    draw([Row("a picture", clean, views)], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    cells = {
        (row, column): sheet[30 + row * 166 :, 6 + column * 166 :][:160, :160]
        for row in (0, 1)
        for column in (0, 1, 2)
    }
    assert (cells[0, 0][:70] == 102).all() and (cells[0, 0][80, 80] == 255).all()
    assert (cells[0, 1][:70] == round(0.45 * 255)).all()
    assert (abs(cells[1, 1] - (0.5 + GAIN * 0.05) * 255) < 1).all()
    assert (cells[0, 2][:40, :80] == 102).all() and (cells[1, 2] == 255).all()
