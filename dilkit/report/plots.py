"""Figures from evaluation rows and run records, all in one style; every function returns a matplotlib Figure.

Colours are told apart by the colour-blind, dashes and markers by those who print in grey. The distorted input
is a line of its own, axes have units, and the stronger end of a degree is named.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from dilkit.distortions import REGISTRY
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import degree_bands
from dilkit.evaluation.invariance import INDICES
from dilkit.evaluation.rows import by_distortion
from dilkit.evaluation.tables import short_labels
from dilkit.report.crops import Crop, crop_pixels

PLOT_ENDINGS = (".png", ".svg", ".pdf")
_DASHES = ("-", "--", "-.", ":")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True)
class Style:
    """Colours of a figure. `inks` follow Okabe and Ito; the input is drawn in `soft`."""

    ink: str
    soft: str
    grid: str
    paper: str
    seen: str
    inks: tuple[str, ...]


LIGHT = Style(
    "#1b1f24", "#6e7781", "#d0d7de", "#ffffff", "#f0e442",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f3fbf"),
)  # fmt: skip
DARK = Style(
    "#e6edf3", "#9aa4af", "#3b434c", "#0d1117", "#8a8426",
    ("#58a6ff", "#ff9d5c", "#3fd0a5", "#f090c8", "#e3b341", "#8fd0ff", "#bc8cff"),
)  # fmt: skip


def _look(style: Style, i: int) -> dict[str, Any]:
    """Colour, dashes and marker of the i-th net: told apart without colour too."""
    return {
        "color": style.inks[i % len(style.inks)],
        "ls": _DASHES[i // len(style.inks) % len(_DASHES)],
        "marker": _MARKERS[i % len(_MARKERS)],
    }


def figures_of_rows(
    rows: pd.DataFrame, *, by: str = "net", seeds: str | None = None, style: Style = LIGHT
) -> dict[str, Figure]:
    """All that was measured, as one or two figures: PSNR against the degree of every type with several
    degrees, and the gain over the input under each other distortion. By what is added to a file's name.

    Args:
        rows, by, seeds: as `psnr_against_degree` takes them.

    Raises:
        UsageError: no net was measured under any distortion.
    """
    graded, rest = split_by_degrees(rows)
    found = {}
    if len(graded):
        found[""] = psnr_against_degree(graded, by=by, seeds=seeds, style=style)
    if len(rest) or not found:
        found["-distortions" if found else ""] = gain_by_distortion(rest, by=by, style=style)
    return found


def split_by_degrees(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of types with several degrees on a set, and those of nets under all other distortions."""
    several = rows.groupby(["set", "type"])["degree"].transform("nunique") > 1
    rest = rows[~several & rows["type"].ne("clean") & rows["net"].ne("input")]
    rest.attrs = dict(rows.attrs)  # pandas may lose them in a selection
    return rows[several], rest


def gain_by_distortion(rows: pd.DataFrame, *, by: str = "net", style: Style = LIGHT) -> Figure:
    """The gain over the input of each net under each distortion, with its 95 % interval over images; a panel
    per test set. The input itself is the line at nought.

    Raises:
        UsageError: there are no rows.
    """
    if not len(rows):
        raise UsageError("there is nothing to plot", expected="nets measured on distorted images")
    named = rows.assign(net=rows[by], gain=rows["psnr"] - rows["input_psnr"])
    short, labels = short_labels(rows), list(dict.fromkeys(named["distortion"]))
    sets, nets = list(dict.fromkeys(named["set"])), list(dict.fromkeys(named["net"]))
    height = 1.8 + (0.3 + 0.06 * len(nets)) * len(labels)
    figure = _figure(2.2 + 4.4 * len(sets), height, style)
    for k, name in enumerate(sets):
        axes = figure.add_subplot(1, len(sets), k + 1)
        axes.axvline(0, color=style.soft, lw=1.4, ls=(0, (1, 1.5)), label="input")
        for i, net in enumerate(nets):
            look = _look(style, i) | {"ls": ""}
            part = named[(named["set"] == name) & (named["net"] == net) & np.isfinite(named["gain"])]
            cells = part.groupby(["distortion", "image"], sort=False)["gain"].mean().groupby(level=0)
            y = [labels.index(each) + 0.5 * ((i + 0.5) / len(nets) - 0.5) for each in cells.groups]
            spread = 1.96 * (cells.std() / np.sqrt(cells.size())).fillna(0)
            axes.errorbar(cells.mean()[list(cells.groups)], y, xerr=spread[list(cells.groups)], ms=4, lw=1.2,
                          label=str(net), **look)  # fmt: skip
        names = [short.get(each, each) for each in labels]
        axes.set_yticks(range(len(labels)), names if k == 0 else [""] * len(labels))
        axes.set_ylim(len(labels) - 0.5, -0.5)
        axes.set_xlabel("gain over the input (dB), better to the right")
        axes.set_title(str(name), color=style.ink, fontsize="medium")
        _dress(axes, style)
    _legend(figure.axes[0], style)
    return figure


