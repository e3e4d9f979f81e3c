"""Modules that trip differentiable engines, each with batches and, where torch itself errs, a plain twin."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

C, SIZE = 3, 6


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(C, 5, 3, padding=1)
        self.tail = nn.Conv2d(5, C, 3, padding=1)

    def forward(self, x):
        return self.tail(torch.tanh(self.head(x)))


class Shared(Plain):
    """One weight under two names, and one module in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Conv2d(C, 5, 3, padding=1)
        self.again.weight = self.head.weight
        self.same = self.tail

    def forward(self, x):
        return self.same(F.softplus(self.head(x)) + torch.tanh(self.again(x)))


class SharedByHand(nn.Module):
    """`Shared` with every weight in one place (torch.func.functional_call ties an aliased module wrongly)."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.head, self.tail = shared.head, shared.tail
        self.again = nn.Module()
        self.again.bias = shared.again.bias

    def forward(self, x):
        again = F.conv2d(x, self.head.weight, self.again.bias, padding=1)
        return self.tail(F.softplus(self.head(x)) + torch.tanh(again))


class UnusedFrozen(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Linear(2, 2)
        self.head.bias.requires_grad_(False)
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return self.scale * super().forward(x)


class Normed(Plain):
    def __init__(self, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.norm = norm()
        if isinstance(self.norm, nn.BatchNorm2d):
            self.head.bias = None  # no gradient but rounding

    def forward(self, x):
        return self.tail(torch.tanh(self.norm(self.head(x))))


class Hooked(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.3]))
        self.head.register_forward_hook(lambda module, args, out: out * self.gain)
        self.tail.register_forward_pre_hook(lambda module, args: (args[0].sin(),))


class Checkpointed(Plain):
    def __init__(self, on: bool = True) -> None:
        super().__init__()
        self.on = on
        self.drop = nn.Dropout(0.3)

    def forward(self, x):
        def body(y):
            return self.drop(torch.tanh(self.head(y)))

        return self.tail(checkpoint(body, x, use_reentrant=False) if self.on else body(x))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(C, 12)
        self.out = nn.Linear(4, C)

    def forward(self, x):
        b, c, h, w = x.shape
        q, k, v = self.qkv(x.flatten(2).transpose(1, 2)).view(b, h * w, 2, 6).transpose(1, 2).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, h * w, 4)
        return x + self.out(y).transpose(1, 2).view(b, c, h, w)


class MultiHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(C, 1, batch_first=True)

    def forward(self, x):
        t = x.flatten(2).transpose(1, 2)
        y, _ = self.attend(t, t, t, need_weights=False)
        return x + y.transpose(1, 2).view_as(x)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(C, 4, batch_first=True)
        self.out = nn.Linear(4, C)

    def forward(self, x):
        y, _ = self.cell(x.flatten(2).transpose(1, 2))
        return self.out(y).transpose(1, 2).view_as(x)


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * C, 4 * C, 3, padding=1), nn.SiLU(), nn.PixelShuffle(2)
        )

    def forward(self, x):
        return self.body(x)


class Warped(nn.Module):
    """Samples its own features at positions that depend on its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(C, C, 3, padding=1)
        self.flow = nn.Conv2d(C, 2, 3, padding=1)

    def forward(self, x):
        b, _, h, w = x.shape
        eye = torch.eye(2, 3, dtype=x.dtype, device=x.device).expand(b, 2, 3)
        grid = F.affine_grid(eye, [b, C, h, w], align_corners=False)
        grid = grid + 0.1 * torch.tanh(self.flow(x)).permute(0, 2, 3, 1)
        return F.grid_sample(torch.tanh(self.features(x)), grid, align_corners=False)


class Fourier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.randn(C, SIZE, SIZE // 2 + 1, dtype=torch.complex64))
        self.tail = nn.Conv2d(C, C, 1)

    def forward(self, x):
        y = torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * self.gain, s=x.shape[-2:], norm="ortho")
        return self.tail(torch.tanh(y))


@dataclass(frozen=True)
class Case:
    """`twin`: the same net for the reference, where unrolling the net itself would be wrong or impossible."""

    build: Callable[[], nn.Module]
    train: bool = True
    twin: Callable[[nn.Module], nn.Module] | None = None


def _uncheckpointed(net: nn.Module) -> nn.Module:
    twin = Checkpointed(on=False).double()
    twin.load_state_dict(net.state_dict())
    return twin


def _compiled() -> nn.Module:
    net = Plain()
    net.compile(backend="aot_eager")  # cannot be differentiated twice itself
    return net


def _uncompiled(net: nn.Module) -> nn.Module:
    twin = Plain().double()
    twin.load_state_dict(net.state_dict())
    return twin


def _old_weight_norm() -> nn.Module:
    net = Plain()
    with __import__("warnings").catch_warnings(action="ignore"):
        torch.nn.utils.weight_norm(net.head)
    return net


def _parametrized(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    net = Plain()
    how(net.head)
    return net


ZOO: dict[str, Case] = {
    "plain": Case(Plain),
    "shared weights": Case(Shared, twin=SharedByHand),
    "unused and frozen": Case(UnusedFrozen),
    "batch norm, train": Case(lambda: Normed(lambda: nn.BatchNorm2d(5))),
    "batch norm, eval": Case(lambda: Normed(lambda: nn.BatchNorm2d(5)), train=False),
    "group norm": Case(lambda: Normed(lambda: nn.GroupNorm(1, 5))),
    "layer norm": Case(lambda: Normed(lambda: nn.LayerNorm([5, SIZE, SIZE]))),
    "dropout": Case(lambda: Normed(lambda: nn.Dropout(0.4))),
    "hooks": Case(Hooked),
    "weight norm": Case(lambda: _parametrized(parametrizations.weight_norm)),
    "weight norm by hook": Case(_old_weight_norm),
    "spectral norm": Case(lambda: _parametrized(parametrizations.spectral_norm)),
    "layer checkpointing": Case(Checkpointed, twin=_uncheckpointed),
    "compiled": Case(_compiled, twin=_uncompiled),
    "fused attention": Case(Attention),
    "multi-head attention": Case(MultiHead),
    "LSTM": Case(lambda: Recurrent(nn.LSTM)),
    "GRU": Case(lambda: Recurrent(nn.GRU)),
    "pixel shuffle": Case(Shuffled),
    "grid sample": Case(Warped),
    "complex FFT": Case(Fourier),
}


def build(name: str) -> tuple[nn.Module, nn.Module]:
    """The module in double precision, and the one to unroll for the reference."""
    torch.manual_seed(0)
    case = ZOO[name]
    net = case.build().double()
    if name == "complex FFT":
        net.gain = nn.Parameter(net.gain.detach().to(torch.complex128))
    net.train(case.train)
    for p in net.parameters():  # away from symmetric starts
        p.data.add_(0.05 * torch.randn_like(p))
    return net, (case.twin(net).train(case.train) if case.twin else net)


def batches(n: int = 3) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    rng = torch.Generator().manual_seed(7)

    def image():
        return torch.randn(2, C, SIZE, SIZE, generator=rng, dtype=torch.float64)

    return {f"d{i}": (image(), image()) for i in range(n)}


def charbonnier(module, batch):
    return ((module(batch[0]) - batch[1]).square() + 1e-3).sqrt().mean()
