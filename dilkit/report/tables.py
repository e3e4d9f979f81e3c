"""Tables in Markdown, from evaluation rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dilkit.evaluation.rows import SETTINGS, by_distortion, by_novelty, metrics_of

if TYPE_CHECKING:
    from dilkit.experiments.compare import Comparison

MARKS = {"seen": "", "degree": "*", "type": "†", "clean": "", "unknown": ""}
LEGEND = {"degree": "\\* degree not trained on", "type": "† type not trained on"}


def markdown(rows: pd.DataFrame) -> str:
    """PSNR and SSIM by distortion and net, a table per test set, and the settings of the measurement."""
    means = by_distortion(rows)
    extras, parts = extra_metrics(rows), []
    for name, part in means.groupby("set", sort=False):
        nets = [net for net in dict.fromkeys(part["net"]) if net != "input"]
        lines = [
            _line(str(label), cells, nets, extras) for label, cells in part.groupby("distortion", sort=False)
        ]
        for what, psnr in by_novelty(rows[rows["set"] == name]).items():
            lines.append(
                [f"mean, {what}", "", *(f"**{psnr[net]:.2f}**" if net in psnr else "" for net in nets)]
            )
        images = int(part["images"].max())
        parts.append(
            f"**{name}**, {images} images, {' / '.join(['PSNR (dB)', 'SSIM', *extras])}\n\n"
            + grid(["distortion", "input", *nets], lines)
        )
    legend = [text for kind, text in LEGEND.items() if kind in set(means["novelty"])]
    return "\n\n".join([*parts, *remarks(rows), "; ".join([*legend, settings_line(rows)])]) + "\n"


def settings_line(rows: pd.DataFrame) -> str:
    """How the rows were measured, in words; empty where that is not recorded."""
    s = rows.attrs.get(SETTINGS)
    if not s:
        return ""
    clipped = "clipped" if s["clip"] else "not clipped"
    rounded = "rounded to 8 bits" if s["quantize"] else "not rounded"
    return (
        f"input {clipped}, {rounded}; {s['noise']} noise, seed {s['seed']}, draws {s['draws']};"
        f" {s['channel']}, border {s['border']}, measured {s['measure']}"
    )


def remarks(rows: pd.DataFrame) -> list[str]:
    """What a reader must know before trusting the numbers: leaks, cells without a value, sets left out."""
    s = rows.attrs.get(SETTINGS, {})
    left_out = s.get("not_measured")
    more = [f"not measured of protocol {s['protocol']}: {', '.join(left_out)}"] if left_out else []
    return [*_leaks(rows), *_mismatches(rows), *more]


def _mismatches(rows: pd.DataFrame) -> list[str]:
    nets = rows[rows["net"] != "input"].groupby("net", sort=False)["psnr"]
    return [
        f"{net}: no value for {int(psnr.isna().sum())} of {len(psnr)} outputs, which are not finite or not"
        " of the clean image's size"
        for net, psnr in nets
        if psnr.isna().any()
    ]


def _leaks(rows: pd.DataFrame) -> list[str]:
    if "leak" not in rows:
        return []
    leaks = rows[rows["leak"].fillna(False).astype(bool)].groupby("net", sort=False)["image"].unique()
    return [
        f"LEAK: {net} was trained on {len(images)} of the test images: {', '.join(images[:5])}"
        + (" ..." if len(images) > 5 else "")
        for net, images in leaks.items()
    ]


def grid(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in (head, rule, *lines)
    )


def decibel(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def extra_metrics(rows: pd.DataFrame) -> list[str]:
    """The metrics beside PSNR and SSIM."""
    return [name for name in metrics_of(rows) if name not in ("psnr", "ssim")]


def _line(label: str, cells: pd.DataFrame, nets: Sequence[str], extras: Sequence[str]) -> list[str]:
    by_net = cells.set_index("net")
    found = [f"`{label}`", _values(by_net.iloc[0], extras, "input_")]
    for net in nets:
        cell: Any = by_net.loc[net]
        found.append(_values(cell, extras) + MARKS[cell["novelty"]])
    return found


def _values(cell: Any, extras: Sequence[str], prefix: str = "") -> str:
    more = [f"{cell[prefix + name]:.4f}" for name in ("ssim", *extras)]
    return " / ".join([decibel(cell[f"{prefix}psnr"]), *more])


def comparison_markdown(result: Comparison) -> str:
    """What a comparison found: per set, every score of every arm with its interval, and what it cost."""
    parts = []
    for name, part in result.scores.groupby("set", sort=False):
        kinds = list(dict.fromkeys(part["score"]))
        lines = []
        for arm, cells in part.groupby("arm", sort=False):
            by_score = {row["score"]: row for row in cells.to_dict("records")}
            lines.append([str(arm), *(_score(by_score[kind]) if kind in by_score else "" for kind in kinds)])
        title = f"**{name}**, PSNR (dB), 95 % interval, difference to the baseline"
        parts.append(title + "\n\n" + grid(["arm", *kinds], lines))
    cost = [
        [
            str(row["arm"]), f"{row['lr']:g}", f"{row['parameters']:,}", f"{row['passes']:,}",
            f"{row['seconds']:.0f} s", str(row["seeds"]), str(row["runs"]),
        ]
        for row in result.cost.to_dict("records")
    ]  # fmt: skip
    head = ["arm", "lr", "parameters", "passes", "time of a run", "seeds", "runs in all"]
    parts.append("**Cost**\n\n" + grid(head, cost))
    said = result.rows.attrs.get(SETTINGS, {}).get("selection", "none")
    rule = "one learning rate, none selected" if said == "none" else f"selected by {said}"
    parts.append(f"Learning rates: {rule}. Checkpoints: the last of each run, none selected.")
    return "\n\n".join([*remarks(result.rows), *parts]) + "\n"


def _score(row: Mapping[Any, Any]) -> str:
    text = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    if row.get("difference"):
        low, high = row["difference_low"], row["difference_high"]
        text += f" {row['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"
    return text