def psnr_against_degree(
    rows: pd.DataFrame,
    *,
    type: str | None = None,
    set: str | None = None,
    value: str = "psnr",
    by: str = "net",
    seeds: str | None = None,
    style: Style = LIGHT,
) -> Figure:
    """Mean PSNR (or SSIM) of each net against the degree, a panel per test set and distortion type; the range
    of degrees met in training is shaded, bands are 95 % intervals over images (and training seeds).

    Where the nets lie so close together that their lines would cover each other, the gain over the input is
    drawn instead, and the axis says so.

    Args:
        rows: what `evaluate` returns.
        type, set: only this distortion type, such as `awgn`; only this test set.
        value: `psnr`, `ssim`, or a further metric in the rows.
        by, seeds: the columns that name arms and training seeds.

    Raises:
        UsageError: no rows of that type and set have degrees.
    """
    graded = rows.dropna(subset=["degree"]).assign(net=lambda x: x[by])
    chosen = graded[graded["set"].eq(set or graded["set"]) & graded["type"].eq(type or graded["type"])]
    panels = list(chosen.groupby(["set", "type"], sort=False))
    if not panels:
        there = ", ".join(sorted({f"{s} {t}" for s, t in zip(graded["set"], graded["type"], strict=True)}))
        raise UsageError("there is nothing to plot", expected=there or "distortions with a degree")
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(6.4 if columns == 1 else 4.6 * columns, 4.4 * lines, style)
    for k, ((name, kind), part) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, k + 1)
        _degree_panel(axes, part, str(kind), value, seeds, style)
        images = part["image"].nunique()
        axes.set_title(f"{name}, {images} image{'s' * (images != 1)}", color=style.ink, fontsize="medium")
    _legend(figure.axes[0], style)
    return figure


def _degree_panel(
    axes: Any, rows: pd.DataFrame, kind: str, value: str, seeds: str | None, style: Style
) -> None:
    means = by_distortion(rows).sort_values("degree", kind="stable")
    given = means.drop_duplicates("degree")
    nets = [net for net in dict.fromkeys(rows["net"]) if net != "input"]
    table = means.pivot_table(index="degree", columns="net", values=value, sort=False)[nets] if nets else None
    gain = table is not None and _crowded(table, given[f"input_{value}"].to_numpy(float))
    base = given.set_index("degree")[f"input_{value}"] if gain else pd.Series(0.0, index=given["degree"])
    seen = means.loc[means["seen"].fillna(False), "degree"]
    if len(seen):
        low, high = float(np.min(seen)), float(np.max(seen))
        width = 0 if low < high else 2
        axes.axvspan(low, high, color=style.seen, alpha=0.3, lw=width, label="seen in training", zorder=0)
    own = given[f"input_{value}"].to_numpy(float) - base.to_numpy(float)
    axes.plot(given["degree"], own, color=style.soft, lw=1.4, ls=(0, (1, 1.5)), label="input", zorder=2)
    for i, net in enumerate(nets):
        part = means[means["net"] == net]
        offset = base.loc[part["degree"]].to_numpy(float)
        look = _look(style, i)
        y = part[value].to_numpy(float) - offset
        axes.plot(part["degree"], y, ms=4, lw=1.6, label=net, zorder=3, **look)
        if value == "psnr" and rows["image"].nunique() > 1:
            own_rows = rows[rows["net"] == net]
            if gain:
                own_rows = own_rows.assign(psnr=own_rows["psnr"] - own_rows["input_psnr"])
            low_, high_ = degree_bands(own_rows, seeds)
            axes.fill_between(part["degree"], low_, high_, color=look["color"], alpha=0.15, lw=0)
    unit = {"psnr": "PSNR (dB)", "ssim": "SSIM"}.get(value, value)
    axes.set_ylabel(f"gain over the input ({'dB' if value == 'psnr' else unit})" if gain else unit)
    axes.set_xlabel(degree_title(kind, given))
    degrees = sorted(given["degree"].unique())
    if len(degrees) <= 9:
        axes.set_xticks(degrees, [f"{d:g}" for d in degrees])
        _thin_ticks(axes, degrees)
    _dress(axes, style)


def _crowded(table: pd.DataFrame, given: np.ndarray[Any, Any]) -> bool:
    """Whether the lines of the nets and of the input would cover each other on a common axis."""
    values = table.to_numpy(float)
    both = np.concatenate([values.ravel(), given])
    both = both[np.isfinite(both)]
    spread = float(both.max() - both.min()) if len(both) else 0.0
    apart = np.nanmax(np.abs(values - given[:, None]), axis=0)
    return len(table) > 1 and spread > 0 and float(np.median(apart)) < 0.1 * spread


