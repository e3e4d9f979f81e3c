"""What a trajectory of virtual updates is made of, and what it gives.

The way out: virtual steps and the gradients of the outer losses, in their natural order.

From batches to trajectories: which losses are stepped on, and which are measured where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta import guards as random_state
from dilkit.meta.first_order import Closure, Reduce
from dilkit.meta.guards import (
    RandomState,
    refuse_modified,
    refuse_outside_parameters,
    replayed,
    require_finite,
    size,
    versions,
)
from dilkit.meta.hvp import gradient, twice_differentiable
from dilkit.meta.inner import Inner, State
from dilkit.meta.swap import Slots, clones, slots, swapped

Order = Literal["exact", "fomaml", "reptile"]


@dataclass(frozen=True)
class Term:
    """One loss: its name (for logs and errors), closure(module) -> scalar, and weight in its sum."""

    name: str
    loss: Closure
    weight: float = 1.0


@dataclass(frozen=True)
class Trajectory:
    """What one trajectory gives.

    Attributes:
        grads: by parameter name, the gradient of the weighted sum of the outer losses (`exact`), the same
            with the updates' derivatives taken as the identity (`fomaml`), or theta - phi_K (`reptile`).
        hyper: by name, the gradient for the inner optimiser's learnable tensors (`exact` only).
        inner: detached loss of every inner term, by name of the term.
        outer: detached loss of every outer term, by (step, name).
        phi: the final virtual weights.
        state: the inner optimiser's state after the last step, for the next trajectory.
        buffers: the module's buffers after the last forward pass.
    """

    grads: dict[str, Tensor]
    hyper: dict[str, Tensor]
    inner: dict[str, Tensor]
    outer: dict[tuple[int, str], Tensor]
    phi: dict[str, Tensor]
    state: State
    buffers: list[Tensor]


@dataclass(frozen=True)
class Setting:
    """The module and how it is to be driven; the same for all trajectories from these weights."""

    net: nn.Module
    optimizer: Inner
    slots: Slots
    theta: list[Tensor]
    keep: int | Literal["all"]
    frozen_buffers: bool
    reduce: Reduce | None
    where: str | None

    @classmethod
    def of(
        cls,
        net: nn.Module,
        optimizer: Inner,
        *,
        keep: int | Literal["all"] = 0,
        frozen_buffers: bool = False,
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> Setting:
        found = slots(net)
        if not found.params:
            raise UsageError("the module has no trainable parameter")
        if torch.is_inference_mode_enabled():
            raise UsageError("gradients cannot be taken inside torch.inference_mode()")
        if keep != "all" and keep < 0:
            raise UsageError("keep is a number of inner steps or 'all'", found=keep)
        return cls(net, optimizer, found, found.param_values(), keep, frozen_buffers, reduce, where)

    @property
    def names(self) -> list[str]:
        return list(self.slots.params)

    @property
    def devices(self) -> frozenset[int]:
        return frozenset(p.device.index or 0 for p in self.theta if p.device.type == "cuda")

    def world(self, params: Sequence[Tensor], buffers: Sequence[Tensor]) -> AbstractContextManager[None]:
        """The module on `params` and a copy of `buffers`."""
        return swapped(self.slots, params, clones(buffers))

    @contextmanager
    def replay(
        self, params: Sequence[Tensor], buffers: Sequence[Tensor], random: RandomState
    ) -> Iterator[None]:
        """The same, drawing what was drawn from the random state `random` on."""
        with replayed(random), self.world(params, buffers):
            yield


@dataclass
class Step:
    """What is kept of an inner step until the adjoint comes back to it.

    Of each term: the buffers and the random state before it, its loss, and with `keep` the gradients with
    their graph. `grads` (the step's gradient) is kept only if the derivative of the update needs it.
    """

    phi: list[Tensor]
    state: State
    grads: list[Tensor] | None = None
    buffers: list[list[Tensor]] = field(default_factory=list)
    random: list[RandomState] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    graphs: list[list[Tensor]] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)


class Sum:
    """A weighted sum of lists of tensors that never writes into a list it was given."""

    def __init__(self) -> None:
        self._total: list[Tensor] = []
        self._owned = False

    def add(self, part: Sequence[Tensor], weight: float = 1.0) -> None:
        if not self._total:
            self._owned = weight != 1.0
            self._total = list(torch._foreach_mul(list(part), weight)) if self._owned else list(part)
        elif self._owned:
            torch._foreach_add_(self._total, list(part), alpha=weight)
        else:
            self._total = list(torch._foreach_add(self._total, list(part), alpha=weight))
            self._owned = True

    def total(self, reduce: Reduce | None = None) -> list[Tensor]:
        """The sum, averaged over the processes by `reduce`."""
        if reduce is not None:
            self._total = self._total if self._owned else clones(self._total)
            reduce(self._total)
        return self._total


class Forward:
    """A trajectory while it is walked; afterwards, what there is to know of it.

    Args:
        recording: whether an adjoint follows, so that the steps must be remembered.
    """

    def __init__(self, setting: Setting, state: State, *, recording: bool) -> None:
        self._setting = setting
        self._recording = recording
        self._scalars: dict[str, Tensor] = {}
        self._checked = False
        self.phi: list[Tensor] = [p.detach() for p in setting.theta]
        self.state = state
        self.buffers: list[Tensor] = setting.slots.buffer_values()
        self.steps: list[Step] = []
        self.outer_grads: dict[int, list[Tensor]] = {}
        self.inner_losses: dict[str, Tensor] = {}
        self.outer_losses: dict[tuple[int, str], Tensor] = {}

    def walk(self, steps: Sequence[Sequence[Term]], outer: Mapping[int, Sequence[Term]]) -> None:
        """All inner steps, and the outer losses wherever there are some."""
        keep = len(steps) if self._setting.keep == "all" else self._setting.keep
        self._measure(0, outer)
        for k, terms in enumerate(steps):
            self._advance(k, terms, keep=self._recording and k >= len(steps) - keep)
            self._measure(k + 1, outer)
        require_finite(self._scalars, where=self._setting.where)

    def _advance(self, k: int, terms: Sequence[Term], *, keep: bool) -> None:
        setting = self._setting
        step = Step(self.phi, self.state)
        leaves: list[Tensor] = [nn.Parameter(p) for p in self.phi]
        total = Sum()
        for term in terms:
            if self._recording:
                step.buffers.append(self._buffers_now())
                step.random.append(random_state.capture(setting.devices))
            grads, loss = self._pass(term, leaves, keep=keep)
            if keep:
                step.graphs.append(grads)
                step.leaves = leaves
                grads = [g.detach() for g in grads]
            step.losses.append(loss)
            name = term.name if term.name not in self.inner_losses else f"{term.name} (step {k + 1})"
            self.inner_losses[name] = self._scalars[f"the loss of {name}"] = loss
            self._scalars[f"the gradient of {name}"] = size(grads)
            total.add(grads, term.weight)
        grads = total.total(setting.reduce)
        if self._recording:
            step.grads = None if setting.optimizer.linear else grads
            self.steps.append(step)
        with torch.no_grad():
            phi, state = setting.optimizer.update(setting.names, self.phi, grads, self.state)
        self.phi = [p.detach() for p in phi]
        self.state = [{key: value.detach() for key, value in s.items()} for s in state]

    def _measure(self, k: int, outer: Mapping[int, Sequence[Term]]) -> None:
        """The outer losses at phi_k and the weighted sum of their gradients."""
        if not outer.get(k):
            return
        leaves: list[Tensor] = [nn.Parameter(p) for p in self.phi]
        total = Sum()
        for term in outer[k]:
            grads, loss = self._pass(term, leaves, keep=False)
            self.outer_losses[k, term.name] = loss
            self._scalars[f"the outer loss of {term.name} after step {k}"] = loss
            self._scalars[f"the outer gradient of {term.name} after step {k}"] = size(grads)
            total.add(grads, term.weight)
        self.outer_grads[k] = total.total(self._setting.reduce)

    def _pass(self, term: Term, leaves: list[Tensor], *, keep: bool) -> tuple[list[Tensor], Tensor]:
        """One forward and backward pass at `leaves`; the buffers move on."""
        setting = self._setting
        before = versions(leaves)
        if torch.is_autocast_enabled():
            torch.clear_autocast_cache()
        differentiable = twice_differentiable(setting.net) if keep else nullcontext()
        with setting.world(leaves, self._buffers_now()), differentiable:
            loss = term.loss(setting.net)
            _require_scalar(loss, term.name)
            self.buffers = [b.detach().clone() for b in setting.slots.buffer_values()]
            refuse_modified(setting.names, leaves, before)
            if not self._checked:
                refuse_outside_parameters(loss, dict(zip(setting.names, setting.theta, strict=True)))
                self._checked = True
            return gradient(loss, leaves, create_graph=keep), loss.detach()

    def _buffers_now(self) -> list[Tensor]:
        return self._setting.slots.buffer_values() if self._setting.frozen_buffers else self.buffers


def _require_scalar(loss: object, name: str) -> None:
    if not isinstance(loss, Tensor) or loss.ndim != 0:
        raise UsageError(
            "a loss closure returns a scalar tensor",
            where=name,
            found=tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__,
        )


Shape = Literal["chain", "star"]
Outer = Literal["all", "others", "same"]


@dataclass(frozen=True)
class Plan:
    """One trajectory: the terms of each inner step, and of the outer loss after step k, by k."""

    steps: list[list[Term]]
    outer: dict[int, list[Term]]


def plan(
    loss: Callable[[nn.Module, Any], Tensor],
    batches: Mapping[str, Any] | Sequence[Any],
    *,
    shape: Shape,
    outer: Outer,
    outer_batches: Mapping[str, Any] | Sequence[Any] | None,
    outer_loss: Callable[[nn.Module, Any], Tensor],
    outer_weights: Sequence[float] | None,
) -> list[Plan]:
    """The trajectories of one meta-gradient (see `Meta.grad` for the arguments)."""
    inside = _named(batches)
    outside = inside if outer_batches is None else _named(outer_batches)
    if not inside:
        raise UsageError("a trajectory needs at least one batch")
    _check(shape, outer, inside, outside, outer_weights)

    def measured(label: str, weight: float) -> list[Term]:
        chosen = {
            "all": list(outside),
            "same": [label],
            "others": [name for name in outside if name != label],
        }[outer]
        return [Term(n, _on(outer_loss, outside[n]), weight / len(chosen)) for n in chosen]

    steps = {name: [Term(name, _on(loss, batch))] for name, batch in inside.items()}
    if shape == "star":
        return [Plan([step], {1: measured(name, 1.0)}) for name, step in steps.items()]
    weights = outer_weights or [0.0] * (len(inside) - 1) + [1.0]
    after = {
        k: measured(name, weight)
        for k, (name, weight) in enumerate(zip(inside, weights, strict=True), start=1)
        if weight
    }
    return [Plan(list(steps.values()), after)]


def _check(
    shape: Shape,
    outer: Outer,
    inside: Mapping[str, Any],
    outside: Mapping[str, Any],
    weights: Sequence[float] | None,
) -> None:
    for what, value, known in (
        ("trajectory", shape, ("chain", "star")),
        ("outer", outer, ("all", "others", "same")),
    ):
        if value not in known:
            raise UsageError(f"unknown {what}", found=value, expected=", ".join(known))
    missing = [] if outer == "all" else [name for name in inside if name not in outside]
    if missing:
        raise UsageError(
            f"`outer={outer!r}` needs an outer batch of each name", found=sorted(outside), expected=missing
        )
    if outer == "others" and len(outside) < 2:
        raise UsageError("`outer='others'` needs at least two batches")
    if weights is not None and (shape == "star" or len(weights) != len(inside) or not any(weights)):
        raise UsageError(
            "`outer_weights` gives one weight for each step of a chain, not all zero",
            found=list(weights),
            expected=f"{len(inside)} numbers, with trajectory='chain'",
        )


def _named(batches: Mapping[str, Any] | Sequence[Any]) -> dict[str, Any]:
    return dict(batches) if isinstance(batches, Mapping) else {str(i): b for i, b in enumerate(batches)}


def _on(loss: Callable[[nn.Module, Any], Tensor], batch: Any) -> Callable[[nn.Module], Tensor]:
    return lambda module: loss(module, batch)
