"""Train a net that is not ours with DIL_ps, on noise of four degrees, in under a minute on a CPU.

    pip install unet && python docs/examples/foreign_net.py

The U-Net comes from the package `unet` (MIT); nothing about it knows of dilkit. Clean images are blobs made
here, so that nothing is downloaded. The table at the end has PSNR at seen and at unseen degrees.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from unet import UNet2D

import dilkit
from dilkit.confounders.episodes import Episode
from dilkit.objectives import make_objective

SEEN, UNSEEN = (5, 10, 15, 20), (30, 40, 50)


def clean_images(count: int, size: int = 32) -> Tensor:
    """(count, 3, size, size) in [0, 1]: smooth blobs with hard edges."""
    coarse = torch.rand(count, 3, 5, 5)
    smooth = nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=False)
    return torch.where(smooth > 0.5, smooth, 0.5 * smooth).clamp(0, 1)


def noisy(clean: Tensor, sigma: float) -> Tensor:
    return clean + sigma / 255 * torch.randn_like(clean)


def psnr(net: nn.Module, clean: Tensor, sigma: float) -> float:
    with torch.no_grad():
        error = (net(noisy(clean, sigma)).clamp(0, 1) - clean).square().mean((1, 2, 3))
    return float(-10 * error.log10().mean())


def l1(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.l1_loss(net(batch[0]), batch[1])


@dilkit.meta
class Denoiser(nn.Module):
    """What somebody else's U-Net says is noise, taken away."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = UNet2D(
            in_channels=3,
            out_classes=3,
            num_encoding_blocks=2,
            out_channels_first_layer=8,
            padding=1,
            activation="SiLU",
        )

    def forward(self, y: Tensor) -> Tensor:
        return y - self.noise(y)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    torch.manual_seed(0)
    net = Denoiser()
    print(net.meta)
    objective = make_objective("dil_ps", loss=l1, inner={"name": "sgd", "lr": 0.05})
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for step in range(steps):
        clean = clean_images(4)
        views = {f"awgn({s})": noisy(clean, s) for s in SEEN}
        got = objective.gradients(net, Episode(views, dict.fromkeys(views, clean), step))
        for name, p in net.named_parameters():
            p.grad = got.grads[name]
        optimizer.step()
        if step % 100 == 0:
            print(f"step {step:4d}  loss {float(got.loss):.4f}")

    test = clean_images(16)
    print("sigma   input  output")
    for sigma in SEEN + UNSEEN:
        unseen = "  (unseen)" if sigma in UNSEEN else ""
        print(f"{sigma:5d}  {psnr(nn.Identity(), test, sigma):6.2f}  {psnr(net, test, sigma):6.2f}{unseen}")


if __name__ == "__main__":
    main()
