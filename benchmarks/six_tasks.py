"""The six tasks of the paper in one Markdown page: its numbers, ours where rows are given, the recipe.

    python benchmarks/six_tasks.py > tasks.md
    python benchmarks/six_tasks.py deblur-gaussian=runs/blur/rows.csv derain=rows.json > tasks.md

A task is named after its protocol. Rows are those of `dilkit eval` or of a comparison (seeds are averaged).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

from dilkit.evaluation.protocols import PROTOCOLS
from dilkit.evaluation.references import all_references
from dilkit.evaluation.rows import by_distortion, read_rows
from dilkit.evaluation.tables import grid, short_labels

TASKS = {
    "denoise-awgn": ("Denoising, across degrees", "denoise-gaussian"),
    "deblur-gaussian": ("Deblurring, across degrees", "deblur-gaussian"),
    "hybrid": ("Hybrid distortions, across degrees", "hybrid"),
    "real-denoise": ("Real denoising, across types", "real-denoise"),
    "real-sr": ("Real super-resolution, across types", "real-sr"),
    "derain": ("Deraining, across types", "derain"),
}
"""By protocol: the paper's task, and the recipe at its size; with `-small` behind it, the one for a CPU."""


def task(name: str, rows: pd.DataFrame | None) -> str:
    """The section of one task."""
    protocol, (title, recipe) = PROTOCOLS.get(name), TASKS[name]
    printed = [each for each in all_references() if (each.key, each.protocol) == ("paper", name)]
    theirs: dict[tuple[str, str], dict[str, float]] = {}
    for each in printed:
        for folder, values in each.values.items():
            short = short_labels(pd.DataFrame({"distortion": list(values)}))
            for label, psnr in values.items():
                theirs.setdefault((folder, short[label]), {})[each.net] = psnr
    parts = [
        f"## {title}",
        f"Protocol {protocol.title}: {protocol.summary}",
        "PSNR in dB, as the paper prints it:",
    ]
    parts.append(table(theirs, [each.net for each in printed]))
    absent = [folder for folder in protocol.sets if folder not in {folder for folder, _ in theirs}]
    if absent:
        parts.append(f"The paper also tests on {', '.join(absent)}; those numbers are not at hand here.")
    if rows is None:
        parts.append("Ours: not measured.")
    else:
        rows = rows.assign(net=rows["arm"]) if "arm" in rows else rows
        ours: dict[tuple[str, str], dict[str, float]] = {}
        short = short_labels(rows)
        for row in by_distortion(rows).to_dict("records"):
            cells = ours.setdefault((row["set"], short[row["distortion"]]), {"input": row["input_psnr"]})
            cells[row["net"]] = row["psnr"]
        sizes = ", ".join(f"{n} images of {s}" for s, n in rows.groupby("set")["image"].nunique().items())
        parts.append(f"Ours ({sizes}):")
        parts.append(table(ours, list(dict.fromkeys(["input", *rows["net"].unique()]))))
    command = f"dilkit compare {recipe}-small --arms erm,dil_sf,dil_pf,dil_ss,dil_ps,lookahead --seeds 3"
    command += f" --protocol {name} --out runs/{recipe}"
    if protocol.distort is None:
        command = f"dilkit train {recipe}-small --out runs/{recipe}\n"
        command += f"dilkit eval runs/{recipe} --protocol {name} --data CLEAN --inputs DISTORTED"
    parts.append(f"Recipes `{recipe}` (the paper's size) and `{recipe}-small`:\n\n```sh\n{command}\n```")
    return "\n\n".join(parts)


def table(cells: dict[tuple[str, str], dict[str, float]], nets: list[str]) -> str:
    names = list(dict.fromkeys(nets))
    lines = [
        [f"{folder}, `{label}`", *(f"{own[net]:.2f}" if net in own else "" for net in names)]
        for (folder, label), own in cells.items()
    ]
    return grid(["set, distortion", *names], lines)


if __name__ == "__main__":
    given = {name: read_rows(Path(path)) for name, _, path in (word.partition("=") for word in sys.argv[1:])}
    unknown = sorted(set(given) - set(TASKS))
    if unknown:
        sys.exit(f"no task {', '.join(unknown)}; expected {', '.join(TASKS)}")
    print("\n\n".join(task(name, given.get(name)) for name in TASKS))