def _thin_ticks(axes: Any, degrees: Sequence[float]) -> None:
    """Leave out labels that would touch."""
    span = degrees[-1] - degrees[0]
    kept: list[float] = []
    for degree in degrees:
        if not kept or not span or (degree - kept[-1]) / span > 0.06:
            kept.append(degree)
    axes.set_xticks(kept, [f"{d:g}" for d in kept])


def degree_title(kind: str, means: pd.DataFrame) -> str:
    """`sigma of awgn (1/255), stronger to the right`: the degree, its unit, and where the input gets worse.

    Args:
        means: one row per degree, with `degree` and `input_psnr`.
    """
    kind = kind.removesuffix(">>quantize").removesuffix(">>clip")
    said = f"degree of {kind if len(kind) <= 28 else kind[:27] + '…'}"
    try:
        found = REGISTRY.get(kind)
    except UsageError:  # a chain of several, or a kind of somebody else's
        found = None
    if found is not None and found.degree:
        param = next((p for p in found.params if p.name == found.degree), None)
        unit = f" ({param.unit})" if param is not None and param.unit not in ("", param.name) else ""
        said = f"{found.degree} of {kind}{unit}"
    ordered = means.sort_values("degree")["input_psnr"].to_numpy(float)
    ordered = ordered[np.isfinite(ordered)]
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        return said
    return f"{said}, stronger to the {'right' if ordered[-1] < ordered[0] else 'left'}"


def scores_of_arms(table: pd.DataFrame, *, style: Style = LIGHT) -> Figure:
    """What a comparison found: every score of every arm with its 95 % interval, a panel per set and score.

    Args:
        table: what `dilkit.evaluation.bootstrap.scores` returns.

    Raises:
        UsageError: the table is empty.
    """
    panels = list(table.groupby(["set", "score"], sort=False))
    if not panels:
        raise UsageError("there is nothing to plot", expected="scores")
    arms = list(dict.fromkeys(table["arm"]))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = _figure(4.4 * columns, (1.1 + 0.34 * len(arms)) * lines, style)
    for k, ((name, score), part) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, k + 1)
        for cell in part.to_dict("records"):
            i = arms.index(cell["arm"])
            look = _look(style, i) | {"ls": "-"}
            axes.plot([cell["low"], cell["high"]], [i, i], color=look["color"], lw=2.4, alpha=0.5)
            axes.plot([cell["value"]], [i], ms=6, **look)
        axes.set_yticks(range(len(arms)), arms if k % columns == 0 else [""] * len(arms))
        axes.set_ylim(len(arms) - 0.5, -0.5)
        lower = "gap" in str(score)
        axes.set_xlabel(f"{score} (dB), better to the {'left' if lower else 'right'}")
        axes.set_title(str(name), color=style.ink, fontsize="medium")
        _dress(axes, style)
    return figure


