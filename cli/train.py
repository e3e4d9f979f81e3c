"""`dilkit train`."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

import typer

from dilkit.errors import UsageError

from .base import app, examples, panel
from .options import RecipeCommand, Words, check_figure
from .progress import TrainProgress, clock, say, size

if TYPE_CHECKING:
    from dilkit.recipe import Composed

EPILOG = examples("""
dilkit train denoise-gaussian-small data.store=bsd400.h5 objective.name=dil_sf seed=1 --out runs/sf-1
dilkit train denoise-gaussian swinir dil_ps gpu data.store=df2k.h5 --out runs/swin --procs 4
dilkit train deblur-gaussian-small dil_pf trial --dry-run
dilkit train mine.yaml --find-lr --plot rates.png
dilkit train mine.yaml optim.lr=1e-4 --out runs/mine --resume
""")


@app.command("train", cls=RecipeCommand, epilog=EPILOG, rich_help_panel=panel("train"))
def train(
    words: Words,
    out: Annotated[Path | None, typer.Option(help="The run's folder [default: runs/RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Resume although the recipe has changed.")
    ] = False,
    procs: Annotated[int, typer.Option(min=1, help="Processes on this machine, a GPU each.")] = 1,
    trust_code: Annotated[
        bool,
        typer.Option("--trust-code", help="Also call functions the recipe names as package.module:name."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take two real steps and say what the whole would take.")
    ] = False,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Train briefly at rising rates, and suggest one.")
    ] = False,
    plot: Annotated[
        Path | None,
        typer.Option(help="Where --find-lr draws its figure [default: find-lr.png].", callback=check_figure),
    ] = None,
) -> None:
    """Train a net: recipes and parts composed from left to right, then single settings."""
    from dilkit.recipe import compose

    if plot is not None and not find_lr:
        raise UsageError("--plot draws what --find-lr measures", found=f"--plot {plot}", remedy="--find-lr")
    composed = compose(words)
    recipes = [w for w in words if "=" not in w]
    out = out or Path("runs") / (Path(recipes[0]).stem if recipes else "run")
    if dry_run:
        _dry_run(composed, trust_code)
        return
    if find_lr:
        _find_lr(composed, plot or Path("find-lr.png"), trust_code)
        return
    again = [*words, "--out", str(out), "--resume", *["--trust-code"] * trust_code]
    flags = ["--allow-changes"] * allow_changes + ["--trust-code"] * trust_code
    if procs > 1:
        from dilkit.training.assemble import refuse_unequal
        from dilkit.training.launch import launch

        refuse_unequal(composed.recipe.data, procs, composed.recipe.data.labels)
        with Signals() as signals:
            arguments = ["train", *words, "--out", str(out), *(["--resume"] if resume else []), *flags]
            code = launch(arguments, procs, stop=lambda: signals.seen is not None)
        raise typer.Exit(code)

    from dilkit.training import train as run

    with TrainProgress() as progress, Signals() as signals:
        result = run(
            composed,
            out,
            resume=resume,
            allow_changes=allow_changes,
            trust_code=trust_code,
            command=["dilkit", *sys.argv[1:]],
            log=progress,
            stop=lambda: signals.seen is not None,
        )
    if int(os.environ.get("RANK", "0")) > 0:
        raise typer.Exit(128 + signals.seen if result.stopped and signals.seen else 0)
    if result.stopped:
        processes = os.environ.get("DILKIT_PROCS")
        again += ["--procs", processes] if processes else []
        print(
            f"dilkit: saved at step {result.step}; go on with\n  dilkit train {shlex.join(again)}",
            file=sys.stderr,
        )
        raise typer.Exit(128 + (signals.seen or signal.SIGTERM))
    print(result.checkpoint)


def _dry_run(composed: Composed, trust_code: bool) -> None:
    from dilkit.training.dry_run import dry_run

    found = dry_run(composed, trust_code=trust_code)
    rows = {
        "device": found.device,
        "parameters": f"{found.parameters:,}",
        **{f"batch {label}": _shape(shape) for label, shape in found.shapes.items()},
        "clean": _shape(found.clean),
        "loss": f"{found.loss:.5f}",
        "passes a step": str(found.passes),
        "memory": size(found.memory),
        "a step": f"{1000 * found.seconds:.1f} ms",
        "the budget": f"{found.steps} steps, {clock(found.total)}",
        "disk": f"{size(found.disk)} of checkpoints",
    }
    width = max(map(len, rows))
    for name, value in rows.items():
        print(f"{name:{width}}  {value}")


def _find_lr(composed: Composed, plot: Path, trust_code: bool) -> None:
    from dilkit.report.plots import losses_over_rates, save_plots
    from dilkit.training.find_lr import RULE, find_lr

    found = find_lr(composed, trust_code=trust_code)
    best = found.rates[found.smoothed.index(min(found.smoothed))]
    figure = losses_over_rates(found.rates, found.losses, found.smoothed, found.suggested)
    for path in save_plots({"": figure}, plot):
        say(f"{len(found.rates)} steps from {found.rates[0]:.0e} to {found.rates[-1]:.1e}, drawn in {path}")
    say(f"the loss was least at {best:.1e}; suggested: {RULE}")
    print(f"optim.lr={found.suggested:.1e}")


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class Signals:
    """SIGTERM and Ctrl-C ask for a stop after the step in hand; a second one ends the program at once."""

    def __init__(self) -> None:
        self.seen: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        self.seen = number
        signal.signal(number, signal.SIG_DFL)
