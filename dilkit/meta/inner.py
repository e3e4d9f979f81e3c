"""Inner optimisers as pure functions: weights, gradients and state in; new weights and state out.

Every update here is differentiable, so that one vector-Jacobian product through it (`pull_back`) is all the
adjoint needs to know about an optimiser.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError

Moments = dict[str, Tensor]
"""What an optimiser keeps of one parameter, by name (empty: nothing yet)."""
State = list[Moments]
"""That of every trainable parameter, in their order."""
Number = float | Tensor
"""A setting; a tensor that requires grad is learnable."""
Rate = float | Tensor | Mapping[str, float | Tensor]
"""A learning rate: a number; a tensor for all parameters (of one element, or one that broadcasts); or one of
them for each parameter by name or prefix (of one element, or shaped like it). Those that require grad are
learnable."""
Transform = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]
"""Gradients by parameter name to gradients by parameter name; differentiable."""
Names = Sequence[str]
Tensors = Sequence[Tensor]
Updated = tuple[list[Tensor], State]


class Inner(Protocol):
    """What the engine asks of an inner optimiser."""

    @property
    def linear(self) -> bool:
        """Whether the update is affine in weights, gradients and state (its derivative needs no gradient)."""
        ...

    def hyper(self) -> dict[str, Tensor]:
        """The learnable tensors of the optimiser itself, by name."""
        ...

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        """The next weights and state; the arguments are not changed."""
        ...


class _ByParameter:
    """An update that treats every parameter by itself."""

    @property
    def linear(self) -> bool:
        return False

    def step(self, name: str, p: Tensor, g: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        raise NotImplementedError

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        made = [self.step(*each) for each in zip(names, phi, grads, state, strict=True)]
        return [p for p, _ in made], [s for _, s in made]


def fresh(names: Names) -> State:
    """The state before the first step."""
    return [{} for _ in names]


def learnable(**settings: Any) -> dict[str, Tensor]:
    """Those of the settings that require grad, by name; `NAME.KEY` in mappings, `NAME[i]` in sequences."""
    out: dict[str, Tensor] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            parts = {f"{name}.{key}": v for key, v in value.items()}
        elif isinstance(value, tuple | list):
            parts = {f"{name}[{i}]": v for i, v in enumerate(value)}
        else:
            parts = {name: value}
        out |= {k: v for k, v in parts.items() if isinstance(v, Tensor) and v.requires_grad}
    return out


def rate_of(lr: Rate, name: str) -> Number:
    """The learning rate of one parameter."""
    if not isinstance(lr, Mapping):
        return lr
    key = key_of(lr, name)
    if key is None:
        raise UsageError(f"no inner learning rate for parameter {name!r}", found=", ".join(map(repr, lr)))
    return lr[key]


def key_of(keys: Iterable[str], name: str) -> str | None:
    """The key that is a parameter's name or the longest prefix of it (`head` of `head.weight`); `*` where no
    other fits, None where none does."""
    fits = [key for key in keys if key in ("*", name) or name.startswith(f"{key}.")]
    return max(fits, key=lambda key: -1 if key == "*" else len(key), default=None)


def is_on(setting: Number) -> bool:
    """Whether a setting that is off at 0 is on; a tensor always is."""
    return isinstance(setting, Tensor) or bool(setting)


def _moved(p: Tensor, lr: Number, d: Tensor) -> Tensor:
    """p - lr d, equal to the bit, with one new tensor instead of two: beside the passes, a step's time goes
    into new memory.
    """
    return torch.mul(d, -lr).add_(p)


def _require_rate(lr: Rate) -> None:
    for value in lr.values() if isinstance(lr, Mapping) else [lr]:
        if not isinstance(value, Tensor) and not (
            isinstance(value, int | float) and 0 < value < float("inf")
        ):
            raise UsageError("an inner learning rate is a positive number", found=value)


@dataclass(frozen=True)
class Sgd(_ByParameter):
    """phi - lr * g (Eq. 3), with momentum, Nesterov and weight decay as torch.optim.SGD defines them.

    torch's own cannot be differentiated with momentum: it detaches the first buffer. Learning rate, momentum
    and weight decay may be tensors, and are learnable where they require grad.
    """

    lr: Rate = 1e-2
    momentum: Number = 0.0
    nesterov: bool = False
    weight_decay: Number = 0.0
    dampening: float = 0.0
    maximize: bool = False

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        if self.nesterov and (not is_on(self.momentum) or self.dampening != 0):
            raise UsageError("Nesterov's step needs a momentum above 0 and no dampening")

    @property
    def linear(self) -> bool:
        return not self.hyper()

    def hyper(self) -> dict[str, Tensor]:
        return learnable(lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def step(self, name: str, p: Tensor, g: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        d = -g if self.maximize else g
        if is_on(self.weight_decay):
            d = d + self.weight_decay * p
        new: Moments = {}
        if is_on(self.momentum):
            old = s.get("momentum_buffer")
            v = d if old is None else self.momentum * old + (1 - self.dampening) * d
            new["momentum_buffer"] = v
            d = d + self.momentum * v if self.nesterov else v
        return _moved(p, rate_of(self.lr, name), d), new


@dataclass(frozen=True)
class Adam(_ByParameter):
    """Adam (Kingma and Ba, ICLR 2015) as torch.optim.Adam defines it, and AdamW with `decoupled` decay.

    torch's own, differentiated, counts steps in single precision and answers NaN where a gradient is exactly
    zero. Here a weight whose gradients were all zero stays put, and the derivative there is the identity.
    Learning rate, betas, eps and weight decay may be tensors, and are learnable where they require grad.
    """

    lr: Rate = 1e-3
    betas: tuple[Number, Number] = (0.9, 0.999)
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    decoupled: bool = False
    maximize: bool = False

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        for beta in self.betas:
            if not isinstance(beta, Tensor) and not 0 <= beta < 1:
                raise UsageError("a beta of Adam lies in [0, 1)", found=beta)

    def hyper(self) -> dict[str, Tensor]:
        return learnable(lr=self.lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

    def step(self, name: str, p: Tensor, g: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        decay = self.weight_decay * p if is_on(self.weight_decay) else None
        g = -g if self.maximize else g
        if decay is not None and not self.decoupled:
            g = g + decay
        beta1, beta2 = self.betas
        t = int(s["step"]) + 1 if s else 1
        m = (1 - beta1) * g
        v = (1 - beta2) * _square(g)
        if s:
            m = m + beta1 * s["exp_avg"]
            v = v + beta2 * s["exp_avg_sq"]
        moved = _real(v) > 0
        root = torch.where(moved, _real(v), torch.ones_like(_real(v))).sqrt() / (1 - beta2**t) ** 0.5
        d = torch.where(moved, _real(m) / (1 - beta1**t) / (root + self.eps), torch.zeros_like(_real(m)))
        d = torch.view_as_complex(d) if g.is_complex() else d
        if decay is not None and self.decoupled:
            d = d + decay
        new = {"step": torch.tensor(float(t), dtype=torch.float64), "exp_avg": m, "exp_avg_sq": v}
        return _moved(p, rate_of(self.lr, name), d), new


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x) if x.is_complex() else x


def _square(g: Tensor) -> Tensor:
    """Elementwise; of a complex tensor the real and the imaginary part apart, as torch's Adam does."""
    return torch.view_as_complex(_real(g).square()) if g.is_complex() else g.square()


