"""Optimisers that torch does not have for convolutional nets: Muon and Lion. A package for one update rule
would be one more dependency."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum whose direction is made orthogonal, for the kernels of convolutions; Adam for the rest (Jordan
    et al., "Muon: An optimizer for hidden layers in neural networks", 2024).

    A kernel (out, in, k, k) is read as a matrix (out, in k k). Its update has the root mean square 0.2 lr,
    about that of Adam (Liu et al., "Muon is Scalable for LLM Training", 2025), so a rate that suits Adam is a
    start. The first and the last convolution, which touch pixels, and everything that is no kernel of more
    than one channel take Adam's steps.

    Args:
        named: parameters with their names, in the order of the net.
        adam_lr: rate of Adam's part; follows `lr` in proportion under a schedule.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        lr: float = 2e-3,
        momentum: float = 0.95,
        adam_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        given = list(named)
        kernels = [name for name, p in given if p.ndim == 4]
        inner = {name for name, p in given if p.ndim == 4 and p.shape[1] > 1} - set(
            kernels[:1] + kernels[-1:]
        )
        shared: dict[str, Any] = {
            "momentum": momentum, "betas": betas, "eps": eps, "weight_decay": weight_decay
        }  # fmt: skip
        groups = [
            {"params": [p for name, p in given if name in inner], "orthogonal": True, "lr": lr},
            {
                "params": [p for name, p in given if name not in inner],
                "orthogonal": False,
                "lr": adam_lr or lr,
            },
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, **shared})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update along the gradients; parameters without one stay."""
        for group, params, grads in _moved(self):
            if group["weight_decay"]:
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["orthogonal"] else self._adam)(params, grads, group)

    def _orthogonal(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state["momentum"] = torch.zeros_like(p)
        momenta = [state["momentum"] for state in states]
        torch._foreach_lerp_(momenta, grads, 1 - group["momentum"])
        shapes: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = defaultdict(list)
        for p, direction in zip(params, torch._foreach_lerp(grads, momenta, group["momentum"]), strict=True):
            matrix = direction.reshape(direction.shape[0], -1)
            shapes[matrix.shape[0], matrix.shape[1]].append((p, matrix))
        for shape, items in shapes.items():
            made = orthogonal(torch.stack([matrix for _, matrix in items]))
            updates = [update.view(p.shape) for (p, _), update in zip(items, made, strict=True)]
            torch._foreach_add_([p for p, _ in items], updates, alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)

    def _adam(self, params: list[Tensor], grads: list[Tensor], group: dict[str, Any]) -> None:
        first, second = group["betas"]
        states = [self.state[p] for p in params]
        for p, state in zip(params, states, strict=True):
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
            state["step"] += 1
        means, squares = [state["mean"] for state in states], [state["square"] for state in states]
        torch._foreach_lerp_(means, grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, grads, grads, value=1 - second)
        sizes = torch._foreach_div(squares, [1 - second ** state["step"] for state in states])
        torch._foreach_sqrt_(sizes)
        torch._foreach_add_(sizes, group["eps"])
        rates = [-group["lr"] / (1 - first ** state["step"]) for state in states]
        torch._foreach_addcdiv_(params, means, sizes, rates)


def orthogonal(matrices: Tensor, steps: int = 5) -> Tensor:
    """(N, a, b) -> matrices of the same singular vectors with singular values near 1, by the quintic
    Newton-Schulz iteration."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), x, beta=3.4445)
    return x.mT if tall else x


class Lion(torch.optim.Optimizer):
    """Every weight moves by `lr`, along the sign of a mean of gradients (Chen et al., "Symbolic Discovery of
    Optimization Algorithms", NeurIPS 2023). A third to a tenth of Adam's rate suits it.

    Args:
        betas: share of the old mean in the direction, and in the new mean.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update along the gradients; parameters without one stay."""
        for group, params, grads in _moved(self):
            means = [self.state[p].setdefault("mean", torch.zeros_like(p)) for p in params]
            directions = torch._foreach_lerp(means, grads, 1 - group["betas"][0])
            torch._foreach_sign_(directions)
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(params, directions, alpha=-group["lr"])
            torch._foreach_lerp_(means, grads, 1 - group["betas"][1])


def _moved(optimizer: torch.optim.Optimizer) -> Iterator[tuple[dict[str, Any], list[Tensor], list[Tensor]]]:
    """Each group with those of its parameters that have a gradient, and the gradients."""
    for group in optimizer.param_groups:
        params = [p for p in group["params"] if p.grad is not None]
        if params:
            yield group, params, [cast(Tensor, p.grad) for p in params]
