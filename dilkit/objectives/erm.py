"""Empirical risk minimisation over the pooled distortions.

The control of mixing: empirical risk minimisation one distortion at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Batch, Episode
from dilkit.meta.first_order import Reduce
from dilkit.meta.guards import require_finite, size
from dilkit.objectives.base import Gradients, Loss, shuffled, summed_up
from dilkit.objectives.config import ErmConfig, ErmPureConfig


class Erm:
    """The direction is grad mean_i L(f_theta(I_di), I_c) (Eq. 2).

    One accumulated pass per distortion: n confounders need the activations of one. Running statistics
    advance once per distortion, and `.grad` of the parameters is left as it was found.
    """

    name = "erm"

    def __init__(self, config: ErmConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None) -> None:
        self._loss = loss
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        return mean_gradient(
            net, self._loss, episode.batches(), reduce=self._reduce, where=f"step {episode.step}"
        )

    def passes(self, n: int) -> int:
        return n

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def mean_gradient(
    net: nn.Module, loss: Loss, batches: Mapping[str, Batch], *, reduce: Reduce | None, where: str
) -> Gradients:
    """The gradient of the mean loss of batches, by label; one accumulated pass for each."""
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    before = [p.grad for p in params.values()]
    losses: dict[str, Tensor] = {}
    try:
        for p in params.values():
            p.grad = None
        for label, batch in batches.items():
            value = loss(net, batch)
            (value / len(batches)).backward()
            losses[label] = value.detach()
        grads = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in params.items()}
    finally:
        for p, grad in zip(params.values(), before, strict=True):
            p.grad = grad
    if reduce is not None:
        reduce(list(grads.values()))
    scalars = {f"the loss of {label}": value for label, value in losses.items()}
    scalars[f"the gradient of {', '.join(losses)}"] = size(grads.values())
    require_finite(scalars, where=where)
    return summed_up(grads, losses)


class ErmPure:
    """The direction is grad L(f_theta(I_d), I_c) of one distortion d; the others of the episode are not used.

    Every n steps meet each of n distortions once, in a fresh order. At equal passes that is n times the outer
    steps of `erm`: what is left of a chain of `dil_sf` once its steps are real ones.
    """

    name = "erm_pure"

    def __init__(
        self, config: ErmPureConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._loss = loss
        self._seed = seed
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        label = taken(episode.labels, seed=self._seed, step=episode.step)
        return mean_gradient(
            net,
            self._loss,
            {label: episode.batch(label)},
            reduce=self._reduce,
            where=f"step {episode.step}",
        )

    def passes(self, n: int) -> int:
        return 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def taken(labels: Sequence[str], *, seed: int, step: int) -> str:
    """Whose turn it is: entry `step % n` of the shuffle of cycle `step // n`."""
    cycle, turn = divmod(step, len(labels))
    return labels[shuffled(len(labels), seed=seed, step=cycle)[turn]]