def crops_side_by_side(crops: Sequence[Crop], *, style: Style = LIGHT) -> Figure:
    """A row for each crop: the input, each net's output and the clean image, with their PSNR.

    Raises:
        UsageError: there are no crops.
    """
    if not crops:
        raise UsageError("there is nothing to show", expected="a net, and images under distortions")
    columns = max(len(crop.tiles) for crop in crops)
    figure = _figure(1.9 * columns, 2.25 * len(crops), style)
    for row, crop in enumerate(crops):
        clean, *others = crop.tiles
        for column, (title, uri, found) in enumerate([*others, clean]):
            axes = figure.add_subplot(len(crops), columns, row * columns + column + 1)
            axes.imshow(crop_pixels(uri), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            decibels = "" if found is None else f"  {found:.2f} dB"
            axes.set_title(f"{title}{decibels}", color=style.ink, fontsize="small")
            if not column:
                axes.set_ylabel(crop.distortion, color=style.ink, fontsize="small")
            for spine in axes.spines.values():
                spine.set_visible(False)
    return figure


_INDEX_TITLES: Mapping[str, str] = {
    "cosine": "cosine, same content (1: invariant)",
    "cka": "CKA, same content (1: invariant)",
    "by_distortion": "Calinski-Harabasz by distortion (low: invariant)",
    "by_content": "Calinski-Harabasz by content (high: kept)",
    "probe": "linear probe for the distortion (accuracy)",
}


def indices_over_layers(layers: pd.DataFrame, *, style: Style = LIGHT) -> Figure:
    """The indices of `dilkit.evaluation.invariance` over the depth of each net, a panel per index."""
    figure = _figure(4.4 * len(INDICES), 3.8, style)
    for k, name in enumerate(INDICES):
        axes = figure.add_subplot(1, len(INDICES), k + 1)
        for i, (net, part) in enumerate(layers.groupby("net", sort=False)):
            axes.plot(part["depth"], part[name], ms=4, label=str(net), **_look(style, i))
        axes.set_title(_INDEX_TITLES[name], color=style.ink, fontsize="small")
        axes.set_xlabel("layer, from the input on")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if name.startswith("by_") and (layers[name] > 0).all():
            axes.set_yscale("log")
        _dress(axes, style)
    _legend(figure.axes[0], style)
    return figure


def training_curves(
    runs: Mapping[str, Sequence[tuple[float, float]]], *, style: Style = LIGHT
) -> Figure | None:
    """Training loss against passes, by run: (passes, loss); a run of one point is drawn as that point. None
    where no loss is a number."""
    figure = _figure(6.4, 4.0, style)
    axes = figure.add_subplot()
    drawn: list[float] = []
    for i, (label, points) in enumerate(runs.items()):
        kept = [(x, y) for x, y in points if math.isfinite(y)]
        if not kept:
            continue
        x, y = zip(*kept, strict=True)
        look = _look(style, i) | ({"ms": 6} if len(kept) < 3 else {"marker": ""})
        axes.plot(x, y, lw=1.4, label=label, **look)
        drawn += y
    if not drawn:
        return None
    if min(drawn) > 0 and max(drawn) / min(drawn) > 3:
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = math.log10(min(drawn)), math.log10(max(drawn))
        ticks = [m * 10.0**k for k in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
        ticks = [t for t in ticks if 0.8 * min(drawn) <= t <= 1.25 * max(drawn)]
        axes.set_yticks(ticks, [f"{t:g}" for t in ticks])
    axes.set_xlabel("passes (one forward and backward over a batch)")
    axes.set_ylabel("training loss")
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:,.0f}")
    _dress(axes, style)
    _legend(axes, style)
    return figure


def losses_over_rates(
    rates: Sequence[float],
    losses: Sequence[float],
    smoothed: Sequence[float],
    suggested: float,
    *,
    style: Style = LIGHT,
) -> Figure:
    """The losses of a range test of the learning rate, and the rate that it suggests."""
    figure = _figure(6.4, 4.0, style)
    axes = figure.add_subplot()
    axes.plot(rates, losses, lw=0.8, color=style.soft, label="each step")
    axes.plot(rates, smoothed, lw=1.8, color=style.inks[0], label="smoothed")
    axes.axvline(suggested, lw=1.2, ls="--", color=style.inks[1], label=f"suggested: {suggested:.1e}")
    axes.set_xscale("log")
    low, high = min(smoothed), max(smoothed[0], *smoothed[: len(smoothed) // 2])
    axes.set_ylim(low - 0.1 * (high - low), high + 0.5 * (high - low))
    axes.set_xlabel("learning rate")
    axes.set_ylabel("training loss")
    _dress(axes, style)
    _legend(axes, style)
    return figure


def drawable(path: str | Path) -> Path:
    """A path that `save_plots` takes.

    Raises:
        UsageError: another ending than .png, .svg or .pdf.
    """
    path = Path(path)
    if path.suffix and path.suffix.lower() not in PLOT_ENDINGS:
        raise UsageError("not a format for figures", where=path, expected=", ".join(PLOT_ENDINGS))
    return path


def save_plots(figures: Mapping[str, Figure], path: str | Path) -> list[Path]:
    """Write figures, each under `path` with its addition to the name; without an ending, as .png and .svg.

    Raises:
        UsageError: another ending than .png, .svg or .pdf.
    """
    path = drawable(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for more, figure in figures.items():
        for ending in [path.suffix] if path.suffix else [".png", ".svg"]:
            written.append(path.with_name(path.stem + more + ending))
            figure.savefig(written[-1], dpi=150, facecolor=figure.get_facecolor())
    return written


def as_data_uri(draw: Callable[[Style], Figure | None], style: Style) -> str:
    """A figure as an SVG file within a text, for a page that needs no other file; empty for none."""
    figure = draw(style)
    if figure is None:
        return ""
    held = io.BytesIO()
    figure.savefig(held, format="svg", facecolor=figure.get_facecolor(), metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(held.getvalue()).decode()


def _figure(width: float, height: float, style: Style) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", facecolor=style.paper)


def _dress(axes: Any, style: Style) -> None:
    axes.set_facecolor(style.paper)
    axes.grid(color=style.grid, lw=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(colors=style.ink, which="both", labelsize="small")
    axes.xaxis.label.set_color(style.ink)
    axes.yaxis.label.set_color(style.ink)
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(style.grid)


def _legend(axes: Any, style: Style) -> None:
    made = axes.legend(frameon=False, fontsize="small")
    for text in made.get_texts():
        text.set_color(style.ink)
