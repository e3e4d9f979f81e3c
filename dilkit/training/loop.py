"""The training loop. It owns no policy: what to train on, by what direction, for how long, and what to do
after a step or about a failed one are all given to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel

from dilkit.confounders.episodes import Episode
from dilkit.meta.guards import NonFinite
from dilkit.objectives.base import Gradients, Objective
from dilkit.training.accelerator import Accelerator
from dilkit.training.precision import LossScale
from dilkit.training.swad import Swad


@dataclass
class Trainee:
    """All that a step changes; `state_dict` and `load_state_dict` make a run resumable to the bit."""

    net: nn.Module
    objective: Objective
    optimizer: Optimizer
    schedule: LRScheduler
    passes_per_step: int
    average: AveragedModel | None = None
    scale: LossScale | None = None
    """For fp16 alone."""
    step: int = 0
    passes: int = 0
    seconds: float = 0.0
    best: float | None = None
    stale: int = 0
    """Validations since the best one."""

    @property
    def shown(self) -> nn.Module:
        """The net that is validated: the moving average where there is one that does not go by it."""
        return self.net if self.average is None or isinstance(self.average, Swad) else self.average.module

    @property
    def _on_cuda(self) -> bool:
        return any(p.is_cuda for p in self.net.parameters())

    def state_dict(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "passes": self.passes,
            "seconds": self.seconds,
            "best": self.best,
            "stale": self.stale,
            "averaged": 0 if self.average is None else int(self.average.n_averaged),
            "window": self.average.window() if isinstance(self.average, Swad) else None,
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state() if self._on_cuda else None,
            "scale": None if self.scale is None else (self.scale.value, self.scale.good),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.passes, self.seconds = state["step"], state["passes"], state["seconds"]
        self.best, self.stale = state["best"], state.get("stale", 0)
        if self.average is not None:
            self.average.n_averaged.fill_(state["averaged"])
        if isinstance(self.average, Swad) and state.get("window"):
            self.average.load_window(state["window"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if self.scale is not None and state.get("scale"):
            self.scale.value, self.scale.good = state["scale"]
        torch.set_rng_state(state["rng"])
        if state["cuda_rng"] is not None and self._on_cuda:
            torch.cuda.set_rng_state(state["cuda_rng"])


@dataclass
class Meter:
    """Means since they were last read; values stay on the device until then."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, found: Gradients, norm: Tensor) -> None:
        for name, value in {"loss": found.loss, "norm": norm, **found.log}.items():
            self.sums[name] = self.sums[name] + value.detach() if name in self.sums else value.detach()
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means so far."""
        return {name: float(self.sums[name]) / self.counts[name] for name in sorted(self.sums)}

    def read(self) -> dict[str, float]:
        """The means, which then begin anew."""
        means = self.means()
        self.sums.clear()
        self.counts.clear()
        return means


def fit(
    trainee: Trainee,
    episodes: Iterator[Episode],
    accelerator: Accelerator,
    *,
    clip: float | None,
    after: Callable[[Trainee, Meter], bool],
    failed: Callable[[Trainee, Episode, NonFinite], None],
    accumulate: int = 1,
    reduce: Callable[[list[Tensor]], None] | None = None,
) -> None:
    """Step until the episodes end, or `after` (called with the step just done) says stop.

    Args:
        failed: called where a loss or gradient is not finite; raises, or returns to skip the step. In fp16 a
            step whose gradients overflowed is skipped, and the scale of the loss halved, without a call.
        accumulate: episodes whose directions are averaged into one step.
        reduce: averages the direction over processes, where the objective has not done so already.
    """
    params = {name: p for name, p in trainee.net.named_parameters() if p.requires_grad}
    meter = Meter()
    trainee.net.train()
    started = time.perf_counter() - trainee.seconds
    while group := list(islice(episodes, accumulate)):
        episode = group[0]
        try:
            found = []
            for episode in group:
                episode = accelerator.move(episode)
                found.append(trainee.objective.gradients(trainee.net, episode))
        except NonFinite as error:
            if trainee.scale is None or not trainee.scale.step(finite=False):
                failed(trainee, episode, error)
        else:
            if trainee.scale is not None:
                trainee.scale.step(finite=True)
            whole = found[0] if accumulate == 1 else mean_of(found)
            if reduce is not None:
                reduce(list(whole.grads.values()))
            meter.add(whole, descend(trainee, params, whole.grads, clip))
        trainee.step += 1
        trainee.passes += trainee.passes_per_step
        trainee.seconds = time.perf_counter() - started
        if after(trainee, meter):
            return


def mean_of(found: Sequence[Gradients]) -> Gradients:
    """The mean of several directions, and of their losses and logs."""
    grads = {name: torch.stack([f.grads[name] for f in found]).mean(0) for name in found[0].grads}
    log = {name: torch.stack([f.log[name] for f in found]).mean(0) for name in found[0].log}
    return Gradients(grads, torch.stack([f.loss for f in found]).mean(0), log)


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
    if trainee.average is not None:
        trainee.average.update_parameters(trainee.net)
    return norm
