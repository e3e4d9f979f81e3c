"""The way out: virtual updates (`virtual_update` is the one place that takes them) and the outer losses.

    phi_0 = theta,    phi_{k+1}, s_{k+1} = U(phi_k, g_k, s_k),    g_k = sum_i w_i grad L_{k,i}(phi_k)

A `Carrier` says what carries phi: tensors swapped into the module (here), a copy of the module
(`first_order`), or a graph that is kept whole, ours or a library's (`backends`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from dilkit.meta.guards import RandomState, Untouched, require_scalar, size
from dilkit.meta.hvp import Graph, gradient, graph_of, twice_differentiable
from dilkit.meta.inner import State, at_step
from dilkit.meta.setting import Reduce, Setting
from dilkit.meta.swap import clones

Order = Literal["exact", "fomaml", "reptile"]
Closure = Callable[[nn.Module], Tensor]
"""closure(module) -> scalar loss."""


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
        outside: by name, the gradient for declared tensors that are not the module's.
        inner: detached loss of every inner term, by name of the term.
        outer: detached loss of every outer term, by (step, name).
        phi: the final virtual weights.
        state: the inner optimiser's state after the last step, for the next trajectory.
        buffers: the module's buffers after the last forward pass.
        change: what the last step that a truncated adjoint went back through changed in the gradient,
            relative to it; None where nothing was truncated.
    """

    grads: dict[str, Tensor]
    hyper: dict[str, Tensor]
    outside: dict[str, Tensor]
    inner: dict[str, Tensor]
    outer: dict[tuple[int, str], Tensor]
    phi: dict[str, Tensor]
    state: State
    buffers: list[Tensor]
    change: float | None = None


@dataclass
class Record:
    """The losses met, and every scalar that must be finite, in order of making."""

    inner: dict[str, Tensor] = field(default_factory=dict)
    outer: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    scalars: dict[str, Tensor] = field(default_factory=dict)

    def stepped(self, k: int, name: str, loss: Tensor, norm: Tensor | None) -> None:
        name = name if name not in self.inner else f"{name} (step {k + 1})"
        self.inner[name] = self.scalars[f"the loss of {name}"] = loss
        if norm is not None:
            self.scalars[f"the gradient of {name}"] = norm

    def measured(self, k: int, name: str, loss: Tensor, norm: Tensor | None) -> None:
        self.outer[k, name] = self.scalars[f"the outer loss of {name} after step {k}"] = loss
        if norm is not None:
            self.scalars[f"the outer gradient of {name} after step {k}"] = norm


class Carrier(Protocol):
    """What carries the virtual weights; `k` updates have been taken."""

    k: int

    def descend(self, term: Term) -> tuple[Tensor, Tensor | None]:
        """Add a term's gradient to that of the step; its detached loss and the size of its gradient."""
        ...

    def update(self) -> None:
        """Take the step on what was added: phi_k becomes phi_{k+1}."""
        ...

    def measure(self, term: Term) -> tuple[Tensor, Tensor | None]:
        """Add a term of the outer loss at phi_k; as `descend`."""
        ...


def virtual_update(carrier: Carrier, terms: Sequence[Term], record: Record) -> None:
    """phi_{k+1} = U(phi_k, sum_i w_i grad L_i(phi_k)): the one place where a virtual update is taken (Eq. 3;
    with several terms Eq. 5). One term at a time is in memory.
    """
    for term in terms:
        record.stepped(carrier.k, term.name, *carrier.descend(term))
    carrier.update()


def walk(
    carrier: Carrier, steps: Sequence[Sequence[Term]], outer: Mapping[int, Sequence[Term]], record: Record
) -> None:
    """All virtual updates, and the outer losses wherever there are some."""
    for k in range(len(steps) + 1):
        for term in outer.get(k, ()):
            record.measured(k, term.name, *carrier.measure(term))
        if k < len(steps):
            virtual_update(carrier, steps[k], record)


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
        if reduce is not None and self._total:
            self._total = self._total if self._owned else clones(self._total)
            reduce(self._total)
        return self._total


