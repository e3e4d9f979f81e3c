"""Lion: Chen et al., "Symbolic Discovery of Optimization Algorithms", NeurIPS 2023. Torch has none, and a
package for one update rule would be one more dependency."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor


class Lion(torch.optim.Optimizer):
    """Every weight moves by `lr`, along the sign of a mean of gradients. A third to a tenth of Adam's rate
    suits it.

    Args:
        betas: share of the old mean in the direction, and in the new mean.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update along the gradients; parameters without one stay."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            grads = [cast(Tensor, p.grad) for p in params]
            means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in params]
            directions = torch._foreach_lerp(means, grads, 1 - group["betas"][0])
            torch._foreach_sign_(directions)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, directions, alpha=-group["lr"])
            torch._foreach_lerp_(means, grads, 1 - group["betas"][1])
