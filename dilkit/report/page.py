"""Line charts as inline SVG: colours from the page's own variables, so they follow light and dark.

The one-file HTML report: opens from disk with no network, reads without JavaScript.

From run folders to the page: measure where that is asked for, choose the crops, write.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dilkit import __version__
from dilkit.devices import pick_device
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import collapse_degrees, scores
from dilkit.evaluation.protocols import Protocol
from dilkit.evaluation.rows import SETTINGS, by_distortion
from dilkit.evaluation.testsets import Data
from dilkit.inference.nets import Net, open_nets
from dilkit.report.crops import RULE, Crop, choose_crops
from dilkit.report.runfolders import Material, RunRecord, collect

_WIDTH, _HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 18, 14, 42
_DASHES = ("", "7 4", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """Points in order of x; `low` and `high` bound a band where they are given."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    muted: bool = False


def chart(
    lines: Sequence[Line],
    *,
    title: str,
    x: str,
    y: str,
    shaded: tuple[float, float] | None = None,
    log: bool = False,
    markers: bool = True,
) -> str:
    """An SVG figure with axes, ticks, an optional shaded range of x, and a legend.

    Its text alternative is the title; the values themselves stand in a table of the report.
    """
    finite = [(a, b) for line in lines for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    if not finite:
        return ""
    bounds = [v for line in lines for v in (*line.low, *line.high) if math.isfinite(v)]
    ys = [b for _, b in finite] + bounds
    across = _Axis(min(a for a, _ in finite), max(a for a, _ in finite), _LEFT, _WIDTH - _RIGHT)
    up = _Axis(min(ys), max(ys), _HEIGHT - _BOTTOM, _TOP, log=log)
    box, name = f"0 0 {_WIDTH} {_HEIGHT + 18 * _rows(lines)}", escape(title)
    parts = [f'<svg class="chart" viewBox="{box}" role="img" aria-label="{name}"><title>{name}</title>']
    if shaded is not None:
        a, b = across.at(max(shaded[0], across.low)), across.at(min(shaded[1], across.high))
        width = max(b - a, 3)
        tall = _HEIGHT - _BOTTOM - _TOP
        parts.append(f'<rect class="seen" x="{a:.1f}" y="{_TOP}" width="{width:.1f}" height="{tall}"/>')
    parts += _frame(across, up, x, y)
    for i, line in enumerate(lines):
        parts += _drawn(line, i, across, up, markers)
    parts += _legend(lines, shaded is not None)
    return "".join([*parts, "</svg>"])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high = self._scaled(self.low), self._scaled(self.high)
        share = (self._scaled(value) - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)

    def _scaled(self, value: float) -> float:
        return math.log10(max(value, 1e-12)) if self.log else value

    def ticks(self) -> list[float]:
        if self.log:
            first, last = math.floor(self._scaled(self.low)), math.ceil(self._scaled(self.high))
            found = [m * 10.0**k for k in range(first, last + 1) for m in (1, 1.5, 2, 3, 5, 7)]
            return [v for v in found if self.low <= v <= self.high]
        span = self.high - self.low or 1
        step = 10 ** math.floor(math.log10(span / 5))
        step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 6)
        first = math.ceil(self.low / step - 1e-9)
        return [k * step for k in range(first, math.floor(self.high / step + 1e-9) + 1)]


def _frame(across: _Axis, up: _Axis, x: str, y: str) -> list[str]:
    foot, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [_label(f"{v:g}", across.at(v), foot + 16, "tick", "middle") for v in across.ticks()]
    for value in up.ticks():
        at = up.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_label(f"{value:g}", _LEFT - 6, at + 4, "tick", "end"))
    parts.append(_label(x, (_LEFT + right) / 2, _HEIGHT - 8, "axis", "middle"))
    turned = _label(y, 0, 0, "axis", "middle")
    return [*parts, f'<g transform="translate(13 {(_TOP + foot) / 2}) rotate(-90)">{turned}</g>']


