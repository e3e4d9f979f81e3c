"""A net that is told the true degree of the distortion: a ceiling for nets that are not."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError


class NoiseMap(nn.Module):
    """A net with a further input channel that holds the degree over 255 at every pixel (as FFDNet is told
    sigma; Zhang et al., TIP 2018). (B, 3, H, W) with `degree` set, or (B, 4, H, W) with its map.

    Attributes:
        degree: of the distortion of the images to come, in its own unit; 0 for a clean image.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.degree: float | None = None

    def forward(self, y: Tensor) -> Tensor:
        if y.shape[1] == 3:
            if self.degree is None:
                raise UsageError(
                    "this net must be told the degree of the distortion",
                    where="model.noise_map",
                    remedy="`dilkit eval` and `dilkit compare` tell it; it is a ceiling, not for use",
                )
            y = with_map(y, self.degree)
        out: Tensor = self.net(y)
        return out


def with_map(y: Tensor, degree: float) -> Tensor:
    """An image batch with the channel that `NoiseMap` takes."""
    return torch.cat([y, y.new_full((len(y), 1, *y.shape[2:]), degree / 255)], 1)
