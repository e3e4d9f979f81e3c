"""One training run, from a composed recipe to a folder with checkpoints, metrics and all that made them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from dilkit.confounders.episodes import episodes
from dilkit.recipe import Composed, compose, refuse_leaks
from dilkit.training.assemble import assemble, make_sampler, open_store, steps_per_epoch, training_images
from dilkit.training.checkpoint import Folder
from dilkit.training.engine import Engine
from dilkit.training.files import claim_output
from dilkit.training.keeper import Keeper, Tell
from dilkit.training.loop import fit
from dilkit.training.records import Metrics, write_head
from dilkit.training.resume import restore
from dilkit.training.sinks import open_sinks


@dataclass(frozen=True)
class RunResult:
    """Where a run ended. `loss` is the mean over the last logged interval.

    Attributes:
        stopped: it was asked to stop before its budget was spent.
    """

    out: Path
    checkpoint: Path
    step: int
    passes: int
    loss: float
    seconds: float
    stopped: bool = False


def train(
    what: Composed | Sequence[str],
    out: Path | str,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    command: Sequence[str] = (),
    tell: Tell = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train what a recipe says into the folder `out`.

    Args:
        what: a composed recipe, or the words that compose one.
        out: the run's folder; must be new or empty, unless `resume`.
        resume: go on from the newest whole checkpoint in `out`.
        allow_changes: resume although the recipe has changed: the weights, moments and counters go on, the
            rates and the schedule are those of the new recipe.
        command: the command line to note in the run's records.
        tell: called with each row of the metrics, and with `{"note": text}` for what a person should know.
        stop: asked after every step; once true, the run saves a checkpoint and returns.

    Raises:
        UsageError: a wrong recipe, a store that cannot be read, an output that cannot be written.
        DilkitError: the run failed.
    """
    composed = what if isinstance(what, Composed) else compose(what)
    out, recipe = Path(out), composed.recipe
    store = open_store(recipe)
    labels = tuple(recipe.data.labels or store.labels)
    refuse_leaks(recipe, [store.word(label) for label in labels])
    engine = Engine.of(recipe.hardware)
    if engine.first:
        claim_output(out, resume=resume)
    engine.wait()
    torch.manual_seed(recipe.seed)
    sampler = make_sampler(recipe, store, engine)
    trainee, budget = assemble(recipe, engine, labels, steps_per_epoch(recipe, store))
    validation = None
    if recipe.validation is not None and engine.first:
        from dilkit.training.validation import Validation

        validation = Validation.of(recipe, store, labels)
    folder = Folder(out / "checkpoints", recipe.checkpoint.keep, recipe.checkpoint.archive)
    if engine.rank > 0:
        torch.manual_seed(recipe.seed + engine.rank)
    if resume:
        restore(trainee, folder, composed, engine, allow_changes, tell)
    metrics = None
    if engine.first:
        metrics = Metrics(out, open_sinks(recipe.log.to, out), resume_at=trainee.step)
        write_head(out, composed, command)
    notes = {
        "confounders": str(store.confounders),
        "labels": list(labels),
        "images": training_images(store, recipe.data.split),
    }
    keeper = Keeper(recipe, engine, budget, folder, metrics, validation, notes, tell, stop)
    if not budget.spent(trainee):
        feed = episodes(sampler, trainee.step, budget.steps or sys.maxsize, workers=recipe.data.workers)
        fit(
            trainee,
            feed,
            engine,
            clip=recipe.optim.clip,
            after=keeper.after,
            failed=keeper.failed,
            reduce=engine.reduce if recipe.hardware.sync == "outer" else None,
        )
    engine.wait()
    engine.leave()
    store.close()
    return RunResult(
        out,
        folder.path / "last.safetensors",
        trainee.step,
        trainee.passes,
        keeper.last.get("loss", math.nan),
        trainee.seconds,
        stopped=not budget.spent(trainee),
    )
