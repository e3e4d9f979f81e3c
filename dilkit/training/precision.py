"""How an objective calls the net: in float32, or under autocast in half the bits, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from dilkit.confounders.episodes import Batch
from dilkit.losses import loss_of
from dilkit.objectives.base import Loss
from dilkit.recipe.schema import Hardware


class LossScale:
    """Dynamic loss scaling for fp16 (Micikevicius et al., "Mixed Precision Training", ICLR 2018): gradients
    are `value` times their size between the loss and the weights, so that small ones do not vanish.

    It does what `torch.amp.GradScaler` does, on the way through the net rather than around the optimiser,
    because here an objective takes the gradients, and may take several steps with them.
    """

    def __init__(self, value: float = 2.0**16, double_every: int = 2000) -> None:
        self.value, self.double_every, self.good = value, double_every, 0
        self._hooked = WeakTensorKeyDictionary()

    def around(self, net: nn.Module, output: Tensor) -> Tensor:
        """The same output; what comes back through it is scaled, and unscaled as it leaves each weight."""
        if not output.requires_grad:
            return output
        for p in net.parameters():
            if p.requires_grad and p not in self._hooked:
                self._hooked[p] = p.register_hook(lambda grad: grad / self.value)
        output.register_hook(lambda grad: grad * self.value)
        return output

    def step(self, finite: bool) -> bool:
        """Halve the scale after a step whose gradients overflowed, double it after many good ones; False
        where it cannot be halved any more, so that the fault is not the scale's."""
        if finite:
            self.good += 1
            if self.good % self.double_every == 0:
                self.value *= 2
            return True
        self.good = 0
        if self.value <= 1:
            return False
        self.value /= 2
        return True


def make_loss(text: str, device: torch.device, hardware: Hardware, scale: LossScale | None = None) -> Loss:
    """The loss closure objectives call.

    Autocast is opened anew for each forward pass, because its cache of cast weights goes stale when a virtual
    update moves them; the loss itself is taken in float32. A net is compiled when it is first met, so that
    the copy on which virtual steps are taken is compiled too.
    """
    low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(hardware.precision)
    measured = loss_of(text)
    compiled: dict[nn.Module, Callable[[Tensor], Any]] = {}

    def forward(net: nn.Module, distorted: Tensor) -> Tensor:
        call: Callable[[Tensor], Any] = net
        if hardware.compile:
            if net not in compiled:
                compiled[net] = torch.compile(net)
            call = compiled[net]
        with nullcontext() if low is None else torch.autocast(device.type, low):
            output: Tensor = call(distorted)
        output = output if low is None else output.float()
        return output if scale is None else scale.around(net, output)

    def loss(net: nn.Module, batch: Batch) -> Tensor:
        distorted, clean = batch
        return measured(forward(net, distorted), clean)

    return loss
