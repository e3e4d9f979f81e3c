"""The one-file HTML report: opens from disk with no network, reads without JavaScript, prints on A4.

This module works out what is said; `page.html.j2` says how it looks.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from dilkit._version import __version__
from dilkit.devices import pick_device
from dilkit.evaluation.bootstrap import check_arm, collapse_degrees, scores
from dilkit.evaluation.grid import evaluate
from dilkit.evaluation.protocols import Protocol
from dilkit.evaluation.references import Printed, find_references, reference_notes
from dilkit.evaluation.rows import SETTINGS, by_distortion
from dilkit.evaluation.tables import (
    MARKS,
    best_of,
    decibel,
    legend,
    remarks,
    settings_line,
    short_labels,
    signed,
)
from dilkit.evaluation.testsets import Data
from dilkit.inference.nets import Net, open_nets
from dilkit.recipe import to_yaml
from dilkit.report.crops import RULE, Crop, choose_crops
from dilkit.report.plots import (
    DARK,
    LIGHT,
    Style,
    as_data_uri,
    gain_by_distortion,
    psnr_against_degree,
    split_by_degrees,
    training_curves,
)
from dilkit.report.runfolders import Material, RunRecord, collect

_CURVE_POINTS = 240
SHOWN = 4
"""Nets shown on crops; of more, the first of each arm."""
_ORDER = {"seen": 0, "clean": 1, "reached": 2, "degree": 3, "type": 4, "unknown": 5}


@dataclass(frozen=True)
class Report:
    """Attributes:
    path: of the page.
    missing: what a reader would look for and not find, in words; `measured` tells the worst of it.
    """

    path: Path
    measured: bool
    missing: tuple[str, ...]


def build_report(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    data: Data | None = None,
    protocol: Protocol | None = None,
    rows: pd.DataFrame | None = None,
    baseline: str | None = None,
    reference: str | None = None,
    title: str = "dilkit report",
    trust_code: bool = False,
    device: str = "auto",
    progress: Any = None,
) -> Report:
    """Write a report.

    Args:
        runs: folders of runs, or of a comparison.
        data: test images; needed for the crops, and to measure by `protocol`.
        protocol: measure the runs now, by it.
        rows: or what `dilkit eval` measured before; by default what lies beside the runs.
        baseline: the arm that differences are taken to; the first by default.
        reference: a group of printed numbers to show beside (see `dilkit.evaluation.references`).
        trust_code: whether code that a checkpoint names may be imported and run.

    Raises:
        UsageError: a folder that is no run, or data without the images of the rows.
    """
    material = collect(runs, rows, trust_code=trust_code)
    if protocol is not None and data is not None:
        nets = open_nets({run.label: str(run.checkpoint) for run in material.runs}, trust_code=trust_code)
        measured = evaluate(nets, data, **protocol.settings(), device=device, progress=progress)
        material = replace(material, rows=measured, by="net", seeds=None, settings=measured.attrs[SETTINGS])
    crops: list[Crop] = []
    if data is not None and material.rows is not None and "distort" in material.settings:
        opened = open_nets(_shown(material, trust_code), pick_device(device))
        crops = choose_crops(material.rows, opened, data, dict(material.settings))
    missing = _missing(material, crops)
    page = render(material, crops=crops, title=title, baseline=baseline, reference=reference, missing=missing)
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")
    return Report(path, material.rows is not None and len(material.rows) > 0, missing)


def render(
    material: Material,
    *,
    crops: Sequence[Crop] = (),
    title: str = "dilkit report",
    baseline: str | None = None,
    reference: str | None = None,
    missing: Sequence[str] = (),
    today: date | None = None,
) -> str:
    """The page as text; see `build_report`."""
    context: dict[str, Any] = {
        "title": title,
        "date": (today or date.today()).isoformat(),
        "version": __version__,
        "verdict": ["Nothing was measured, so nothing can be said of how these runs restore."],
        **dict.fromkeys(("warnings", "scores", "curves", "results", "training"), ()),
        "crops": crops,
        "crops_rule": RULE,
        "cards": [_card(run) for run in material.runs],
        "missing": missing,
        **_again(material),
    }
    if material.rows is not None and len(material.rows):
        context |= _measured(material, baseline, reference)
    runs = {run.label: _thinned(run) for run in material.runs if run.metrics}
    if runs and training_curves(runs) is not None:
        context["training"] = [_chart(partial(training_curves, runs), "Training loss of every run")]
    titles = {
        "scores": "Scores", "curves": "By type and degree", "crops": "Before and after",
        "results": "Every distortion", "cards": "What was trained on what", "training": "Training",
        "settings": "To make it again", "missing": "What is not here",
    }  # fmt: skip
    ids = {"cards": "runs", "settings": "again"}
    context["sections"] = [
        {"id": ids.get(key, key), "title": name} for key, name in titles.items() if context[key]
    ]
    context |= {name: Markup(_file(f"page.{name}")) for name in ("css", "js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"decibel": decibel, "signed": signed, "best_of": best_of}
    return environment.from_string(_file("page.html.j2")).render(context) + "\n"


def _file(name: str) -> str:
    return files("dilkit.report").joinpath(name).read_text(encoding="utf-8")


def _measured(material: Material, baseline: str | None, reference: str | None) -> dict[str, Any]:
    """Everything that follows from rows."""
    assert material.rows is not None
    named = material.rows.assign(net=material.rows[material.by])
    named.attrs = {SETTINGS: dict(material.settings)}
    own = named[named["net"] != "input"]
    arms = [str(arm) for arm in dict.fromkeys(own["net"])]
    if baseline is not None:
        check_arm(baseline, arms, "baseline")
    base = baseline or next(iter(arms), None)
    printed: tuple[Printed, ...] = ()
    if reference is not None:
        printed = find_references(reference, named["set"].unique(), named["distortion"].unique())
    found = None
    if base is not None:
        found = _comparison_scores(material, base)
        found = scores(own, baseline=base, seeds=material.seeds) if found is None else found
    collapsed = collapse_degrees(own).dropna().to_dict("records")
    seeds = own[material.seeds].nunique() if material.seeds else 0
    return {
        "verdict": verdict(found, named, base, seeds),
        "warnings": remarks(named),
        "scores": () if found is None else _score_tables(found, str(base)),
        "scores_note": f"Mean PSNR in dB; in brackets 95 % intervals by a paired bootstrap over images"
        f"{' and training seeds' if material.seeds else ''}. Second line: the difference to {base}. "
        "Bold: the best of a column.",
        "collapses": [
            f"{row['net']} on {row['set']}: from {row['type']}({row['collapse']:g}) on, the output is worse"
            " than the input."
            for row in collapsed
        ],
        "curves": _curves(named, material.seeds),
        "results": _results(named, printed),
        "results_note": " ".join(
            [
                *legend(named),
                "Bold: the best of a line, the input included; the redder, the farther from it.",
                *(f"{note}." for note in reference_notes(printed)),
            ]
        ),
    }


_UNSEEN = {"unseen degree": "unseen degrees", "unseen type": "unseen types", "seen": "seen distortions"}
"""The scores that a verdict may be about, the first that was measured, and their names in a sentence."""


def verdict(
    table: pd.DataFrame | None, rows: pd.DataFrame, baseline: str | None, seeds: int = 0
) -> list[str]:
    """What the rows say, in a sentence per test set: the arm that differs most from the baseline where it
    matters most (unseen degrees, else unseen types, else seen ones), its interval, and at what seen cost.

    Args:
        table: what `dilkit.evaluation.bootstrap.scores` returns, with differences to the baseline.
        seeds: of training, where there are several to an arm.
    """
    if table is None or baseline is None:
        return ["Only the input was measured."]
    said = []
    for name, part in table.groupby("set", sort=False):
        there = rows[rows["set"] == name]
        images = there["image"].nunique()
        where = f"{name}, {images} image{'s' * (images != 1)}"
        where += f", {seeds} training seed{'s' * (seeds != 1)}" if seeds else ""
        kind = next((each for each in _UNSEEN if each in set(part["score"])), str(part["score"].iloc[0]))
        what = _UNSEEN.get(kind, kind)
        own = {row["arm"]: row for row in part[part["score"] == kind].to_dict("records")}
        others = [row for arm, row in own.items() if arm != baseline and math.isfinite(row["difference"])]
        if others:
            seen = part[part["score"] == "seen"] if kind != "seen" else part.head(0)
            best = max(others, key=lambda each: float(each["difference"]))
            said.append(_best_arm(best, seen, baseline, what, where))
        elif baseline in own:
            words = {"unseen degree": ("degree", "reached"), "unseen type": ("type",), "seen": ("seen",)}
            given = there.loc[there["novelty"].isin(words.get(kind, ())), "input_psnr"].mean()
            value = own[baseline]["value"]
            gain = f", {value - given:+.2f} dB to the input" if math.isfinite(given) else ""
            said.append(f"{baseline} restores {what} to {value:.2f} dB{gain} ({where}).")
    return said


def _best_arm(best: Mapping[Any, Any], seen: pd.DataFrame, baseline: str, what: str, where: str) -> str:
    """The sentence about the arm that differs most from the baseline."""
    low, high = best["difference_low"], best["difference_high"]
    difference, interval = signed(best["difference"]), f"{signed(low)} to {signed(high)}"
    p = best.get("p", math.nan)
    chance = "" if not math.isfinite(p) else ", p < 0.01" if p < 0.01 else f", p = {p:.2f}"
    if low <= 0:
        beyond = " beyond chance" if high >= 0 else ""
        return (
            f"No arm is better than {baseline} on {what}{beyond}: the closest, {best['arm']}, is at "
            f"{difference} dB, 95 % interval {interval}{chance} ({where})."
        )
    text = f"{best['arm']} is {difference} dB ({interval}{chance}) over {baseline} on {what}"
    for cost in seen[seen["arm"] == best["arm"]].to_dict("records"):
        low, high = cost["difference_low"], cost["difference_high"]
        if low <= 0 <= high or cost["difference"] > 0:
            text += ", at no seen cost"
        else:
            text += f", at {signed(cost['difference'])} dB ({signed(low)} to {signed(high)}) on seen ones"
    return f"{text} ({where}; 95 % intervals)."


def _comparison_scores(material: Material, baseline: str) -> pd.DataFrame | None:
    """What the comparison itself computed, where its differences are to the same arm: there, seen and unseen
    are those of the shared recipe."""
    table = material.scores
    if table is None or "difference" not in table or not len(table):
        return None
    own = table.loc[table["arm"] == baseline, "difference"]
    return table if len(own) and (own == 0).all() else None


def _score_tables(table: pd.DataFrame, baseline: str) -> list[dict[str, Any]]:
    made = []
    for name, part in table.groupby("set", sort=False):
        kinds = list(dict.fromkeys(part["score"]))
        best = {
            kind: best_of(part.loc[part["score"] == kind, "value"], lower="gap" in kind) for kind in kinds
        }
        rows = []
        for arm, cells in part.groupby("arm", sort=False):
            own = {row["score"]: row for row in cells.to_dict("records")}
            for kind, cell in own.items():
                cell["best"] = round(cell["value"], 2) == best[kind]
                cell["differs"] = arm != baseline and math.isfinite(cell.get("difference", math.nan))
            rows.append({"name": arm, "cells": [own.get(kind) for kind in kinds]})
        made.append({"caption": f"{name}: PSNR in dB", "columns": kinds, "rows": rows})
    return made


def _curves(rows: pd.DataFrame, seeds: str | None) -> list[dict[str, str]]:
    """A figure per type with several degrees, and one of the gains under all other distortions."""
    made, bands = [], f"Bands: 95 % over images{' and training seeds' if seeds else ''}."
    graded, rest = split_by_degrees(rows)
    for (name, kind), part in graded.groupby(["set", "type"], sort=False):
        made.append(_chart(partial(psnr_against_degree, part, seeds=seeds), f"{name}: {kind}. {bands}"))
    if len(rest):
        title = "Distortions without degrees, or measured at one. Bars: 95 % over images."
        made.append(_chart(partial(gain_by_distortion, rest), title))
    return made


def _chart(draw: Callable[..., Figure | None], title: str) -> dict[str, str]:
    def drawn(style: Style) -> Figure | None:
        return draw(style=style)

    return {"title": title, "light": as_data_uri(drawn, LIGHT), "dark": as_data_uri(drawn, DARK)}


def _results(rows: pd.DataFrame, printed: Sequence[Printed]) -> list[dict[str, Any]]:
    """Per set, a line per distortion, the seen ones first: of the input, of each net, and as printed."""
    made, short = [], short_labels(rows)
    for name, part in by_distortion(rows).groupby("set", sort=False):
        nets = [str(net) for net in dict.fromkeys(part["net"]) if net != "input"]
        beside = [each for each in printed if name in each.values]
        order = part["novelty"].map(_ORDER).groupby(part["distortion"], sort=False).min()
        lines = []
        for label in order.sort_values(kind="stable").index:
            by_net = {row["net"]: row for row in part[part["distortion"] == label].to_dict("records")}
            given = next(iter(by_net.values()))
            best = best_of([given["input_psnr"], *(by_net[net]["psnr"] for net in nets if net in by_net)])
            cells = [_cell(given["input_psnr"], given["input_ssim"], best)]
            for row in map(by_net.get, nets):
                mark = MARKS.get(row["novelty"], "") if row else ""
                cells.append(_cell(row["psnr"], row["ssim"], best, mark) if row else None)
            for each in beside:
                value = each.values[str(name)].get(str(label))
                cells.append(None if value is None else {"value": value, "printed": True})
            lines.append({"name": short[str(label)], "whole": label, "cells": cells})
        images = int(part["images"].max())
        caption = f"{name}, {images} image{'s' * (images != 1)}: PSNR in dB, SSIM below"
        columns = ["input", *nets, *(each.title for each in beside)]
        made.append({"caption": caption, "columns": columns, "rows": lines})
    return made


def _cell(psnr: float, ssim: float, best: float, mark: str = "") -> dict[str, Any] | None:
    gap = best - psnr if math.isfinite(psnr) and math.isfinite(best) else 0.0
    is_best = math.isfinite(psnr) and round(psnr, 2) == best
    far = 0.0 if gap <= 0.06 else 0.5 * min(1.0, gap / 6)
    return {"value": psnr, "ssim": ssim, "mark": mark, "best": is_best, "far": far, "printed": False}


def _card(run: RunRecord) -> dict[str, Any]:
    recipe = run.recipe
    model = dict(recipe.get("model", {}))
    name = model.pop("name", "")
    if not model.get("equivariant"):
        model.pop("noise_scale", None)  # it is the wrapper's
    shape = ", ".join(f"{key} {value}" for key, value in model.items() if value not in (None, False, "none"))
    minutes, seconds = divmod(round(run.seconds), 60) if math.isfinite(run.seconds) else (0, 0)
    facts = {
        "model": f"{name} ({shape})" if shape else str(name),
        "parameters": f"{run.parameters:,}",
        "objective": str(recipe.get("objective", {}).get("name", "")),
        "trained on": run.trained or "not recorded",
        "pairing": str(recipe.get("data", {}).get("pairing", "")),
        "learning rate": f"{recipe['optim']['lr']:g}" if "lr" in recipe.get("optim", {}) else "",
        "passes": f"{run.passes:,}",
        "time": f"{minutes} min {seconds} s" if minutes else f"{seconds} s" if seconds else "",
        "seed": str(recipe.get("seed", "")),
    }
    said = [(key, value) for key, value in facts.items() if value]
    return {"label": run.label, "facts": said, "past": run.past, "recipe": to_yaml(dict(recipe))}


def _thinned(run: RunRecord) -> list[tuple[float, float]]:
    kept = run.metrics[:: max(1, len(run.metrics) // _CURVE_POINTS)]
    return [(float(m.get("passes", m["step"])), float(m["loss"])) for m in kept]


def _again(material: Material) -> dict[str, Any]:
    """The commands that make it again, and how it was measured."""
    commands = [shlex.join(run.command) for run in material.runs if run.command]
    s = material.settings
    if s.get("distort") and s.get("nets"):
        sources = {label: about["source"] for label, about in s["nets"].items() if about.get("source")}
        words = ["dilkit", "eval", *(f"{label}={source}" for label, source in sources.items())]
        words += ["--data", "DIR", "--distort", s["distort"], "--seed", str(s["seed"])]
        words += ["--clip" if s["clip"] else "--no-clip", *(["--quantize"] if s["quantize"] else [])]
        words += ["--noise", s["noise"], "--draws", str(s["draws"]), "--channel", s["channel"]]
        words += ["--border", str(s["border"]), "--measure", s["measure"]]
        commands.append(shlex.join(words))
    versions = {f"{name} {value}" for run in material.runs for name, value in run.versions.items()}
    settings = settings_line(material.settings)
    return {
        "commands": commands,
        "settings": settings or "How the rows were measured is not recorded with them.",
        "versions": ", ".join(sorted(versions)),
    }


def _missing(material: Material, crops: Sequence[Crop]) -> tuple[str, ...]:
    """What a reader would look for and not find, and how it comes in."""
    said, rows = [], material.rows
    if rows is None or not len(rows):
        said.append(
            "Measurements: no rows lie beside the runs. Give --data and --distort or --protocol to measure "
            "now, or --rows FILE of `dilkit eval`."
        )
    elif not crops:
        kept = ", by settings that are kept in rows.json and rows.parquet, not in rows.csv"
        why = kept if "distort" not in material.settings else ""
        said.append(f"Pictures: crops are made from test images (--data DIR){why}.")
    without = [run.label for run in material.runs if not run.metrics]
    if without:
        said.append(f"Training curves of {', '.join(without)}: the run kept no metrics.")
    if rows is not None and rows["image"].nunique() == 1:
        said.append("Intervals that mean anything: a single image was measured.")
    return tuple(said)


def _shown(material: Material, trust_code: bool) -> list[Net]:
    """A few of the nets, under the labels they have in the rows: of several to an arm, the first."""
    assert material.rows is not None
    nets = material.rows.drop_duplicates(material.by)["net"].astype(str)
    recorded = {label: about.get("source", "") for label, about in material.settings.get("nets", {}).items()}
    sources = {run.label: str(run.checkpoint) for run in material.runs}
    sources |= {label: source for label, source in recorded.items() if source and Path(source).exists()}
    chosen = {net: sources[net] for net in nets if net in sources}
    return list(open_nets(dict(list(chosen.items())[:SHOWN]), trust_code=trust_code))
