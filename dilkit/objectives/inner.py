"""Inner optimisers of first-order chains, from their configuration."""

from __future__ import annotations

import torch
from torch import nn

from dilkit.meta.chain import MakeOptimizer
from dilkit.objectives.config import InnerAdam, InnerSgd


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
