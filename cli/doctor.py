"""`dilkit doctor`: what is installed, what is missing, and the command that adds it."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from typing import Annotated

import typer

from .base import app, panel
from .options import Json
from .output import show_json, show_table

LEARN2LEARN = 'pip install --no-deps --config-settings=--build-option=build_ext "learn2learn==0.2.0"'
"""Its released archive ships C files that current Python rejects; its Cython sources build."""

PURPOSES = {
    "learn2learn": "the backend learn2learn of dilkit.meta",
    "tensorboard": "log.to: tensorboard",
    "wandb": "log.to: wandb",
    "trackio": "log.to: trackio",
    "mlflow": "log.to: mlflow",
    "torchmetrics": "--metric ms_ssim, lpips, dists",
    "torchvision": "--metric lpips, dists; loss: perceptual",
    "pyiqa": "--metric niqe",
    "pyarrow": "--parquet",
    "onnx": "export --onnx",
    "onnxscript": "export --onnx",
    "onnxruntime": "onnx: nets, and the check of an export",
    "spandrel": "spandrel: nets, other people's weights",
    "lmdb": "datasets in LMDB",
    "submitit": "compare --on slurm",
    "distributed": "compare --on dask://",
}
"""What each optional package is for."""


@app.command(
    "doctor",
    epilog="Examples: `dilkit doctor`, `dilkit doctor --json`, `dilkit doctor --all`",
    rich_help_panel=panel("doctor"),
)
def doctor(
    everything: Annotated[
        bool, typer.Option("--all", help="Also list the packages that are in order.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Say what is installed, what is missing, what it would be for, and the command that adds it.

    Exit code 1 where something that dilkit cannot do without is missing.
    """
    from dilkit.devices import pick_device

    required, optional = _requirements()
    rows = [_row(name, "required", f"pip install {name}") for name in sorted(required)]
    for name in sorted({*optional, *PURPOSES}):
        package = f"dilkit[{optional[name]}]" if name in optional else name
        command = LEARN2LEARN if name == "learn2learn" else f'pip install "{package}"'
        rows.append(_row(name, PURPOSES.get(name, f"extra {optional.get(name, '')}"), command))
    missing = [row for row in rows if not row["version"]]
    lacking = [row["package"] for row in missing if row["for"] == "required"]
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "dilkit": importlib.metadata.version("dilkit"),
        "device": str(pick_device("auto")),
        "data": os.environ.get("DILKIT_DATA"),
    }
    if as_json:
        show_json({**facts, "packages": rows})
        raise typer.Exit(1 if lacking else 0)
    print(f"Python     {facts['python']}, {facts['platform']}")
    print(f"dilkit     {facts['dilkit']}")
    print(f"device     {facts['device']}")
    print(f"data       {facts['data'] or 'DILKIT_DATA is not set: test sets are found by path alone'}")
    print()
    lines = [
        [r["package"], r["version"] or "missing", r["for"], "" if r["version"] else r["add"]]
        for r in (rows if everything else missing)
    ]
    title = f"{len(rows) - len(missing)} of {len(rows)} packages are installed"
    show_table(["package", "version", "for", "to add it"], lines, title=title, numbers=False)
    if lacking:
        print(f"\ndilkit cannot work without {', '.join(lacking)}: pip install dilkit", file=sys.stderr)
    raise typer.Exit(1 if lacking else 0)


def _requirements() -> tuple[set[str], dict[str, str]]:
    """What dilkit requires, and what its extras bring: package -> extra. `dev` is for its developers."""
    required: set[str] = set()
    optional: dict[str, str] = {}
    for line in importlib.metadata.requires("dilkit") or []:
        name = re.split(r"[\s\[<>=!~;(]", line)[0].lower()
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        if extra is None:
            required.add(name)
        elif extra[1] not in ("dev", "docs") and name != "dilkit":
            optional.setdefault(name, extra[1])
    return required, optional


def _row(name: str, purpose: str, command: str) -> dict[str, str]:
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = ""
    return {"package": name, "version": version, "for": purpose, "add": command}
