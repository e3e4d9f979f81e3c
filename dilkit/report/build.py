"""From run folders to the page: measure where that is asked for, choose the crops, write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from dilkit.evaluation.forward import pick_device
from dilkit.evaluation.images import Data
from dilkit.evaluation.nets import Net, open_nets
from dilkit.evaluation.protocols import Protocol
from dilkit.evaluation.rows import SETTINGS
from dilkit.report.collect import Material, collect
from dilkit.report.crops import Crop, choose_crops
from dilkit.report.html import write_report

SHOWN = 4
"""Nets shown on crops; of more, the first of each arm."""


def build_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    data: Data | None = None,
    protocol: Protocol | None = None,
    rows: pd.DataFrame | None = None,
    baseline: str | None = None,
    title: str = "dilkit report",
    device: str = "auto",
    progress: Any = None,
) -> Path:
    """Write a report.

    Args:
        runs: folders of runs, or of a comparison.
        data: test images; needed for the crops, and to measure by `protocol`.
        protocol: measure the runs now, by it.
        rows: or what `dilkit eval` measured before; by default what lies beside the runs.

    Raises:
        UsageError: a folder that is no run, or data without the images of the rows.
    """
    material = collect(runs, rows)
    if protocol is not None and data is not None:
        from dilkit.evaluation.grid import evaluate

        nets = open_nets({run.label: str(run.checkpoint) for run in material.runs})
        measured = evaluate(nets, data, **protocol.settings(), device=device, progress=progress)
        material = replace(material, rows=measured, by="net", seeds=None, settings=measured.attrs[SETTINGS])
    crops = _crops(material, data, device) if data is not None else []
    return write_report(out, material, crops=crops, title=title, baseline=baseline)


def _crops(material: Material, data: Data, device: str) -> list[Crop]:
    rows = material.rows
    if rows is None or "distort" not in material.settings:
        return []
    nets = [net for net in _shown(material) if net.label in set(rows["net"])]
    return choose_crops(rows, open_nets(nets, pick_device(device)), data, dict(material.settings))


def _shown(material: Material) -> list[Net]:
    """A few of the nets, under the labels they have in the rows."""
    sources = {label: about.get("source", "") for label, about in material.settings.get("nets", {}).items()}
    paths = {label: Path(source) for label, source in sources.items() if source and Path(source).is_file()}
    if not paths:
        paths = {run.label: run.checkpoint for run in material.runs}
    first = dict(list(paths.items())[:SHOWN])
    return list(open_nets({label: str(path) for label, path in first.items()}))
