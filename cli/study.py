"""`dilkit study`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import group
from .compare import show_price
from .output import show_table
from .progress import UnitsProgress, say

study = group("study", "Studies: several comparisons that answer one question, a tier at a time.")

EPILOG = """
Examples:

`dilkit study run smoke --out runs/smoke`

`dilkit study run ladder --data images --out runs/ladder --dry-run`

`dilkit study run ladder --data images --out runs/ladder --on local:2 --max-hours 6`

`dilkit study run paper-size --data images --out runs/paper --on slurm:gpus_per_node=1 --tier degree`
"""


@study.command("ls", epilog="Examples:\n\n`dilkit study ls`")
def ls() -> None:
    """List the studies that come with dilkit."""
    from dilkit.experiments.studies import shipped_studies

    show_table(["study", "about"], list(map(list, shipped_studies().items())), numbers=False)


@study.command("run", epilog=EPILOG)
def run(
    name: Annotated[str, typer.Argument(help="A study by name, or a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the study; given again, it goes on.")],
    data: Annotated[Path | None, typer.Option(help="The folder its images are in.")] = None,
    tier: Annotated[list[str] | None, typer.Option(help="Only this tier; may be given again.")] = None,
    on: Annotated[str, typer.Option(help="local:N, dask://HOST:PORT, or slurm[:key=value,...].")] = "local:1",
    max_hours: Annotated[float | None, typer.Option(min=0, help="Run what fits into it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what it would take: passes, hours, disk.")
    ] = False,
    device: Annotated[str, typer.Option(help="Device of the measurements.")] = "auto",
) -> None:
    """Run a study's tiers in order; what is done is not done again."""
    from dilkit.experiments.compare import comparison_markdown
    from dilkit.experiments.executors import workers_of
    from dilkit.experiments.studies import load_study, plan_study, price_study, run_study

    made = load_study(name)
    if dry_run:
        table = price_study(plan_study(made, out, data, tier or ()))
        show_price(table.assign(arm=table["tier"] + "/" + table["arm"]), workers_of(on))
        return
    with UnitsProgress() as progress:
        found = run_study(
            made, out, data=data, tiers=tier or (), on=on, max_hours=max_hours, device=device, tell=say,
            watch=progress,
        )  # fmt: skip
    for tier_name, result in found.items():
        print(f"## {tier_name}\n\n{comparison_markdown(result)}")
