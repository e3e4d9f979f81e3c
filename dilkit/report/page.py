"""The one-file HTML report: opens from disk with no network, reads without JavaScript, prints on A4.

This module works out what is said; `page.html.j2` says how it looks.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dilkit._version import __version__
from dilkit.devices import pick_device
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import collapse_degrees, scores
from dilkit.evaluation.grid import evaluate
from dilkit.evaluation.protocols import Protocol
from dilkit.evaluation.references import Printed, find_references, reference_notes
from dilkit.evaluation.rows import SETTINGS, by_distortion
from dilkit.evaluation.tables import MARKS, best_of, decibel, legend, remarks, settings_line, signed
from dilkit.evaluation.testsets import Data
from dilkit.inference.nets import Net, open_nets
from dilkit.recipe import to_yaml
from dilkit.report.crops import RULE, Crop, choose_crops
from dilkit.report.plots import DARK, LIGHT, as_data_uri, psnr_against_degree, training_curves
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
        shown = [net for net in _shown(material, trust_code) if net.label in set(material.rows["net"])]
        opened = open_nets(shown, pick_device(device))
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
    rows, measured = material.rows, {}
    if rows is not None and len(rows):
        measured = _measured(material, baseline, reference)
    runs = {run.label: _thinned(run) for run in material.runs if run.metrics}
    training = []
    if runs:
        draw = partial(training_curves, runs)
        training = [_chart(draw, "Training loss of every run")] if draw() is not None else []
    context = {
        "title": title,
        "date": (today or date.today()).isoformat(),
        "version": __version__,
        "verdict": ["Nothing was measured, so nothing can be said of how these runs restore."],
        "warnings": [],
        "scores": [],
        "curves": [],
        "results": [],
        **measured,
        "crops": [_crop(crop) for crop in crops],
        "crops_rule": RULE,
        "cards": [_card(run, material) for run in material.runs],
        "training": training,
        **_again(material),
        "missing": missing,
    }
    titles = {
        "scores": "Scores", "curves": "PSNR against degree", "crops": "Before and after",
        "results": "Every distortion", "cards": "What was trained on what", "training": "Training",
        "settings": "To make it again", "missing": "What is not here",
    }  # fmt: skip
    ids = {"cards": "runs", "settings": "again"}
    context["sections"] = [
        {"id": ids.get(key, key), "title": name} for key, name in titles.items() if context[key]
    ]
    context |= {name: Markup(_file(f"page.{name}")) for name in ("css", "js")}
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_file("page.html.j2")).render(context) + "\n"


def _file(name: str) -> str:
    return files("dilkit.report").joinpath(name).read_text(encoding="utf-8")


def _measured(material: Material, baseline: str | None, reference: str | None) -> dict[str, Any]:
    """Everything that follows from rows."""
    assert material.rows is not None
    named = material.rows.assign(net=material.rows[material.by])
    named.attrs = dict(material.rows.attrs)
    arms = [str(arm) for arm in dict.fromkeys(named["net"]) if arm != "input"]
    if baseline is not None and baseline not in arms:
        raise UsageError(f"no arm {baseline!r} in the rows", expected=", ".join(arms))
    base = baseline or (arms[0] if arms else None)
    printed: tuple[Printed, ...] = ()
    if reference is not None:
        printed = find_references(reference, named["set"].unique(), named["distortion"].unique())
    found = None
    if base is not None:
        found = _comparison_scores(material, base)
        if found is None:
            own = named[named["net"] != "input"]
            found = scores(own, baseline=base, seeds=material.seeds)
    return {
        "verdict": verdict(found, named, base),
        "warnings": remarks(named),
        "scores": [] if found is None else _score_tables(found, str(base)),
        "scores_note": f"Mean PSNR in dB; in brackets 95 % intervals by a paired bootstrap over images"
        f"{' and training seeds' if material.seeds else ''}. Second line: the difference to {base}. "
        "Bold: the best of a column.",
        "collapses": _collapses(named),
        "curves": _curves(named, material.seeds),
        "results": _results(named, printed),
        "results_note": " ".join(
            [
                *legend(named),
                "Bold: the best of a line, the input included; the redder, the farther from it.",
                *(f"{note}." for note in reference_notes(printed)),
            ]
        ),
    }  # fmt: skip


def verdict(table: pd.DataFrame | None, rows: pd.DataFrame, baseline: str | None) -> list[str]:
    """What the rows say, in a sentence per test set: the arm that differs most from the baseline where it
    matters most (unseen degrees, else unseen types, else seen ones), its interval, and at what seen cost.

    Args:
        table: what `dilkit.evaluation.bootstrap.scores` returns, with differences to the baseline.
    """
    if table is None or baseline is None:
        return ["Only the input was measured."]
    said = []
    for name, part in table.groupby("set", sort=False):
        images = rows.loc[rows["set"] == name, "image"].nunique()
        where = f"{name}, {images} image{'s' * (images != 1)}"
        kinds = [k for k in ("unseen degree", "unseen type", "seen") if k in set(part["score"])]
        kind = kinds[0] if kinds else str(part["score"].iloc[0])
        own = {row["arm"]: row for row in part[part["score"] == kind].to_dict("records")}
        others = [row for arm, row in own.items() if arm != baseline and math.isfinite(row["difference"])]
        words = {"unseen degree": "unseen degrees", "unseen type": "unseen types", "seen": "seen distortions"}
        what = words.get(kind, kind)
        if not others:
            if baseline not in own:
                continue
            row = own[baseline]
            given = rows[(rows["set"] == name) & rows["novelty"].isin(_kinds_of(kind))]["input_psnr"].mean()
            gain = f", {row['value'] - given:+.2f} dB to the input" if math.isfinite(given) else ""
            said.append(f"{baseline} restores {what} to {row['value']:.2f} dB{gain} ({where}).")
            continue
        row = max(others, key=lambda each: float(each["difference"]))
        best = row["arm"]
        interval = f"{signed(row['difference_low'])} to {signed(row['difference_high'])}"
        if row["difference_low"] <= 0:
            chance = " beyond chance" if row["difference_high"] >= 0 else ""
            said.append(
                f"No arm is better than {baseline} on {what}{chance}: the closest, {best}, is at "
                f"{signed(row['difference'])} dB, 95 % interval {interval} ({where})."
            )
            continue
        text = f"{best} is {signed(row['difference'])} dB ({interval}) over {baseline} on {what}"
        seen = part[(part["score"] == "seen") & (part["arm"] == best)]
        if kind != "seen" and len(seen):
            cost: dict[Any, Any] = seen.to_dict("records")[0]
            low, high = cost["difference_low"], cost["difference_high"]
            text += (
                ", at no seen cost"
                if low <= 0 <= high or cost["difference"] > 0
                else f", at {signed(cost['difference'])} dB ({signed(low)} to {signed(high)}) on seen ones"
            )
        said.append(f"{text} ({where}; 95 % intervals).")
    return said


def _kinds_of(score: str) -> tuple[str, ...]:
    return {"unseen degree": ("degree", "reached"), "unseen type": ("type",), "seen": ("seen",)}.get(
        score, ()
    )


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
            kind: best_of(part.loc[part["score"] == kind, "value"], lower=kind == "worst-case gap")
            for kind in kinds
        }
        rows = []
        for arm, cells in part.groupby("arm", sort=False):
            by_kind = {row["score"]: row for row in cells.to_dict("records")}
            made_cells = [
                None if kind not in by_kind else _score_cell(by_kind[kind], best[kind], arm == baseline)
                for kind in kinds
            ]
            rows.append({"name": arm, "cells": made_cells})
        made.append({"caption": f"{name}: PSNR in dB", "columns": kinds, "rows": rows})
    return made


def _score_cell(row: Mapping[Any, Any], best: float, is_baseline: bool) -> dict[str, Any]:
    cell = {
        "value": row["value"], "text": decibel(row["value"]),
        "interval": f"[{decibel(row['low'])}, {decibel(row['high'])}]",
        "best": round(row["value"], 2) == best, "difference": "", "difference_interval": "",
    }  # fmt: skip
    if not is_baseline and math.isfinite(row.get("difference", math.nan)):
        low, high = signed(row["difference_low"]), signed(row["difference_high"])
        cell["difference"] = signed(row["difference"])
        cell["difference_interval"] = f"[{low}, {high}]"
    return cell


def _collapses(rows: pd.DataFrame) -> list[str]:
    found = collapse_degrees(rows[rows["net"] != "input"]).dropna()
    return [
        f"{row['net']} on {row['set']}: from {row['type']}({row['collapse']:g}) on, the output is worse"
        " than the input."
        for row in found.to_dict("records")
    ]


def _curves(rows: pd.DataFrame, seeds: str | None) -> list[dict[str, str]]:
    made = []
    graded = rows.dropna(subset=["degree"])
    for (name, kind), part in graded.groupby(["set", "type"], sort=False):
        if part["degree"].nunique() > 1:
            draw = partial(psnr_against_degree, rows, set=str(name), type=str(kind), seeds=seeds)
            title = f"{name}: {kind}. Bands: 95 % over images{' and training seeds' if seeds else ''}."
            made.append(_chart(draw, title))
    return made


def _chart(draw: Any, title: str) -> dict[str, str]:
    def drawn(style: Any) -> Any:
        return draw(style=style)

    return {"title": title, "light": as_data_uri(drawn, LIGHT), "dark": as_data_uri(drawn, DARK)}


def _results(rows: pd.DataFrame, printed: Sequence[Printed]) -> list[dict[str, Any]]:
    made = []
    for name, part in by_distortion(rows).groupby("set", sort=False):
        nets = [str(net) for net in dict.fromkeys(part["net"]) if net != "input"]
        beside = [p for p in printed if name in p.values]
        first = part.groupby("distortion", sort=False)["novelty"].agg(
            lambda v: min(_ORDER.get(x, 9) for x in v)
        )
        lines = []
        for label in first.sort_values(kind="stable").index:
            cells = part[part["distortion"] == label]
            by_net = {row["net"]: row for row in cells.to_dict("records")}
            given = cells.iloc[0]
            best = best_of([given["input_psnr"], *(by_net[net]["psnr"] for net in nets if net in by_net)])
            line: list[dict[str, Any] | None] = [_result_cell(given["input_psnr"], given["input_ssim"], best)]
            for net in nets:
                row = by_net.get(net)
                mark = "" if row is None else MARKS.get(row["novelty"], "")
                line.append(None if row is None else _result_cell(row["psnr"], row["ssim"], best, mark))
            for each in beside:
                value = each.values[str(name)].get(str(label))
                line.append(
                    None
                    if value is None
                    else {
                        "value": value,
                        "text": f"{value:.2f}",
                        "classes": "printed",
                        "shade": "",
                        "more": "",
                    }
                )
            lines.append({"name": str(label), "cells": line})
        images = int(part["images"].max())
        made.append(
            {
                "caption": f"{name}, {images} image{'s' * (images != 1)}: PSNR in dB, SSIM below",
                "columns": ["input", *nets, *(p.title for p in beside)],
                "rows": lines,
            }
        )
    return made


_PRINTED = {"classes": "printed", "shade": "", "more": ""}


def _result_cell(psnr: float, ssim: float, best: float, mark: str = "") -> dict[str, Any]:
    is_best = math.isfinite(psnr) and round(psnr, 2) == best
    gap = best - psnr if math.isfinite(psnr) and math.isfinite(best) else 0.0
    depth = min(1.0, gap / 6)
    return {
        "value": psnr, "text": decibel(psnr) + mark, "more": f"{ssim:.4f}",
        "classes": "best" if is_best else "far" if depth > 0.01 else "",
        "shade": "" if is_best or depth <= 0.01 else f"{0.5 * depth:.2f}",
    }  # fmt: skip


def _crop(crop: Crop) -> dict[str, Any]:
    top = best_of([crop.given[1], *(value for _, value in crop.outputs.values())])
    tiles = [{"name": "clean", "source": crop.clean, "psnr": "", "best": False}]
    for name, (source, value) in {"input": crop.given, **crop.outputs}.items():
        psnr = f"{decibel(value)} dB"
        tiles.append({"name": name, "source": source, "psnr": psnr, "best": round(value, 2) == top})
    return {"rank": crop.rank, "image": crop.image, "distortion": crop.distortion, "tiles": tiles}


def _card(run: RunRecord, material: Material) -> dict[str, Any]:
    recipe = run.recipe
    model = dict(recipe.get("model", {}))
    name = model.pop("name", "")
    shape = ", ".join(f"{key} {value}" for key, value in model.items() if value not in (None, False))
    facts = {
        "model": f"{name} ({shape})" if shape else str(name),
        "parameters": f"{run.parameters:,}",
        "objective": str(recipe.get("objective", {}).get("name", "")),
        "trained on": run.trained or "not recorded",
        "pairing": str(recipe.get("data", {}).get("pairing", "")),
        "learning rate": f"{recipe['optim']['lr']:g}" if "lr" in recipe.get("optim", {}) else "",
        "passes": f"{run.passes:,}",
        "time": _time(run.seconds),
        "seed": str(recipe.get("seed", "")),
    }
    said = [(key, value) for key, value in facts.items() if value]
    return {"label": run.label, "facts": said, "past": run.past, "recipe": to_yaml(dict(recipe))}


def _thinned(run: RunRecord) -> list[tuple[float, float]]:
    step = max(1, len(run.metrics) // _CURVE_POINTS)
    kept = run.metrics[::step]
    return [(float(m.get("passes", m["step"])), float(m["loss"])) for m in kept]


def _again(material: Material) -> dict[str, Any]:
    commands = [shlex.join(run.command) for run in material.runs if run.command]
    s = material.settings
    if s.get("distort") and s.get("nets"):
        nets = " ".join(
            shlex.quote(f"{label}={about['source']}")
            for label, about in s["nets"].items()
            if about.get("source")
        )
        options = [
            f"--distort {shlex.quote(s['distort'])}",
            f"--seed {s['seed']}",
            "--clip" if s["clip"] else "--no-clip",
        ]
        options += ["--quantize"] if s["quantize"] else []
        options += [f"--noise {s['noise']}", f"--channel {s['channel']}", f"--border {s['border']}"]
        commands.append(f"dilkit eval {nets} --data DIR " + " ".join(options))
    versions = {f"{name} {value}" for run in material.runs for name, value in run.versions.items()}
    settings = "" if material.rows is None else settings_line(material.rows)
    return {
        "commands": commands,
        "settings": settings or "How the rows were measured is not recorded with them.",
        "versions": ", ".join(sorted(versions)),
    }


def _missing(material: Material, crops: Sequence[Crop]) -> tuple[str, ...]:
    """What a reader would look for and not find, and how it comes in."""
    said = []
    measured = material.rows is not None and len(material.rows) > 0
    if not measured:
        said.append(
            "Measurements: no rows lie beside the runs. Give --data and --distort or --protocol to measure "
            "now, or --rows FILE of `dilkit eval`."
        )
    elif not crops:
        said.append(
            "Pictures: crops are made from test images (--data DIR), by settings that are kept in rows.json "
            "and rows.parquet, not in rows.csv."
            if "distort" not in material.settings
            else "Pictures: crops are made from test images (--data DIR)."
        )
    without = [run.label for run in material.runs if not run.metrics]
    if without:
        said.append(f"Training curves of {', '.join(without)}: the run kept no metrics.")
    if measured and material.rows is not None and material.rows["image"].nunique() == 1:
        said.append("Intervals that mean anything: a single image was measured.")
    return tuple(said)


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _shown(material: Material, trust_code: bool) -> list[Net]:
    """A few of the nets, under the labels they have in the rows."""
    sources = {label: about.get("source", "") for label, about in material.settings.get("nets", {}).items()}
    paths = {label: Path(source) for label, source in sources.items() if source and Path(source).exists()}
    if not paths:
        paths = {run.label: run.checkpoint for run in material.runs}
    first = dict(list(paths.items())[:SHOWN])
    return list(open_nets({label: str(path) for label, path in first.items()}, trust_code=trust_code))
