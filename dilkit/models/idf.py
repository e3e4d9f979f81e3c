"""IDF: Kim, Ko, Ali, Kim, "IDF: Iterative Dynamic Filtering Networks for Generalizable Image Denoising", ICCV
2025."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.errors import UsageError

EPSILON = 1e-4
MEAN, SPREAD = (0.36187348, 0.4361255, 0.4335091), (0.19088039, 0.19967876, 0.21309015)
"""Of the colours of its training images (CBSD432), as released; inside, images have spread 1/2 about zero."""


class IDF(nn.Module):
    """One block, applied `iterations` times: it predicts a kernel of non-negative weights for every pixel and
    filters the image with it. (B, 3, H, W) -> (B, 3, H, W) for H, W of at least 3.

    Kernels come from the image's features, reweighted by channel from the mean and spread of what the last
    step has removed, and from the correlation of each pixel's colours with its neighbours'. Neighbours are
    two pixels apart in every other step, the first included. In training each step keeps a random share of
    its input (from torch's global generator, as dropout does). 49,021 parameters at the defaults.

    No gradient goes through the correlation, as released, so what autograd gives is not the derivative of the
    output, which `dilkit check` reports; the exact objectives differentiate what autograd gives.

    Left out: stopping early where kernels no longer change (off in the released settings; it would make an
    image's output depend on the others of its batch).

    Args:
        width: channels of the features (published: 64).
        iterations: how often the block is applied (published: 10).
        kernel: side of the predicted kernels, odd (published: 3).
        power: weights are |logit|^power over their sum (released: 3).
        channels: of the input; the first three are the image, the others go to the features alone.
    """

    mean: Tensor
    gain: Tensor

    def __init__(
        self, width: int = 64, iterations: int = 10, kernel: int = 3, power: float = 3.0, channels: int = 3
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UsageError("a kernel has a middle", where="model.kernel", found=kernel, expected="odd")
        self.iterations, self.kernel, self.power = iterations, kernel, power

        def layer(into: int, out: int, side: int) -> nn.Conv2d:
            return nn.Conv2d(into, out, side, padding=side // 2, bias=False)

        self.features = nn.Sequential(layer(channels, width, 3), nn.ReLU(), layer(width, width, 3), nn.ReLU())
        self.statistics = layer(6, 6, 1)
        self.attention = nn.Sequential(layer(6, width, 1), nn.ReLU(), layer(width, width, 1), nn.Sigmoid())
        self.predict = layer(width + kernel**2, kernel**2, 3)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("gain", 0.5 / torch.tensor(SPREAD).view(1, 3, 1, 1), persistent=False)

    def forward(self, y: Tensor) -> Tensor:
        x, more = (y[:, :3] - self.mean) * self.gain, y[:, 3:]
        removed: Tensor | None = None
        for k in range(self.iterations):
            patches = self._patches(x, dilation=2 - k % 2)
            weights = self.weights(torch.cat([x, more], 1), patches, removed)
            out = (patches * weights[:, None]).sum(2)
            if self.training:
                share = torch.rand(len(x), 1, 1, 1, device=x.device, dtype=x.dtype)
                out = share * x + (1 - share) * out
            removed, x = x - out, out
        return x / self.gain + self.mean

    def weights(self, x: Tensor, patches: Tensor, removed: Tensor | None) -> Tensor:
        """The kernel of every pixel, (B, kernel^2, H, W)."""
        features = self.features(_unit(x))
        if removed is not None:
            found = torch.cat([removed.mean((2, 3), keepdim=True), removed.std((2, 3), keepdim=True)], 1)
            features = features * self.attention(_unit(self.statistics(found)))
        logits = self.predict(_unit(torch.cat([features, _correlation(patches)], 1)))
        powers = logits.abs() ** self.power
        return powers / (powers.sum(1, keepdim=True) + EPSILON)

    def _patches(self, x: Tensor, dilation: int) -> Tensor:
        """The neighbours of every pixel, (B, 3, kernel^2, H, W): mirrored at the border where they are two
        apart, zero beyond it where they are one apart, as released."""
        reach = dilation * (self.kernel // 2)
        padded = F.pad(x, (reach,) * 4, mode="reflect") if dilation > 1 else F.pad(x, (reach,) * 4)
        found: Any = F.unfold(padded, self.kernel, dilation=dilation)
        return found.view(len(x), 3, self.kernel**2, *x.shape[2:])


def _unit(x: Tensor) -> Tensor:
    """Divided by its root mean square over all but the batch."""
    return x / (x.square().mean((1, 2, 3), keepdim=True).sqrt() + EPSILON)


@torch.no_grad()
def _correlation(patches: Tensor) -> Tensor:
    """Of every neighbour's colours with those of the middle, (B, kernel^2, H, W); as released, not divided by
    the number of colours less one."""
    centred = patches - patches.mean(1, keepdim=True)
    unit = centred / (patches.std(1, keepdim=True) + EPSILON)
    middle = patches.shape[2] // 2
    return (unit * unit[:, :, middle : middle + 1]).sum(1)
