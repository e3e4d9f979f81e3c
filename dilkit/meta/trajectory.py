"""What a trajectory of virtual updates is made of, and what it gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.chain import Closure, Reduce
from dilkit.meta.inner import Inner
from dilkit.meta.random_state import RandomState, replayed
from dilkit.meta.rules import State
from dilkit.meta.worlds import Slots, clones, slots, swapped

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
