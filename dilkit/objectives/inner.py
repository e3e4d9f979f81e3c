"""Inner optimisers from their configuration: torch's for first-order chains, pure ones for the engine."""

from __future__ import annotations

import torch
from torch import nn

from dilkit.meta.chain import MakeOptimizer
from dilkit.meta.inner import Inner
from dilkit.meta.rules import Adam, Sgd
from dilkit.objectives.config import InnerAdam, InnerSgd

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
