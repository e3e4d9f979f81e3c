"""RRDBNet: Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks", ECCVW 2018."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dilkit.errors import UsageError


def _conv(inputs: int, outputs: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class DenseBlock(nn.Module):
    """Five convolutions, each seeing all earlier ones; the output is scaled by 0.2 and added to the input."""

    def __init__(self, width: int, growth: int, bias: bool) -> None:
        super().__init__()
        for k in range(5):
            conv = _conv(width + k * growth, growth if k < 4 else width, bias)
            nn.init.kaiming_normal_(conv.weight, a=0, mode="fan_in")
            conv.weight.data *= 0.1
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            self.add_module(f"conv{k + 1}", conv)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for k in range(1, 5):
            seen.append(F.leaky_relu(self.get_submodule(f"conv{k}")(torch.cat(seen, 1)), 0.2, inplace=True))
        out: Tensor = self.get_submodule("conv5")(torch.cat(seen, 1))
        return x + 0.2 * out


class Block(nn.Module):
    """Residual in residual: three dense blocks, scaled by 0.2 again."""

    def __init__(self, width: int, growth: int, bias: bool) -> None:
        super().__init__()
        self.RDB1 = DenseBlock(width, growth, bias)
        self.RDB2 = DenseBlock(width, growth, bias)
        self.RDB3 = DenseBlock(width, growth, bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.RDB3(self.RDB2(self.RDB1(x)))
        return x + 0.2 * out


class RRDBNet(nn.Module):
    """(B, 3, H, W) -> (B, 3, scale H, scale W), parameter names as in the released ESRGAN.

    23 blocks, width 64, growth 32: 16,624,131 parameters at x1, 16,697,987 at x4.

    Args:
        scale: 1, 2 or 4; each doubling is a nearest upsampling and a convolution.
        skip: add the input (bicubically upsampled where it must be) to the output; the paper's net has none.
        bias: additive constants in the convolutions.
        channels: of the input; the first three are the image.
    """

    def __init__(
        self,
        width: int = 64,
        blocks: int = 23,
        growth: int = 32,
        scale: int = 1,
        bias: bool = True,
        skip: bool = False,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if scale not in (1, 2, 4):
            raise UsageError("rrdb upscales by 1, 2 or 4", where="model.scale", found=scale)
        self.scale = scale
        self.skip = skip
        self.conv_first = _conv(channels, width, bias)
        self.RRDB_trunk = nn.Sequential(*(Block(width, growth, bias) for _ in range(blocks)))
        self.trunk_conv = _conv(width, width, bias)
        self.upconvs = [f"upconv{k + 1}" for k in range(scale.bit_length() - 1)]
        for name in self.upconvs:
            self.add_module(name, _conv(width, width, bias))
        self.HRconv = _conv(width, width, bias)
        self.conv_last = _conv(width, 3, bias)

    def forward(self, y: Tensor) -> Tensor:
        features = self.conv_first(y)
        features = features + self.trunk_conv(self.RRDB_trunk(features))
        for name in self.upconvs:
            upsampled = F.interpolate(features, scale_factor=2, mode="nearest")
            features = F.leaky_relu(self.get_submodule(name)(upsampled), 0.2, inplace=True)
        out: Tensor = self.conv_last(F.leaky_relu(self.HRconv(features), 0.2, inplace=True))
        if not self.skip:
            return out
        y = y[:, :3]
        if self.scale > 1:
            y = F.interpolate(y, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return y + out
