"""From rows to means. Nothing here runs a net; every number can be made again from a file of rows."""

from __future__ import annotations

import pandas as pd

CELL = ["net", "set", "distortion"]
_FIRST = ["type", "degree", "novelty", "seen"]


def by_distortion(rows: pd.DataFrame) -> pd.DataFrame:
    """Per net, set and distortion: means over images and draws, `gain` = psnr - input_psnr, and `images`.

    The mean PSNR is the mean of per-image values (not the PSNR of the mean error).
    """
    groups = rows.groupby(CELL, sort=False, dropna=False)
    values = metrics_of(rows)
    means = groups[[*values, *(f"input_{name}" for name in values)]].mean()
    means["gain"] = means["psnr"] - means["input_psnr"]
    means["images"] = groups["image"].nunique()
    means["draws"] = groups["draw"].nunique()
    return groups[_FIRST].first().join(means).reset_index()


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """Names of the metrics in the rows: psnr, ssim, and those that were asked for."""
    return [name for name in rows.columns if f"input_{name}" in rows.columns]


def by_novelty(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean PSNR by net over seen distortions, unseen degrees, unseen types (distortions weigh alike)."""
    means = by_distortion(rows)
    found: dict[str, dict[str, float]] = {}
    for kind, name in (("seen", "seen"), ("degree", "unseen degrees"), ("type", "unseen types")):
        part = means[means["novelty"] == kind]
        if len(part):
            found[name] = {str(net): float(v) for net, v in part.groupby("net")["psnr"].mean().items()}
    return found


def wide(rows: pd.DataFrame, value: str = "psnr") -> pd.DataFrame:
    """One line per (set, distortion): a column per net, and first that of the distorted input."""
    means = by_distortion(rows)
    index = ["set", "distortion"]
    table = means.pivot(index=index, columns="net", values=value)
    table = table[[net for net in dict.fromkeys(means["net"]) if net != "input"]]
    table.insert(0, "input", means.groupby(index)[f"input_{value}"].first())
    return table.reindex(pd.MultiIndex.from_frame(means[index].drop_duplicates()))
