"""The table of a comparison in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dilkit.evaluation.rows import SETTINGS
from dilkit.evaluation.tables import grid, remarks, signed

if TYPE_CHECKING:
    from dilkit.experiments.compare import Comparison


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
        text += f" {signed(row['difference'])} [{signed(low)}, {signed(high)}]"
    return text
