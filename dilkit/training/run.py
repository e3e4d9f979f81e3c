"""Going on from a checkpoint: to the bit by the recipe that made it, or by the new one where it changed.

One training run, from a composed recipe to a folder with checkpoints, metrics and all that made them.

What a run would take: one real step, nothing written.
"""

from __future__ import annotations

import io
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dilkit.checkpoint import EMA, Folder, claim_output, load_weights, net_tensors, read
from dilkit.confounders.episodes import episodes
from dilkit.errors import UsageError
from dilkit.recipe import Composed, compose, differences, refuse_leaks, resolved
from dilkit.training.assemble import assemble, make_sampler, open_store, steps_per_epoch, training_images
from dilkit.training.callbacks import Keeper, Tell
from dilkit.training.engine import Engine, peak_memory
from dilkit.training.loop import Trainee, descend, fit
from dilkit.training.records import Metrics, find_sinks, write_head

_KEEPS_MOMENTS = {"adam": "adam", "adamw": "adam", "sgd": "sgd", "muon": "muon"}
"""Optimisers by the kind of their state."""


def restore(
    trainee: Trainee, folder: Folder, composed: Composed, engine: Engine, allow_changes: bool, tell: Tell
) -> None:
    """Put a new trainee where the newest whole checkpoint of `folder` ended, if there is one.

    Raises:
        UsageError: the recipe has changed, and `allow_changes` is not given.
    """
    if folder.empty():
        tell({"note": f"no checkpoint in {folder.path} yet: starting from the first step"})
        return
    weights, state, complaints = folder.newest()
    for complaint in complaints:
        tell({"note": f"passing over {complaint}"})
    tensors, meta = read(weights)
    old, new = meta["recipe"], resolved(composed.recipe)
    changed = differences(old, new)
    if changed and not allow_changes:
        raise UsageError(
            "the recipe is not the one this run was started with",
            where=folder.path.parent,
            found="; ".join(changed),
            remedy="resume with the recipe in the run's folder, start another run, or give --allow-changes",
        )
    for change in changed:
        tell({"note": f"resuming with a changed recipe: {change}"})
    load_weights(trainee.net, net_tensors(tensors), weights)
    if trainee.average is not None:
        load_weights(trainee.average.module, net_tensors(tensors, EMA) or net_tensors(tensors), weights)
    rng = torch.get_rng_state()
    if changed:
        for note in _go_on_by(trainee, state, old, new):
            tell({"note": note})
    else:
        trainee.load_state_dict(state)
    if engine.rank > 0:
        torch.set_rng_state(rng)


