"""Settle an argument: train every arm at the same passes, measure all alike, give intervals and the cost.

DIR/ARM/lr-X/seed-N is a run of `dilkit train`, with its rows beside it; a comparison cut short goes on with
the runs that are not done. Settings are chosen by a named rule, on images other than the test's. Runs and
measurements are units of work (see `dilkit.experiments.executors`).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from functools import cache, reduce
from itertools import groupby
from pathlib import Path
from typing import Any, TypedDict, Unpack

import pandas as pd

from dilkit.distortions import ConfounderSet, confounder_set
from dilkit.distortions.novelty import novelty
from dilkit.errors import DilkitError, UsageError
from dilkit.evaluation.bootstrap import check_arm, scores
from dilkit.evaluation.rows import SETTINGS, write_rows
from dilkit.evaluation.tables import grid, remarks, signed
from dilkit.evaluation.testsets import Data, find_images
from dilkit.experiments.arms import ORACLE, Arm, parse_arms
from dilkit.experiments.executors import Status, Unit, place_of, run_units, workers_of
from dilkit.experiments.runs import (
    Measuring,
    Run,
    TestPlan,
    Weights,
    about,
    at_rate,
    check_budget,
    open_run,
    own_specialists,
    run_of,
    training_set,
)
from dilkit.experiments.selection import (
    Rule,
    Selection,
    all_but,
    check_rule,
    check_selection,
    drawn,
    search_space,
)
from dilkit.objectives import OBJECTIVES
from dilkit.recipe import Composed, compose

Say = Callable[[str], None]
Watch = Callable[[Sequence[Status]], None]


@dataclass(frozen=True)
class Comparison:
    """What a comparison found.

    Attributes:
        rows: what `evaluate` gives, with the columns arm, lr and train_seed; seen and unseen are each net's
            own.
        scores: what `bootstrap.scores` gives, resampling images and training seeds; seen and unseen are those
            of the shared recipe, the same for all arms.
        cost: one line per arm: lr, parameters, passes and seconds of one run, seeds, runs in all.
        chosen: by arm, the settings tried (a learning rate, or a trial by its number) and the mean PSNR that
            chose among them.
        sweep: every row that was measured to choose, with the columns arm, lr, trial and settings.
        missing: by name, the units that failed, or that no time was left for, and why.
    """

    rows: pd.DataFrame
    scores: pd.DataFrame
    cost: pd.DataFrame
    chosen: dict[str, dict[float, float]] = field(default_factory=dict)
    sweep: pd.DataFrame = field(default_factory=pd.DataFrame)
    missing: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """Settings of an arm that may be chosen: its run with the first seed, and what is looked at to judge it.

    Attributes:
        judged: the runs whose nets are measured for the choice, and on which distortions: the run itself; or,
            for `leave_one_out`, a run without each training distortion, measured on that one.
    """

    key: float
    run: Run
    judged: tuple[tuple[Run, str], ...] = ()


@dataclass(frozen=True)
class ComparisonPlan:
    """What a comparison will run, found fit to be run before anything is trained.

    Attributes:
        texts: what the arms were given as.
        bases: by arm, its recipe, composed once.
        candidates: by arm, the settings to choose from.
    """

    shared: Composed
    texts: tuple[str, ...]
    arms: tuple[Arm, ...]
    bases: Mapping[str, Composed]
    candidates: Mapping[str, tuple[Candidate, ...]]
    trained: ConfounderSet
    test: TestPlan
    selection: Selection
    baseline: str
    seeds: int
    out: Path
    weights: Weights

    def others(self, arm: Arm, best: Candidate) -> list[Run]:
        """The runs of the other training seeds with the settings that were chosen."""
        run, first = best.run, self.shared.recipe.seed
        same: dict[str, Any] = {"label": run.label, "settings": run.settings, "weights": self.weights}
        base = self.bases[arm.name]
        return [run_of(base, arm, self.out, seed=first + k, **same) for k in range(1, self.seeds)]

    @property
    def left_by_arm(self) -> dict[str, int]:
        """How many training runs of each arm are still to be done."""
        return {arm: self._left(candidates) for arm, candidates in self.candidates.items()}

    def _left(self, candidates: Sequence[Candidate]) -> int:
        searched = len(candidates) > 1
        judged = [run for c in candidates for run, _ in c.judged] if searched else []
        runs = {run.out: run for run in (judged or [c.run for c in candidates])}
        # where nets without one distortion are judged, the first seed of the chosen settings is left too
        seeds = range(0 if judged else 1, self.seeds)
        first = self.shared.recipe.seed
        others = sum(
            not any((c.run.out.with_name(f"seed-{first + k}") / "done.json").is_file() for c in candidates)
            for k in seeds
        )
        return sum(not run.done.is_file() for run in runs.values()) + others


def plan_comparison(
    recipe: Sequence[str] | Composed,
    arms: Sequence[str],
    out: str | Path,
    test: TestPlan,
    *,
    seeds: int = 2,
    sweep: Sequence[float] = (),
    trials: int = 0,
    rule: Rule = "seen",
    select: Data | None = None,
    held_out: str | None = None,
    baseline: str | None = None,
    weights: Weights = "last",
) -> ComparisonPlan:
    """What `compare` would run (see there for the arguments); nothing is trained or written.

    The shared recipe is composed once, and each arm's words are added to it once; learning rates, trials and
    seeds change single values of that.
    """
    if (Path(out) / "run.json").is_file():
        raise UsageError(
            "the folder of a training run, not of a comparison", where=out, remedy="give another"
        )
    shared = recipe if isinstance(recipe, Composed) else compose(recipe)
    if shared.recipe.passes is None:
        raise UsageError(
            "arms are compared at equal passes, and the recipe has another budget",
            where="recipe",
            remedy="give passes=N (forward-and-backward passes over one distortion's batch)",
        )
    if sweep and trials:
        raise UsageError("give learning rates to sweep, or a number of trials, not both", where="trials")
    if shared.recipe.data.store is not None and any(arm.startswith(ORACLE) for arm in arms):
        raise UsageError(
            "the oracle trains on distortions that the store does not hold",
            where="data.store",
            remedy="give data.sources and data.distort instead of a store",
        )
    if weights == "best" and shared.recipe.validation is None:
        raise UsageError(
            "the best checkpoint is that of a validation, and the recipe has none",
            where="validate",
            remedy="give validate.every=N and validate.select=seen or held_out",
        )
    trained, tested = training_set(shared.recipe), confounder_set(test.distort)
    selection = Selection(rule, test.data if rule == "oracle" else select, held_out)
    check_rule(selection, trials or len(sweep), trained, tested)
    made = parse_arms(arms, trained, tested)
    baseline = baseline or made[0].name
    check_arm(baseline, [arm.name for arm in made], "baseline")
    if select is not None:
        check_selection(select, test.data)
    plan = ComparisonPlan(
        shared,
        tuple(arms),
        tuple(made),
        {},
        {},
        trained,
        test,
        selection,
        baseline,
        seeds,
        Path(out),
        weights,
    )
    bases, candidates = {}, {}
    for arm in made:
        with about(arm):
            bases[arm.name] = shared.plus(*arm.words)
            check_budget(bases[arm.name].recipe, shared.recipe.passes)
            candidates[arm.name] = tuple(_candidates(replace(plan, bases=bases), arm, sweep, trials))
    return replace(plan, bases=bases, candidates=candidates)


def _candidates(plan: ComparisonPlan, arm: Arm, sweep: Sequence[float], trials: int) -> Iterator[Candidate]:
    base, shared = plan.bases[arm.name], plan.shared.recipe
    objective = OBJECTIVES.get(base.recipe.objective.name)
    tried: dict[float, tuple[str, Mapping[str, Any]]]
    if trials:
        space = search_space(objective, shared.optim.lr, len(training_set(base.recipe)))
        tried = {float(k): (f"trial-{k}", drawn(space, k)) for k in range(trials)}
    else:
        own = any(word.startswith(f"{objective.rate}=") for word in arm.words)
        keys: Any = objective.rate.split(".")
        rate: Any = reduce(getattr, keys, base.recipe) if own else shared.optim.lr
        rates = tuple(sweep) or (float(rate),)
        tried = {lr: (f"lr-{lr:g}", at_rate(base.recipe, lr)) for lr in rates}
    for key, (label, settings) in tried.items():
        how: dict[str, Any] = {"label": label, "settings": settings, "weights": plan.weights}
        run = run_of(base, arm, plan.out, seed=shared.seed, **how)
        yield Candidate(key, run, tuple(_without_each(run)) if plan.selection.rule == "leave_one_out" else ())


def _without_each(run: Run) -> Iterator[tuple[Run, str]]:
    """The same run without each of its distortions, and that distortion; none where there is one alone."""
    words = training_set(run.composed.recipe)
    for k, label in enumerate(words.labels if len(words) > 1 else ()):
        composed = run.composed.plus(all_but(words.labels, label))
        folder = run.out.with_name(f"{run.out.name}-without-{k}")
        yield replace(run, label=f"{run.label}-without-{k}", out=folder, composed=composed), str(words[label])


class Choices(TypedDict, total=False):
    """What may be said of a comparison beside recipe, arms, folder and test (see `compare`)."""

    seeds: int
    sweep: Sequence[float]
    trials: int
    rule: Rule
    select: Data | None
    held_out: str | None
    baseline: str | None
    weights: Weights


def compare(
    recipe: Sequence[str] | Composed,
    arms: Sequence[str],
    out: str | Path,
    test: TestPlan,
    *,
    on: str | Executor = "local:1",
    max_hours: float | None = None,
    device: str = "auto",
    tell: Say = lambda line: None,
    watch: Watch = lambda table: None,
    **choices: Unpack[Choices],
) -> Comparison:
    """Train and measure every arm.

    A run that fails (a learning rate at which the loss is no longer finite) leaves the others alone: as a
    trial it is not chosen, as a seed it is missing, and the table says so.

    Args:
        recipe: the words of the recipe that all arms share, as `dilkit train` takes them, or a composed one.
        arms: see `dilkit.experiments.arms.parse_arms`.
        out: the folder of all runs and results.
        test: what they are measured on.
        seeds: training seeds of each arm, counted from the recipe's own; 2 by default.
        sweep: learning rates to try, with the first seed, for every arm alike (an inner rate that equals the
            outer one moves with it). The best by `rule` trains the other seeds.
        trials: instead, so many settings of each arm, drawn at random from its own ranges (the first are the
            recipe's own).
        rule: how they are chosen; one of `dilkit.experiments.selection.RULES`, by default `seen`.
        select: clean images for that choice, apart from the test's.
        held_out: the distortions of the rule `held_out`, neither trained nor tested on.
        baseline: the arm that differences are taken to; the first by default.
        weights: which checkpoint of a run is measured: the `last` (default), or the `best` of its own
            validation.
        on: where runs are done; see `dilkit.experiments.executors.run_units`.
        max_hours: wall-clock hours there are: as many seeds as fit are taken, the same for all arms, and no
            run is begun when they are over. With 0, what is done is measured and compared.
        device: of the measurements.
        tell: called with lines about the progress.
        watch: called with where the units of work stand.

    Raises:
        UsageError: a recipe that has no budget in passes, an arm that is unknown or has another budget, a
            choice without images to select on, or with those of the test; before anything is trained.
        DilkitError: not one run could be measured.
    """
    until = None if max_hours is None else time.monotonic() + 3600 * max_hours
    plan = plan_comparison(recipe, arms, out, test, **choices)
    if max_hours:
        plan = fitted(plan, max_hours, workers_of(on), tell)
    return run_comparison(plan, on=on, until=until, device=device, tell=tell, watch=watch)


def run_comparison(
    plan: ComparisonPlan, *, on: str | Executor, until: float | None, device: str, tell: Say, watch: Watch
) -> Comparison:
    """Do what was planned; `until` is the time (of `time.monotonic`) after which no training run is begun."""
    plan.out.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    with place_of(on) as place:

        def run(units: Sequence[Unit], until: float | None = None) -> None:
            failed = run_units(units, place, watch=lambda table: _show(table, tell, watch), until=until)
            for name, error in failed.items():
                missing[name] = error.message
                tell(f"{name} is missing: {error}")

        best, chosen, sweep_rows = _choose(plan, run, until, device, tell)
        arms = [arm for arm in plan.arms if arm.name in best]
        runs = [r for arm in arms for r in (best[arm.name].run, *plan.others(arm, best[arm.name]))]
        run([r.training() for r in sorted(runs, key=lambda r: r.seed)], until)
        trained = [r for r in runs if r.done.is_file()]
        measured = [Measuring(r, plan.test, r.out / "rows.json", device=device) for r in trained]
        run([m.unit() for m in measured])
    measured = [m for m in measured if m.path.is_file()]
    if not measured:
        raise DilkitError(
            "not one run could be measured",
            where=plan.out,
            found=next((f"{name}: {why}" for name, why in missing.items()), None),
        )
    rows = pd.concat([m.rows() for m in measured], ignore_index=True)
    several = any(len(each) > 1 for each in plan.candidates.values())
    rows.attrs[SETTINGS] = {
        "recipe": list(plan.shared.words),
        "arms": list(plan.texts),
        "selection": plan.selection.story if several else "none",
        "weights": plan.weights,
    }
    cost = _cost([m.run for m in measured])
    _write_measured(rows, sweep_rows, cost, chosen, plan.out)
    tested, there = confounder_set(plan.test.distort), set(rows["arm"])
    own = own_specialists([arm for arm in arms if arm.name in there], plan.trained, tested)
    for arm in arms:
        if arm.member and arm.name not in own.values():
            tell(f"{arm.name}: no test distortion is its own, so it has no part in the worst-case gap")
    table = scores(
        _relative_to(plan.trained, rows, plan.test),
        by="arm",
        seeds="train_seed",
        baseline=plan.baseline if plan.baseline in there else str(rows["arm"][0]),
        specialists=own or None,
    )
    result = Comparison(rows, table, cost, chosen, sweep_rows, missing)
    table.to_csv(plan.out / "scores.csv", index=False)
    (plan.out / "table.md").write_text(comparison_markdown(result), encoding="utf-8")
    return result


def _show(table: Sequence[Status], tell: Say, watch: Watch) -> None:
    """Notes of a unit of this process as lines, the rest as the table."""
    for status in table:
        note = status.row.get("note")
        if note is not None and status.worker == "here":
            tell(str(note))
            return
    watch(table)


def _choose(
    plan: ComparisonPlan, run: Callable[..., None], until: float | None, device: str, tell: Say
) -> tuple[dict[str, Candidate], dict[str, dict[float, float]], pd.DataFrame]:
    """By arm, the candidate that the rule takes and the value of each; and all rows that were looked at."""
    tried = {arm: cs for arm, cs in plan.candidates.items() if len(cs) > 1}
    best = {arm: cs[0] for arm, cs in plan.candidates.items()}
    if not tried:
        return best, {}, pd.DataFrame()
    selection = plan.selection
    looks: dict[tuple[str, float], list[Measuring]] = {}
    expression = {
        "oracle": plan.test.distort,
        "held_out": str(selection.held_out),
    }.get(selection.rule, str(plan.trained))
    for arm, candidates in tried.items():
        for c in candidates:
            for r, distort in c.judged or ((c.run, expression),):
                path = r.out / f"select-{selection.rule}.json"
                look = Measuring(r, plan.test, path, distort, selection.images, device)
                looks.setdefault((arm, c.key), []).append(look)
    flat = [look for each in looks.values() for look in each]
    run([look.run.training() for look in flat], until)
    run([look.unit() for look in flat if look.run.done.is_file()])
    parts, chosen = [], {}
    for arm, candidates in tried.items():
        values: dict[float, float] = {}
        for c in candidates:
            if not all(look.path.is_file() for look in looks[arm, c.key]):
                continue
            rows = [look.rows() for look in looks[arm, c.key]]
            values[c.key] = sum(float(part["psnr"].mean()) for part in rows) / len(rows)
            settings = json.dumps(dict(c.run.settings))
            parts += [part.assign(trial=c.run.label, settings=settings) for part in rows]
        chosen[arm] = values
        if not values:
            del best[arm]
            tell(f"{arm}: there is nothing to choose from, so it is left out")
            continue
        best[arm] = max(candidates, key=lambda c: values.get(c.key, -math.inf))
        if best[arm].run.label.startswith("lr-"):
            rates = ", ".join(f"{key:g}" for key in values)
            tell(f"{arm}: learning rate {best[arm].run.lr:g} chosen of {rates}")
        else:
            tell(f"{arm}: {best[arm].run.label} chosen of {len(values)}: {dict(best[arm].run.settings)}")
    return best, chosen, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _relative_to(trained: ConfounderSet, rows: pd.DataFrame, test: TestPlan) -> pd.DataFrame:
    """Seen and unseen as the shared recipe has them. To an oracle nothing is unseen, to a specialist most is:
    by their own rows, their scores would be means over other distortions than those of the other arms."""
    kinds = {word.label: novelty(word, trained) for word in confounder_set(test.distort)}
    return rows.assign(novelty=rows["distortion"].map(kinds))


# --- What it will take --------------------------------------------------------------------------------------


Seconds = Callable[[Composed], tuple[float, int]]
"""The seconds of one run of a recipe, and the bytes it leaves on disk."""


def price(plan: ComparisonPlan, seconds: Seconds | None = None) -> pd.DataFrame:
    """What is left to do of a comparison, by arm: runs, passes in all, hours of one worker, bytes on disk.

    Args:
        seconds: gives the seconds and the bytes of one run; by default two real steps of each arm are timed,
            and measuring is taken to cost a third of a pass for as many pixels.
    """
    measure, passes = seconds or timed(plan), plan.shared.recipe.passes or 0
    lines = []
    for arm, runs in plan.left_by_arm.items():
        each, disk = measure(plan.bases[arm])
        line = {"arm": arm, "runs": runs, "passes": runs * passes}
        lines.append({**line, "hours": runs * each / 3600, "bytes": runs * disk})
    return pd.DataFrame(lines)


def timed(plan: ComparisonPlan) -> Seconds:
    """Times two real steps of a recipe, once, and adds the measuring of its net on the plan's test."""
    from dilkit.training.dry_run import dry_run

    shapes = [image.read().shape for image in find_images(plan.test.data)]
    pixels = sum(h * w for h, w, _ in shapes) * len(confounder_set(plan.test.distort))

    @cache
    def seconds(words: tuple[str, ...]) -> tuple[float, int]:
        found = dry_run(next(base for base in plan.bases.values() if base.words == words))
        batch, _, height, width = found.clean
        forward = found.seconds / found.passes / 3 / (batch * height * width)
        return found.total + pixels * forward, found.disk

    return lambda composed: seconds(composed.words)


def fitted(
    plan: ComparisonPlan,
    max_hours: float,
    workers: int,
    tell: Say = lambda line: None,
    seconds: Seconds | None = None,
) -> ComparisonPlan:
    """The same comparison with as many training seeds as fit into so many hours, the same for all arms.

    Raises:
        UsageError: not even one seed fits.
    """
    seconds = seconds or timed(plan)
    for seeds in range(plan.seeds, 0, -1):
        smaller = replace(plan, seeds=seeds)
        hours = float(price(smaller, seconds)["hours"].sum()) / workers
        if hours <= max_hours:
            if seeds < plan.seeds:
                tell(f"{seeds} of {plan.seeds} training seeds fit into {max_hours:.3g} hours ({hours:.2g})")
            return smaller
    raise UsageError(
        "not even one training seed fits",
        where="max_hours",
        found=f"{hours:.3g} hours with {workers} at a time",
        expected=f"at most {max_hours:.3g}",
        remedy="fewer arms or settings, fewer passes, or more workers",
    )


# --- What it found ------------------------------------------------------------------------------------------


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
            "runs": len(list(same[0].out.parent.parent.glob("*/seed-*/done.json"))),
        }
        found.append(line)
    return pd.DataFrame(found)


