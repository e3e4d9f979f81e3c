"""What a net is denied in training alone: channels before its last convolution, or pixels of its first
features.

Both are hooks, so that the names of weights, and everything in eval mode, stay as they are. They draw from
torch's global generator, as dropout layers do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError


class DropChannels:
    """Dropout of whole channels before the last convolution (Kong et al., "Reflash Dropout in Image
    Super-Resolution", CVPR 2022, which finds this place and the whole channel to be what helps)."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Any, ...] | None:
        if not layer.training:
            return None
        return nn.functional.dropout2d(given[0], self.share), *given[1:]


class MaskFeatures:
    """Zero a random share of the pixels after the first convolution, all channels of a pixel together (input
    mask of Chen et al., "Masked Image Training for Generalizable Deep Image Denoising", CVPR 2023; their mask
    token is zero here, and their attention mask is left out, which convolutions have no place for)."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, layer: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not layer.training:
            return None
        b, _, h, w = output.shape
        share = torch.empty(b, 1, 1, 1, device=output.device).uniform_(self.low, self.high)
        return output * (torch.rand(b, 1, h, w, device=output.device) >= share)


def regularised(net: nn.Module, dropout: float | None, masked: tuple[float, float] | None) -> nn.Module:
    """The same net, with its hooks.

    Raises:
        UsageError: it has no convolution.
    """
    layers = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    if not layers and (dropout is not None or masked is not None):
        raise UsageError(
            "dropout and masks stand at the first and last convolution, and this net has none",
            where="model.masked" if dropout is None else "model.dropout",
            found=type(net).__name__,
        )
    if dropout is not None:
        layers[-1].register_forward_pre_hook(DropChannels(dropout))
    if masked is not None:
        layers[0].register_forward_hook(MaskFeatures(*masked))
    return net
