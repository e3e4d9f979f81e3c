"""Training losses of restoration: loss(module, (distorted, clean)) -> scalar."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.confounders.episodes import Batch
from dilkit.errors import UsageError
from dilkit.objectives.base import Loss
from dilkit.recipe.schema import Hardware

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


def make_loss(name: LossName, device: torch.device, hardware: Hardware) -> Loss:
    """The loss closure objectives call.

    Autocast is opened anew for each forward pass, because its cache of cast weights goes stale when a virtual
    update moves them; the loss itself is taken in float32. A net is compiled when it is first met, so that
    the copy on which virtual steps are taken is compiled too.
    """
    low = hardware.precision == "bf16"
    compiled: dict[nn.Module, Callable[[Tensor], Any]] = {}

    def forward(net: nn.Module, distorted: Tensor) -> Tensor:
        call: Callable[[Tensor], Any] = net
        if hardware.compile:
            if net not in compiled:
                compiled[net] = torch.compile(net)
            call = compiled[net]
        with torch.autocast(device.type, torch.bfloat16) if low else nullcontext():
            output: Tensor = call(distorted)
        return output.float() if low else output

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        distorted, clean = batch
        return pixel_loss(name, forward(net, distorted), clean)

    return loss
