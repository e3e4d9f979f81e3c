"""Training losses of restoration: loss(module, (distorted, clean)) -> scalar."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.confounders.episodes import Batch
from dilkit.errors import UsageError
from dilkit.objectives.base import Loss

LossName = Literal["l1", "l2", "charbonnier"]
_CHARBONNIER_EPS = 1e-3


def pixel_loss(name: LossName, output: Tensor, target: Tensor) -> Tensor:
    """Mean over pixels of |e| (l1), e^2 (l2) or sqrt(e^2 + 1e-6) (charbonnier)."""
    if output.shape != target.shape:
        raise UsageError(
            "the model's output has not the shape of the clean image",
            found=tuple(output.shape),
            expected=tuple(target.shape),
            remedy="check model.scale against the data",
        )
    if name == "l1":
        return F.l1_loss(output, target)
    if name == "l2":
        return F.mse_loss(output, target)
    return torch.sqrt((output - target) ** 2 + _CHARBONNIER_EPS**2).mean()


def make_loss(name: LossName, device: torch.device, precision: Literal["fp32", "bf16"] = "fp32") -> Loss:
    """The loss closure objectives call. Autocast is opened anew for each forward pass, because its cache of
    cast weights goes stale when a virtual update moves them; the loss itself is taken in float32."""

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        distorted, clean = batch
        low = precision == "bf16"
        with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
            output = net(distorted)
        return pixel_loss(name, output.float() if low else output, clean)

    return loss
