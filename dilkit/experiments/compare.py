"""Settle an argument: train every arm at the same passes, measure all alike, give intervals and the cost.

DIR/ARM/lr-X/seed-N is a run of `dilkit train`, with its rows beside it; a comparison cut short goes on with
the first run that is not done. A learning rate is chosen on seen distortions of images other than the test's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.distortions.novelty import novelty
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import check_arm, scores
from dilkit.evaluation.grid import evaluate
from dilkit.evaluation.rows import SETTINGS, read_rows, write_rows
from dilkit.evaluation.testsets import Data
from dilkit.experiments.arms import ORACLE, parse_arms
from dilkit.experiments.runs import (
    Run,
    check_selection,
    is_done,
    own_specialists,
    plan_runs,
    run_of,
    training_set,
)
from dilkit.inference.nets import Net, open_nets

Tell = Callable[[str], None]
Watch = Callable[[Mapping[str, Any]], None]

SELECTION = "highest mean PSNR on the training distortions of the selection images"


@dataclass(frozen=True)
class Test:
    """What every net is measured on, the same for all (see `evaluate`)."""

    __test__ = False

    data: Data
    distort: str
    clip: bool = True
    quantize: bool = False
    seed: int = 0
    channel: str = "rgb"
    border: int = 0

    def rows(
        self, nets: Any, distort: str | None = None, data: Data | None = None, **more: Any
    ) -> pd.DataFrame:
        settings = {name: value for name, value in vars(self).items() if name not in ("data", "distort")}
        return evaluate(
            nets, self.data if data is None else data, distort or self.distort, **settings, **more
        )


@dataclass(frozen=True)
class Comparison:
    """Attributes:
    rows: what `evaluate` gives, with the columns arm, lr and train_seed; seen and unseen are each net's own.
    scores: what `bootstrap.scores` gives, resampling images and training seeds; seen and unseen are those of
        the shared recipe, the same for all arms.
    cost: one line per arm: lr, parameters, passes and seconds of one run, seeds, runs in all.
    chosen: by arm, the learning rates tried and the mean PSNR that chose among them.
    """

    rows: pd.DataFrame
    scores: pd.DataFrame
    cost: pd.DataFrame
    chosen: dict[str, dict[float, float]] = field(default_factory=dict)


def compare(
    recipe: Sequence[str],
    arms: Sequence[str],
    out: str | Path,
    test: Test,
    *,
    seeds: int = 2,
    sweep: Sequence[float] = (),
    select: Data | None = None,
    baseline: str | None = None,
    device: str = "auto",
    tell: Tell = lambda line: None,
    watch: Watch = lambda row: None,
) -> Comparison:
    """Train and measure every arm.

    Args:
        recipe: the words of the recipe that all arms share, as `dilkit train` takes them.
        arms: see `dilkit.experiments.arms.parse_arms`.
        out: the folder of all runs and results.
        test: what they are measured on.
        seeds: training seeds of each arm, counted from the recipe's own.
        sweep: learning rates to try, with the first seed, for every arm alike (an inner rate that equals the
            outer one moves with it). The best by `select` trains the other seeds.
        select: clean images for that choice, apart from the test's.
        baseline: the arm that differences are taken to; the first by default.
        tell, watch: called with lines about the progress, and with rows of the metrics of each run.

    Raises:
        UsageError: a recipe that has no budget in passes, an arm that is unknown or has another budget, a
            sweep without images to select on, or with those of the test; before anything is trained.
    """
    from dilkit.recipe import compose

    shared = compose(recipe).recipe
    if shared.passes is None:
        raise UsageError(
            "arms are compared at equal passes, and the recipe has another budget",
            where="recipe",
            remedy="give passes=N (forward-and-backward passes over one distortion's batch)",
        )
    if sweep and select is None:
        raise UsageError("a sweep needs images to choose the learning rate on", remedy="give --select DIR")
    if shared.data.store is not None and any(arm.startswith(ORACLE) for arm in arms):
        raise UsageError(
            "the oracle trains on distortions that the store does not hold",
            where="data.store",
            remedy="give data.sources and data.distort instead of a store",
        )
    trained = training_set(shared)
    tested = confounder_set(test.distort)
    made = parse_arms(arms, trained, tested)
    baseline = baseline or made[0].name
    check_arm(baseline, [arm.name for arm in made], "baseline")
    if select is not None:
        check_selection(select, test.data)
    out = Path(out)
    rates = tuple(sweep) or (shared.optim.lr,)
    planned = [plan_runs(recipe, arm, rates, shared, out) for arm in made]
    out.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, dict[float, float]] = {}
    runs: list[Run] = []
    for arm, first in zip(made, planned, strict=True):
        for run in first:
            _train(run, tell, watch)
        best = first[0]
        if len(first) > 1 and select is not None:
            found = {run.lr: _choose(run, test, select, trained, device) for run in first}
            chosen[arm.name] = found
            best = max(first, key=lambda run: found[run.lr])
            tell(f"{arm.name}: learning rate {best.lr:g} chosen of {', '.join(f'{lr:g}' for lr in found)}")
        others = [run_of(recipe, arm, best.lr, shared.seed + k, out) for k in range(1, seeds)]
        for run in others:
            _train(run, tell, watch)
        runs += [best, *others]
    rows = pd.concat([_measure(run, test, device, tell) for run in runs], ignore_index=True)
    rows.attrs[SETTINGS] = {
        "recipe": list(recipe),
        "arms": list(arms),
        "selection": SELECTION if sweep else "none",
    }
    cost = _cost(runs)
    _write_measured(rows, cost, chosen, out)
    own = own_specialists(made, trained, tested)
    for arm in made:
        if arm.member and arm.name not in own.values():
            tell(f"{arm.name}: no test distortion is its own, so it has no part in the worst-case gap")
    table = scores(
        _relative_to(trained, rows, test),
        by="arm",
        seeds="train_seed",
        baseline=baseline,
        specialists=own or None,
    )
    result = Comparison(rows, table, cost, chosen)
    _write_scores(result, out)
    return result


def _relative_to(trained: ConfounderSet, rows: pd.DataFrame, test: Test) -> pd.DataFrame:
    """Seen and unseen as the shared recipe has them. To an oracle nothing is unseen, to a specialist most is:
    by their own rows, their scores would be means over other distortions than those of the other arms."""
    kinds = {word.label: novelty(word, trained) for word in confounder_set(test.distort)}
    return rows.assign(novelty=rows["distortion"].map(kinds))


def _train(run: Run, tell: Tell, watch: Watch) -> None:
    """Train, or go on, or see that it is done."""
    from dilkit.recipe import compose
    from dilkit.training import train

    composed = compose(run.words)
    if is_done(run):
        return
    started = run.out.is_dir() and any(run.out.iterdir())
    tell(f"{'going on with' if started else 'training'} {run.arm.name}, lr {run.lr:g}, seed {run.seed}")
    result = train(composed, run.out, resume=started, command=["dilkit", "train", *run.words], tell=watch)
    record = {
        "words": list(run.words),
        "passes": result.passes,
        "seconds": result.seconds,
        "step": result.step,
    }
    run.done.write_text(json.dumps(record) + "\n", encoding="utf-8")


def _choose(run: Run, test: Test, select: Data, trained: ConfounderSet, device: str) -> float:
    rows = test.rows(str(run.checkpoint), str(trained), select, device=device)
    return float(rows["psnr"].mean())


def _measure(run: Run, test: Test, device: str, tell: Tell) -> pd.DataFrame:
    """The rows of a run, from its file where they are of this test and these weights."""
    path = run.out / "rows.json"
    (net,) = open_nets({run.arm.name: str(run.checkpoint)})
    wanted = {**{k: v for k, v in asdict(test).items() if k != "data"}, "weights": net.fingerprint}
    if path.is_file():
        rows = read_rows(path)
        if rows.attrs[SETTINGS].get("compared") == wanted:
            return _labelled(rows, run)
    tell(f"measuring {run.arm.name}, seed {run.seed}")
    rows = test.rows([net], device=device, journal=run.out / "rows.part")
    rows.attrs[SETTINGS]["compared"] = wanted
    write_rows(rows, path)
    return _labelled(rows, run)


def _labelled(rows: pd.DataFrame, run: Run) -> pd.DataFrame:
    return rows.assign(arm=run.arm.name, lr=run.lr, train_seed=run.seed)


def _cost(runs: Sequence[Run]) -> pd.DataFrame:
    found = []
    for name, own in groupby(runs, key=lambda run: run.arm.name):
        same = list(own)
        records = [json.loads(run.done.read_text(encoding="utf-8")) for run in same]
        line = {
            "arm": name,
            "lr": same[0].lr,
            "parameters": _parameters(same[0]),
            "passes": records[0]["passes"],
            "seconds": sum(each["seconds"] for each in records) / len(records),
            "seeds": len(same),
            "runs": len(list(same[0].out.parent.parent.glob("lr-*/seed-*/done.json"))),
        }
        found.append(line)
    return pd.DataFrame(found)


def _parameters(run: Run) -> int:
    net: Net = open_nets({"net": str(run.checkpoint)})[0]
    return 0 if net.module is None else sum(p.numel() for p in net.module.parameters())


def _write_measured(
    rows: pd.DataFrame, cost: pd.DataFrame, chosen: Mapping[str, Mapping[float, float]], out: Path
) -> None:
    write_rows(rows, out / "rows.csv")
    cost.to_csv(out / "cost.csv", index=False)
    (out / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def _write_scores(result: Comparison, out: Path) -> None:
    from dilkit.report.comparison_table import comparison_markdown

    result.scores.to_csv(out / "scores.csv", index=False)
    (out / "table.md").write_text(comparison_markdown(result), encoding="utf-8")
