"""How strong the distortions of a dataset are: input PSNR and SSIM, and pixel statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dilkit.confounders.store import Store
from dilkit.distortions import as_float
from dilkit.evaluation.metrics import psnr, ssim

_SSIM_WINDOW = 11


def statistics(store: Store, samples: int = 32) -> dict[str, dict[str, Any]]:
    """By label, over evenly spaced items.

    Returns:
        `psnr` (dB) and `ssim`, means over items of the 8-bit comparison with clean; `bias` and `std` of
        distorted minus clean, `mean`, `low` and `high` of the distorted values, all on the 0..255 scale;
        `outside`, the share of values outside [0, 1]. What cannot be said is None: a comparison of images
        of different sizes, the PSNR of identical ones.
    """
    items = np.unique(np.linspace(0, len(store) - 1, min(samples, len(store))).astype(int)).tolist()
    found: dict[str, dict[str, Any]] = {}
    for label in store.labels:
        rows = [_measure(as_float(store.clean(i)), as_float(store.view(i, label))) for i in items]
        found[label] = {name: _combine(name, [row[name] for row in rows]) for name in rows[0]}
    return found


def _measure(clean: np.ndarray, view: np.ndarray) -> dict[str, float | None]:
    alike = clean.shape == view.shape
    large = alike and min(clean.shape[:2]) >= _SSIM_WINDOW
    error = (view.astype(np.float64) - clean) * 255 if alike else None
    return {
        "psnr": psnr(view, clean) if alike else None,
        "ssim": ssim(view, clean) if large else None,
        "bias": float(error.mean()) if error is not None else None,
        "std": float(error.std()) if error is not None else None,
        "mean": float(view.mean()) * 255,
        "low": float(view.min()) * 255,
        "high": float(view.max()) * 255,
        "outside": float(((view < 0) | (view > 1)).mean()),
    }


def _combine(name: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if name in ("low", "high"):
        return (min if name == "low" else max)(known)
    if name == "std":
        return math.sqrt(math.fsum(v * v for v in known) / len(known))
    mean = math.fsum(known) / len(known)
    return mean if math.isfinite(mean) else None
