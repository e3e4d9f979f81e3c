"""U-Net: Ronneberger, Fischer, Brox, MICCAI 2015, with padded convolutions so that the size is kept."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _double(inputs: int, outputs: int, bias: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=bias),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """(B, 3, H, W) -> (B, 3, H, W) for any H, W (padded inside by reflection).

    Two 3x3 convolutions per level, 2x2 max pooling down, 2x2 transposed convolutions up, channels doubled at
    each of `depth` levels; width 64 and depth 4 as published have 31,031,875 parameters for three channels
    in and out. Without biases the net is homogeneous of degree one.

    Args:
        skip: add the input to the output.
        channels: of the input; the first three are the image.
    """

    def __init__(
        self, width: int = 64, depth: int = 4, bias: bool = True, skip: bool = True, channels: int = 3
    ) -> None:
        super().__init__()
        self.skip = skip
        self.multiple = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            _double(i, o, bias) for i, o in zip([channels, *widths], widths, strict=False)
        )
        wide = widths[:0:-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(c, c // 2, 2, 2, bias=bias) for c in wide)
        self.join = nn.ModuleList(_double(c, c // 2, bias) for c in wide)
        self.last = nn.Conv2d(width, 3, 1, bias=bias)

    def forward(self, y: Tensor) -> Tensor:
        h, w = y.shape[-2:]
        if h % self.multiple or w % self.multiple:
            y = F.pad(y, (0, -w % self.multiple, 0, -h % self.multiple), mode="reflect")
        seen = [self.down[0](y)]
        for level in self.down[1:]:
            seen.append(level(F.max_pool2d(seen[-1], 2)))
        x = seen.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([seen.pop(), up(x)], 1))
        x = self.last(x)
        return (x + y[:, :3] if self.skip else x)[..., :h, :w]
