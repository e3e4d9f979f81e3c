"""Training losses of restoration: pure functions `loss(output, target) -> scalar` of (B, 3, H, W) batches in
[0, 1]; and weighted sums of them, written as a recipe writes them: `l1 + 0.1*fft`.

Not here: how a net is called (`dilkit.training.assemble`), and the metrics nets are judged by
(`dilkit.metrics`). Torch is imported by the functions, so that a recipe's loss is checked without it.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from dilkit.errors import UsageError
from dilkit.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Loss = Callable[["Tensor", "Tensor"], "Tensor"]


def _check(name: str, loss: Loss) -> None:
    if not callable(loss):
        raise UsageError(f"the loss {name!r} cannot be called", found=repr(loss))
    if not re.fullmatch(r"[a-z_]\w*", name):
        raise UsageError(
            f"the loss {name!r} cannot be written in a recipe", expected="a name such as my_loss"
        )


def _takes_output_and_target(value: Any) -> bool:
    """Whether a thing is a loss by its parameters, which are called `output` and `target`."""
    return inspect.isfunction(value) and [*inspect.signature(value).parameters][:2] == ["output", "target"]


LOSSES: Registry[Loss] = Registry("loss", check=_check, is_one=_takes_output_and_target)
"""Every loss by name."""


@LOSSES.add
def l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean of |e|."""
    from torch.nn import functional as F

    return F.l1_loss(output, target)


@LOSSES.add
def l2(output: Tensor, target: Tensor) -> Tensor:
    """Mean of e^2."""
    from torch.nn import functional as F

    return F.mse_loss(output, target)