def _go_on_by(
    trainee: Trainee, state: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    """Take the counters and the moments from `state`; rates, other options and the schedule are those of the
    new recipe. Yields what could not be taken."""
    fresh = trainee.state_dict()
    optimizer = {**state["optimizer"], "param_groups": fresh["optimizer"]["param_groups"]}
    if _kind(old["optim"]) != _kind(new["optim"]):
        optimizer = fresh["optimizer"]
        yield f"the moments start afresh: {old['optim']['name']} became {new['optim']['name']}"
    objective = state["objective"]
    if _keeper(old["objective"]) != _keeper(new["objective"]):
        if objective or fresh["objective"]:
            yield f"the objective's own state starts afresh: {_story(old, new)}"
        objective = fresh["objective"]
    best = state["best"]
    if best is not None and _measure(old) != _measure(new):
        best = None
        yield "the best checkpoint is chosen afresh: `validate` has changed"
    steps = state["schedule"]["last_epoch"]
    own = {"optimizer": optimizer, "objective": objective, "best": best, "schedule": fresh["schedule"]}
    trainee.load_state_dict({**state, **own})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(steps):
            trainee.schedule.step()


def _kind(optim: Mapping[str, Any]) -> str:
    return _KEEPS_MOMENTS[optim["name"]]


def _keeper(objective: Mapping[str, Any]) -> tuple[str, str | None]:
    """What the state of an objective depends on: its name and that of its inner optimiser."""
    return objective["name"], objective.get("inner", {}).get("name")


def _measure(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's value depends on."""
    return {name: value for name, value in recipe.get("validate", {}).items() if name != "every"}


def _story(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = [" with ".join(filter(None, _keeper(recipe["objective"]))) for recipe in (old, new)]
    return f"{names[0]} became {names[1]}"


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
    trust_code: bool = False,
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
        trust_code: call what the recipe's `package.module:name` names even where it is no class of a net or
            of a sink.
        command: the command line to note in the run's records.
        tell: called with each row of the metrics, and with `{"note": text}` for what a person should know.
        stop: asked after every step; once true, the run saves a checkpoint and returns.

    Raises:
        UsageError: a wrong recipe, a store that cannot be read, an output that cannot be written.
        DilkitError: the run failed.
    """
    composed = what if isinstance(what, Composed) else compose(what)
    out, recipe = Path(out), composed.recipe
    sinks = find_sinks(recipe.log.to, trust_code=trust_code)
    store = open_store(recipe)
    labels = tuple(recipe.data.labels or store.labels)
    refuse_leaks(recipe, [store.word(label) for label in labels])
    engine = Engine.of(recipe.hardware)
    if engine.first:
        claim_output(out, resume=resume)
    engine.wait()
    torch.manual_seed(recipe.seed)
    sampler = make_sampler(recipe, store, engine)
    trainee, budget = assemble(recipe, engine, labels, steps_per_epoch(recipe, store), trust_code=trust_code)
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
        metrics = Metrics(out, [make(out) for make in sinks], resume_at=trainee.step)
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


@dataclass(frozen=True)
class Trial:
    """The findings of a dry run.

    Attributes:
        shapes: of the distorted batch, by confounder.
        clean: shape of the clean batch.
        memory: peak in bytes, of the device or of this process.
        seconds: of one step once warm.
        steps: of the whole budget; `total` is its time in seconds, data included.
        disk: bytes of all checkpoints that are kept at a time.
    """

    shapes: Mapping[str, tuple[int, ...]]
    clean: tuple[int, ...]
    parameters: int
    passes: int
    loss: float
    memory: int
    seconds: float
    steps: int
    total: float
    disk: int
    device: str


def dry_run(composed: Composed, *, trust_code: bool = False) -> Trial:
    """Take two real steps of a recipe, the second one timed.

    Raises:
        UsageError: whatever `train` would refuse, but for its output folder.
    """
    recipe = composed.recipe
    find_sinks(recipe.log.to, trust_code=trust_code)
    store = open_store(recipe)
    labels = tuple(recipe.data.labels or store.labels)
    refuse_leaks(recipe, [store.word(label) for label in labels])
    engine = Engine.of(recipe.hardware)
    torch.manual_seed(recipe.seed)
    sampler = make_sampler(recipe, store, engine)
    trainee, budget = assemble(recipe, engine, labels, steps_per_epoch(recipe, store), trust_code=trust_code)
    params = {name: p for name, p in trainee.net.named_parameters() if p.requires_grad}
    trainee.net.train()
    for step in range(2):
        began = time.perf_counter()
        episode = engine.move(sampler.episode(step))
        found = trainee.objective.gradients(trainee.net, episode)
        descend(trainee, params, found.grads, recipe.optim.clip)
        loss = float(found.loss)
    seconds = time.perf_counter() - began
    steps = budget.steps or max(1, round((budget.seconds or 0) / seconds))
    return Trial(
        shapes={label: tuple(view.shape) for label, view in episode.views.items()},
        clean=tuple(next(iter(episode.targets.values())).shape),
        parameters=sum(p.numel() for p in params.values()),
        passes=trainee.objective.passes(len(labels)),
        loss=loss,
        memory=peak_memory(engine.device).get("memory", 0),
        seconds=seconds,
        steps=steps,
        total=steps * seconds,
        disk=_disk(trainee, recipe.checkpoint.keep, best=recipe.validation is not None),
        device=str(engine.device),
    )


def _disk(trainee: Trainee, keep: int, *, best: bool) -> int:
    weights = sum(t.numel() * t.element_size() for t in trainee.net.state_dict().values())
    weights *= 1 if trainee.average is None else 2
    state = io.BytesIO()
    torch.save(trainee.state_dict(), state)
    return (keep + 1) * (weights + state.tell()) + best * weights