@dataclass
class Step:
    """What is kept of an inner step until the adjoint comes back to it.

    Of each term: the buffers and the random state before it, its loss, and if `kept` the graph of its
    gradients. `grads` (the step's gradient) is kept only if the derivative of the update needs it.
    """

    phi: list[Tensor]
    state: State
    kept: bool = False
    grads: list[Tensor] | None = None
    buffers: list[list[Tensor]] = field(default_factory=list)
    random: list[RandomState] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    graphs: list[Graph] = field(default_factory=list)
    leaves: list[Tensor] = field(default_factory=list)


class Remembering(Protocol):
    """What remembers steps for an adjoint (`dilkit.meta.tape.Tape`)."""

    def keeps(self, k: int) -> bool: ...

    def counting(self) -> AbstractContextManager[object]: ...

    def remember(self, step: Step) -> None: ...


class Swapped:
    """Virtual weights that are swapped into the module for each pass: nothing of it is copied or changed.

    Args:
        state: the inner optimiser's, to start from.
        tape: what remembers the steps for the adjoint; None where none follows.
        start: phi_0; theta by default.
    """

    def __init__(
        self,
        setting: Setting,
        state: State,
        tape: Remembering | None = None,
        start: Sequence[Tensor] | None = None,
    ) -> None:
        self._setting, self._tape = setting, tape
        self.k = 0
        self.phi: list[Tensor] = [p.detach() for p in start or setting.theta]
        self.state = state
        self.buffers: list[Tensor] = clones(setting.slots.buffer_values())
        self.outer: dict[int, Sum] = {}
        self.outside = Sum()
        self._begin()
        self._first = True

    def _begin(self) -> None:
        self._leaves: list[Tensor] = [nn.Parameter(p) for p in self.phi]
        self._step = Step(self.phi, self.state, self._tape is not None and self._tape.keeps(self.k))
        self._total = Sum()

    def descend(self, term: Term) -> tuple[Tensor, Tensor]:
        step = self._step
        if self._tape is not None:
            step.buffers.append(self._buffers_now())
            step.random.append(RandomState.now(self._setting.devices))
        counting = self._tape.counting() if self._tape is not None and step.kept else nullcontext()
        with counting:
            grads, loss = self._pass(term, create_graph=step.kept, twice=self._tape is not None)
        if step.kept:
            step.graphs.append(graph_of(grads))
            step.leaves = self._leaves
            grads = [g.detach() for g in grads]
        step.losses.append(loss)
        self._total.add(grads, term.weight)
        return loss, size(grads)

    def update(self) -> None:
        setting, rule = self._setting, at_step(self._setting.rule, self.k)
        grads = self._total.total(setting.reduce)
        with torch.no_grad():
            phi, state = rule.update(setting.names, self.phi, grads, self.state)
        if self._tape is not None:
            self._step.grads = None if rule.linear else grads
            self._tape.remember(self._step)
        self.phi = [p.detach() for p in phi]
        self.state = [{key: value.detach() for key, value in s.items()} for s in state]
        self.k += 1
        self._begin()

    def measure(self, term: Term) -> tuple[Tensor, Tensor]:
        outside = list(self._setting.outside.values())
        made, loss = self._pass(term, outside)
        self.outer.setdefault(self.k, Sum()).add(made[: len(self.phi)], term.weight)
        if outside:
            self.outside.add(made[len(self.phi) :], term.weight)
        return loss, size(made)

    def _pass(
        self, term: Term, outside: Sequence[Tensor] = (), *, create_graph: bool = False, twice: bool = False
    ) -> tuple[list[Tensor], Tensor]:
        """One forward and backward pass at the leaves, under every guard; the buffers move on."""
        setting, leaves, before = self._setting, self._leaves, self._buffers_now()
        untouched = Untouched(setting.names, leaves, values=self._first)
        self._first = False
        if torch.is_autocast_enabled():
            torch.clear_autocast_cache()
        differentiable = twice_differentiable(setting.net) if create_graph else nullcontext()
        with setting.on(leaves, before, self.k), differentiable:
            loss = term.loss(setting.net)
            require_scalar(loss, term.name)
            self.buffers = setting.moved_buffers(before)
            untouched.require()
            setting.guard(loss, leaves, twice=twice)
            return gradient(loss, [*leaves, *outside], create_graph=create_graph), loss.detach()

    def _buffers_now(self) -> list[Tensor]:
        return self._setting.slots.buffer_values() if self._setting.buffers == "frozen" else self.buffers
