"""One training run, from a composed recipe to a folder with a checkpoint, metrics and all that made them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dilkit.confounders.episodes import EpisodeSampler, episodes
from dilkit.confounders.store import Store
from dilkit.errors import UsageError
from dilkit.models import from_config
from dilkit.objectives import build as build_objective
from dilkit.recipe import Composed, Recipe, compose, differences, resolved
from dilkit.training.checkpoint import Folder, read
from dilkit.training.checkpoint import fit as fit_weights
from dilkit.training.engine import Engine
from dilkit.training.files import claim_output
from dilkit.training.loop import Meter, Trainee, fit
from dilkit.training.losses import make_loss
from dilkit.training.records import Metrics, write_head
from dilkit.training.schedule import make_optimizer, make_schedule

Tell = Callable[[Mapping[str, Any]], None]
"""Called with each row of the metrics, and with `{"note": text}` for what a person should know."""


@dataclass(frozen=True)
class RunResult:
    """Where a run ended. `loss` is the mean of the last logged rows' interval."""

    out: Path
    checkpoint: Path
    step: int
    passes: int
    loss: float
    seconds: float
    stopped: bool = False
    """It was asked to stop before its budget was spent."""


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` outer steps (None: until `seconds` of wall clock)."""

    steps: int | None
    seconds: float | None

    @classmethod
    def of(cls, recipe: Recipe, passes_per_step: int, steps_per_epoch: int) -> Budget:
        if recipe.hours is not None:
            return cls(None, recipe.hours * 3600)
        if recipe.passes is not None:
            if recipe.passes < passes_per_step:
                raise UsageError(
                    "the budget is less than one step",
                    where="passes",
                    found=recipe.passes,
                    expected=f"at least {passes_per_step}",
                )
            return cls(recipe.passes // passes_per_step, None)
        return cls(recipe.steps or (recipe.epochs or 0) * steps_per_epoch, None)

    def spent(self, trainee: Trainee) -> bool:
        if self.seconds is not None:
            return trainee.seconds >= self.seconds
        return trainee.step >= (self.steps or 0)


def train(
    what: Composed | Sequence[str],
    out: Path | str,
    *,
    resume: bool = False,
    command: Sequence[str] = (),
    tell: Tell = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train what a recipe says into the folder `out`.

    Args:
        what: a composed recipe, or the words that compose one.
        out: the run's folder; must be new or empty, unless `resume`.
        resume: go on from the newest whole checkpoint in `out`.
        command: the command line to note in the run's records.
        tell: see `Tell`.
        stop: asked after every step; once true, the run saves a checkpoint and returns.

    Raises:
        UsageError: a wrong recipe, a store that cannot be read, an output that cannot be written.
        DilkitError: the run failed.
    """
    composed = what if isinstance(what, Composed) else compose(what)
    out, recipe = Path(out), composed.recipe
    store = open_store(recipe)
    claim_output(out, resume=resume)
    engine = Engine.of(recipe.hardware)
    torch.manual_seed(recipe.seed)
    sampler = make_sampler(recipe, store)
    labels = tuple(recipe.data.labels or store.labels)
    trainee, budget = assemble(recipe, engine, labels, steps_per_epoch(recipe, store))
    folder = Folder(out / "checkpoints", recipe.checkpoint.keep)
    if resume:
        _restore(trainee, folder, recipe, tell)
    metrics = Metrics(out, resume_at=trainee.step)
    write_head(out, composed, command)
    notes = {
        "confounders": str(store.confounders),
        "labels": list(labels),
        "images": training_images(store, recipe.data.split),
    }
    last: dict[str, Any] = {}

    def after(trainee: Trainee, meter: Meter) -> bool:
        done = budget.spent(trainee) or stop()
        if trainee.step % recipe.log.every == 0 or done:
            last.clear()
            last.update(_row(trainee, meter))
            metrics.add(last)
            tell({**last, "steps": budget.steps})
        if trainee.step % recipe.checkpoint.every == 0 or done:
            at = {"step": trainee.step, "passes": trainee.passes}
            folder.save(trainee.net, recipe, {**notes, **at}, trainee.state_dict())
        return done

    if not budget.spent(trainee):
        feed = episodes(sampler, trainee.step, budget.steps or sys.maxsize, workers=recipe.data.workers)
        fit(trainee, feed, engine, clip=recipe.optim.clip, after=after)
    return RunResult(
        out,
        folder.path / "last.safetensors",
        trainee.step,
        trainee.passes,
        last.get("loss", math.nan),
        trainee.seconds,
        stopped=not budget.spent(trainee),
    )


def open_store(recipe: Recipe) -> Store:
    """The store the recipe names."""
    if recipe.data.store is None:
        raise UsageError(
            "the recipe names no data",
            where="data.store",
            remedy="make a store with `dilkit augment` and give data.store=FILE.h5",
        )
    store = Store(Path(recipe.data.store).expanduser())
    labels = store.labels
    strange = [x for x in recipe.data.labels or () if x not in labels]
    if strange:
        raise UsageError(
            "the store has no such confounder",
            where="data.labels",
            found=", ".join(strange),
            expected=", ".join(labels),
        )
    return store


def training_images(store: Store, split: str | None) -> list[str] | None:
    """Perceptual hashes of the images trained on, by which a test image among them is found out; None for
    more than 50,000 images, whose list would outweigh a net."""
    found = {int(looks) for looks in store.index["perceptual_hash"][store.items(split)]}
    return sorted(f"{looks:016x}" for looks in found) if len(found) <= 50_000 else None


def make_sampler(recipe: Recipe, store: Store) -> EpisodeSampler:
    data = recipe.data
    return EpisodeSampler(
        store,
        batch=data.batch,
        crop=data.crop,
        pairing=data.pairing,
        symmetry=data.symmetry,
        seed=recipe.seed,
        labels=data.labels,
        split=data.split,
    )


def steps_per_epoch(recipe: Recipe, store: Store) -> int:
    return max(1, len(store.items(recipe.data.split)) // recipe.data.batch)


def assemble(recipe: Recipe, engine: Engine, labels: Sequence[str], per_epoch: int) -> tuple[Trainee, Budget]:
    """Net, objective, optimiser and schedule, all new."""
    net = engine.place(from_config(recipe.model))
    settings = recipe.objective.model_dump(exclude={"name"})
    loss = make_loss(recipe.loss, engine.device)
    objective = build_objective(recipe.objective.name, loss=loss, seed=recipe.seed, **settings)
    budget = Budget.of(recipe, objective.passes(len(labels)), per_epoch)
    optimizer = make_optimizer(recipe.optim, net.parameters())
    schedule = make_schedule(recipe.optim, optimizer, budget.steps, per_epoch)
    return Trainee(net, objective, optimizer, schedule), budget


def _restore(trainee: Trainee, folder: Folder, recipe: Recipe, tell: Tell) -> None:
    if folder.empty():
        tell({"note": f"no checkpoint in {folder.path} yet: starting from the first step"})
        return
    weights, state, complaints = folder.newest()
    for complaint in complaints:
        tell({"note": f"passing over {complaint}"})
    tensors, meta = read(weights)
    changed = differences(meta["recipe"], resolved(recipe))
    if changed:
        raise UsageError(
            "the recipe is not the one this run was started with",
            where=folder.path.parent,
            found="; ".join(changed),
            remedy="resume with the recipe in the run's folder, or start another run",
        )
    fit_weights(trainee.net, tensors, weights)
    trainee.load_state_dict(state)


def _row(trainee: Trainee, meter: Meter) -> dict[str, Any]:
    means = meter.read()
    return {
        "step": trainee.step,
        "passes": trainee.passes,
        "seconds": round(trainee.seconds, 3),
        "passes_per_s": round(trainee.passes / max(trainee.seconds, 1e-9), 3),
        "lr": trainee.optimizer.param_groups[0]["lr"],
        **means,
    }
