"""Equivariance to gain and offset by construction, around any net."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_FLOOR = 1e-6
"""Below this noise scale (an image without texture) equivariance to gain ends."""


def noise_scale(y: Tensor) -> Tensor:
    """Standard deviation of the noise in each image: (B, C, H, W) -> (B, 1, 1, 1).

    The mean absolute response of the Laplacian-of-Laplacian kernel, scaled to be unbiased for white
    Gaussian noise on a smooth image (Immerkaer, "Fast Noise Variance Estimation", CVIU 1996).
    The kernel is [1, -2, 1] outer [1, -2, 1], so two second differences do.
    """
    d = y[..., 2:, :] - 2 * y[..., 1:-1, :] + y[..., :-2, :]
    d = d[..., 2:] - 2 * d[..., 1:-1] + d[..., :-2]
    return d.abs().mean(dim=(1, 2, 3), keepdim=True) * (math.sqrt(math.pi / 2) / 6)


class Equivariant(nn.Module):
    """`f(y) = m + c s g((y - m) / (c s))`: m the mean and s the noise scale of each image, c = 10.

    Then `f(a y + b) == a f(y) + b` for every a > 0 and b, whatever g is; g always sees the same noise
    level, about 1 / c. Statistics are per sample, so an image's output does not depend on its batch.
    """

    def __init__(self, net: nn.Module, c: float = 10.0) -> None:
        super().__init__()
        self.net = net
        self.c = c

    def forward(self, y: Tensor) -> Tensor:
        m = y.mean(dim=(1, 2, 3), keepdim=True)
        s = self.c * noise_scale(y).clamp_min(_FLOOR)
        return torch.addcmul(m, s, self.net((y - m) / s))
