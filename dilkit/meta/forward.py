"""The way out: virtual steps and the gradients of the outer losses, in their natural order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta import random_state
from dilkit.meta.finite import require_finite, size
from dilkit.meta.guards import refuse_modified, refuse_outside_parameters, versions
from dilkit.meta.hvp import gradient, twice_differentiable
from dilkit.meta.rules import State
from dilkit.meta.trajectory import Setting, Step, Sum, Term


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
