"""`net.meta`: what a module can do under virtual weights.

`dilkit.meta(...)`: one descriptor on a class, and nothing else changes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, ParamSpec, TypeVar, overload

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.adjoint import Buffers
from dilkit.meta.backends import Backend, engine_for
from dilkit.meta.first_order import Reduce
from dilkit.meta.guards import refuse_outside_parameters, require_finite, size
from dilkit.meta.hvp import Mode, gradient
from dilkit.meta.inner import Inner, State, fresh
from dilkit.meta.inner import optimizer as as_inner
from dilkit.meta.swap import clones, ordered, slots, swapped
from dilkit.meta.trajectory import Order, Outer, Shape, plan

BatchLoss = Any
"""loss(module, batch) -> scalar."""
Batches = Mapping[str, Any] | Sequence[Any]


@dataclass(frozen=True)
class MetaGradient:
    """What `net.meta.grad` gives.

    Attributes:
        grads: the direction for theta, by parameter name.
        hyper: gradients for the inner optimiser's learnable tensors, by name.
        inner: detached inner losses by batch name (at the weights met).
        outer: detached outer losses by (trajectory, step, batch name).
        loss: the detached outer objective; the mean inner loss for `reptile`, which has none.
        state: the inner optimiser's state, to carry into the next call (chains only).
    """

    grads: dict[str, Tensor]
    hyper: dict[str, Tensor]
    inner: dict[str, Tensor]
    outer: dict[tuple[int, int, str], Tensor]
    loss: Tensor
    state: State | None


class Meta:
    """A module's virtual worlds. Holds nothing but the module; making one is free."""

    __slots__ = ("_net",)

    def __init__(self, net: nn.Module) -> None:
        self._net = net

    def __repr__(self) -> str:
        return f"<dilkit.meta of {type(self._net).__name__}>"

    def theta(self) -> dict[str, Tensor]:
        """The trainable parameters, detached, by name: where every trajectory starts."""
        where = slots(self._net)
        return {n: p.detach() for n, p in zip(where.params, where.param_values(), strict=True)}

    @contextmanager
    def at(
        self, phi: Mapping[str, Tensor], *, buffers: Mapping[str, Tensor] | None = None
    ) -> Iterator[nn.Module]:
        """The module under virtual weights `phi`; put back on every exit.

        Names left out keep the module's own weights. Buffers are copies (of `buffers` where given), so what
        the forward pass changes in them is gone afterwards. Take gradients inside: layer-checkpointed modules
        read their weights again during the backward pass.
        """
        where = slots(self._net)
        copies = clones(where.buffer_values())
        for i, name in enumerate(where.buffers):
            if buffers is not None and name in buffers:
                copies[i] = buffers[name].detach().clone()
        with swapped(where, ordered(where, phi), copies):
            yield self._net

    def step(
        self,
        phi: Mapping[str, Tensor],
        loss: BatchLoss,
        batch: Any,
        *,
        inner: float | Inner = 1e-2,
        state: State | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """One virtual update from `phi` on loss(module, batch) (Eq. 3); detached.

        Returns:
            the new virtual weights, and the inner optimiser's state for the next step.
        """
        optimizer = as_inner(inner)
        start = self.theta() | dict(phi)
        leaves = {name: nn.Parameter(p.detach()) for name, p in start.items()}
        with torch.enable_grad(), self.at(leaves) as module:
            value = loss(module, batch)
            grads = gradient(value, list(leaves.values()))
        refuse_outside_parameters(value, dict(self._net.named_parameters()))
        require_finite({"the loss of this step": value, "the gradient of this step": size(grads)})
        with torch.no_grad():
            names = list(start)
            values = [p.detach() for p in leaves.values()]
            new, states = optimizer.update(names, values, grads, state or fresh(names))
        return dict(zip(names, (p.detach() for p in new), strict=True)), states

    def grad(
        self,
        loss: BatchLoss,
        batches: Batches,
        *,
        inner: float | Inner = 1e-2,
        trajectory: Shape = "chain",
        order: Order = "exact",
        outer: Outer = "all",
        outer_batches: Batches | None = None,
        outer_loss: BatchLoss | None = None,
        outer_weights: Sequence[float] | None = None,
        state: State | None = None,
        hvp: Mode = "auto",
        keep: int | Literal["all"] = 0,
        buffers: Buffers = "isolate",
        backend: Backend = "native",
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> MetaGradient:
        """The gradient for theta through virtual updates on `batches`.

        Args:
            loss: loss(module, batch) -> scalar, of the virtual updates.
            batches: one inner step for each, in order; named, or numbered from 0.
            inner: a learning rate (then SGD) or an inner optimiser (`dilkit.meta.optimizer` makes one).
            trajectory: `chain`: one trajectory through all batches; `star`: one step from theta for each.
            order: `exact`; `fomaml` (derivatives of the updates taken as the identity); `reptile`
                (theta - phi, no outer loss). The directions of a star's branches are summed.
            outer: which batches make the outer loss at the phi that batch i led to: `all`, the `others`
                than i, or the `same`. The loss is their mean.
            outer_batches: batches for the outer loss, under the same names; `batches` by default.
            outer_loss: the outer loss; `loss` by default.
            outer_weights: of the outer loss after each step of a chain (multi-step losses); by default only
                the last counts.
            state: the inner optimiser's state to start a chain from; fresh by default.
            hvp, keep, buffers, reduce, where: see `dilkit.meta.adjoint.Engine`.
            backend: `native`, `higher` or `learn2learn`.

        Raises:
            UsageError: settings that contradict each other or that the backend cannot serve; a module that
                would give wrong gradients.
            DilkitError: a NaN or an infinity, named; a forward pass that cannot be replayed.
        """
        if trajectory == "star" and state is not None:
            raise UsageError("a star has no one state to carry", remedy="leave `state` out")
        trajectories = plan(
            loss,
            batches,
            shape=trajectory,
            outer=outer,
            outer_batches=outer_batches,
            outer_loss=outer_loss or loss,
            outer_weights=outer_weights,
        )
        engine = engine_for(
            backend,
            self._net,
            as_inner(inner),
            hvp=hvp,
            keep=keep,
            buffers=buffers,
            reduce=reduce,
            where=where,
        )
        grads, hyper, value = Totals(), Totals(), Totals()
        inner_losses: dict[str, Tensor] = {}
        outer_losses: dict[tuple[int, int, str], Tensor] = {}
        runs = []
        for i, t in enumerate(trajectories):
            run = engine.run(t.steps, t.outer, order=order, state=state)
            grads.add(run.grads)
            hyper.add(run.hyper)
            inner_losses |= run.inner
            outer_losses |= {(i, k, name): loss for (k, name), loss in run.outer.items()}
            weights = {(k, term.name): term.weight for k, terms in t.outer.items() for term in terms}
            for key, loss_met in run.outer.items():
                value.add({"loss": weights[key] * loss_met})
            runs.append(replace(run, grads={}, phi={}, state=run.state if trajectory == "chain" else []))
        engine.settle(runs)
        mean = torch.stack(list(inner_losses.values())).mean()
        carried = runs[0].state if trajectory == "chain" else None
        return MetaGradient(
            grads.sum, hyper.sum, inner_losses, outer_losses, value.sum.get("loss", mean), carried
        )


class Totals:
    """Running sums of tensors by name, so that a star's branches need not be held side by side."""

    def __init__(self) -> None:
        self.sum: dict[str, Tensor] = {}

    def add(self, part: Mapping[str, Tensor]) -> None:
        for name, value in part.items():
            self.sum[name] = self.sum[name] + value if name in self.sum else value


C = TypeVar("C", bound=type[nn.Module])
N = TypeVar("N", bound=nn.Module)
P = ParamSpec("P")


class MetaDescriptor:
    """`Net.meta`; on an instance, its `Meta`.

    A parameter, buffer or submodule that the instance calls `meta` keeps that name: use `dilkit.meta.of`.
    """

    def __get__(self, instance: nn.Module | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        for own in (instance._modules, instance._parameters, instance._buffers):
            if "meta" in own:
                return own["meta"]
        return Meta(instance)


@overload
def decorate(target: C) -> C: ...
@overload
def decorate(target: N) -> N: ...
@overload
def decorate(target: Callable[P, N]) -> Callable[P, N]: ...
def decorate(target: Any) -> Any:
    """Give a module class, a module, or what a function builds, its `.meta`.

    A class is returned as itself, with one more attribute; an instance as itself (its class gets the
    attribute, since one of its own would not survive pickling); a factory is wrapped.

    Raises:
        UsageError: the class already means something else by `meta`.
    """
    if isinstance(target, type) and issubclass(target, nn.Module):
        _install(target)
        return target
    if isinstance(target, nn.Module):
        _install(type(target))
        return target
    if callable(target) and not isinstance(target, type):

        @functools.wraps(target)
        def build(*args: Any, **kwargs: Any) -> Any:
            made = target(*args, **kwargs)
            if not isinstance(made, nn.Module):
                raise UsageError(
                    f"{getattr(target, '__name__', 'the factory')} did not build a module",
                    found=type(made).__name__,
                )
            return decorate(made)

        return build
    raise UsageError(
        "dilkit.meta takes a module class, a module, or a function that builds one",
        found=target.__name__ if isinstance(target, type) else type(target).__name__,
    )


def _install(cls: type[nn.Module]) -> None:
    present = getattr(cls, "meta", None)
    if isinstance(present, MetaDescriptor):
        return
    if present is not None:
        raise UsageError(
            f"{cls.__name__} already has an attribute `meta`", remedy="use dilkit.meta.of(net) instead"
        )
    cls.meta = MetaDescriptor()  # type: ignore[attr-defined]
