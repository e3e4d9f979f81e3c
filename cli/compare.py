"""`dilkit compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .base import app, panel
from .options import Clip, Data, Distort, RecipeCommand, Words, union
from .progress import TrainProgress, say

EPILOG = """
Examples:

`dilkit compare denoise-gaussian-small data.store=bsd400.h5 --arms erm,dil_sf,lookahead --seeds 2 --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]" --out runs/compare`

`dilkit compare denoise-gaussian-small --arms erm,dil_sf+equivariant,specialist --sweep 3e-4 --sweep 1e-3 --select BSD400 --data CBSD68 --distort "awgn(50)" --out runs/sweep`

`dilkit compare mine.yaml passes=8000 --arms erm --arm "wide: objective.name=dil_sf model.width=64" --protocol denoise-awgn --out runs/mine`
"""  # noqa: E501

_Arms = typer.Option(
    help="Comma-separated: objectives with modifiers (dil_sf+equivariant, erm+biasfree), specialist, oracle."
)


@app.command("compare", cls=RecipeCommand, epilog=EPILOG, rich_help_panel=panel("compare"))
def compare(
    words: Words,
    out: Annotated[Path, typer.Option(help="The folder of all runs and results; given again, it goes on.")],
    arms: Annotated[str, _Arms] = "",
    arm: Annotated[list[str] | None, typer.Option(help="An arm described: 'NAME: word key=value'.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Training seeds of each arm.")] = 2,
    sweep: Annotated[
        list[float] | None, typer.Option(help="A learning rate to try; may be given again.")
    ] = None,
    select: Annotated[list[str] | None, typer.Option(help="Images to choose the learning rate on.")] = None,
    data: Data = None,
    distort: Distort = None,
    protocol: Annotated[str | None, typer.Option(help="Or a protocol by name.")] = None,
    clip: Clip = None,
    baseline: Annotated[str | None, typer.Option(help="Differences are to this arm [the first].")] = None,
    device: Annotated[str, typer.Option(help="Device of the measurements.")] = "auto",
) -> None:
    """Train several arms at equal passes and measure them alike, with intervals and costs."""
    from dilkit.experiments.compare import Test
    from dilkit.experiments.compare import compare as run
    from dilkit.experiments.compare import comparison_markdown

    from .eval import plan_protocol

    changes: dict[str, Any] = {"clip": clip, "distort": union(distort)}
    how, sources = plan_protocol(protocol, changes, data, None)
    test = Test(sources, str(how.distort), how.clip, how.quantize, how.seed, how.channel, how.border)
    with TrainProgress() as progress:
        result = run(
            words, [*filter(None, arms.split(",")), *(arm or ())], out, test, seeds=seeds, sweep=sweep or (),
            select=select, baseline=baseline, device=device, watch=progress,
            tell=say,
        )  # fmt: skip
    print(comparison_markdown(result), end="")
