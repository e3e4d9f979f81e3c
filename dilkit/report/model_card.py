"""The card of a net: what it is, what it saw, how it restores and where it fails, in Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import collapse_degrees
from dilkit.evaluation.rows import by_distortion
from dilkit.evaluation.tables import grid, markdown
from dilkit.inference.nets import Net, open_net, origin
from dilkit.recipe import to_yaml
from dilkit.zoo import PREFIX, shipped_net


def model_card(net: str | Path | Net, rows: pd.DataFrame | None = None, *, trust_code: bool = False) -> str:
    """The card of a net as Markdown; without rows, of a net that ships with dilkit, the one it ships with.

    Args:
        net: a checkpoint, a run folder, a foreign net, or a net that is open.
        rows: how it was measured (of several nets, those under its label, else all).
        trust_code: whether code that the net names may be imported and run.

    Raises:
        UsageError: not a net.
    """
    if rows is None and str(net).startswith(PREFIX):
        return shipped_net(str(net)).card
    opened = net if isinstance(net, Net) else open_net(net, trust_code=trust_code)
    if opened.module is None:
        raise UsageError("the input itself is no net and has no card")
    recipe: dict[str, Any] = dict(opened.metadata.get("recipe", {}))
    model = dict(recipe.get("model", {}))
    count = sum(p.numel() for p in opened.module.parameters())
    about = origin(opened)
    facts = {
        "model": str(model.get("name") or type(opened.module).__name__),
        "parameters": f"{count:,}",
        "input": "RGB in [0, 1], any size"
        if not opened.adaptation
        else f"RGB in [0, 1]; {opened.adaptation}",
        "objective": str(recipe.get("objective", {}).get("name", "")),
        "trained on": f"`{about['trained']}`" if about["trained"] else "not known",
        "passes": f"{int(opened.metadata['passes']):,}" if "passes" in opened.metadata else "",
        "weights": f"blake2b {about['weights']}",
    }
    lines = [f"# {opened.label}", "", grid(["", ""], [[k, v] for k, v in facts.items() if v])]
    lines += ["", "## What it has seen", ""]
    images = opened.metadata.get("images")
    seen = [f"- {line}" for line in about["past"]]
    if images is not None:
        seen.append("- its training images are recorded by perceptual hash, so that leaks are found")
    lines += seen or ["- nothing is recorded"]
    if rows is not None and len(rows):
        own = rows[rows["net"] == opened.label] if opened.label in set(rows["net"]) else rows
        own.attrs = dict(rows.attrs)
        lines += ["", "## How it restores", "", markdown(own).rstrip()]
        lines += ["", "## Where it fails", "", *_failures(own)]
    else:
        how = "`dilkit eval NET --protocol NAME --json rows.json`, then `dilkit card NET --rows rows.json`"
        lines += ["", "## How it restores", "", f"Not measured here: {how}."]
    if recipe:
        lines += ["", "## The recipe that makes it again", "", "```yaml", to_yaml(recipe).rstrip(), "```"]
    return "\n".join(lines) + "\n"


def _failures(rows: pd.DataFrame) -> list[str]:
    """Distortions on which the output is worse than the input, the worst first; and where it collapses."""
    means = by_distortion(rows[rows["net"] != "input"])
    worse = means[means["gain"] < 0].sort_values("gain")
    said = [
        f"- `{row['distortion']}` on {row['set']}: {row['gain']:+.2f} dB against the input"
        for row in worse.head(10).to_dict("records")
    ]
    said += [
        f"- from {row['type']}({row['collapse']:g}) on, on {row['set']}, the output is worse than the input"
        for row in collapse_degrees(rows[rows["net"] != "input"]).dropna().to_dict("records")
    ]
    least = means.sort_values("gain").head(1).to_dict("records")
    return said or [
        f"- nowhere among what was measured; its smallest gain is {row['gain']:+.2f} dB on"
        f" `{row['distortion']}` ({row['set']})"
        for row in least
    ]
