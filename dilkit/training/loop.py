"""The training loop. It owns no policy: what to train on, by what direction, for how long, and what to do
after a step are all given to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from dilkit.confounders.episodes import Episode
from dilkit.objectives.base import Gradients, Objective
from dilkit.training.engine import Engine


@dataclass
class Trainee:
    """All that a step changes; `state_dict` and `load_state_dict` make a run resumable to the bit."""

    net: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    step: int = 0
    passes: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "passes": self.passes,
            "seconds": self.seconds,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.passes, self.seconds = state["step"], state["passes"], state["seconds"]
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda_rng"])


@dataclass
class Meter:
    """Means since they were last read; values stay on the device until then."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, found: Gradients, norm: Tensor) -> None:
        for name, value in {"loss": found.loss, "norm": norm, **found.log}.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def read(self) -> dict[str, float]:
        means = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        self.sums.clear()
        self.counts.clear()
        return means


def fit(
    trainee: Trainee,
    episodes: Iterable[Episode],
    engine: Engine,
    *,
    clip: float | None,
    after: Callable[[Trainee, Meter], bool],
) -> None:
    """Step until the episodes end, or `after` (called with the step just done) says stop."""
    params = {name: p for name, p in trainee.net.named_parameters() if p.requires_grad}
    meter = Meter()
    trainee.net.train()
    started = time.perf_counter() - trainee.seconds
    for episode in episodes:
        found = trainee.objective.gradients(trainee.net, engine.move(episode))
        meter.add(found, descend(trainee, params, found.grads, clip))
        trainee.step += 1
        trainee.passes += trainee.objective.passes(len(episode.labels))
        trainee.seconds = time.perf_counter() - started
        if after(trainee, meter):
            return


def descend(
    trainee: Trainee, params: dict[str, nn.Parameter], grads: dict[str, Tensor], clip: float | None
) -> Tensor:
    """One step of the outer optimiser along `grads`; returns their norm before clipping."""
    for name, param in params.items():
        param.grad = grads[name]
    norm = torch.nn.utils.get_total_norm(grads.values())
    if clip is not None:
        torch.nn.utils.clip_grads_with_norm_(params.values(), clip, norm)
    trainee.optimizer.step()
    trainee.schedule.step()
    trainee.optimizer.zero_grad(set_to_none=True)
    return norm
