"""What an objective is: an episode in, gradients by parameter name out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Batch, Episode

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
