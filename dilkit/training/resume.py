"""Going on from a checkpoint: to the bit by the recipe that made it, or by the new one where it changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from dilkit.errors import UsageError
from dilkit.recipe import Composed, differences, resolved
from dilkit.training.checkpoint import EMA, Folder, net_tensors, read
from dilkit.training.checkpoint import fit as fit_weights
from dilkit.training.engine import Engine
from dilkit.training.keeper import Tell
from dilkit.training.loop import Trainee

_KEEPS_MOMENTS = {"adam": "adam", "adamw": "adam", "sgd": "sgd"}
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
    fit_weights(trainee.net, net_tensors(tensors), weights)
    if trainee.average is not None:
        fit_weights(trainee.average.module, net_tensors(tensors, EMA) or net_tensors(tensors), weights)
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
