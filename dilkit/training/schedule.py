"""The outer optimiser and its learning rate over time, both from torch."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer, lr_scheduler

from dilkit.recipe.schema import Constant, Cosine, Optim, Staircase


def make_optimizer(optim: Optim, params: Iterable[nn.Parameter]) -> Optimizer:
    """Adam, AdamW or SGD over the parameters that require gradients."""
    trained = [p for p in params if p.requires_grad]
    fused = all(p.device.type in ("cpu", "cuda") for p in trained)
    if optim.name == "sgd":
        return torch.optim.SGD(
            trained, lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay, fused=fused
        )
    kind = torch.optim.Adam if optim.name == "adam" else torch.optim.AdamW
    return kind(
        trained, lr=optim.lr, betas=optim.betas, eps=optim.eps, weight_decay=optim.weight_decay, fused=fused
    )


def make_schedule(
    optim: Optim, optimizer: Optimizer, steps: int | None, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """Linear warm-up, then the recipe's schedule; `steps` is the budget, None where only time ends it."""
    plan = optim.schedule
    main: lr_scheduler.LRScheduler
    if isinstance(plan, Cosine):
        if steps is None:
            raise ValueError("a cosine schedule needs the number of steps")
        main = lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps - plan.warmup), eta_min=plan.floor)
    elif isinstance(plan, Staircase):
        every = plan.every * (steps_per_epoch if plan.unit == "epochs" else 1)
        main = lr_scheduler.StepLR(optimizer, every, gamma=plan.factor)
    else:
        assert isinstance(plan, Constant)
        main = lr_scheduler.ConstantLR(optimizer, factor=1.0, total_iters=0)
    if plan.warmup == 0:
        return main
    rise = lr_scheduler.LinearLR(optimizer, start_factor=1 / (plan.warmup + 1), total_iters=plan.warmup)
    return lr_scheduler.SequentialLR(optimizer, [rise, main], milestones=[plan.warmup])
