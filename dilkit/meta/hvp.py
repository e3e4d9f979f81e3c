"""Hessian-vector products of one loss at virtual weights, in two exact modes.

`rr`, reverse over reverse: grad(<grad L, v>). Works wherever double backward does.
`rof`, reverse over forward: grad of the directional derivative of L along v, which forward-mode AD carries
    through one forward pass. Cheaper, and needs no graph of a backward pass; needs forward formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dilkit.meta.guards import is_compiled

Mode = Literal["rr", "rof", "auto"]
Enter = Callable[[Sequence[Tensor]], AbstractContextManager[None]]
"""enter(weights): the world of those weights."""
Forward = Callable[[], Tensor]
"""forward() -> loss, to be called inside a world."""


@contextmanager
def twice_differentiable(net: nn.Module) -> Iterator[None]:
    """Attention through its unfused kernel (the fused ones have one derivative), compiled modules eagerly."""
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if is_compiled(net):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def gradient(loss: Tensor, phi: Sequence[Tensor], *, create_graph: bool = False) -> list[Tensor]:
    """grad(loss) by `phi`, zero for what the loss does not use."""
    if not loss.requires_grad:
        return [torch.zeros_like(p) for p in phi]
    return list(
        torch.autograd.grad(
            loss, list(phi), create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    )


def through(grads: Sequence[Tensor], phi: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """H v from gradients made with their graph (the second half of `rr`)."""
    live = [(g, x) for g, x in zip(grads, v, strict=True) if g.requires_grad]
    if not live:
        return [torch.zeros_like(p) for p in phi]
    return list(
        torch.autograd.grad(
            [g for g, _ in live],
            list(phi),
            grad_outputs=[x for _, x in live],
            allow_unused=True,
            materialize_grads=True,
        )
    )


def reverse_over_reverse(
    enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """H v and the detached loss."""
    with enter(phi):
        loss = forward()
        return through(gradient(loss, phi, create_graph=True), phi, v), loss.detach()


def reverse_over_forward(
    enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
) -> tuple[list[Tensor], Tensor]:
    """H v and the detached loss."""
    with fwad.dual_level():
        duals = [fwad.make_dual(p, x) for p, x in zip(phi, v, strict=True)]
        with enter(duals):
            primal, tangent = fwad.unpack_dual(forward())
            if tangent is None:
                return [torch.zeros_like(p) for p in phi], primal.detach()
            return gradient(tangent, phi), primal.detach()


class Hvp:
    """H v in the mode asked for; `auto` prefers `rof` and turns to `rr` where a formula is missing."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode

    def __call__(
        self, enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        if self.mode == "rr":
            return reverse_over_reverse(enter, forward, phi, v)
        try:
            return reverse_over_forward(enter, forward, phi, v)
        except RuntimeError as error:
            if self.mode == "rof" or not _lacks_forward_formula(error):
                raise
        self.mode = "rr"
        return reverse_over_reverse(enter, forward, phi, v)


def _lacks_forward_formula(error: RuntimeError) -> bool:
    text = str(error)
    return "forward AD" in text or "jvp" in text or "forward mode AD" in text
