"""Trajectories whose whole graph is kept: the plainest way to exact gradients, and the judge of all others.

`Unrolled` does it with this package's own swap and inner optimisers; the adapters over libraries derive from
it. Exact wherever unrolling is; the memory grows with every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dilkit.errors import UsageError
from dilkit.meta.guards import is_compiled, one_of, require_finite, require_scalar, size
from dilkit.meta.hvp import gradient, twice_differentiable
from dilkit.meta.inner import Inner, State, at_step, fresh
from dilkit.meta.setting import Reduce, Setting
from dilkit.meta.swap import clones
from dilkit.meta.trajectory import Order, Record, Sum, Term, Trajectory, walk


class Stepper(Protocol):
    """A virtual module and how it steps."""

    module: nn.Module

    def step(self, loss: Tensor, k: int) -> None: ...

    def params(self) -> list[Tensor]:
        """The virtual weights now, in the order of the trainable parameters."""
        ...


class Unrolled:
    """The interface of `dilkit.meta.backends.native.Engine`, over a graph that is kept whole."""

    backend = "unrolled"

    def __init__(
        self,
        net: nn.Module,
        rule: Inner,
        *,
        outside: Mapping[str, Tensor] | None = None,
        keep: Any = 0,
        memory: int | None = None,
        keep_weights: str = "device",
        buffers: str = "isolate",
        truncate: int | None = None,
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> None:
        one_of("buffers", buffers, ("isolate", "commit_last", "commit_mean", "frozen"))
        for what, asked, served in (
            ("keep", keep, (0, "all")),
            ("memory", memory, (None,)),
            ("keep_weights", keep_weights, ("device",)),
            ("buffers", buffers if any(True for _ in net.buffers()) else "isolate", ("isolate",)),
            ("truncate", truncate, (None,)),
            ("reduce", reduce, (None,)),
        ):
            if asked not in served:
                raise self.refusal(f"{what}={asked!r}")
        if is_compiled(net):
            raise self.refusal("compiled modules")
        if any(isinstance(m, torch.jit.ScriptModule) for m in net.modules()):
            raise self.refusal("scripted modules")
        self.setting = Setting.of(net, rule, outside=outside, where=where)

    def refusal(self, what: str, able: str = "native") -> UsageError:
        return UsageError(
            f"the {self.backend} backend cannot serve {what}", remedy=f"use backend={able!r}, which can"
        )

    def stepper(self, *, exact: bool, state: State | None) -> AbstractContextManager[Stepper]:
        """The virtual module, for the time of one trajectory."""
        return nullcontext(_OwnStepper(self.setting, exact, state or fresh(self.setting.names)))

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory:
        """See `dilkit.meta.backends.native.Engine.run`."""
        one_of("order", order, ("exact", "fomaml", "reptile"))
        setting, exact, record = self.setting, order == "exact", Record()
        with (
            torch.enable_grad(),
            refused_checkpoints(self),
            twice_differentiable(setting.net) if exact else nullcontext(),
            setting.on(setting.theta, setting.slots.buffer_values(), 0),
            self.stepper(exact=exact, state=state) as stepper,
        ):
            kept = _Kept(setting, stepper, exact=exact)
            walk(kept, steps, {} if order == "reptile" else outer, record)
            phi = [p.detach() for p in stepper.params()]
            hyper, outside = setting.rule.hyper() if exact else {}, dict(setting.outside)
            grads = kept.first_order.total()
            rest = list(kept.first_outside.total())
            if order == "reptile":
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], phi))
            elif exact:
                inputs = [*setting.theta, *hyper.values(), *outside.values()]
                got = gradient(torch.stack(kept.totals).sum(), inputs)
                grads, rest = got[: len(phi)], got[len(phi) :]
        require_finite(record.scalars | {"the meta-gradient": size(grads)}, where=setting.where)
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            dict(zip(hyper, rest, strict=False)),
            dict(zip(outside, rest[len(hyper) :], strict=False)),
            record.inner,
            record.outer,
            dict(zip(setting.names, phi, strict=True)),
            getattr(stepper, "state", []),
            setting.slots.buffer_values(),
        )

    def settle(self, trajectories: Sequence[Trajectory]) -> None:
        """The module's buffers stay as they were: all these backends offer."""


class _Kept:
    """Virtual weights that keep the graph of all their updates."""

    def __init__(self, setting: Setting, stepper: Stepper, *, exact: bool) -> None:
        self._setting, self._stepper, self._exact = setting, stepper, exact
        self.k = 0
        self.totals: list[Tensor] = []
        self.first_order, self.first_outside = Sum(), Sum()
        self._losses: list[Tensor] = []

    def descend(self, term: Term) -> tuple[Tensor, None]:
        loss = self._pass(term)
        self._losses.append(term.weight * loss)
        return loss.detach(), None

    def update(self) -> None:
        total = self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).sum()
        self._stepper.step(total, self.k)
        self._losses = []
        self.k += 1

    def measure(self, term: Term) -> tuple[Tensor, None]:
        loss = self._pass(term)
        if self._exact:
            self.totals.append(term.weight * loss)
        else:
            params, outside = self._stepper.params(), list(self._setting.outside.values())
            made = gradient(loss, [*params, *outside])
            self.first_order.add(made[: len(params)], term.weight)
            if outside:
                self.first_outside.add(made[len(params) :], term.weight)
        return loss.detach(), None

    def _pass(self, term: Term) -> Tensor:
        setting = self._setting
        loss = term.loss(self._stepper.module)
        require_scalar(loss, term.name)
        virtual = self._stepper.params()
        own = {id(p) for p in setting.theta}
        if not any(id(p) in own for p in virtual):
            setting.guard(loss, virtual, twice=self._exact)
        return loss


class _OwnStepper:
    """This package's own swap and inner optimisers, nothing detached."""

    def __init__(self, setting: Setting, exact: bool, state: State) -> None:
        self.module, self.state = setting.net, state
        self._setting, self._exact = setting, exact
        self._install([p.clone() if exact else nn.Parameter(p.detach()) for p in setting.theta])

    def step(self, loss: Tensor, k: int) -> None:
        setting = self._setting
        grads = gradient(loss, self._phi, create_graph=self._exact)
        rule = at_step(setting.rule, k)
        with torch.set_grad_enabled(self._exact):
            new, self.state = rule.update(setting.names, self._phi, grads, self.state)
        self._install(new if self._exact else [nn.Parameter(p) for p in new])
        setting.slots.set_buffers(clones(setting.slots.buffer_values()))

    def params(self) -> list[Tensor]:
        return self._phi

    def _install(self, phi: list[Tensor]) -> None:
        self._phi = phi
        self._setting.slots.set_params(phi)


@contextmanager
def refused_checkpoints(engine: Unrolled) -> Iterator[None]:
    """Checkpointed layers read their weights again during the backward pass, after the engine has moved
    them: the gradient would be silently wrong.
    """
    enter = saved_tensors_hooks.__enter__

    def watched(self: saved_tensors_hooks) -> Any:
        if type(self).__module__ == "torch.utils.checkpoint":
            raise engine.refusal("layer-checkpointed modules (it would answer with wrong gradients)")
        return enter(self)

    saved_tensors_hooks.__enter__ = watched  # type: ignore[method-assign]
    try:
        yield
    finally:
        saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