def charbonnier_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean of sqrt(e^2 + 1e-6) (Lai et al., CVPR 2017)."""
    return ((output - target) ** 2 + 1e-3**2).sqrt().mean()


@LOSSES.add
def log_l1(output: Tensor, target: Tensor) -> Tensor:
    """Mean over samples of log(mean |e| + 2e-4): each counts by its decibels, whatever its degree or
    contrast."""
    return ((output - target).abs().mean((1, 2, 3)) + 2e-4).log().mean()


@LOSSES.add
def log_mse(output: Tensor, target: Tensor) -> Tensor:
    """Half the mean over samples of log(mean e^2 + 1e-7): minus the PSNR, in nepers."""
    return 0.5 * ((output - target).square().mean((1, 2, 3)) + 1e-7).log().mean()


@LOSSES.add
def fft(output: Tensor, target: Tensor) -> Tensor:
    """Mean magnitude of the difference of the two spectra, orthonormal (Cho et al., MIMO-UNet, ICCV 2021)."""
    import torch

    return torch.fft.rfft2(output - target, norm="ortho").abs().mean()


@LOSSES.add
def edge(output: Tensor, target: Tensor) -> Tensor:
    """Charbonnier distance of the two Laplacians (Zamir et al., MPRNet, CVPR 2021, with a 3x3 kernel)."""
    e = output - target
    centre = e[..., 1:-1, 1:-1]
    around = e[..., :-2, 1:-1] + e[..., 2:, 1:-1] + e[..., 1:-1, :-2] + e[..., 1:-1, 2:]
    return ((4 * centre - around) ** 2 + 1e-3**2).sqrt().mean()


def _ssim_terms(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numerator and denominator of SSIM's luminance, then of its contrast and structure, without borders."""
    import torch
    from torch.nn import functional as F

    side = min(11, *output.shape[-2:])
    at = torch.arange(side, dtype=output.dtype, device=output.device) - (side - 1) / 2
    window = torch.exp(-(at**2) / (2 * 1.5**2))
    window = window / window.sum()
    channels = output.shape[1]

    def blurred(x: Tensor) -> Tensor:
        down = F.conv2d(x, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
        return F.conv2d(down, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)

    a, b = blurred(output), blurred(target)
    var_a, var_b = blurred(output**2) - a**2, blurred(target**2) - b**2
    both = blurred(output * target) - a * b
    c1, c2 = 0.01**2, 0.03**2
    return 2 * a * b + c1, a**2 + b**2 + c1, 2 * both + c2, var_a + var_b + c2


def ssim_loss(output: Tensor, target: Tensor) -> Tensor:
    """1 - SSIM with the Gaussian window of 11 pixels, sigma 1.5 (Wang et al., TIP 2004), without borders; the
    window is that of the side where the images are smaller."""
    light, light_norm, structure, structure_norm = _ssim_terms(output, target)
    return 1 - (light * structure / (light_norm * structure_norm)).mean()


_MS_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim_loss(output: Tensor, target: Tensor) -> Tensor:
    """1 - MS-SSIM (Wang et al., Asilomar 2003), negative structure taken as none. Crops too small for its
    five scales (176 pixels) have as many as leave 11 pixels, the weights of those scaled to sum to 1."""
    from torch.nn import functional as F

    scales = max(1, min(5, int(math.log2(max(1, min(output.shape[-2:]) / 11))) + 1))
    weights = [weight / sum(_MS_WEIGHTS[:scales]) for weight in _MS_WEIGHTS[:scales]]
    product = output.new_ones(len(output))
    for scale, weight in enumerate(weights):
        light, light_norm, structure, structure_norm = _ssim_terms(output, target)
        found = structure / structure_norm
        if scale == scales - 1:
            found = found * light / light_norm
        product = product * found.mean((1, 2, 3)).clamp_min(1e-6) ** weight
        output, target = F.avg_pool2d(output, 2), F.avg_pool2d(target, 2)
    return 1 - product.mean()


@LOSSES.add
def perceptual(output: Tensor, target: Tensor) -> Tensor:
    """L1 between VGG19's features before the activation of conv5_4 (ESRGAN, ECCVW 2018); the weights
    (ImageNet, 548 MB) are torchvision's, which loads them when first used.

    Raises:
        UsageError: torchvision is not installed.
    """
    from torch.nn import functional as F

    net = _vgg(output.device)
    mean, std = (output.new_tensor(x).view(1, 3, 1, 1) for x in _IMAGENET)
    return F.l1_loss(net((output - mean) / std), net((target - mean) / std))


_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of the colours that VGG19 was trained on."""


@cache
def _vgg(device: Any) -> Any:
    try:
        from torchvision.models import vgg19
    except ImportError:
        raise UsageError(
            "torchvision is not installed", where="loss=perceptual", remedy="pip install 'dilkit[perceptual]'"
        ) from None
    return vgg19(weights="DEFAULT").features[:35].eval().requires_grad_(False).to(device)


LOSSES.add(ssim_loss, "ssim")
LOSSES.add(ms_ssim_loss, "ms_ssim")
LOSSES.add(charbonnier_loss, "charbonnier")


_TERM = re.compile(r"\s*(?:(?P<weight>\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+)\s*\*?\s*)?(?P<name>[A-Za-z_]\w*)\s*")


def parse_loss(text: str) -> list[tuple[float, str]]:
    """(weight, name) of each term of `l1 + 0.1*fft`.

    Raises:
        UsageError: it is not such a sum, or a name is not in `LOSSES`.
    """
    terms = []
    for part in re.split(r"(?<![eE])\+", text):
        found = _TERM.fullmatch(part)
        weight = float(found["weight"] or 1) if found else math.nan
        if found is None or not 0 < weight < math.inf:
            raise UsageError(
                "not a loss", where="loss", found=text, expected="names with weights, such as l1 + 0.1*fft"
            )
        LOSSES.get(found["name"])
        terms.append((weight, found["name"]))
    return terms


def loss_of(text: str) -> Loss:
    """The function that a recipe's `loss` names.

    Raises:
        UsageError: at the call, where output and target differ in shape.
    """
    terms = [(weight, LOSSES.get(name)) for weight, name in parse_loss(text)]

    def loss(output: Tensor, target: Tensor) -> Tensor:
        if output.shape != target.shape:
            raise UsageError(
                "the output's shape differs from the target's",
                found=tuple(output.shape),
                expected=tuple(target.shape),
                remedy="check model.scale against the data",
            )
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1](output, target)
        values = [weight * term(output, target) for weight, term in terms]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    return loss
