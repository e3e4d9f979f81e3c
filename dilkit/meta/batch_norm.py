"""Batch norm with statistics, and if wanted an affine map, of its own for each inner step (MAML++)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.errors import UsageError
from dilkit.meta.setting import inner_step


class StepwiseBatchNorm(nn.Module):
    """Batch norm whose running statistics are kept for each inner step apart (Antoniou et al., ICLR 2019,
    "BNRS" and with `affine` "BNWB"): after k virtual updates row k is normalised by and updated; steps beyond
    the last row use the last.

    Args:
        norm: the layer to start from: its weights and statistics fill every row.
        steps: inner steps; there is one row more, of the adapted weights.
        affine: whether weight and bias have rows too.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, steps: int, *, affine: bool = True) -> None:
        super().__init__()
        if steps < 1:
            raise UsageError("steps is a whole number, at least 1", found=steps)
        self.rows, self.eps, self.momentum = steps + 1, norm.eps, norm.momentum
        self.train(norm.training)
        for name in ("weight", "bias"):
            value = getattr(norm, name)
            if value is not None and affine:
                value = nn.Parameter(value.detach().repeat(self.rows, 1))
            self.register_parameter(name, value)
        for name in ("running_mean", "running_var"):
            value = getattr(norm, name)
            self.register_buffer(name, None if value is None else value.repeat(self.rows, 1))
        self.register_buffer("num_batches_tracked", torch.zeros(self.rows, dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        k = min(inner_step(), self.rows - 1)
        weight, bias = (None if t is None else t[k] if t.ndim == 2 else t for t in (self.weight, self.bias))
        mean, var = self.running_mean, self.running_var
        momentum = self.momentum
        if self.training and mean is not None:
            self.num_batches_tracked[k] += 1
            if momentum is None:
                momentum = 1 / float(self.num_batches_tracked[k])
        return F.batch_norm(
            x,
            None if mean is None else mean[k],
            None if var is None else var[k],
            weight,
            bias,
            self.training or mean is None,
            0.0 if momentum is None else momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        return f"rows={self.rows}, eps={self.eps}, momentum={self.momentum}"


def stepwise(net: nn.Module, steps: int, *, affine: bool = True) -> nn.Module:
    """Replace every batch norm of the module, in place, by one with rows for `steps` inner steps.

    Outside of virtual updates row 0 is used; `dilkit.meta.inner_step()` tells which one is.
    """
    if isinstance(net, nn.modules.batchnorm._BatchNorm):
        return StepwiseBatchNorm(net, steps, affine=affine)
    for name, child in net.named_children():
        setattr(net, name, stepwise(child, steps, affine=affine))
    return net
