"""NAFNet: Chen, Chu, Zhang, Sun, "Simple Baselines for Image Restoration", ECCV 2022."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerNorm2d(nn.Module):
    """Normalises each pixel over its channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), (x.shape[1],), self.weight, self.bias, 1e-6).movedim(-1, 1)


class Block(nn.Module):
    """Depthwise convolution, channel attention and feed-forward with gates for nonlinearities."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, 2 * c, 1)
        self.conv2 = nn.Conv2d(2 * c, 2 * c, 3, padding=1, groups=2 * c)
        self.conv3 = nn.Conv2d(c, c, 1)
        self.sca = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, c, 1))
        self.conv4 = nn.Conv2d(c, 2 * c, 1)
        self.conv5 = nn.Conv2d(c, c, 1)
        self.norm1 = LayerNorm2d(c)
        self.norm2 = LayerNorm2d(c)
        self.beta = nn.Parameter(torch.zeros(1, c, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        gated = _gate(self.conv2(self.conv1(self.norm1(x))))
        y: Tensor = x + self.conv3(gated * self.sca(gated)) * self.beta
        out: Tensor = y + self.conv5(_gate(self.conv4(self.norm2(y)))) * self.gamma
        return out


def _gate(x: Tensor) -> Tensor:
    a, b = x.chunk(2, dim=1)
    return a * b


class NAFNet(nn.Module):
    """(B, 3, H, W) -> (B, 3, H, W) for any H, W (padded inside); parameter names as released.

    Width 32 with 1, 1, 1, 28 encoder blocks, one in the middle and 1, 1, 1, 1 in the decoder (the published
    deblurring net): 17,111,907 parameters; width 32 with 2, 2, 4, 8 / 12 / 2, 2, 2, 2 (real denoising):
    29,159,715.

    Args:
        skip: the net predicts the residual, as published.
        channels: of the input; the first three are the image.
    """

    def __init__(
        self,
        width: int = 32,
        encoder: Sequence[int] = (2, 2, 4, 8),
        middle: int = 12,
        decoder: Sequence[int] = (2, 2, 2, 2),
        skip: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.skip = skip
        self.multiple = 2 ** len(encoder)
        self.intro = nn.Conv2d(channels, width, 3, padding=1)
        self.ending = nn.Conv2d(width, 3, 3, padding=1)
        self.encoders, self.decoders = nn.ModuleList(), nn.ModuleList()
        self.ups, self.downs = nn.ModuleList(), nn.ModuleList()
        c = width
        for n in encoder:
            self.encoders.append(nn.Sequential(*(Block(c) for _ in range(n))))
            self.downs.append(nn.Conv2d(c, 2 * c, 2, 2))
            c *= 2
        self.middle_blks = nn.Sequential(*(Block(c) for _ in range(middle)))
        for n in decoder:
            self.ups.append(nn.Sequential(nn.Conv2d(c, 2 * c, 1, bias=False), nn.PixelShuffle(2)))
            c //= 2
            self.decoders.append(nn.Sequential(*(Block(c) for _ in range(n))))

    def forward(self, y: Tensor) -> Tensor:
        h, w = y.shape[-2:]
        y = F.pad(y, (0, -w % self.multiple, 0, -h % self.multiple))
        x = self.intro(y)
        seen = []
        for encoder, down in zip(self.encoders, self.downs, strict=True):
            x = encoder(x)
            seen.append(x)
            x = down(x)
        x = self.middle_blks(x)
        for decoder, up, earlier in zip(self.decoders, self.ups, reversed(seen), strict=True):
            x = decoder(up(x) + earlier)
        x = self.ending(x)
        return (x + y[:, :3] if self.skip else x)[..., :h, :w]
