"""What an objective is: an episode in, gradients by parameter name out.

Inner optimisers from their configuration: torch's for first-order chains, pure ones for the engine.

Orders that depend on (seed, step) alone: the same on every rank, machine and restart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Batch, Episode
from dilkit.meta.first_order import MakeOptimizer
from dilkit.meta.inner import Adam, Inner, Sgd
from dilkit.objectives.config import InnerAdam, InnerSgd

Loss = Callable[[nn.Module, Batch], Tensor]
"""loss(module, (distorted, clean)) -> scalar."""


@dataclass(frozen=True)
class Gradients:
    """What the outer optimiser is given.

    Attributes:
        grads: the direction for theta, by parameter name.
        loss: detached scalar, the mean training loss over the confounders (at the weights met).
        log: further scalars worth writing down, such as the loss of each confounder under `loss/<label>`.
    """

    grads: dict[str, Tensor]
    loss: Tensor
    log: dict[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """One file per objective. It never touches the optimiser of theta, a file or a device."""

    name: str

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients: ...

    def passes(self, n: int) -> int:
        """Forward-and-backward passes over one distortion's batch, per step of n confounders."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def on(loss: Loss, batch: Batch) -> Callable[[nn.Module], Tensor]:
    """The loss of one batch, as a function of the module alone."""
    return lambda module: loss(module, batch)


def summed_up(grads: dict[str, Tensor], losses: Mapping[str, Tensor]) -> Gradients:
    """The direction, with the mean of the losses by label and each of them in the log."""
    mean = torch.stack(list(losses.values())).mean()
    return Gradients(grads, mean, {f"loss/{label}": loss for label, loss in losses.items()})


HVP_PASSES = 3
"""What an exact Hessian-vector product costs, in forward and backward passes (docs/method.md)."""


def optimizer_of(config: InnerAdam | InnerSgd) -> MakeOptimizer:
    """What makes the optimiser, given the parameters; fused kernels where the parameters allow them."""

    def make(params: list[nn.Parameter]) -> torch.optim.Optimizer:
        fused = all(p.is_floating_point() and p.device.type in {"cpu", "cuda"} for p in params)
        if isinstance(config, InnerAdam):
            return torch.optim.Adam(params, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)
        return torch.optim.SGD(
            params,
            lr=config.lr,
            momentum=config.momentum,
            nesterov=config.nesterov,
            weight_decay=config.weight_decay,
            fused=fused,
        )

    return make


def rule_of(config: InnerAdam | InnerSgd) -> Inner:
    """The same update as a differentiable function."""
    if isinstance(config, InnerAdam):
        return Adam(config.lr, config.betas, config.eps)
    return Sgd(config.lr, config.momentum, config.nesterov, config.weight_decay)


def shuffled(n: int, *, seed: int, step: int, purpose: str = "order") -> list[int]:
    """A permutation of 0 .. n-1, fresh for each (seed, step, purpose)."""

    def key(i: int) -> bytes:
        return blake2b(f"{purpose}:{seed}:{step}:{i}".encode(), digest_size=16).digest()

    return sorted(range(n), key=key)
