"""`dilkit compare`, and `dilkit study`: several comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .base import app, examples, group, panel
from .options import Baseline, Clip, Data, Device, Distort, On, Plot, RecipeCommand, TrustCode, Words, union
from .output import show_table
from .progress import UnitsProgress, clock, say, size

EPILOG = examples("""
dilkit compare denoise-gaussian-small data.store=bsd400.h5 --arms erm,dil_sf,lookahead --seeds 2 --data CBSD68 --distort "awgn[5, 10, 15, 20, 30, 40, 50]" --out runs/compare
dilkit compare denoise-gaussian-small --arms erm,dil_sf+equivariant,specialist --sweep 3e-4 --sweep 1e-3 --select BSD400 --data CBSD68 --distort "awgn(50)" --out runs/sweep
dilkit compare mine.yaml passes=8000 --arms erm --arm "wide: objective.name=dil_sf model.width=64" --protocol denoise-awgn --out runs/mine
dilkit compare denoise-gaussian-small --arms erm,dil_sf,fish --trials 20 --rule held_out --held-out "speckle(20)" --select BSD400 --data CBSD68 --distort "awgn(50)" --on local:2 --max-hours 6 --out runs/search
""")  # noqa: E501

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would take: passes, hours, disk.")]
_Rule = Literal["last", "seen", "held_out", "leave_one_out", "oracle"]
_Weights = Literal["last", "best"]
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
    baseline: Baseline = None,
    trials: Annotated[int, typer.Option(min=0, help="Settings to draw at random for every arm.")] = 0,
    rule: Annotated[_Rule, typer.Option(help="How settings are chosen.")] = "seen",
    held_out: Annotated[str | None, typer.Option(help="The distortion of --rule held_out.")] = None,
    weights: Annotated[_Weights, typer.Option(help="Which checkpoint is measured.")] = "last",
    on: On = "local:1",
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Take the seeds that fit; 0: report what is done.")
    ] = None,
    dry_run: _DryRun = False,
    plot: Plot = None,
    device: Device = "auto",
) -> None:
    """Train several arms at equal passes and measure them alike, with intervals and costs."""
    from dilkit.experiments.compare import compare as run
    from dilkit.experiments.compare import comparison_markdown, plan_comparison, price
    from dilkit.experiments.executors import workers_of
    from dilkit.experiments.runs import TestPlan

    from .eval import plan_protocol

    changes: dict[str, Any] = {"clip": clip, "distort": union(distort)}
    how, sources = plan_protocol(protocol, changes, data, None)
    test = TestPlan(sources, str(how.distort), how.clip, how.quantize, how.seed, how.channel, how.border)
    chosen: dict[str, Any] = {
        "seeds": seeds, "sweep": sweep or (), "trials": trials, "rule": rule, "select": select,
        "held_out": held_out, "baseline": baseline, "weights": weights,
    }  # fmt: skip
    names = [*filter(None, arms.split(",")), *(arm or ())]
    if dry_run:
        show_price(price(plan_comparison(words, names, out, test, **chosen)), workers_of(on))
        return
    with UnitsProgress() as progress:
        result = run(
            words, names, out, test, **chosen, on=on, max_hours=max_hours, device=device, watch=progress,
            tell=say,
        )  # fmt: skip
    print(comparison_markdown(result), end="")
    if plot is not None:
        from dilkit.report.plots import figures_of_rows, save_plots, scores_of_arms

        figures = figures_of_rows(result.rows, by="arm", seeds="train_seed")
        save_plots({**figures, "-scores": scores_of_arms(result.scores)}, plot)


def show_price(price: Any, workers: int) -> None:
    """What a comparison takes, by arm and in all."""
    total = price[["runs", "passes", "hours", "bytes"]].sum()
    lines = [
        [
            str(row["arm"]),
            f"{row['runs']:.0f}",
            f"{row['passes']:,.0f}",
            clock(3600 * row["hours"]),
            size(row["bytes"]),
        ]
        for row in [*price.to_dict("records"), {"arm": "in all", **total}]
    ]
    show_table(["arm", "runs", "passes", "time of one worker", "disk"], lines)
    print(f"\n{clock(3600 * total['hours'] / workers)} with {workers} at a time, measuring included")


study = group("study", "Studies: several comparisons that answer one question, a tier at a time.")

_STUDY = examples("""
dilkit study run smoke --out runs/smoke
dilkit study run ladder --data images --out runs/ladder --dry-run
dilkit study run ladder --data images --out runs/ladder --on local:2 --max-hours 6
dilkit study run paper-size --data images --out runs/paper --on slurm:gpus_per_node=1 --tier degree
""")


@study.command("ls", epilog="Example: `dilkit study ls`")
def ls() -> None:
    """List the studies that come with dilkit."""
    from dilkit.experiments.studies import shipped_studies

    show_table(["study", "about"], list(map(list, shipped_studies().items())), numbers=False)


@study.command("run", epilog=_STUDY)
def run(
    name: Annotated[str, typer.Argument(metavar="STUDY", help="A study by name, or a YAML file.")],
    out: Annotated[Path, typer.Option(help="The folder of the study; given again, it goes on.")],
    data: Annotated[Path | None, typer.Option(help="The folder its images are in.")] = None,
    tier: Annotated[list[str] | None, typer.Option(help="Only this tier; may be given again.")] = None,
    on: On = "local:1",
    max_hours: Annotated[
        float | None, typer.Option(min=0, help="Run what fits; 0: report what is done.")
    ] = None,
    dry_run: _DryRun = False,
    device: Device = "auto",
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


EXPLAIN_EPILOG = examples("""
dilkit study explain runs/ladder --data images/test/CBSD68 --csv explained.csv
dilkit study explain runs/erm --data images/test/Set5 --distort "awgn[5, 20, 50]"
""")


@study.command("explain", epilog=EXPLAIN_EPILOG)
def explain(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Of a study, a comparison, or a run that archives.")
    ],
    data: Annotated[list[str], typer.Option(help="Clean images; may be given again.")],
    distort: Annotated[
        str | None, typer.Option("--distort", "-d", help="Default: those of the test.")
    ] = None,
    crop: Annotated[int, typer.Option(min=16, help="Side of the centre crops.")] = 96,
    limit: Annotated[int, typer.Option(min=2, help="Images at most.")] = 16,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise and of random perturbations.")] = 0,
    csv: Annotated[Path | None, typer.Option(help="Write the row of every net.")] = None,
    trust_code: TrustCode = False,
    device: Device = "auto",
) -> None:
    """Measure what could explain who generalises, and whether it does once seen PSNR is accounted for.

    A row per net: distance from its start, agreement of gradients, noise of a step, sharpness, indices of
    invariance, PSNR. Then each one's partial correlation with unseen PSNR, given seen PSNR and the tier; p
    values are Holm's, over all of them.
    """
    from dilkit.experiments.explanations import LANDSCAPE, explain_study

    found = explain_study(
        folder, data, distort, crop=crop, limit=limit, seed=seed, trust_code=trust_code, device=device,
        tell=say,
    )  # fmt: skip
    if csv is not None:
        found.nets.to_csv(csv, index=False)
    numbers = [*LANDSCAPE, "seen_psnr", "unseen_psnr"]
    names = [name for name in ("tier", "arm", "net") if name in found.nets]
    lines = [
        [*(str(row[name]) for name in names), *(f"{row[name]:.3g}" for name in numbers[:-2]),
         *(f"{row[name]:.2f}" for name in numbers[-2:])]
        for row in found.nets.to_dict("records")
    ]  # fmt: skip
    show_table([*names, *numbers], lines)
    if len(found.correlations):
        lines = [
            [str(row["index"]), str(row["n"]), f"{row['r']:+.2f}", f"[{row['low']:+.2f}, {row['high']:+.2f}]",
             f"{row['p']:.3f}", f"{row['p_holm']:.3f}", f"{row['r_plain']:+.2f}"]
            for row in found.correlations.to_dict("records")
        ]  # fmt: skip
        head = ["index", "nets", "partial r", "95 %", "p", "p (Holm)", "plain r"]
        print()
        show_table(head, lines, title="With unseen PSNR, given seen PSNR and the tier; of ranks")
