"""What a run would take, by two real steps; nothing is written."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dilkit.recipe import Composed
from dilkit.training.accelerator import peak_memory
from dilkit.training.assemble import assemble
from dilkit.training.loop import Trainee, descend
from dilkit.training.sinks import find_sinks


@dataclass(frozen=True)
class Forecast:
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


def dry_run(composed: Composed, *, trust_code: bool = False) -> Forecast:
    """Take two real steps of a recipe, the second one timed.

    Raises:
        UsageError: whatever `train` would refuse, but for its output folder.
    """
    recipe = composed.recipe
    find_sinks(recipe.log.to, trust_code=trust_code)
    made = assemble(recipe, trust_code=trust_code)
    trainee, accelerator = made.trainee, made.accelerator
    params = {name: p for name, p in trainee.net.named_parameters() if p.requires_grad}
    trainee.net.train()
    for step in range(2):
        began = time.perf_counter()
        episode = accelerator.move(made.sampler.episode(step))
        found = trainee.objective.gradients(trainee.net, episode)
        descend(trainee, params, found.grads, recipe.optim.clip)
        loss = float(found.loss)
    seconds = (time.perf_counter() - began) * recipe.optim.accumulate
    steps = made.budget.steps or max(1, round((made.budget.seconds or 0) / seconds))
    return Forecast(
        shapes={label: tuple(view.shape) for label, view in episode.views.items()},
        clean=tuple(next(iter(episode.targets.values())).shape),
        parameters=sum(p.numel() for p in params.values()),
        passes=trainee.passes_per_step,
        loss=loss,
        memory=peak_memory(accelerator.device).get("memory", 0),
        seconds=seconds,
        steps=steps,
        total=steps * seconds,
        disk=_disk(trainee, recipe.checkpoint.keep, best=recipe.validation is not None),
        device=str(accelerator.device),
    )


def _disk(trainee: Trainee, keep: int, *, best: bool) -> int:
    weights = sum(t.numel() * t.element_size() for t in trainee.net.state_dict().values())
    weights *= 1 if trainee.average is None else 2
    state = io.BytesIO()
    torch.save(trainee.state_dict(), state)
    return (keep + 1) * (weights + state.tell()) + best * weights
