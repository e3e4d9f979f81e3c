"""A module and how it is to be driven: what all trajectories from its present weights share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dilkit.meta.guards import RandomState, inspect_graph, refuse_module, replayed
from dilkit.meta.inner import Inner
from dilkit.meta.swap import Slots, clones, swapped

Reduce = Callable[[list[Tensor]], None]
"""Averages tensors over the processes, in place."""

_step: ContextVar[int] = ContextVar("inner step", default=0)


def inner_step() -> int:
    """How many virtual updates the weights of the present forward pass have taken (0 outside of any)."""
    return _step.get()


@dataclass(frozen=True)
class Setting:
    """The module and how it is to be driven; the same for all trajectories from these weights."""

    net: nn.Module
    rule: Inner
    slots: Slots
    theta: list[Tensor]
    outside: Mapping[str, Tensor]
    frozen_buffers: bool = False
    reduce: Reduce | None = None
    where: str | None = None

    @classmethod
    def of(
        cls,
        net: nn.Module,
        rule: Inner,
        *,
        outside: Mapping[str, Tensor] | None = None,
        frozen_buffers: bool = False,
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> Setting:
        slots = Slots.of(net)
        theta = slots.param_values()
        refuse_module(net, dict(zip(slots.params, theta, strict=True)))
        return cls(net, rule, slots, theta, outside or {}, frozen_buffers, reduce, where)

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
        inspect_graph(
            loss,
            own={id(p): name for name, p in zip(self.names, self.theta, strict=True)},
            known=frozenset(map(id, [*virtual, *self.outside.values()])),
            stop=frozenset(t.grad_fn for t in [*virtual, *self.outside.values()] if t.grad_fn is not None),
            twice=twice,
        )

    def moved_buffers(self, before: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the module's buffers; a large one that has not changed is the one of `before`."""
        now = self.slots.buffer_values()
        return [
            old if new.numel() >= 1 << 14 and torch.equal(old, new) else new.detach().clone()
            for old, new in zip(before, now, strict=True)
        ]
