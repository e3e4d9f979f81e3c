"""Hessian-vector products of one loss at virtual weights, in two exact modes.

`rr`, reverse over reverse: grad(<grad L, v>). Works wherever double backward does.
`rof`, reverse over forward: grad of the directional derivative of L along v, which forward-mode AD carries
    through one forward pass. Cheaper, and needs no graph of a backward pass; needs forward formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Literal
from weakref import WeakKeyDictionary

import torch
import torch.autograd.forward_ad as fwad
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import CheckpointError

from dilkit.errors import DilkitError, UsageError
from dilkit.meta.guards import is_compiled

Mode = Literal["rr", "rof", "auto"]
Enter = Callable[[Sequence[Tensor]], AbstractContextManager[None]]
"""enter(weights): the world of those weights, in the random state to be replayed."""
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
    enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor], *, dual: bool = False
) -> tuple[list[Tensor], Tensor]:
    """H v and the detached loss.

    The backward pass needs no tangents: left inside the dual level it would carry them along, for a third
    derivative nobody asked for. Only layers that compute themselves again then (checkpointing) need `dual`.
    """
    with ExitStack() as outer:
        with ExitStack() as inside:
            inside.enter_context(fwad.dual_level())
            duals = [fwad.make_dual(p, x) for p, x in zip(phi, v, strict=True)]
            outer.enter_context(enter(duals))
            primal, tangent = fwad.unpack_dual(forward())
            if tangent is None:
                return [torch.zeros_like(p) for p in phi], primal.detach()
            if dual:
                outer.push(inside.pop_all())
        return gradient(tangent, phi), primal.detach()


class Hvp:
    """H v of one net's losses in the mode asked for.

    Forward formulas can be missing, and some of torch's are wrong when differentiated (batch and layer norm
    hold their statistics constant). So the first product in `rof` is made in both modes, and from then on the
    net has its verdict: `auto` takes `rof` where the two agree, else `rr`; `rof` alone refuses.
    """

    def __init__(self, net: nn.Module, mode: Mode) -> None:
        if mode not in ("rr", "rof", "auto"):
            raise UsageError(
                "unknown mode of Hessian-vector products",
                found=mode,
                expected="rr, rof, auto",
                remedy="finite differences are not offered: under L1 or Charbonnier losses they err by half",
            )
        self._net = net
        self._mode = mode
        self._key = tuple(m.training for m in net.modules())
        self._dual = False

    def __call__(
        self, enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        """H v and the detached loss."""
        agrees = False if self._mode == "rr" else _verdicts.get(self._net, {}).get(self._key)
        if agrees is None:
            return self._compare(enter, forward, phi, v)
        if agrees:
            return self._over_forward(enter, forward, phi, v)
        if self._mode == "rof":
            raise _unusable("they disagree with reverse mode, or are missing")
        return reverse_over_reverse(enter, forward, phi, v)

    def _compare(
        self, enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        right, loss = reverse_over_reverse(enter, forward, phi, v)
        chosen = right, loss
        try:
            other, other_loss = self._over_forward(enter, forward, phi, v)
        except (CheckpointError, RuntimeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if self._mode == "rof":
                raise _unusable(str(error).splitlines()[0]) from error
            agrees = False
        else:
            agrees = _distance(right, other) <= _tolerance(phi)
            if self._mode == "rof" and not agrees:
                raise _unusable(f"they are off by {_distance(right, other):.1e}")
            if agrees:  # a resumed run compares anew: its first product must have the bits of any other
                chosen = other, other_loss
        if _size(right) > 0:  # a product of zero proves nothing
            _verdicts.setdefault(self._net, {})[self._key] = agrees
        return chosen

    def _over_forward(
        self, enter: Enter, forward: Forward, phi: Sequence[Tensor], v: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor]:
        if not self._dual:
            try:
                return reverse_over_forward(enter, forward, phi, v)
            except CheckpointError:
                self._dual = True
        return reverse_over_forward(enter, forward, phi, v, dual=True)


_verdicts: WeakKeyDictionary[nn.Module, dict[object, bool]] = WeakKeyDictionary()
"""Per net, by mode of its layers: whether both modes gave the same product."""


def _unusable(why: str) -> DilkitError:
    return DilkitError(
        f"forward-mode derivatives of this module cannot be used: {why}", remedy="use hvp='rr' or 'auto'"
    )


def _size(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(torch._foreach_norm(list(tensors))).norm()


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return float(_size(torch._foreach_sub(list(a), list(b))) / _size(a).clamp(min=1e-30))


def _tolerance(phi: Sequence[Tensor]) -> float:
    if all(p.dtype in (torch.float64, torch.complex128) for p in phi):
        return 1e-9
    return 1e-2 if not torch.is_autocast_enabled() else 1e-1
