"""Rivals from domain generalisation, over the same episode: one class each, with its source and its equation.

L_i is the loss on distortion i of n, g_i its gradient at theta. What each takes in passes, activations and
copies of the parameters stands on the class; docs/method.md has the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dilkit.objectives.base import Gradients, Objective
from dilkit.objectives.erm import mean_gradient

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dilkit.confounders.episodes import Episode


class SharpnessAware(Objective):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021, Eq. 2 and 3) around any objective.

    The direction of the objective at theta + rho g / |g|, with g = mean_i g_i the gradient of the pooled
    loss: for `erm` that is the published algorithm. It costs n passes and one copy of the parameters more.
    """

    def __init__(self, objective: Objective, rho: float) -> None:
        super().__init__(objective.config, objective.loss, seed=objective.seed, reduce=objective.reduce)
        self.objective = objective
        self.rho = rho
        self.name = objective.name  # type: ignore[misc]
        self.second_order = objective.second_order  # type: ignore[misc]
        self.chain = objective.chain  # type: ignore[misc]

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        where = f"step {episode.step}"
        kept = [b.detach().clone() for b in net.buffers()]
        steepest = mean_gradient(net, self.loss, episode.batches(), reduce=self.reduce, where=where).grads
        params: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        theta = [p.detach().clone() for p in params]
        with torch.no_grad():
            for b, value in zip(net.buffers(), kept, strict=True):
                b.copy_(value)
            length = torch.stack(torch._foreach_norm(list(steepest.values()))).norm()
            scale = float(self.rho / length.clamp(min=1e-12))
            torch._foreach_add_(params, list(steepest.values()), alpha=scale)
        try:
            return self.objective.gradients(net, episode)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, theta)

    def passes(self, n: int) -> int:
        return n + self.objective.passes(n)

    def state_dict(self) -> dict[str, Any]:
        return self.objective.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.objective.load_state_dict(state)