_PROPORTIONAL = ("Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSprop")
"""Classes of torch whose update is proportional to the learning rate."""


@dataclass(frozen=True)
class TorchOptimizer:
    """Any torch.optim class that takes `differentiable=True`: its own step, made functional.

    A learning rate given as a tensor scales the update of the class's unit learning rate, which is the same
    thing for every class whose update is proportional to it; others, and learnable settings beside the rate,
    are refused.
    """

    cls: type[torch.optim.Optimizer]
    options: Mapping[str, Any]
    lr: Rate

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        learned = learnable(**self.options)
        if learned:
            raise UsageError(
                f"{next(iter(learned))} of torch.optim.{self.cls.__name__} cannot be learned",
                remedy="SGD, Adam and AdamW learn theirs; or pass it as a number",
            )
        if not isinstance(self.lr, int | float) and self.cls.__name__ not in _PROPORTIONAL:
            raise UsageError(
                f"torch.optim.{self.cls.__name__} takes no tensor as learning rate here: its update is not "
                "proportional to the rate",
                remedy="pass a number, or choose " + ", ".join(("SGD", *_PROPORTIONAL)),
            )

    @property
    def linear(self) -> bool:
        return False

    def hyper(self) -> dict[str, Tensor]:
        return learnable(lr=self.lr)

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        params = [p.clone() for p in phi]
        scaled = not isinstance(self.lr, int | float)
        options = {**self.options, "lr": 1.0 if scaled else self.lr}
        optimizer = self.cls(params, differentiable=True, **options)  # type: ignore[call-arg]
        originals = list(params)
        for p, g, s in zip(params, grads, state, strict=True):
            p.grad = g
            if s:
                optimizer.state[p] = {key: value.clone() for key, value in s.items()}
        optimizer.step()
        new = [{k: v for k, v in optimizer.state[p].items() if isinstance(v, Tensor)} for p in originals]
        if scaled:
            triples = zip(names, params, phi, strict=True)
            params = [old + rate_of(self.lr, name) * (p - old) for name, p, old in triples]
        return params, new


