"""A module and how it is to be driven: what all trajectories from its present weights share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.guards import RandomState, inspect_graph, one_of, refuse_module, replayed
from dilkit.meta.inner import Inner
from dilkit.meta.swap import Slots, clones, swapped

Keep = int | Literal["all", "auto"]
KeepWeights = Literal["device", "cpu", "recompute"]
Buffers = Literal["isolate", "commit_last", "commit_mean", "frozen"]
Reduce = Callable[[list[Tensor]], None]
"""Averages tensors over the processes, in place."""

_step: ContextVar[int] = ContextVar("inner step", default=0)


def inner_step() -> int:
    """How many virtual updates the weights of the present forward pass have taken (0 outside of any)."""
    return _step.get()


@dataclass(frozen=True)
class Setting:
    """The module and how it is to be driven; the same for all trajectories from these weights.

    Attributes:
        net: any module; its weights, gradients, buffers (but see `buffers`), mode and hooks stay as they are.
        rule: the inner optimiser.
        outside: tensors that losses depend on beside the module's, to be differentiated too.
        keep: of how many of the last inner steps the graph is kept instead of being made again; `auto`: of as
            many as fit in `memory` bytes (by default half of what is free), by the size of the first step's.
        keep_weights: where phi_k (and the optimiser's state) waits for the adjoint: on the `device`, on the
            `cpu`, or only at every sqrt(K)-th step, the others to be `recompute`d by one more pass a step.
        buffers: what becomes of buffers that forward passes change. Along a trajectory they move on, on a
            copy; then the copy is dropped (`isolate`), or written to the module: the one the last trajectory
            ended with (`commit_last`), or the mean over the trajectories (`commit_mean`). With `frozen`
            every forward pass starts from the module's own. Recomputation never moves them.
        truncate: go back through that many of the last inner steps only, the derivatives of the others taken
            as the identity. Biased: what is dropped is of the order of (inner rate) x (steps) x (curvature).
        reduce: averages a list of tensors over the processes, in place: every virtual gradient, outer
            gradient and curvature, so that all processes walk one trajectory.
        where: the outer step, for error messages.
    """

    net: nn.Module
    rule: Inner
    slots: Slots
    theta: list[Tensor]
    outside: Mapping[str, Tensor] = field(default_factory=dict)
    keep: Keep = 0
    memory: int | None = None
    keep_weights: KeepWeights = "device"
    buffers: Buffers = "isolate"
    truncate: int | None = None
    reduce: Reduce | None = None
    where: str | None = None

    @classmethod
    def of(cls, net: nn.Module, rule: Inner, **settings: Any) -> Setting:
        """Raises:
        UsageError: a module whose weights cannot be swapped, or a setting that means nothing.
        """
        slots = Slots.of(net)
        made = cls(net, rule, slots, slots.param_values(), **settings)
        refuse_module(net, dict(zip(made.names, made.theta, strict=True)))
        if isinstance(made.keep, str):
            one_of("keep", made.keep, ("all", "auto"))
        elif isinstance(made.keep, bool) or not isinstance(made.keep, int) or made.keep < 0:
            raise UsageError("keep is a number of inner steps, 'all' or 'auto'", found=made.keep)
        one_of("keep_weights", made.keep_weights, ("device", "cpu", "recompute"))
        one_of("buffers", made.buffers, ("isolate", "commit_last", "commit_mean", "frozen"))
        if made.truncate is not None and (not isinstance(made.truncate, int) or made.truncate < 1):
            raise UsageError("truncate is a number of inner steps, at least 1", found=made.truncate)
        return made

    @property
    def names(self) -> list[str]:
        return list(self.slots.params)

    @property
    def devices(self) -> frozenset[int]:
        return frozenset(p.device.index or 0 for p in self.theta if p.device.type == "cuda")

    @contextmanager
    def on(self, params: Sequence[Tensor], buffers: Sequence[Tensor], k: int) -> Iterator[None]:
        """The module on `params` and a copy of `buffers`, as after k updates."""
        token = _step.set(k)
        try:
            with swapped(self.slots, params, clones(buffers)):
                yield
        finally:
            _step.reset(token)

    @contextmanager
    def replay(
        self, params: Sequence[Tensor], buffers: Sequence[Tensor], random: RandomState, k: int
    ) -> Iterator[None]:
        """The same, drawing what was drawn from the random state `random` on."""
        with replayed(random), self.on(params, buffers, k):
            yield

    def guard(self, loss: Tensor, virtual: Sequence[Tensor], *, twice: bool = False) -> None:
        """Refuse a loss whose derivatives would be silently wrong (see `inspect_graph`)."""
        reached = [*virtual, *self.outside.values()]
        inspect_graph(
            loss,
            own={id(p): name for name, p in zip(self.names, self.theta, strict=True)},
            known=frozenset(map(id, reached)),
            stop=frozenset(t.grad_fn for t in reached if t.grad_fn is not None),
            twice=twice,
        )

    def moved_buffers(self, before: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the module's buffers; a large one that has not changed is the one of `before`."""
        now = self.slots.buffer_values()
        return [
            old if new.numel() >= 1 << 14 and torch.equal(old, new) else new.detach().clone()
            for old, new in zip(before, now, strict=True)
        ]

    def commit(self, met: Sequence[Sequence[Tensor]]) -> None:
        """Apply the buffer policy to the buffers that each trajectory ended with, once all have succeeded."""
        if self.buffers in ("isolate", "frozen"):
            return
        with torch.no_grad():
            for target, *values in zip(self.slots.buffer_values(), *met, strict=True):
                mean = self.buffers == "commit_mean" and target.is_floating_point()
                target.copy_(torch.stack(values).mean(0) if mean else values[-1])