def _label(text: str, x: float, y: float, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _drawn(line: Line, i: int, across: _Axis, up: _Axis, markers: bool) -> list[str]:
    kind = "muted" if line.muted else f"c{i % 8}"
    points = [(across.at(a), up.at(b)) for a, b in zip(line.x, line.y, strict=True) if math.isfinite(b)]
    parts = []
    if len(line.low) and len(points) == len(line.x):
        edge = [(across.at(a), up.at(b)) for a, b in zip(line.x, line.high, strict=True)]
        edge += [(across.at(a), up.at(b)) for a, b in zip(line.x, line.low, strict=True)][::-1]
        parts.append(f'<polygon class="band {kind}" points="{_text(edge)}"/>')
    dash = _DASHES[i // 8 % len(_DASHES)]
    style = f' stroke-dasharray="{dash}"' if dash else ""
    parts.append(f'<polyline class="line {kind}"{style} points="{_text(points)}"/>')
    if markers:
        parts += [f'<circle class="dot {kind}" cx="{a:.1f}" cy="{b:.1f}" r="3"/>' for a, b in points]
    return parts


def _legend(lines: Sequence[Line], shaded: bool) -> list[str]:
    parts = []
    names = [(line.name, "muted" if line.muted else f"c{i % 8}", i) for i, line in enumerate(lines)]
    for k, (name, kind, i) in enumerate(names):
        a, b = _LEFT + (k % 3) * 170, _HEIGHT + 8 + (k // 3) * 18
        dash = _DASHES[i // 8 % len(_DASHES)]
        style = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<line class="line {kind}"{style} x1="{a}" x2="{a + 22}" y1="{b}" y2="{b}"/>')
        parts.append(f'<text class="tick" x="{a + 28}" y="{b + 4}">{escape(name[:24])}</text>')
    if shaded:
        k = len(names)
        a, b = _LEFT + (k % 3) * 170, _HEIGHT + 8 + (k // 3) * 18
        parts.append(f'<rect class="seen" x="{a}" y="{b - 6}" width="22" height="12"/>')
        parts.append(f'<text class="tick" x="{a + 28}" y="{b + 4}">seen in training</text>')
    return parts


def _rows(lines: Sequence[Line]) -> int:
    return (len(lines) + 1 + 2) // 3


def _text(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points)


_MARKS = {"degree": "*", "type": "†"}
_CURVE_POINTS = 240


def report(
    material: Material,
    *,
    crops: Sequence[Crop] = (),
    title: str = "dilkit report",
    baseline: str | None = None,
) -> str:
    """The page as text.

    Args:
        material: see `dilkit.report.runfolders.collect`.
        crops: see `dilkit.report.crops.choose_crops`.
        baseline: the arm that differences are taken to; the first by default.
    """
    rows = material.rows
    sections: list[tuple[str, str, str]] = [("runs", "What was trained on what", _runs(material))]
    if rows is not None and len(rows):
        named = rows.assign(net=rows[material.by])
        arms = [arm for arm in dict.fromkeys(named["net"]) if arm != "input"]
        if baseline is not None and baseline not in arms:
            raise UsageError(f"no arm {baseline!r} in the rows", expected=", ".join(arms))
        sections += [
            ("results", "Results", _results(named)),
            ("curves", "PSNR against degree", _curves(named, material.seeds)),
            ("heatmap", "Seen and unseen", _heatmap(named)),
            ("scores", "Scores", _scores(named, material.seeds, baseline or arms[0]) if arms else ""),
        ]
    sections += [
        ("crops", "Before and after", _crops_html(crops)),
        ("training", "Training curves", _training(material.runs)),
        ("again", "To make it again", _again(material)),
    ]
    kept = [(name, head, body) for name, head, body in sections if body]
    links = "".join(f'<li><a href="#{name}">{escape(head)}</a></li>' for name, head, _ in kept)
    body = "".join(_section(*section) for section in kept)
    css, js = (
        files("dilkit.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f'<style>{css}</style></head><body><a class="skip" href="#main">Skip to the results</a>'
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="soft">Made by dilkit {__version__}. Everything is in this one file.</p></header>'
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main id="main">{body}</main>'
        f"<script>{js}</script></body></html>\n"
    )


def _section(name: str, head: str, body: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{escape(head)}</h2>{body}</section>'


def write_report(path: str | Path, material: Material, **more: Any) -> Path:
    """Write the page that `report` makes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(report(material, **more), encoding="utf-8")
    return path


def _runs(material: Material) -> str:
    head = [
        "run",
        "model",
        "parameters",
        "objective",
        "trained on",
        "pairing",
        "lr",
        "passes",
        "time",
        "seed",
    ]
    lines = []
    for run in material.runs:
        r, model = run.recipe, dict(run.recipe.get("model", {}))
        name = model.pop("name", "")
        shape = ", ".join(f"{key} {value}" for key, value in model.items() if value not in (None, False))
        data = r.get("data", {})
        lines.append(
            [
                _cell(run.label), _cell(f"{name} ({shape})"), _cell(f"{run.parameters:,}", run.parameters),
                _cell(r.get("objective", {}).get("name", "")), _cell(run.trained),
                _cell(data.get("pairing", "")),
                _cell(f"{r.get('optim', {}).get('lr', math.nan):g}"), _cell(f"{run.passes:,}", run.passes),
                _cell(_time(run.seconds), run.seconds), _cell(str(r.get("seed", ""))),
            ]
        )  # fmt: skip
    return _table("The training runs", head, lines, kind="sorts text")


def _results(rows: pd.DataFrame) -> str:
    parts = [_leaks(rows)]
    for name, part in by_distortion(rows).groupby("set", sort=False):
        nets = [net for net in dict.fromkeys(part["net"]) if net != "input"]
        lines = []
        for label, cells in part.groupby("distortion", sort=False):
            by_net = {row["net"]: row for row in cells.to_dict("records")}
            first = cells.iloc[0]
            best = max((by_net[net]["psnr"] for net in nets if net in by_net), default=math.nan)
            lines.append([_cell(str(label)), _pair(first["input_psnr"], first["input_ssim"])])
            for net in nets:
                row = by_net.get(net)
                lines[-1].append(_cell("") if row is None else _measured(row, best))
        caption = f"{name}, {int(part['images'].max())} images: PSNR in dB / SSIM"
        parts.append(_table(caption, ["distortion", "input", *nets], lines))
    parts.append(
        '<p class="soft">* degree not trained on; † type not trained on; bold: the best of a line.</p>'
    )
    return "".join(parts)


def _leaks(rows: pd.DataFrame) -> str:
    if "leak" not in rows:
        return ""
    leaked = rows[rows["leak"].fillna(False)].groupby("net")["image"].nunique()
    return "".join(
        f'<p class="leak">Leak: {escape(str(net))} was trained on {count} of the test images.</p>'
        for net, count in leaked.items()
    )


def _curves(rows: pd.DataFrame, seeds: str | None) -> str:
    graded = rows.dropna(subset=["degree"])
    parts = []
    for (name, kind), part in graded.groupby(["set", "type"], sort=False):
        if part["degree"].nunique() < 2:
            continue
        given = part.groupby("degree")["input_psnr"].mean()
        lines = [
            _curve(str(net), own, seeds) for net, own in part.groupby("net", sort=False) if net != "input"
        ]
        lines.append(Line("input", list(given.index), list(given), muted=True))
        seen = part.loc[part["seen"].fillna(False), "degree"]
        shaded = (float(seen.min()), float(seen.max())) if len(seen) else None
        title = f"{name}: mean PSNR against the degree of {kind}"
        parts.append(
            f"<figure>{chart(lines, title=title, x=f'degree of {kind}', y='PSNR (dB)', shaded=shaded)}"
            f"<figcaption>{escape(title)}; bands: 95 % over images and training seeds.</figcaption></figure>"
        )
    return f'<div class="charts">{"".join(parts)}</div>' if parts else ""


def _curve(net: str, rows: pd.DataFrame, seeds: str | None, resamples: int = 400) -> Line:
    named = rows.assign(_seed=rows[seeds] if seeds else 0)
    cells = named.pivot_table(values="psnr", index="image", columns=["degree", "_seed"])
    degrees = [float(degree) for degree in cells.columns.unique(0)]
    cube = cells.to_numpy(float).reshape(len(cells), len(degrees), -1)  # images, degrees, seeds
    count = cube.shape[2]
    random = np.random.default_rng(0)
    images = random.integers(len(cube), size=(resamples, len(cube)))
    drawn = random.integers(count, size=(resamples, count))
    means = np.stack([cube[i][:, :, s].mean(axis=(0, 2)) for i, s in zip(images, drawn, strict=True)])
    low, high = np.percentile(means, [2.5, 97.5], axis=0)
    return Line(net, degrees, list(cube.mean(axis=(0, 2))), list(low), list(high))


def _heatmap(rows: pd.DataFrame) -> str:
    """Nets by distortions, seen before unseen; the colour is the distance to the best net of the column."""
    parts = []
    order = {"seen": 0, "clean": 1, "degree": 2, "type": 3, "unknown": 4}
    for name, part in by_distortion(rows[rows["net"] != "input"]).groupby("set", sort=False):
        table = part.pivot(index="net", columns="distortion", values="psnr")
        kinds = part.pivot(index="net", columns="distortion", values="novelty")
        first = part.groupby("distortion", sort=False)["novelty"].agg(lambda v: min(order[x] for x in v))
        columns = list(first.sort_values(kind="stable").index)
        lines = []
        for net in dict.fromkeys(part["net"]):
            lines.append([_cell(str(net))])
            for label in columns:
                value, gap = table.loc[net, label], table.loc[net, label] - table[label].max()
                lines[-1].append(_shaded(float(value), float(gap), str(kinds.loc[net, label])))
        caption = f"{name}: PSNR in dB; the stronger the colour, the farther from the best net of the column"
        parts.append(_table(caption, ["net", *map(str, columns)], lines))
    return "".join(parts)


def _scores(rows: pd.DataFrame, seeds: str | None, baseline: str) -> str:
    own = rows[rows["net"] != "input"]
    found = scores(own, baseline=baseline, seeds=seeds, resamples=300)
    lines = [
        [
            _cell(row["set"]), _cell(row["arm"]), _cell(row["score"]), _number(row["value"]),
            _cell(f"{row['low']:.2f} to {row['high']:.2f}"), _number(row["difference"], "+.2f"),
            _cell(f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}"),
        ]
        for row in found.to_dict("records")
    ]  # fmt: skip
    head = ["set", "arm", "score", "PSNR", "95 % interval", f"minus {baseline}", "95 % interval"]
    text = _table("Scores, with intervals by a paired bootstrap over images and training seeds", head, lines)
    collapsed = [
        [_cell(row["set"]), _cell(row["net"]), _cell(row["type"]), _number(row["collapse"], "g")]
        for row in collapse_degrees(own).dropna().to_dict("records")
    ]
    if collapsed:
        caption = "Collapse: the weakest degree from which on the output is worse than the input"
        text += _table(caption, ["set", "net", "type", "degree"], collapsed)
    return text


def _crops_html(crops: Sequence[Crop]) -> str:
    if not crops:
        return ""
    figures = "".join(map(_before_after, crops))
    return f'<p class="soft">{RULE}</p><div class="crops">{figures}</div>'


def _before_after(crop: Crop) -> str:
    """Without JavaScript, input and first output side by side; with it, a slider and a choice of nets."""
    name = escape(f"{crop.rank}: {crop.image}, {crop.distortion}")
    texts = {net: f"{net}: {value:.2f} dB" for net, (_, value) in crop.outputs.items()}
    options = "".join(f'<option value="{escape(net)}">{escape(text)}</option>' for net, text in texts.items())
    held = "".join(
        f'<template data-net="{escape(net)}"><img src="{source}" alt=""></template>'
        for net, (source, _) in crop.outputs.items()
    )
    first, text = next(iter(texts.items()))
    before = f"input {crop.given[1]:.2f} dB"
    return (
        f'<figure class="before-after"><div class="pair"><img src="{crop.given[0]}" alt="{before}">'
        f'<img src="{crop.outputs[first][0]}" alt="{escape(text)}"></div><div class="only-js">'
        '<label>Input left, output right <input type="range" min="0" max="100" value="50" '
        f'aria-label="Divider, {name}"></label>'
        f'<label>Net <select aria-label="Net, {name}">{options}</select></label></div>'
        f"<figcaption>{name}; {before}, <output>{escape(text)}</output></figcaption>{held}</figure>"
    )


def _training(runs: Sequence[RunRecord]) -> str:
    lines = [_thinned(run) for run in runs if run.metrics]
    if not lines:
        return ""
    drawn = chart(
        lines, title="Training loss against passes", x="passes", y="training loss", log=True, markers=False
    )
    said = "<figcaption>Training loss, logarithmic.</figcaption>"
    return f'<div class="charts"><figure>{drawn}{said}</figure></div>'


def _thinned(run: RunRecord) -> Line:
    step = max(1, len(run.metrics) // _CURVE_POINTS)
    kept = run.metrics[::step]
    return Line(
        run.label, [float(m.get("passes", m["step"])) for m in kept], [float(m["loss"]) for m in kept]
    )


def _again(material: Material) -> str:
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
    text = f"<pre>{escape(chr(10).join(commands))}</pre>" if commands else ""
    return text + (f'<p class="soft">{escape(", ".join(sorted(versions)))}</p>' if versions else "")


def _table(caption: str, head: Sequence[str], lines: Sequence[Sequence[str]], kind: str = "sorts") -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(f"<tr>{''.join(line)}</tr>" for line in lines)
    return (
        f'<div class="wide"><table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(text: object, value: float | None = None, more: str = "") -> str:
    held = "" if value is None else f' data-value="{value}"'
    return f"<td{held}{more}>{escape(str(text))}</td>"


def _number(value: float, form: str = ".2f") -> str:
    return _cell(format(value, form), value)


def _pair(psnr: float, ssim: float) -> str:
    return _cell(f"{_decibel(psnr)} / {ssim:.4f}", psnr)


def _measured(row: Mapping[Any, Any], best: float) -> str:
    text = f"{_decibel(row['psnr'])} / {row['ssim']:.4f}{_MARKS.get(row['novelty'], '')}"
    return _cell(text, row["psnr"], ' class="best"' if row["psnr"] == best else "")


def _shaded(value: float, gap: float, novelty: str) -> str:
    depth = min(1.0, -gap / 6) if math.isfinite(gap) else 0.0
    tone = f"rgba(var(--bad), {0.55 * depth:.2f})" if depth > 0.01 else "rgba(var(--good), .25)"
    return _cell(f"{_decibel(value)}{_MARKS.get(novelty, '')}", value, f' style="background: {tone}"')


def _decibel(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _time(seconds: float) -> str:
    if not math.isfinite(seconds):
        return ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


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