@dataclass(frozen=True)
class Learned(_ByParameter):
    """phi - lr * T(g): a learned intervention.

    `transforms` maps parameter names to modules that turn a gradient into an update of the same shape, such
    as learn2learn's `MetaCurvatureTransform` or `KroneckerTransform`; other parameters take a plain step.
    The parameters of the transforms are learnable: their gradients are under `NAME.transform.KEY`.
    """

    transforms: Mapping[str, nn.Module]
    lr: Rate = 1e-2

    def hyper(self) -> dict[str, Tensor]:
        parts = {f"{name}.transform": dict(t.named_parameters()) for name, t in self.transforms.items()}
        return learnable(lr=self.lr, **parts)

    def step(self, name: str, p: Tensor, g: Tensor, s: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        d = self.transforms[name](g) if name in self.transforms else g
        return _moved(p, rate_of(self.lr, name), d), {}


@dataclass(frozen=True)
class Transformed:
    """A rule applied to transformed gradients: clipped, masked, normalised, learned.

    `transform` maps gradients by name to gradients by name and is differentiated like the rest; where it is a
    module, its parameters are learnable, under `transform.KEY`.
    """

    rule: Inner
    transform: Transform

    @property
    def linear(self) -> bool:
        return False

    def hyper(self) -> dict[str, Tensor]:
        own = self.transform.named_parameters() if isinstance(self.transform, nn.Module) else ()
        return self.rule.hyper() | learnable(transform=dict(own))

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        made = self.transform(dict(zip(names, grads, strict=True)))
        if not isinstance(made, Mapping) or any(name not in made for name in names):
            raise UsageError("a gradient transform returns a gradient for every name it is given")
        return self.rule.update(names, phi, [made[name] for name in names], state)


@dataclass(frozen=True)
class Groups:
    """Another rule for each group of parameters; None freezes a group (its weights stay as they are).

    Keys are names or prefixes of names (`"head"` is `head.weight` and `head.bias`), the longest that fits
    counts; `"*"` is all others. Learnable tensors are under `KEY.NAME`.
    """

    rules: Mapping[str, Inner | None]

    @property
    def linear(self) -> bool:
        return all(rule.linear for rule in self.rules.values() if rule is not None)

    def hyper(self) -> dict[str, Tensor]:
        own = ((key, rule.hyper()) for key, rule in self.rules.items() if rule is not None)
        return {f"{key}.{name}": value for key, values in own for name, value in values.items()}

    def group_of(self, name: str) -> str:
        """Raises:
        UsageError: a parameter that belongs to no group.
        """
        key = key_of(self.rules, name)
        if key is None:
            raise UsageError(
                f"parameter {name!r} belongs to no group of the inner optimiser",
                found=", ".join(map(repr, self.rules)),
                remedy="add it, or '*': None to freeze all others",
            )
        return key

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        out, states = list(phi), [dict(s) for s in state]
        members: dict[str, list[int]] = {}
        for i, name in enumerate(names):
            members.setdefault(self.group_of(name), []).append(i)
        for key, at in members.items():
            rule = self.rules[key]
            if rule is None:
                continue
            given = [[x[i] for i in at] for x in (names, phi, grads, state)]
            for i, p, s in zip(at, *rule.update(*given), strict=True):  # type: ignore[arg-type]
                out[i], states[i] = p, s
        return out, states


@dataclass(frozen=True)
class PerStep:
    """Another rule for each inner step. Learnable tensors are under `NAME[k]`, k counting from 0.

    Attributes:
        rules: one for each step.
        k: the step whose rule this is; None: of no step yet (a single step by `Meta.step` is the first).
    """

    rules: Sequence[Inner]
    k: int | None = None

    def _present(self) -> list[tuple[int, Inner]]:
        return [(k, rule) for k, rule in enumerate(self.rules) if self.k in (None, k)]

    @property
    def linear(self) -> bool:
        return all(rule.linear for _, rule in self._present())

    def hyper(self) -> dict[str, Tensor]:
        return {f"{n}[{k}]": v for k, rule in self._present() for n, v in rule.hyper().items()}

    def update(self, names: Names, phi: Tensors, grads: Tensors, state: State) -> Updated:
        return self.rules[self.k or 0].update(names, phi, grads, state)


def at_step(rule: Inner, k: int) -> Inner:
    """The rule of inner step k, counting from 0.

    Raises:
        UsageError: more steps than rates.
    """
    if not isinstance(rule, PerStep):
        return rule
    if k >= len(rule.rules):
        raise UsageError(
            f"inner step {k + 1} has no learning rate", found=f"{len(rule.rules)} of them, one for each step"
        )
    return PerStep(rule.rules, k)


def optimizer(what: Any = 1e-2, *, transform: Transform | None = None, **options: Any) -> Inner:
    """An inner optimiser.

    Args:
        what: a learning rate (then SGD); a torch.optim class or a `functools.partial` of one; a sequence of
            any of these, one for each inner step; a mapping from parameter names or prefixes to any of
            these, or None to freeze them (`{"head": 0.1, "*": None}`); an inner optimiser itself. A
            torch.optim instance is read too, where the module is known: in `Meta.grad(inner=...)`.
        transform: maps gradients by name to gradients by name before each step; differentiable.
        options: of the class (or of SGD).

    Raises:
        UsageError: a class that cannot be differentiated, or an option it does not know.
    """
    made = _optimizer(what, options)
    return made if transform is None else Transformed(made, transform)


def _optimizer(what: Any, options: dict[str, Any]) -> Inner:
    if isinstance(what, type) and issubclass(what, torch.optim.Optimizer):
        return _from_class(what, options)
    if isinstance(what, functools.partial) and isinstance(what.func, type):
        if what.args:
            raise UsageError("a partial of an optimiser class has its options by name", found=what.args)
        return _optimizer(what.func, {**what.keywords, **options})
    if isinstance(what, Mapping) and not all(isinstance(v, Tensor) for v in what.values()):
        return Groups({k: None if v is None else _optimizer(v, options) for k, v in what.items()})
    if isinstance(what, int | float | Tensor | Mapping) and not isinstance(what, bool):
        return Sgd(lr=what, **options)
    if isinstance(what, Sequence) and not isinstance(what, str) and what:
        return PerStep([_optimizer(rate, options) for rate in what])
    if isinstance(what, torch.optim.Optimizer):
        raise UsageError(
            "an optimiser instance is read together with the module that it is for",
            remedy="pass it as inner=... to grad or step",
        )
    if not hasattr(what, "update") or not hasattr(what, "hyper"):
        raise UsageError(
            "this is no inner optimiser",
            found=what if isinstance(what, str) else type(what).__name__,
            expected="a learning rate, a torch.optim class, a partial of one, an instance, a list with one "
            "for each step, or a dict by parameter name",
        )
    if options:
        raise UsageError("options belong to an optimiser class", found=sorted(options))
    made: Inner = what
    return made


def inner_for(what: Any, params: Mapping[str, Tensor]) -> Inner:
    """The inner optimiser of a module with these trainable parameters (see `optimizer`).

    Of a torch.optim instance the class, the groups and their settings are read, not its state; parameters
    that it does not hold are frozen.
    """
    if not isinstance(what, torch.optim.Optimizer):
        made = optimizer(what)
        for rule in made.rules if isinstance(made, PerStep) else [made]:
            if isinstance(rule, Groups):
                for name in params:
                    rule.group_of(name)
                _require_known(rule.rules, params)
            elif isinstance(rule, Sgd) and isinstance(rule.lr, Mapping):
                _require_known(rule.lr, params)
        return made
    by_id = {id(p): name for name, p in params.items()}
    known = inspect.signature(type(what)).parameters
    groups: dict[str, Inner | None] = {}
    for group in what.param_groups:
        trainable = [p for p in group["params"] if p.requires_grad]
        foreign = next((p for p in trainable if id(p) not in by_id), None)
        if foreign is not None:
            raise UsageError(
                "the inner optimiser holds a parameter that is not this module's",
                found=f"shape {tuple(foreign.shape)}",
                remedy="build it on this module's parameters()",
            )
        rule = _from_class(type(what), {k: v for k, v in group.items() if k in known and k != "params"})
        groups |= {by_id[id(p)]: rule for p in trainable}
    if len(what.param_groups) == 1 and len(groups) == len(params):
        return rule
    return Groups({**groups, **dict.fromkeys((n for n in params if n not in groups), None)})


def _require_known(keys: Iterable[str], params: Mapping[str, Tensor]) -> None:
    used = {key_of(keys, name) for name in params}
    unused = [key for key in keys if key not in used and key != "*"]
    if unused:
        raise UsageError(
            f"the inner optimiser names {unused[0]!r}, which is no trainable parameter or part of the module",
            found=", ".join(list(params)[:8]),
        )


def _from_class(cls: type[torch.optim.Optimizer], options: dict[str, Any]) -> Inner:
    known = inspect.signature(cls).parameters
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise UsageError(f"{cls.__name__} has no option {unknown[0]!r}", expected=", ".join(known))
    how = ("differentiable", "foreach", "fused", "capturable")
    options = {"lr": known["lr"].default} | {k: v for k, v in options.items() if k not in how}
    if cls is torch.optim.SGD:
        return Sgd(**options)
    if cls in (torch.optim.Adam, torch.optim.AdamW) and not options.get("amsgrad"):
        options.pop("amsgrad", None)
        options.setdefault("weight_decay", known["weight_decay"].default)
        decoupled = options.pop("decoupled_weight_decay", False) or cls is torch.optim.AdamW
        return Adam(decoupled=decoupled, **options)
    if "differentiable" not in known:
        raise UsageError(
            f"torch.optim.{cls.__name__} has no differentiable step",
            remedy="choose another inner optimiser, such as SGD or Adam",
        )
    lr = options.pop("lr")
    return TorchOptimizer(cls, options, lr)


@dataclass(frozen=True)
class Cotangents:
    """Derivatives of a scalar with respect to what went into one update."""

    phi: list[Tensor]
    grads: list[Tensor]
    state: State
    hyper: dict[str, Tensor]


def pull_back(
    rule: Inner,
    names: Names,
    phi: Tensors,
    grads: Tensors | None,
    state: State,
    lam: list[Tensor],
    lam_state: State,
) -> Cotangents:
    """The vector-Jacobian product of one update at detached leaves.

    `grads` may be None where the rule is linear; the `phi` of a plain step is `lam` itself. Where an exactly
    zero gradient or moment meets a square root, autograd answers NaN; the cotangent there is taken as zero.
    """
    plain = rule.rules[rule.k or 0] if isinstance(rule, PerStep) else rule
    if isinstance(plain, Sgd) and plain.linear and not is_on(plain.momentum):  # by hand: one product
        sign = 1 if plain.maximize else -1
        c = [x * (sign * rate_of(plain.lr, n)) for n, x in zip(names, lam, strict=True)]
        decay = plain.weight_decay if not plain.maximize else -plain.weight_decay
        moved = [x + decay * y for x, y in zip(lam, c, strict=True)] if is_on(decay) else lam
        return Cotangents(moved, c, fresh(names), {})
    leaves = [p.detach().requires_grad_() for p in phi]
    # of a linear rule any value will do; an expanded zero has no memory of its own
    gs = [p.new_zeros(()).expand(p.shape) if grads is None else grads[i].detach() for i, p in enumerate(phi)]
    gs = [g.requires_grad_() for g in gs]
    old = [{k: _leaf(k, v, p) for k, v in s.items()} for s, p in zip(state, phi, strict=True)]
    hyper = rule.hyper()
    with torch.enable_grad():
        new, states = rule.update(names, leaves, gs, old)
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
    if not rule.linear:
        pairs = zip(zeroed, [*gs, *flat], strict=False)
        zeroed = [c.masked_fill((at.detach() == 0) & ~c.isfinite(), 0.0) for c, at in pairs]
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
