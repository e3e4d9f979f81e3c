"""The table of an evaluation: one line per distortion, one column per net, novelty marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dilkit.evaluation.rows import SETTINGS
from dilkit.evaluation.scores import by_distortion, by_novelty

_MARKS = {"seen": "", "degree": "*", "type": "†", "clean": "", "unknown": ""}


@dataclass(frozen=True)
class ResultTable:
    """Text cells; the first column is a name, the others are `PSNR SSIM`."""

    title: str
    head: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def result_tables(rows: pd.DataFrame) -> list[ResultTable]:
    """One table per test set, from the rows of `dilkit.evaluation.evaluate`."""
    means = by_distortion(rows)
    return [_table(str(name), part, rows) for name, part in means.groupby("set", sort=False)]


def _table(name: str, means: pd.DataFrame, rows: pd.DataFrame) -> ResultTable:
    nets = [net for net in dict.fromkeys(means["net"]) if net != "input"]
    lines: list[tuple[str, ...]] = []
    for label, cells in means.groupby("distortion", sort=False):
        by_net = cells.set_index("net")
        marked = [_cell(by_net.loc[net], "psnr", "ssim") + _MARKS[by_net.loc[net, "novelty"]] for net in nets]
        lines.append((str(label), _cell(by_net.iloc[0], "input_psnr", "input_ssim"), *marked))
    for what, psnr in by_novelty(rows[rows["set"] == name]).items():
        lines.append((f"mean, {what}", "", *(f"{psnr[net]:.2f}" if net in psnr else "" for net in nets)))
    images = int(means["images"].iloc[0])
    title = f"{name} ({images} image{'s' * (images != 1)}): PSNR in dB, SSIM"
    return ResultTable(title, ("distortion", "input", *nets), tuple(lines))


def _cell(row: Any, psnr: str, ssim: str) -> str:
    return f"{row[psnr]:.4f} {row[ssim]:.4f}"


def legend(rows: pd.DataFrame) -> str:
    """What the marks mean, and the settings the rows were measured under."""
    settings = rows.attrs[SETTINGS]
    marks = {"degree": "* degree not trained on", "type": "† type not trained on"}
    novelties = set(rows["novelty"])
    said = [text for kind, text in marks.items() if kind in novelties]
    said.append(
        f"input {'clipped' if settings['clip'] else 'not clipped'},"
        f" {'rounded to 8 bits' if settings['quantize'] else 'not rounded'}"
    )
    said.append(f"{settings['noise']} noise, seed {settings['seed']}, draws {settings['draws']}")
    said.append(f"{settings['channel']}, border {settings['border']}, measured {settings['measure']}")
    return "; ".join(said)


def as_markdown(rows: pd.DataFrame) -> str:
    """The tables and their legend as Markdown."""
    parts = []
    for table in result_tables(rows):
        cells = [[cell.replace("|", "\\|") for cell in line] for line in (table.head, *table.lines)]
        rule = ["---", *["---:"] * (len(table.head) - 1)]
        body = "\n".join(f"| {' | '.join(line)} |" for line in (cells[0], rule, *cells[1:]))
        parts.append(f"**{table.title}**\n\n{body}\n")
    return "\n".join([*parts, f"{legend(rows)}.\n"])
