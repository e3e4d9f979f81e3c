"""What an adjoint remembers of a trajectory, and how much memory that may take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from dilkit.meta.footprint import Counter, available
from dilkit.meta.hvp import gradient
from dilkit.meta.inner import at_step
from dilkit.meta.setting import Setting
from dilkit.meta.trajectory import Record, Step, Sum, Term, virtual_update


class Tape:
    """The steps of one trajectory of `length` updates, to be taken back last one first; what is kept of them
    is said by `keep`, `memory` and `keep_weights` of the setting.
    """

    def __init__(self, setting: Setting, length: int) -> None:
        self._setting, self._length = setting, length
        self._keep = math.inf if isinstance(setting.keep, str) else setting.keep
        self._counter = Counter(setting.net) if setting.keep == "auto" else None
        self._stride = math.isqrt(max(0, length - 1)) + 1
        self._steps: list[Step] = []

    def keeps(self, k: int) -> bool:
        """Whether step k is to keep its graph."""
        return k >= self._length - self._keep

    def counting(self) -> AbstractContextManager[object]:
        """Around a pass whose graph is kept."""
        return self._counter.hooks() if self._counter is not None else nullcontext()

    def remember(self, step: Step) -> None:
        k = len(self._steps)
        self._steps.append(step)
        if self._counter is not None:
            memory = self._setting.memory
            budget = memory if memory is not None else available(step.leaves[0].device) // 2
            self._keep = budget // max(1, self._counter.now())
            self._counter = None
            if not self.keeps(k):
                step.kept, step.graphs, step.leaves = False, [], []
        if step.kept:
            return
        if self._setting.keep_weights == "cpu":
            step.phi = [p.to("cpu") for p in step.phi]
            step.state = [{n: v.to("cpu") for n, v in s.items()} for s in step.state]
        elif self._setting.keep_weights == "recompute" and k % self._stride:
            step.phi, step.state, step.grads = [], [], None

    def recall(self, terms: Sequence[Sequence[Term]]) -> Step:
        """The last step not yet taken back, whole; it is forgotten here. `terms`: those of every step."""
        k = len(self._steps) - 1
        rule = at_step(self._setting.rule, k)
        if not self._steps[k].phi:
            again = _Again(self._setting, self._steps, k - k % self._stride)
            while again.k < k or (again.k == k and not rule.linear):
                virtual_update(again, terms[again.k], Record())
        step = self._steps.pop()
        if self._setting.keep_weights == "cpu":
            places = [t.device for t in self._setting.theta]
            step.phi = [p.to(d) for p, d in zip(step.phi, places, strict=True)]
            step.state = [
                {n: v if n == "step" else v.to(d) for n, v in s.items()}
                for s, d in zip(step.state, places, strict=True)
            ]
        return step


class _Again:
    """Recorded steps taken once more, to fill in the weights that were not kept."""

    def __init__(self, setting: Setting, steps: list[Step], start: int) -> None:
        self._setting, self._steps, self.k = setting, steps, start
        self._total = Sum()
        self._taken = 0

    def descend(self, term: Term) -> tuple[Tensor, None]:
        step, i = self._steps[self.k], self._taken
        leaves: list[Tensor] = [nn.Parameter(p) for p in step.phi]
        with self._setting.replay(leaves, step.buffers[i], step.random[i], self.k):
            loss = term.loss(self._setting.net)
            self._total.add(gradient(loss, leaves), term.weight)
        self._taken += 1
        return loss.detach(), None

    def update(self) -> None:
        setting, step, rule = self._setting, self._steps[self.k], at_step(self._setting.rule, self.k)
        grads = self._total.total(setting.reduce)
        step.grads = None if rule.linear else grads
        self.k += 1
        if self.k < len(self._steps):
            with torch.no_grad():
                phi, state = rule.update(setting.names, step.phi, grads, step.state)
            self._steps[self.k].phi = [p.detach() for p in phi]
            self._steps[self.k].state = [{n: v.detach() for n, v in s.items()} for s in state]
        self._total, self._taken = Sum(), 0

    def measure(self, term: Term) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError("outer losses are measured once")
