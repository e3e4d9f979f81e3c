"""Tables of evaluation rows, and the words that stand under them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import pandas as pd

from dilkit.distortions import confounder_set
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import GAPS, scores
from dilkit.evaluation.references import Printed, reference_notes
from dilkit.evaluation.rows import SETTINGS, by_distortion, by_novelty, metrics_of

MARKS = {"seen": "", "reached": "^", "degree": "*", "type": "†", "clean": "", "unknown": "?"}
"""What stands behind a value, by the word for its distortion."""
_WORDS = {
    "reached": "^ degree not trained on, reached from one that was by a symmetry",
    "degree": "* degree not trained on",
    "type": "† type not trained on",
    "unknown": "? not known what the net was trained on",
}


def legend(rows: pd.DataFrame) -> list[str]:
    """What the marks in a table of these rows mean; for what is reached, by which symmetry."""
    there = set(rows["novelty"])
    said = {kind: text for kind, text in _WORDS.items() if kind in there}
    if "reached" in said and "reached_by" in rows:
        groups = sorted({str(group) for group in rows["reached_by"].dropna() if group})
        said["reached"] += f" ({', '.join(groups)})"
    return [f"{text}." for text in said.values()]


@cache
def _presets() -> dict[str, str]:
    """The names of presets of one distortion, by the label that it has where it is spelt out."""
    sets = {preset.name: confounder_set(preset.text).words for preset in PRESETS.values()}
    return {words[0].named("").label: name for name, words in sets.items() if len(words) == 1}


def short_labels(rows: pd.DataFrame) -> dict[str, str]:
    """By label of a distortion, what tables and plots print: at most 28 characters, or a preset's name."""
    if rows["distortion"].str.len().max() <= 28:
        return {str(label): str(label) for label in rows["distortion"].unique()}
    found = dict(_presets())
    for expression in (rows.attrs.get(SETTINGS, {}).get("distort"), *rows["distortion"].unique()):
        if not expression or len(expression) <= 28 or expression in found:
            continue
        try:
            found = {word.label: word.short_label for word in confounder_set(expression)} | found
        except UsageError:  # a label that was cut, or a kind of a plug-in that is not loaded
            continue
    return {str(label): found.get(label, label) for label in rows["distortion"].unique()}


def shortened(rows: pd.DataFrame) -> list[str]:
    """What each short label stands for, where it is another than the distortion's own."""
    return [f"{short}: {label}" for label, short in short_labels(rows).items() if short != label]


def tables(
    rows: pd.DataFrame, printed: Sequence[Printed], cell: Callable[[Mapping[Any, Any], str], str]
) -> Iterator[tuple[str, int, list[str], list[list[str]]]]:
    """Per test set: its name, the number of its images, a head, and a line per distortion and group of them.

    Args:
        printed: numbers of papers, in columns of their own.
        cell: the text of a mean (see `by_distortion`); with the prefix `input_`, of the input's.
    """
    short = short_labels(rows)
    for name, part in by_distortion(rows).groupby("set", sort=False):
        nets = [str(net) for net in dict.fromkeys(part["net"]) if net != "input"]
        beside = [each for each in printed if name in each.values]
        lines = []
        for label, cells in part.groupby("distortion", sort=False):
            by_net = {row["net"]: row for row in cells.to_dict("records")}
            own = [by_net.get(net) for net in nets]
            values = [each.values[str(name)].get(str(label)) for each in beside]
            lines.append(
                [
                    short[str(label)],
                    cell(next(iter(by_net.values())), "input_"),
                    *("" if row is None else cell(row, "") + MARKS[row["novelty"]] for row in own),
                    *("" if value is None else f"{value:.2f}" for value in values),
                ]
            )
        for what, psnr in by_novelty(rows[rows["set"] == name]).items():
            means = [f"{psnr[net]:.2f}" if net in psnr else "" for net in nets]
            lines.append([f"mean, {what}", "", *means, *("" for _ in beside)])
        head = ["distortion", "input", *nets, *(each.title for each in beside)]
        yield str(name), int(part["images"].max()), head, lines


