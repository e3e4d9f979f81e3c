"""The update rules of inner optimisers: SGD, Adam, any other of torch's, and learned ones.

Inner optimisers as pure functions: weights, gradients and state in; new weights and state out.

Every update here is differentiable, so that one vector-Jacobian product through it is all the adjoint needs
to know about an optimiser.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError

State = list[dict[str, Tensor]]
"""Per trainable parameter, in their order: the optimiser's tensors by name (empty: none yet)."""
Rate = float | Tensor | Mapping[str, Tensor]
"""A learning rate: a number; a tensor for all parameters (of one element, or one that broadcasts); or a
tensor for each parameter by name (of one element, or shaped like it). Those that require grad are learnable.
"""


def fresh(names: Sequence[str]) -> State:
    return [{} for _ in names]


def learnable(lr: Rate) -> dict[str, Tensor]:
    if isinstance(lr, Tensor):
        return {"lr": lr} if lr.requires_grad else {}
    if isinstance(lr, Mapping):
        return {f"lr.{name}": value for name, value in lr.items() if value.requires_grad}
    return {}


def rate_of(lr: Rate, name: str) -> float | Tensor:
    if not isinstance(lr, Mapping):
        return lr
    try:
        return lr[name]
    except KeyError:
        raise UsageError(f"no inner learning rate for parameter {name!r}") from None


@dataclass(frozen=True)
class Sgd:
    """phi - lr * g (Eq. 3), with momentum, Nesterov and weight decay as torch.optim.SGD defines them.

    torch's own cannot be differentiated with momentum: it detaches the first buffer.
    """

    lr: Rate = 1e-2
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    dampening: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.lr, int | float) and not self.lr > 0:
            raise UsageError("an inner learning rate is a positive number", found=self.lr)
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise UsageError("Nesterov's step needs a momentum above 0 and no dampening")

    @property
    def linear(self) -> bool:
        return not self.hyper()

    def hyper(self) -> dict[str, Tensor]:
        return learnable(self.lr)

    def update(
        self, names: Sequence[str], phi: Sequence[Tensor], grads: Sequence[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        out, states = [], []
        for name, p, g, s in zip(names, phi, grads, state, strict=True):
            d = -g if self.maximize else g
            if self.weight_decay:
                d = d + self.weight_decay * p
            new: dict[str, Tensor] = {}
            if self.momentum:
                old = s.get("momentum_buffer")
                v = d if old is None else self.momentum * old + (1 - self.dampening) * d
                new["momentum_buffer"] = v
                d = d + self.momentum * v if self.nesterov else v
            out.append(p - rate_of(self.lr, name) * d)
            states.append(new)
        return out, states


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, ICLR 2015) as torch.optim.Adam defines it, and AdamW with `decoupled` decay.

    torch's own, differentiated, counts steps in single precision and answers NaN where a gradient is exactly
    zero. Here a weight whose gradients were all zero stays put, and the derivative there is the identity.
    """

    lr: Rate = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False
    linear: bool = False

    def hyper(self) -> dict[str, Tensor]:
        return learnable(self.lr)

    def update(
        self, names: Sequence[str], phi: Sequence[Tensor], grads: Sequence[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        out, states = [], []
        for name, p, g, s in zip(names, phi, grads, state, strict=True):
            lr = rate_of(self.lr, name)
            decay = self.weight_decay * p if self.weight_decay else None
            g = -g if self.maximize else g
            if decay is not None and not self.decoupled:
                g = g + decay
            d, new = self._direction(g, s)
            states.append(new)
            out.append(p - lr * (d + decay if decay is not None and self.decoupled else d))
        return out, states

    def _direction(self, g: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        beta1, beta2 = self.betas
        t = int(state["step"]) + 1 if state else 1
        m = (1 - beta1) * g
        v = (1 - beta2) * _square(g)
        if state:
            m = m + beta1 * state["exp_avg"]
            v = v + beta2 * state["exp_avg_sq"]
        moved = _real(v) > 0
        root = torch.where(moved, _real(v), torch.ones_like(_real(v))).sqrt() / (1 - beta2**t) ** 0.5
        d = torch.where(moved, _real(m) / (1 - beta1**t) / (root + self.eps), torch.zeros_like(_real(m)))
        new = {"step": torch.tensor(float(t), dtype=torch.float64), "exp_avg": m, "exp_avg_sq": v}
        return (torch.view_as_complex(d) if g.is_complex() else d), new


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _square(g: Tensor) -> Tensor:
    """Elementwise; of a complex tensor the real and the imaginary part apart, as torch's Adam does."""
    return torch.view_as_complex(_real(g).square()) if g.is_complex() else g.square()


@dataclass(frozen=True)
class TorchOptimizer:
    """Any torch.optim class that takes `differentiable=True`: its own step, made functional.

    A learning rate given as a tensor scales the update of the class's unit learning rate, which is the same
    thing for every class whose update is proportional to it.
    """

    cls: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    lr: Rate | None = None
    linear: bool = False

    def hyper(self) -> dict[str, Tensor]:
        return {} if self.lr is None else learnable(self.lr)

    def update(
        self, names: Sequence[str], phi: Sequence[Tensor], grads: Sequence[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        params = [p.clone() for p in phi]
        options = dict(self.options)
        if self.lr is not None:
            options["lr"] = 1.0 if not isinstance(self.lr, int | float) else self.lr
        optimizer = self.cls(params, differentiable=True, **options)  # type: ignore[call-arg]
        originals = list(params)
        for p, g, s in zip(params, grads, state, strict=True):
            p.grad = g
            if s:
                optimizer.state[p] = {key: value.clone() for key, value in s.items()}
        optimizer.step()
        new = [{k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)} for p in originals]
        if self.lr is None or isinstance(self.lr, int | float):
            return params, new
        scaled = [
            old + rate_of(self.lr, name) * (p - old) for name, p, old in zip(names, params, phi, strict=True)
        ]
        return scaled, new


@dataclass(frozen=True)
class Learned:
    """phi - lr * T(g): a learned intervention.

    `transforms` maps parameter names to modules that turn a gradient into an update of the same shape, such
    as learn2learn's `MetaCurvatureTransform` or `KroneckerTransform`; other parameters take a plain step.
    The parameters of the transforms are learnable: their gradients are under `NAME.transform.KEY`.
    """

    transforms: Mapping[str, nn.Module]
    lr: Rate = 1e-2
    linear: bool = False

    def hyper(self) -> dict[str, Tensor]:
        out = learnable(self.lr)
        for name, transform in self.transforms.items():
            out |= {f"{name}.transform.{k}": p for k, p in transform.named_parameters() if p.requires_grad}
        return out

    def update(
        self, names: Sequence[str], phi: Sequence[Tensor], grads: Sequence[Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        out = []
        for name, p, g in zip(names, phi, grads, strict=True):
            d = self.transforms[name](g) if name in self.transforms else g
            out.append(p - rate_of(self.lr, name) * d)
        return out, fresh(names)


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
