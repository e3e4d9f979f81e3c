"""Figures from evaluation rows; every function returns a matplotlib Figure and touches no global state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dilkit.errors import UsageError
from dilkit.evaluation.rows import by_distortion

INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's colours, told apart by the colour-blind too."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"


def psnr_against_degree(
    rows: pd.DataFrame, *, type: str | None = None, set: str | None = None, value: str = "psnr"
) -> Figure:
    """Mean PSNR (or SSIM) of each net against the degree, a panel per test set and distortion type; the range
    of degrees met in training is shaded.

    Args:
        rows: what `evaluate` returns.
        type, set: only this distortion type, such as `awgn`; only this test set.
        value: `psnr` or `ssim`.

    Raises:
        UsageError: no rows of that type and set have degrees.
    """
    means = by_distortion(rows.dropna(subset=["degree"]))
    chosen = means[means["set"].eq(set or means["set"]) & means["type"].eq(type or means["type"])]
    panels = list(chosen.groupby(["set", "type"], sort=False))
    if not panels:
        there = ", ".join(sorted({f"{s} {t}" for s, t in zip(means["set"], means["type"], strict=True)}))
        raise UsageError("there is nothing to plot", expected=there or "distortions with a degree")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.4 if columns == 1 else 4.6 * columns, 4.2 * lines), layout="constrained")
    for k, ((name, kind), part) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, k + 1)
        _panel(axes, part.sort_values("degree"), value)
        axes.set(xlabel=f"degree of {kind}", title=f"{name}, {int(part['images'].max())} images")
        if k == 0:
            axes.legend(frameon=False, fontsize="small")
    return figure


def _panel(axes: Any, means: pd.DataFrame, value: str) -> None:
    _shade(axes, means)
    given = means.drop_duplicates("degree")
    axes.plot(given["degree"], given[f"input_{value}"], color="0.55", lw=1, ls=":", label="input")
    for i, (net, part) in enumerate(means[means["net"] != "input"].groupby("net", sort=False)):
        style: dict[str, Any] = {"color": INK[i % len(INK)], "ls": _DASHES[i // len(INK) % len(_DASHES)]}
        marker = _MARKERS[i % len(_MARKERS)]
        axes.plot(part["degree"], part[value], marker=marker, ms=4, lw=1.6, label=net, **style)
    axes.set_ylabel("PSNR (dB)" if value == "psnr" else value.upper())
    axes.grid(alpha=0.25)


def _shade(axes: Any, means: pd.DataFrame) -> None:
    """The range of degrees met in training by any of the nets; where there is but one degree, a line."""
    seen = means.loc[means["seen"].fillna(False), "degree"]
    if len(seen):
        low, high = float(np.min(seen)), float(np.max(seen))
        axes.axvspan(
            low, high, color="#f0e442", alpha=0.3, lw=0 if low < high else 2, label="seen in training"
        )


def indices_over_layers(layers: pd.DataFrame) -> Figure:
    """The indices of `dilkit.evaluation.invariance` over the depth of each net, a panel per index."""
    from dilkit.evaluation.invariance import INDICES

    figure = Figure(figsize=(4.2 * len(INDICES), 3.6), layout="constrained")
    for k, name in enumerate(INDICES):
        axes = figure.add_subplot(1, len(INDICES), k + 1)
        for i, (net, part) in enumerate(layers.groupby("net", sort=False)):
            axes.plot(part["depth"], part[name], color=INK[i % len(INK)], marker=".", label=str(net))
        axes.set(title=name, xlabel="layer")
        if name.startswith("by_"):
            axes.set_yscale("log")
        axes.grid(alpha=0.25)
    figure.axes[0].legend(frameon=False, fontsize="small")
    return figure