def markdown(rows: pd.DataFrame, printed: Sequence[Printed] = (), gap_to: Sequence[str] = ()) -> str:
    """PSNR and SSIM by distortion and net, a table per test set, and the settings of the measurement.

    Args:
        printed: numbers of papers to show in columns of their own.
        gap_to: nets to the best of which the gap is told, in a table of its own.
    """
    extras, parts = extra_metrics(rows), []

    def cell(row: Mapping[Any, Any], prefix: str) -> str:
        more = [f"{row[prefix + name]:.4f}" for name in ("ssim", *extras)]
        return " / ".join([decibel(row[f"{prefix}psnr"]), *more])

    for name, images, head, lines in tables(rows, printed, cell):
        for line in lines:
            if line[0].startswith("mean, "):
                best = f"{best_of(float(text) for text in line[2:] if text):.2f}"
                line[2:] = [f"**{text}**" if text == best else text for text in line[2:]]
            else:
                line[0] = f"`{line[0]}`"
        what = " / ".join(["PSNR (dB)", "SSIM", *extras])
        parts.append(f"**{name}**, {images} images, {what}\n\n{grid(head, lines)}")
    if gap_to:
        parts += [f"**{title}**\n\n{grid(head, lines)}" for title, head, lines in gap_tables(rows, gap_to)]
    said = [text.replace("*", "\\*", 1) for text in legend(rows)]
    notes = [f"{note}." for note in (*shortened(rows), *reference_notes(printed))]
    return (
        "\n\n".join(
            [*parts, *remarks(rows), " ".join([*said, settings_line(rows.attrs.get(SETTINGS, {}))]), *notes]
        )
        + "\n"
    )


def gap_tables(rows: pd.DataFrame, gap_to: Sequence[str]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Per test set, how far each net is from the best of some nets: a title that names those, a head, and a
    line per net, with the distortion of its worst gap and the net that is best there.

    Args:
        gap_to: nets of the rows.
    """
    found, short = scores(rows, gap_to=gap_to), short_labels(rows)
    for name, part in by_distortion(rows[rows["type"] != "clean"]).groupby("set", sort=False):
        cells = part.pivot(index="distortion", columns="net", values="psnr")
        lines = []
        for net in dict.fromkeys(part["net"]):
            own = found[(found["set"] == name) & (found["arm"] == net)].set_index("score")
            gaps = [own.loc[kind] if kind in own.index else None for kind in GAPS]
            said = ["" if g is None else f"{g['value']:.2f} [{g['low']:.2f}, {g['high']:.2f}]" for g in gaps]
            worst = str((cells[list(gap_to)].max(axis=1) - cells[net]).idxmax())
            best = str(cells.loc[worst, list(gap_to)].idxmax())
            where = "" if best == net else f"{short[worst]} ({best})"
            lines.append([str(net), *said, where])
        title = f"{name}: gap in dB to the best of {', '.join(gap_to)} under each distortion, 95 % intervals"
        yield title, ["net", *GAPS, "worst at (best there)"], lines


def best_of(values: Iterable[float], *, lower: bool = False) -> float:
    """The best of some values in dB as printed, with two digits: what is bold must be best there too."""
    finite = [round(float(value), 2) for value in values if not math.isnan(value)]
    return (min if lower else max)(finite, default=math.nan)


def settings_line(s: Mapping[str, Any]) -> str:
    """How rows of these settings were measured, in words; empty where that is not recorded."""
    if "clip" not in s:
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
    return [*_leaks(rows), *pasts(rows), *_mismatches(rows), *more]


def pasts(rows: pd.DataFrame) -> list[str]:
    """What the nets come from, as far as it bears on seen and unseen: parents, foreign weights, what is not
    recorded; and, where the past of a net is not known, that the table is made of such nets."""
    nets = rows.attrs.get(SETTINGS, {}).get("nets", {})
    said = [f"{net}: {line}" for net, about in nets.items() for line in about.get("past", [])]
    said += [f"{net}: {about['adaptation']}" for net, about in nets.items() if about.get("adaptation")]
    unknown = [net for net, about in nets.items() if about.get("past_unknown")]
    if unknown:
        said.append(
            f"PAST NOT KNOWN: what {', '.join(unknown)} saw in training is not (wholly) recorded, so leaks"
            " and seen distortions cannot be ruled out"
        )
    return said


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
        f"LEAK: {net} has seen {len(images)} of the test images in training or selection:"
        f" {', '.join(images[:5])}" + (" ..." if len(images) > 5 else "")
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


def signed(value: float) -> str:
    """A difference in dB with its sign; what rounds to nothing has none."""
    text = f"{value:+.2f}"
    return "0.00" if text in ("+0.00", "-0.00") else text


def extra_metrics(rows: pd.DataFrame) -> list[str]:
    """The metrics beside PSNR and SSIM."""
    return [name for name in metrics_of(rows) if name not in ("psnr", "ssim")]
