"""Trajectories whose whole graph is kept: the plainest way to exact gradients, and the judge of all others.

`Unrolled` does it with this package's own swap and inner optimisers; the adapters over libraries derive from
it. Exact wherever unrolling is; the memory grows with every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dilkit.errors import UsageError
from dilkit.meta.guards import Untouched, is_compiled, require_finite, require_scalar, size
from dilkit.meta.hvp import gradient, twice_differentiable
from dilkit.meta.inner import State, at_step, fresh
from dilkit.meta.setting import Setting
from dilkit.meta.swap import clones
from dilkit.meta.trajectory import Order, Record, Sum, Term, Trajectory, walk


class Kept:
    """Virtual weights that keep the graph of all their updates, by this package's own swap and inner
    optimisers; those of a library override `step` and `params`.
    """

    def __init__(self, setting: Setting, module: nn.Module, exact: bool, state: State | None = None) -> None:
        self.setting, self.module, self.exact = setting, module, exact
        self.state: State = state or []
        self.k = 0
        self.totals: list[Tensor] = []
        self.first_order, self.first_outside = Sum(), Sum()
        self._losses: list[Tensor] = []
        self._first = True

    def params(self) -> list[Tensor]:
        """The virtual weights now, in the order of the trainable parameters."""
        return self.setting.slots.param_values()

    def step(self, loss: Tensor) -> None:
        """Move on along the gradient of the loss, nothing detached."""
        setting, phi, rule = self.setting, self.params(), at_step(self.setting.rule, self.k)
        grads = gradient(loss, phi, create_graph=self.exact)
        with torch.set_grad_enabled(self.exact):
            new, self.state = rule.update(setting.names, phi, grads, self.state or fresh(setting.names))
        setting.slots.set_params(new if self.exact else [nn.Parameter(p) for p in new])
        setting.slots.set_buffers(clones(setting.slots.buffer_values()))

    def descend(self, term: Term) -> tuple[Tensor, None]:
        loss = self._pass(term)
        self._losses.append(term.weight * loss)
        return loss.detach(), None

    def update(self) -> None:
        self.step(self._losses[0] if len(self._losses) == 1 else torch.stack(self._losses).sum())
        self._losses = []
        self.k += 1

    def measure(self, term: Term) -> tuple[Tensor, None]:
        loss = self._pass(term)
        if self.exact:
            self.totals.append(term.weight * loss)
        else:
            params, outside = self.params(), list(self.setting.outside.values())
            made = gradient(loss, [*params, *outside])
            self.first_order.add(made[: len(params)], term.weight)
            if outside:
                self.first_outside.add(made[len(params) :], term.weight)
        return loss.detach(), None

    def _pass(self, term: Term) -> Tensor:
        own, virtual = {id(p) for p in self.setting.theta}, self.params()
        untouched = Untouched(self.setting.names, virtual, values=self._first)
        self._first = False
        loss = term.loss(self.module)
        require_scalar(loss, term.name)
        untouched.require()
        if not any(id(p) in own for p in virtual):
            self.setting.guard(loss, virtual, twice=self.exact)
        return loss


class Unrolled:
    """The interface of `dilkit.meta.backends.native.Engine`, over a graph that is kept whole."""

    backend = "unrolled"

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        modules = list(setting.net.modules())
        for what, asked, served in (
            ("keep", setting.keep, (0, "all")),
            ("memory", setting.memory, (None,)),
            ("keep_weights", setting.keep_weights, ("device",)),
            ("buffers", setting.buffers if setting.slots.buffers else "isolate", ("isolate",)),
            ("truncate", setting.truncate, (None,)),
            ("reduce", setting.reduce, (None,)),
        ):
            if asked not in served:
                raise self.refusal(f"{what}={asked!r}")
        if is_compiled(setting.net):
            raise self.refusal("compiled modules")
        if any(isinstance(m, torch.jit.ScriptModule) for m in modules):
            raise self.refusal("scripted modules")

    def refusal(self, what: str, able: str = "native") -> UsageError:
        return UsageError(
            f"the {self.backend} backend cannot serve {what}", remedy=f"use backend={able!r}, which can"
        )

    def carrier(self, *, exact: bool, state: State | None) -> AbstractContextManager[Kept]:
        """The virtual module, for the time of one trajectory."""
        setting = self.setting
        setting.slots.set_params([p.clone() if exact else nn.Parameter(p.detach()) for p in setting.theta])
        return nullcontext(Kept(setting, setting.net, exact, state))

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory:
        """See `dilkit.meta.backends.native.Engine.run`."""
        setting, exact, record = self.setting, order == "exact", Record()
        with (
            torch.enable_grad(),
            self._refused_checkpoints(),
            twice_differentiable(setting.net) if exact else nullcontext(),
            setting.on(setting.theta, setting.slots.buffer_values(), 0),
            self.carrier(exact=exact, state=state) as kept,
        ):
            walk(kept, steps, {} if order == "reptile" else outer, record)
            phi = [p.detach() for p in kept.params()]
            hyper = setting.rule.hyper() if exact else {}
            grads, rest = kept.first_order.total(), kept.first_outside.total()
            if order == "reptile":
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], phi))
            elif exact:
                inputs = [*setting.theta, *hyper.values(), *setting.outside.values()]
                got = gradient(torch.stack(kept.totals).sum(), inputs)
                grads, rest = got[: len(phi)], got[len(phi) :]
        require_finite(record.scalars | {"the meta-gradient": size(grads)}, where=setting.where)
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            dict(zip(hyper, rest, strict=False)),
            dict(zip(setting.outside, rest[len(hyper) :], strict=False)),
            record.inner,
            record.outer,
            dict(zip(setting.names, phi, strict=True)),
            kept.state,
            setting.slots.buffer_values(),
        )

    @contextmanager
    def _refused_checkpoints(self) -> Iterator[None]:
        """Checkpointed layers read their weights again during the backward pass, after the engine has moved
        them: the gradient would be silently wrong.
        """
        enter, refusal = saved_tensors_hooks.__enter__, self.refusal

        def watched(self: saved_tensors_hooks) -> Any:
            if type(self).__module__ == "torch.utils.checkpoint":
                raise refusal("layer-checkpointed modules (it would answer with wrong gradients)")
            return enter(self)

        saved_tensors_hooks.__enter__ = watched  # type: ignore[method-assign]
        try:
            yield
        finally:
            saved_tensors_hooks.__enter__ = enter  # type: ignore[method-assign]
