"""Inner optimisers as pure functions: weights, gradients and state in; new weights and state out.

Every update here is differentiable, so that one vector-Jacobian product through it is all the adjoint needs
to know about an optimiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from dilkit.errors import UsageError
from dilkit.meta.rules import Adam, Sgd, State, TorchOptimizer


class Inner(Protocol):
    """What the engine asks of an inner optimiser."""

    @property
    def linear(self) -> bool:
        """Whether the update is affine in weights, gradients and state (its derivative needs no gradient)."""
        ...

    def hyper(self) -> dict[str, Tensor]:
        """The learnable tensors of the optimiser itself, by name."""
        ...

    def update(
        self, names: Sequence[str], phi: Sequence[Tensor], grads: Sequence[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        """The next weights and state; the arguments are not changed."""
        ...


def optimizer(
    what: float | Tensor | Mapping[str, Tensor] | type[torch.optim.Optimizer] | Inner, **options: Any
) -> Inner:
    """An inner optimiser from a learning rate (then SGD), a torch.optim class with its options, or itself.

    Raises:
        UsageError: a class that cannot be differentiated, or an option it does not know.
    """
    if isinstance(what, type) and issubclass(what, torch.optim.Optimizer):
        return _from_class(what, options)
    if isinstance(what, int | float | Tensor | Mapping):
        return Sgd(lr=what, **options)
    if options:
        raise UsageError("options belong to an optimiser class", found=sorted(options))
    return what


def _from_class(cls: type[torch.optim.Optimizer], options: dict[str, Any]) -> Inner:
    known = inspect.signature(cls).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"{cls.__name__} has no option {unknown[0]!r}", expected=", ".join(known))
    for key in ("differentiable", "foreach", "fused", "capturable"):
        options.pop(key, None)
    if cls is torch.optim.SGD:
        return Sgd(**options)
    if cls in (torch.optim.Adam, torch.optim.AdamW) and not options.get("amsgrad"):
        options.pop("amsgrad", None)
        options.setdefault("weight_decay", known["weight_decay"].default)
        decoupled = options.pop("decoupled_weight_decay", cls is torch.optim.AdamW)
        return Adam(decoupled=decoupled, **options)
    if "differentiable" not in known:
        raise UsageError(
            f"torch.optim.{cls.__name__} has no differentiable step",
            remedy="choose another inner optimiser, such as SGD or Adam",
        )
    options.setdefault("lr", known["lr"].default)
    return TorchOptimizer(cls, options, options.pop("lr"))


@dataclass(frozen=True)
class Cotangents:
    """Derivatives of a scalar with respect to what went into one update."""

    phi: list[Tensor]
    grads: list[Tensor]
    state: State
    hyper: dict[str, Tensor]


def pull_back(
    update_rule: Inner,
    names: Sequence[str],
    phi: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    state: State,
    lam: Sequence[Tensor],
    lam_state: State,
) -> Cotangents:
    """The vector-Jacobian product of one update at detached leaves.

    `grads` may be None where the optimiser is linear. Where an exactly zero gradient or moment meets a
    square root, autograd answers NaN; the cotangent there is taken as zero.
    """
    leaves = [p.detach().requires_grad_() for p in phi]
    gs = [(torch.zeros_like(p) if grads is None else grads[i].detach()) for i, p in enumerate(phi)]
    gs = [g.requires_grad_() for g in gs]
    old = [{k: _leaf(k, v, p) for k, v in s.items()} for s, p in zip(state, phi, strict=True)]
    hyper = update_rule.hyper()
    with torch.enable_grad():
        new, states = update_rule.update(names, leaves, gs, old)
        outputs, cotangents = list(new), list(lam)
        for made, wanted in zip(states, lam_state, strict=True):
            for key, cotangent in wanted.items():
                if made[key].requires_grad:
                    outputs.append(made[key])
                    cotangents.append(cotangent)
        flat = [v for s in old for v in s.values() if v.requires_grad]
        inputs = [*leaves, *gs, *flat, *hyper.values()]
        got = torch.autograd.grad(
            outputs, inputs, grad_outputs=cotangents, allow_unused=True, materialize_grads=True
        )
    n = len(leaves)
    zeroed = list(got[n:])
    if not update_rule.linear:
        zeroed = [_zero_where_undefined(c, at) for c, at in zip(zeroed, [*gs, *flat], strict=False)]
    rest = iter(zeroed[n:])
    return Cotangents(
        list(got[:n]),
        zeroed[:n],
        [{k: next(rest) for k, v in s.items() if v.requires_grad} for s in old],
        dict(zip(hyper, got[len(got) - len(hyper) :], strict=True)),
    )


def _leaf(key: str, value: Tensor, like: Tensor) -> Tensor:
    differentiable = key != "step" and value.shape == like.shape and value.dtype == like.dtype
    return value.detach().clone().requires_grad_(differentiable)


def _zero_where_undefined(cotangent: Tensor, at: Tensor) -> Tensor:
    undefined = (at.detach() == 0) & ~cotangent.isfinite()
    return torch.where(undefined, torch.zeros_like(cotangent), cotangent)
