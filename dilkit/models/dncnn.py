"""DnCNN: Zhang, Zuo, Chen, Meng, Zhang, "Beyond a Gaussian Denoiser", TIP 2017."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from dilkit.errors import UsageError


class DnCNN(nn.Module):
    """`depth` 3x3 convolutions with ReLU between them; batch normalisation in all but the first and last.

    (B, 3, H, W) -> (B, 3, H, W) for any H, W. With `skip` the net predicts the residual: `y - body(y)`
    as published; without, `body(y)` is the image.

    Args:
        depth: number of convolutions, at least 2 (published: 17, blind 20).
        width: channels of the hidden layers (published: 64).
        norm: `batch` as published, or `none`.
        bias: additive constants; without them the net is homogeneous of degree one (Mohan et al., ICLR 2020),
            which batch normalisation would break, so `bias=False` needs `norm="none"`.
        channels: of the input; the first three are the image.
    """

    def __init__(
        self,
        depth: int = 17,
        width: int = 64,
        norm: Literal["batch", "none"] = "batch",
        bias: bool = True,
        skip: bool = True,
        channels: int = 3,
    ) -> None:
        super().__init__()
        if not bias and norm != "none":
            raise UsageError("a bias-free dncnn cannot have batch normalisation", remedy="model.norm=none")
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=bias), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=bias and norm == "none"))
            if norm == "batch":
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, 3, 3, padding=1, bias=bias))
        self.body = nn.Sequential(*layers)
        self.skip = skip

    def forward(self, y: Tensor) -> Tensor:
        out: Tensor = self.body(y)
        return y[:, :3] - out if self.skip else out
