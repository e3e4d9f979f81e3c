"""A small residual U-Net: residual blocks without normalisation, strided convolutions between levels.

Its parts are those of DRUNet (Zhang, Li, Zuo, Zhang, Van Gool, Timofte, "Plug-and-Play Image Restoration
with Deep Denoiser Prior", TPAMI 2022), with fewer blocks and channels, and biases.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.errors import UsageError


class ResidualBlock(nn.Module):
    """`x + conv(relu(conv(x)))`; the second convolution starts at a tenth of its usual weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.conv2.weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(x)))
        return out


class ResUNet(nn.Module):
    """(B, channels, H, W) -> (B, 3, H, W) for any H, W (padded inside by reflection).

    Widths 16, 32, 60 with 1, 1, 2 blocks down and 1, 1 up have 197,023 parameters for six channels in.

    Args:
        widths: channels of each level, from full size down.
        down: residual blocks of each level on the way down; the last is the bottom.
        up: residual blocks of each level on the way up, from full size down.
        channels: of the input; the first three are the image.
        skip: the net predicts the residual: the image minus the net's tail.
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 60),
        down: Sequence[int] = (1, 1, 2),
        up: Sequence[int] = (1, 1),
        skip: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if not len(widths) == len(down) == len(up) + 1:
            raise UsageError(
                "widths and down are of each level, up of each but the last",
                where="model",
                found=f"{len(widths)}, {len(down)} and {len(up)} of them",
            )
        self.skip = skip
        self.multiple = 2 ** len(up)
        self.head = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, down, strict=True))
        pairs = list(itertools.pairwise(widths))
        self.shrink = nn.ModuleList(nn.Conv2d(wide, narrow, 2, 2) for wide, narrow in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(narrow, wide, 2, 2) for wide, narrow in pairs)
        self.decoder = nn.ModuleList(_blocks(w, n) for w, n in zip(widths, up, strict=False))
        self.tail = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, y: Tensor) -> Tensor:
        h, w = y.shape[-2:]
        x = y
        if h % self.multiple or w % self.multiple:
            x = F.pad(y, (0, -w % self.multiple, 0, -h % self.multiple), mode="reflect")
        x = self.encoder[0](self.head(x))
        seen = []
        for shrink, blocks in zip(self.shrink, self.encoder[1:], strict=True):
            seen.append(x)
            x = blocks(shrink(x))
        for grow, blocks, earlier in zip(
            reversed(self.grow), reversed(self.decoder), reversed(seen), strict=True
        ):
            x = blocks(grow(x) + earlier)
        x = self.tail(x)[..., :h, :w]
        return y[:, :3] - x if self.skip else x


def _blocks(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))