def _parameters(run: Run) -> int:
    net = open_run(run)[0]
    return 0 if net.module is None else sum(p.numel() for p in net.module.parameters())


def _write_measured(
    rows: pd.DataFrame,
    sweep: pd.DataFrame,
    cost: pd.DataFrame,
    chosen: Mapping[str, Mapping[float, float]],
    out: Path,
) -> None:
    write_rows(rows, out / "rows.csv")
    if len(sweep):
        write_rows(sweep, out / "sweep.csv")
    cost.to_csv(out / "cost.csv", index=False)
    (out / "chosen.json").write_text(json.dumps(chosen, indent=1) + "\n", encoding="utf-8")


def comparison_markdown(result: Comparison) -> str:
    """What a comparison found: per set, every score of every arm with its interval, and what it cost."""
    parts = []
    for name, part in result.scores.groupby("set", sort=False):
        kinds = list(dict.fromkeys(part["score"]))
        lines = []
        for arm, cells in part.groupby("arm", sort=False):
            by_score = {row["score"]: row for row in cells.to_dict("records")}
            lines.append([str(arm), *(_score(by_score[kind]) if kind in by_score else "" for kind in kinds)])
        title = f"**{name}**, PSNR (dB), 95 % interval, difference to the baseline"
        parts.append(title + "\n\n" + grid(["arm", *kinds], lines))
    cost = [
        [
            str(row["arm"]), f"{row['lr']:g}", f"{row['parameters']:,}", f"{row['passes']:,}",
            f"{row['seconds']:.0f} s", str(row["seeds"]), str(row["runs"]),
        ]
        for row in result.cost.to_dict("records")
    ]  # fmt: skip
    head = ["arm", "lr", "parameters", "passes", "time of a run", "seeds", "runs in all"]
    parts.append("**Cost**\n\n" + grid(head, cost))
    settings = result.rows.attrs.get(SETTINGS, {})
    said = settings.get("selection", "none")
    rule = "one learning rate, none selected" if said == "none" else f"selected by {said}"
    which = (
        "the best of each run's validation"
        if settings.get("weights") == "best"
        else "the last of each run, none selected"
    )
    parts.append(f"Learning rates: {rule}. Checkpoints: {which}.")
    if result.missing:
        parts.append("Missing:\n\n" + "\n".join(f"- {name}: {why}" for name, why in result.missing.items()))
    return "\n\n".join([*remarks(result.rows), *parts]) + "\n"


def _score(row: Mapping[Any, Any]) -> str:
    text = f"{row['value']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
    if row.get("difference"):
        low, high = row["difference_low"], row["difference_high"]
        text += f" {signed(row['difference'])} [{signed(low)}, {signed(high)}]"
    return text
