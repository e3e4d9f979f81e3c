"""What a run would take: one real step, nothing written."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dilkit.recipe import Composed, refuse_leaks
from dilkit.training.assemble import assemble, make_sampler, open_store, steps_per_epoch
from dilkit.training.engine import Engine
from dilkit.training.loop import Trainee, descend
from dilkit.training.memory import peak_memory


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


def dry_run(composed: Composed) -> Trial:
    """Take two real steps of a recipe, the second one timed.

    Raises:
        UsageError: whatever `train` would refuse, but for its output folder.
    """
    recipe = composed.recipe
    store = open_store(recipe)
    labels = tuple(recipe.data.labels or store.labels)
    refuse_leaks(recipe, [store.word(label) for label in labels])
    engine = Engine.of(recipe.hardware)
    torch.manual_seed(recipe.seed)
    sampler = make_sampler(recipe, store, engine)
    trainee, budget = assemble(recipe, engine, labels, steps_per_epoch(recipe, store))
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
