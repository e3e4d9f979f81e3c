"""What the adapters share: a trajectory walked by a library that keeps the whole graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from dilkit.errors import UsageError
from dilkit.meta.first_order import Reduce
from dilkit.meta.guards import require_finite, size
from dilkit.meta.inner import Inner, State
from dilkit.meta.trajectory import Order, Setting, Sum, Term, Trajectory


class Walk(Protocol):
    """A library's virtual module and how it steps."""

    module: nn.Module

    def step(self, loss: Tensor) -> None: ...

    def params(self) -> list[Tensor]:
        """The virtual weights now, in the order of the trainable parameters."""
        ...


class UnrolledEngine:
    """The interface of `dilkit.meta.adjoint.Engine`, over a library. Exact where the library is; the memory
    grows with every step.
    """

    backend: str

    def __init__(
        self,
        net: nn.Module,
        optimizer: Inner,
        *,
        hvp: str = "auto",
        keep: int | Literal["all"] = 0,
        buffers: str = "isolate",
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> None:
        for what, asked, served in (
            ("hvp", hvp, ("auto", "rr")),
            ("keep", keep, (0, "all")),
            ("buffers", buffers if any(True for _ in net.buffers()) else "isolate", ("isolate", "frozen")),
            ("reduce", reduce, (None,)),
        ):
            if asked not in served:
                raise self.refusal(f"{what}={asked!r}")
        self.setting = Setting.of(net, optimizer, where=where)
        self.optimizer = optimizer

    def refusal(self, what: str, able: str = "native") -> UsageError:
        return UsageError(
            f"the {self.backend} backend cannot serve {what}", remedy=f"use backend={able!r}, which can"
        )

    def walk(self, *, exact: bool) -> AbstractContextManager[Walk]:
        raise NotImplementedError

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory:
        """See `dilkit.meta.adjoint.Engine.run`."""
        if state is not None and any(state):
            raise self.refusal("a carried inner state")
        setting, exact = self.setting, order == "exact"
        inner: dict[str, Tensor] = {}
        measured: dict[tuple[int, str], Tensor] = {}
        totals: list[Tensor] = []
        first_order = Sum()

        def measure(k: int, walk: Walk) -> None:
            if order == "reptile" or not outer.get(k):
                return
            losses = [term.loss(walk.module) for term in outer[k]]
            measured.update({(k, t.name): x.detach() for t, x in zip(outer[k], losses, strict=True)})
            total = torch.stack([t.weight * x for t, x in zip(outer[k], losses, strict=True)]).sum()
            if exact:
                totals.append(total)
            else:
                first_order.add(
                    torch.autograd.grad(total, walk.params(), allow_unused=True, materialize_grads=True)
                )

        buffers = setting.slots.buffer_values()
        with (
            torch.enable_grad(),
            refused_checkpoints(self),
            setting.world(setting.theta, buffers),
            self.walk(exact=exact) as walk,
        ):
            measure(0, walk)
            for k, terms in enumerate(steps):
                losses = [term.loss(walk.module) for term in terms]
                names = [t.name if t.name not in inner else f"{t.name} (step {k + 1})" for t in terms]
                inner.update({n: x.detach() for n, x in zip(names, losses, strict=True)})
                total = torch.stack([t.weight * x for t, x in zip(terms, losses, strict=True)]).sum()
                walk.step(total)
                measure(k + 1, walk)
            phi = [p.detach() for p in walk.params()]
            hyper = self.optimizer.hyper()
            grads: list[Tensor] = first_order.total()
            learned: list[Tensor] = []
            if order == "reptile":
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], phi))
            elif exact:
                inputs = [*setting.theta, *hyper.values()]
                got = torch.autograd.grad(
                    torch.stack(totals).sum(), inputs, allow_unused=True, materialize_grads=True
                )
                grads, learned = list(got[: len(setting.theta)]), list(got[len(setting.theta) :])
        scalars = {f"the loss of {name}": x for name, x in inner.items()}
        scalars |= {f"the outer loss of {name} after step {k}": x for (k, name), x in measured.items()}
        require_finite(scalars | {"the meta-gradient": size(grads)}, where=setting.where)
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            dict(zip(hyper, learned, strict=True)) if exact else {},
            inner,
            measured,
            dict(zip(setting.names, phi, strict=True)),
            [],
            buffers,
        )

    def settle(self, trajectories: Sequence[Trajectory]) -> None:
        """The module's buffers stay as they were: all these backends offer."""


@contextmanager
def refused_checkpoints(engine: UnrolledEngine) -> Iterator[None]:
    """Checkpointed layers read their weights again during the backward pass, after the library has moved
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
