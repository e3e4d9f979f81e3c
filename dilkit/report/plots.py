"""Figures from evaluation rows; every function returns a matplotlib Figure and touches no global state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dilkit.errors import UsageError
from dilkit.evaluation.scores import by_distortion

INK = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
"""Okabe and Ito's colours, told apart by the colour-blind too."""
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX"


def psnr_against_degree(
    rows: pd.DataFrame, *, type: str | None = None, set: str | None = None, value: str = "psnr"
) -> Figure:
    """Mean PSNR (or SSIM) of each net against the degree of one distortion type; the seen range is shaded.

    Args:
        rows: what `evaluate` returns.
        type: the distortion type, such as `awgn`; may be left out where only one has degrees.
        set: the test set; may be left out where there is only one.
        value: `psnr` or `ssim`.

    Raises:
        UsageError: no rows of that type and set have degrees, or several might be meant.
    """
    means = by_distortion(rows.dropna(subset=["degree"]))
    means = means[means["set"] == _only(means, "set", set)]
    means = means[means["type"] == _only(means, "type", type)].sort_values("degree")
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    _shade(axes, means)
    given = means.drop_duplicates("degree")
    axes.plot(given["degree"], given[f"input_{value}"], color="0.55", lw=1, ls=":", label="input")
    for i, (net, part) in enumerate(means[means["net"] != "input"].groupby("net", sort=False)):
        style: dict[str, Any] = {"color": INK[i % len(INK)], "ls": _DASHES[i // len(INK) % len(_DASHES)]}
        axes.plot(
            part["degree"], part[value], marker=_MARKERS[i % len(_MARKERS)], ms=4, lw=1.6, label=net, **style
        )
    name = means["type"].iloc[0]
    axes.set(
        xlabel=f"degree of {name}",
        ylabel="PSNR (dB)" if value == "psnr" else value.upper(),
        title=f"{means['set'].iloc[0]}, {int(means['images'].max())} images",
    )
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _shade(axes: Any, means: pd.DataFrame) -> None:
    """The range of degrees met in training by any of the nets; where there is but one degree, a line."""
    seen = means.loc[means["seen"].fillna(False), "degree"]
    if len(seen):
        low, high = float(np.min(seen)), float(np.max(seen))
        axes.axvspan(
            low, high, color="#f0e442", alpha=0.3, lw=0 if low < high else 2, label="seen in training"
        )


def _only(means: pd.DataFrame, column: str, wanted: str | None) -> str:
    there = list(dict.fromkeys(means[column]))
    if wanted is None and len(there) == 1:
        return str(there[0])
    if wanted is None or wanted not in there:
        found = ", ".join(map(str, there)) or "no distortion with a degree"
        raise UsageError(f"choose the {column} to plot", found=wanted, expected=found)
    return wanted
