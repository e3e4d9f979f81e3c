"""SwinIR: Liang et al., "SwinIR: Image Restoration Using Swin Transformer", ICCVW 2021."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.errors import UsageError

_MEAN = (0.4488, 0.4371, 0.4040)
"""DIV2K's mean colour, which the released net subtracts."""


class Attention(nn.Module):
    """Multi-head attention within windows, with a learnt bias for each relative position.

    Written out rather than fused, because fused attention has no second derivative.
    """

    relative_position_index: Tensor

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        place = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        ).flatten(1)
        apart = place[:, :, None] - place[:, None, :] + window - 1
        index = apart[0] * (2 * window - 1) + apart[1]
        self.register_buffer("relative_position_index", index, persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """x: (windows of all images, tokens, dim); mask: (windows of one image, tokens, tokens) or None."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        score = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        score = score + bias.view(n, n, self.heads).permute(2, 0, 1)
        if mask is not None:
            score = (score.view(-1, len(mask), self.heads, n, n) + mask[:, None]).view(b, self.heads, n, n)
        out: Tensor = self.proj((score.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
        return out


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class SwinLayer(nn.Module):
    """Attention in (shifted) windows and a feed-forward net, each with its residual; x: (B, H, W, C)."""

    def __init__(self, dim: int, heads: int, window: int, shift: int, ratio: float, drop_path: float) -> None:
        super().__init__()
        self.window, self.shift, self.drop_path = window, shift, drop_path
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, window, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, int(dim * ratio))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        s = self.shift
        y = self.norm1(x)
        y = torch.roll(y, (-s, -s), (1, 2)) if s else y
        y = _merge(self.attn(_windows(y, self.window), mask if s else None), self.window, y.shape)
        y = torch.roll(y, (s, s), (1, 2)) if s else y
        x = x + self._drop(y)
        return x + self._drop(self.mlp(self.norm2(x)))

    def _drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al., ECCV 2016), per sample."""
        if self.drop_path == 0 or not self.training:
            return branch
        keep = 1 - self.drop_path
        return branch * (torch.rand(len(branch), 1, 1, 1, device=branch.device) < keep) / keep


class SwinGroup(nn.Module):
    """A residual Swin transformer block: layers, then a convolution."""

    def __init__(self, dim: int, heads: int, window: int, ratio: float, drop_paths: Sequence[float]) -> None:
        super().__init__()
        self.residual_group = nn.Module()
        self.residual_group.blocks = nn.ModuleList(
            SwinLayer(dim, heads, window, (i % 2) * (window // 2), ratio, p) for i, p in enumerate(drop_paths)
        )
        self.conv = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = x
        for layer in self.residual_group.blocks:  # type: ignore[union-attr]
            y = layer(y, mask)
        return x + self.conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SwinIR(nn.Module):
    """(B, 3, H, W) -> (B, 3, scale H, scale W) for any H, W (padded inside by reflection).

    Parameter names as released. Window 8, six groups of six layers, width 180, six heads, ratio 2: 11,504,163
    parameters for denoising (scale 1), 11,900,199 for classical super-resolution at scale 4.

    Args:
        depths, heads: layers and attention heads of each group.
        drop_path: stochastic depth of the last layer; the earlier ones rise to it linearly.
        skip: add the input to the output; scale 1 only.
        channels: of the input; the first three are the image.
    """

    mean: Tensor

    def __init__(
        self,
        width: int = 180,
        depths: Sequence[int] = (6, 6, 6, 6, 6, 6),
        heads: Sequence[int] = (6, 6, 6, 6, 6, 6),
        window: int = 8,
        ratio: float = 2.0,
        scale: int = 1,
        drop_path: float = 0.1,
        skip: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if len(depths) != len(heads):
            raise UsageError("depths and heads are of each group", found=f"{len(depths)} and {len(heads)}")
        if any(width % h for h in heads):
            raise UsageError("the width is not a multiple of the heads", found=f"{width} and {tuple(heads)}")
        self.window, self.scale, self.skip = window, scale, skip
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        rise = [drop_path * i / max(1, sum(depths) - 1) for i in range(sum(depths))]
        drops = [[rise.pop(0) for _ in range(depth)] for depth in depths]
        self.conv_first = nn.Conv2d(channels, width, 3, padding=1)
        self.patch_embed = nn.Module()
        self.patch_embed.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            SwinGroup(width, h, window, ratio, d) for h, d in zip(heads, drops, strict=True)
        )
        self.norm = nn.LayerNorm(width)
        self.conv_after_body = nn.Conv2d(width, width, 3, padding=1)
        if scale == 1:
            self.conv_last = nn.Conv2d(width, 3, 3, padding=1)
        else:
            self.conv_before_upsample = nn.Sequential(
                nn.Conv2d(width, 64, 3, padding=1), nn.LeakyReLU(inplace=True)
            )
            self.upsample = nn.Sequential(*_upsampling(scale))
            self.conv_last = nn.Conv2d(64, 3, 3, padding=1)
        self.apply(_initialise)

    def forward(self, y: Tensor) -> Tensor:
        h, w = y.shape[-2:]
        if h % self.window or w % self.window:
            y = F.pad(y, (0, -w % self.window, 0, -h % self.window), mode="reflect")
        x, more = y[:, :3] - self.mean, y[:, 3:]
        first = self.conv_first(torch.cat([x, more], 1) if more.shape[1] else x)
        deep = self.conv_after_body(self._body(first)) + first
        if self.scale == 1:
            out = self.conv_last(deep)
            out = out + (x if self.skip else 0) + self.mean
        else:
            out = self.conv_last(self.upsample(self.conv_before_upsample(deep))) + self.mean
        return out[..., : h * self.scale, : w * self.scale]

    def _body(self, x: Tensor) -> Tensor:
        mask = _mask(x.shape[2], x.shape[3], self.window, x.device, x.dtype)
        x = self.patch_embed.norm(x.permute(0, 2, 3, 1))  # type: ignore[operator]
        for group in self.layers:
            x = group(x, mask)
        return self.norm(x).permute(0, 3, 1, 2)


def _windows(x: Tensor, size: int) -> Tensor:
    b, h, w, c = x.shape
    x = x.view(b, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def _merge(windows: Tensor, size: int, shape: torch.Size) -> Tensor:
    b, h, w, c = shape
    x = windows.view(b, h // size, w // size, size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(shape)


def _mask(h: int, w: int, size: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """-100 between tokens that the shift brought into one window from opposite borders."""
    region = torch.zeros(1, h, w, 1, device=device)
    bands = (slice(0, -size), slice(-size, -(size // 2)), slice(-(size // 2), None))
    for i, rows in enumerate(bands):
        for j, columns in enumerate(bands):
            region[:, rows, columns] = 3 * i + j
    of = _windows(region, size).squeeze(-1)
    return torch.zeros((), device=device, dtype=dtype).where(of[:, None] == of[:, :, None], -100.0)


def _upsampling(scale: int) -> list[nn.Module]:
    if scale == 3:
        return [nn.Conv2d(64, 9 * 64, 3, padding=1), nn.PixelShuffle(3)]
    if scale < 2 or scale & (scale - 1):
        raise UsageError("swinir upscales by 3 or a power of two", where="model.scale", found=scale)
    steps = int(math.log2(scale))
    return [m for _ in range(steps) for m in (nn.Conv2d(64, 4 * 64, 3, padding=1), nn.PixelShuffle(2))]


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
