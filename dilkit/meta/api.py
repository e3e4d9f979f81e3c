"""`net.meta`: what a module can do under virtual weights; and `dilkit.meta(...)`, which puts it there."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, ParamSpec, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.meta.arguments import (
    Batches,
    BatchLoss,
    Outer,
    Shape,
    as_loss,
    named,
    outside_tensors,
    plan_trajectories,
    requiring_grad,
)
from dilkit.meta.backends import Backend, engine_for
from dilkit.meta.guards import one_of, require_finite, size
from dilkit.meta.implicit import ImplicitGradient, Solver, implicit_gradient
from dilkit.meta.inner import Inner, State, fresh, inner_for
from dilkit.meta.setting import Buffers, Keep, KeepWeights, Reduce, Setting
from dilkit.meta.swap import Slots, clones, swapped
from dilkit.meta.tasks import side_by_side, why_not
from dilkit.meta.trajectory import Order, Record, Swapped, Term, virtual_update


@dataclass(frozen=True)
class MetaGradient:
    """What `net.meta.grad` gives.

    Attributes:
        grads: the direction for theta, by parameter name.
        hyper: gradients for the inner optimiser's learnable tensors, by name.
        outside: gradients for the tensors named in `outside`, and for batches that require grad.
        inner: detached inner losses by batch name (at the weights met).
        outer: detached outer losses by (trajectory, step, batch name).
        loss: the detached outer objective; the mean inner loss for `reptile`, which has none.
        phi: the adapted weights of each trajectory, by parameter name (see `Meta.at`).
        state: the inner optimiser's state, to carry into the next call (of a single trajectory only).
        change: of a truncated adjoint, the relative change that its last step back still made; None else.
        note: what a person should know about how it was computed; empty as a rule.
    """

    grads: dict[str, Tensor]
    hyper: dict[str, Tensor]
    outside: dict[str, Tensor]
    inner: dict[str, Tensor]
    outer: dict[tuple[int, int, str], Tensor]
    loss: Tensor
    phi: list[dict[str, Tensor]]
    state: State | None = None
    change: float | None = None
    note: str = ""
    leaves: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def apply(self, net: nn.Module, *, accumulate: bool = False) -> None:
        """Write the gradients to `.grad` of the module's parameters, and of the learnable and outside tensors
        that are leaves, for an optimiser to step on; added to what is there with `accumulate`.

        Raises:
            UsageError: a module without a parameter of that name.
        """
        params = dict(_unwrapped(net).named_parameters())
        for name in self.grads:
            if name not in params:
                raise UsageError(
                    f"the module has no parameter {name!r}",
                    nearest=nearest(name, params),
                    remedy="apply the gradients to the module they were taken of",
                )
        found: list[tuple[Tensor, Tensor]] = [(params[name], g) for name, g in self.grads.items()]
        for name, g in (self.hyper | self.outside).items():
            if name in self.leaves and self.leaves[name].is_leaf:
                found.append((self.leaves[name], g))
        for p, g in found:
            g = g.to(p.dtype)
            p.grad = p.grad + g if accumulate and p.grad is not None else g.clone()


def _unwrapped(net: nn.Module) -> nn.Module:
    return net.module if isinstance(net, nn.parallel.DistributedDataParallel) else net


class Meta:
    """A module under virtual weights. Holds nothing but the module; making one is free.

    A module wrapped in DistributedDataParallel is unwrapped, and what it averages over its processes is every
    virtual gradient, outer gradient and curvature: all processes walk one trajectory.
    """

    __slots__ = ("_net", "_reduce")

    def __init__(self, net: nn.Module) -> None:
        if not isinstance(net, nn.Module):
            raise UsageError("dilkit.meta works on a torch.nn.Module", found=type(net).__name__)
        self._reduce: Reduce | None = None
        if isinstance(net, nn.parallel.DistributedDataParallel):
            self._reduce = functools.partial(average, group=net.process_group)
        self._net = _unwrapped(net)

    def __reduce__(self) -> Any:
        return Meta, (self._net,)

    def __repr__(self) -> str:
        return f"<dilkit.meta of {type(self._net).__name__}>"

    def theta(self) -> dict[str, Tensor]:
        """The trainable parameters, detached, by name: where every trajectory starts."""
        slots = Slots.of(self._net)
        return {n: p.detach() for n, p in zip(slots.params, slots.param_values(), strict=True)}

    @contextmanager
    def at(
        self, phi: Mapping[str, Tensor], *, buffers: Mapping[str, Tensor] | None = None
    ) -> Iterator[nn.Module]:
        """The module under virtual weights `phi`; put back on every exit.

        Names left out keep the module's own weights. Buffers are copies (of `buffers` where given), so what
        the forward pass changes in them is gone afterwards. Take gradients inside: layer-checkpointed modules
        read their weights again during the backward pass.
        """
        slots = Slots.of(self._net)
        copies = clones(slots.buffer_values())
        for i, name in enumerate(slots.buffers):
            if buffers is not None and name in buffers:
                copies[i] = buffers[name].detach().clone()
        with swapped(slots, slots.ordered(phi), copies):
            yield self._net

    def step(
        self,
        phi: Mapping[str, Tensor],
        loss: Any,
        batch: Any,
        *,
        inner: Any = 1e-2,
        state: State | None = None,
    ) -> tuple[dict[str, Tensor], State]:
        """One virtual update from `phi` on the loss of a batch (Eq. 3); detached.

        Returns:
            the new virtual weights, and the inner optimiser's state for the next step.
        """
        slots = Slots.of(self._net)
        rule = inner_for(inner, dict(self._net.named_parameters()))
        outside = dict(requiring_grad("batch", batch))
        setting = Setting.of(self._net, rule, outside=outside, reduce=self._reduce)
        start, record, function = slots.ordered(phi), Record(), as_loss(loss)
        with torch.enable_grad():
            walked = Swapped(setting, state or fresh(setting.names), start=start)
            virtual_update(walked, [Term("this step", lambda module: function(module, batch))], record)
        require_finite(record.scalars)
        return dict(zip(setting.names, walked.phi, strict=True)), walked.state

    def grad(
        self,
        loss: Any,
        batches: Batches,
        *,
        inner: Any = 1e-2,
        steps: int = 1,
        trajectory: Shape = "chain",
        order: Order = "exact",
        outer: Outer = "all",
        outer_batches: Batches | None = None,
        outer_loss: Any = None,
        outer_weights: Sequence[float] | None = None,
        outside: Mapping[str, Tensor] | None = None,
        state: State | None = None,
        truncate: int | None = None,
        keep: Keep = 0,
        memory: int | None = None,
        keep_weights: KeepWeights = "device",
        buffers: Buffers = "isolate",
        backend: Backend = "native",
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> MetaGradient:
        """The gradient for theta through virtual updates on `batches`.

        Args:
            loss: of the virtual updates: loss(module, batch) -> scalar, or a plain criterion(output, target)
                with batches of (input, target).
            batches: what the inner steps are taken on; a dict by name, or a list, numbered from 0.
            inner: a learning rate (then SGD), a torch.optim class, partial or instance, a list with one for
                each step, a dict by parameter name or prefix, or a rule of `dilkit.meta.optimizer`.
            steps: inner steps: how often a chain passes through all batches, and how many steps each branch
                of a star, or the pool, takes.
            trajectory: `chain`: one trajectory, a step on each batch in turn; `star`: one from theta for each
                batch; `pooled`: one, each step on the mean loss of all batches.
            order: `exact`; `fomaml` (derivatives of the updates taken as the identity); `reptile`
                (theta - phi, no outer loss). The directions of a star's branches are summed.
            outer: which batches make the outer loss at the phi that batch i led to: `all`, the `others`
                than i, or the `same`. The loss is their mean.
            outer_batches: batches for the outer loss, under the same names; `batches` by default.
            outer_loss: the outer loss; `loss` by default.
            outer_weights: of the outer loss after each step of a trajectory (multi-step losses); by default
                only the last counts.
            outside: tensors that the losses depend on beside the module's and the batches', by name, to be
                differentiated too. Batches that require grad are, under names such as `batches.NAME[0]`.
            state: the inner optimiser's state to start from; fresh by default. Not for a star.
            truncate: differentiate through that many of the last inner steps only (biased; see `change`).
            keep, memory, keep_weights: what the adjoint remembers (see `dilkit.meta.setting.Setting`).
            buffers: what becomes of running statistics (see `dilkit.meta.setting.Setting`).
            backend: `native`; `unrolled`, `higher` or `learn2learn`, which keep the whole graph.
            reduce: averages a list of tensors over the processes, in place; by default that of a module
                wrapped in DistributedDataParallel.
            where: the outer step, for error messages.

        Raises:
            UsageError: settings that contradict each other or that the backend cannot serve; a module or loss
                that would give wrong gradients.
            DilkitError: a NaN or an infinity, named; a forward pass that cannot be replayed.
        """
        one_of("order", order, ("exact", "fomaml", "reptile"))
        inside = named(batches)
        query = inside if outer_batches is None else named(outer_batches, "outer_batches")
        function = as_loss(loss)
        trajectories = plan_trajectories(
            function,
            inside,
            query,
            function if outer_loss is None else as_loss(outer_loss),
            shape=trajectory,
            steps=steps,
            outer=outer,
            weights=outer_weights,
        )
        if trajectory == "star" and state is not None:
            raise UsageError("a star has no one state to carry", remedy="leave `state` out")
        reduce = reduce or self._reduce
        loose = outside_tensors(outside, inside, query, order=order, shared=reduce is not None)
        rule = inner_for(inner, dict(self._net.named_parameters()))
        setting = Setting.of(
            self._net,
            rule,
            outside=loose,
            keep=keep,
            memory=memory,
            keep_weights=keep_weights,
            buffers=buffers,
            truncate=truncate,
            reduce=reduce,
            where=where,
        )
        engine = engine_for(backend, setting)
        grads, hyper, outside_grads = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        inner_losses: dict[str, Tensor] = {}
        outer_losses: dict[tuple[int, int, str], Tensor] = {}
        value: dict[str, Tensor] = {}
        runs = []
        for i, t in enumerate(trajectories):
            run = engine.run(t.steps, t.outer, order=order, state=state)
            add_to(grads, run.grads)
            add_to(hyper, run.hyper)
            add_to(outside_grads, run.outside)
            inner_losses |= run.inner
            outer_losses |= {(i, k, name): met for (k, name), met in run.outer.items()}
            weights = {(k, term.name): term.weight for k, terms in t.outer.items() for term in terms}
            for key, met in run.outer.items():
                add_to(value, {"loss": weights[key] * met})
            runs.append(replace(run, grads={}, hyper={}, outside={}))
        setting.commit([run.buffers for run in runs])
        mean = torch.stack(list(inner_losses.values())).mean()
        return MetaGradient(
            grads,
            hyper,
            outside_grads,
            inner_losses,
            outer_losses,
            value.get("loss", mean),
            [run.phi for run in runs],
            runs[0].state if len(runs) == 1 else None,
            max((run.change for run in runs if run.change is not None), default=None),
            leaves=rule.hyper() | loose,
        )

    def tasks(
        self,
        loss: Any,
        tasks: Sequence[tuple[Any, Any]],
        *,
        inner: Any = 1e-2,
        steps: int = 1,
        outer_loss: Any = None,
        parallel: bool | Literal["auto"] = "auto",
        **settings: Any,
    ) -> MetaGradient:
        """MAML over tasks: the gradient for theta of the mean outer loss over tasks, each of which takes its
        own steps from theta.

        Args:
            tasks: (support, query) batches; the steps are taken on support, the outer loss is measured on
                query.
            parallel: `True`: side by side by torch.func.vmap, which keeps the whole graph and serves exact
                gradients of modules that change no buffers and draw nothing; `False`: one by one; `auto`:
                side by side where it works, with `note` saying why where it does not.
            settings: further arguments of `grad`, one task at a time then.
            loss, inner, steps, outer_loss: see `grad`.

        Returns:
            as `grad`; `phi` has one entry for each task, losses are named by the number of the task.
        """
        one_of("parallel", parallel, (True, False, "auto"))
        pairs = list(tasks)
        if not pairs or any(not isinstance(t, tuple | list) or len(t) != 2 for t in pairs):
            raise UsageError("tasks is a list of (support, query)", remedy="a batch is (input, target)")
        function = as_loss(loss)
        measure = function if outer_loss is None else as_loss(outer_loss)
        rule = inner_for(inner, dict(self._net.named_parameters()))
        reason = next((f"{name} is asked for" for name in settings), None)
        if self._reduce is not None:
            reason = "several processes walk together"
        reason = reason or why_not(self._net, rule, pairs)
        if parallel is not False and reason is None:
            try:
                return self._side_by_side(function, measure, pairs, rule, steps)
            except RuntimeError as error:
                if isinstance(error, DilkitError) or parallel is True:
                    raise
                reason = str(error).strip().split("\n")[0]
        if parallel is True:
            raise UsageError(f"tasks cannot go in parallel: {reason}", remedy="parallel='auto' or False")
        grads, hyper, outside = dict[str, Tensor](), dict[str, Tensor](), dict[str, Tensor]()
        inner_losses: dict[str, Tensor] = {}
        outer_losses: dict[tuple[int, int, str], Tensor] = {}
        phi, leaves, values = [], dict[str, Tensor](), []
        for i, (support, query) in enumerate(pairs):
            got = self.grad(
                function, {"support": support}, inner=rule, steps=steps, outer_batches={"query": query},
                outer_loss=measure, **settings,
            )  # fmt: skip
            for total, part in ((grads, got.grads), (hyper, got.hyper), (outside, got.outside)):
                add_to(total, {n: g / len(pairs) for n, g in part.items()})
            inner_losses |= {f"task {i}, {name}": x for name, x in got.inner.items()}
            outer_losses |= {(i, k, name): x for (_, k, name), x in got.outer.items()}
            phi += got.phi
            leaves |= got.leaves
            values.append(got.loss)
        note = f"one task at a time: {reason}" if reason else ""
        return MetaGradient(
            grads, hyper, outside, inner_losses, outer_losses, torch.stack(values).mean(), phi,
            note=note, leaves=leaves,
        )  # fmt: skip

    def _side_by_side(
        self, loss: BatchLoss, outer_loss: BatchLoss, pairs: Sequence[Any], rule: Inner, steps: int
    ) -> MetaGradient:
        setting = Setting.of(self._net, rule)
        with torch.enable_grad():
            probe = Swapped(setting, fresh(setting.names))  # every guard, on the first task
            probe.measure(Term("task 0", lambda module: loss(module, pairs[0][0])))
            probe.measure(Term("task 0", lambda module: outer_loss(module, pairs[0][1])))
        grads, inner, outer, phi = side_by_side(setting, loss, outer_loss, pairs, steps=steps)
        losses = {
            f"task {i}, support" + (f" (step {k + 1})" if k else ""): x
            for i, task in enumerate(inner)
            for k, x in enumerate(task)
        }
        met = {(i, steps, "query"): x for i, x in enumerate(outer)}
        scalars = {f"the loss of {n}": x for n, x in losses.items()}
        scalars |= {f"the outer loss of task {i}": x for i, x in enumerate(outer)}
        require_finite(scalars | {"the meta-gradient": size(grads.values())})
        adapted = [{n: p[i] for n, p in phi.items()} for i in range(len(pairs))]
        return MetaGradient(grads, {}, {}, losses, met, outer.mean(), adapted)

    def implicit(
        self,
        loss: Any,
        batch: Any,
        *,
        outer_batch: Any,
        outer_loss: Any = None,
        inner: Any = 1e-2,
        steps: int = 10,
        prox: float = 1.0,
        solver: Solver = "cg",
        iterations: int = 20,
        tolerance: float = 1e-6,
        rate: float = 1e-2,
        outside: Mapping[str, Tensor] | None = None,
        phi: Mapping[str, Tensor] | None = None,
    ) -> ImplicitGradient:
        """The gradient through where the inner optimisation ends (iMAML and the implicit function theorem).

        Args:
            loss, batch: of the inner problem: minimise loss + prox/2 |phi - theta|^2.
            outer_loss, outer_batch: measured at its solution.
            inner, steps: the optimiser and how many steps it takes from theta (or from `phi`, if you have
                solved it yourself: then `steps=0`).
            prox: iMAML's lambda; 0 where the solution depends on `outside` tensors only.
            solver: `cg` (conjugate gradients) or `neumann` (its series, of step `rate`).
            iterations, tolerance: the solver stops at the first of them; `residual` says how far it got.
            outside: tensors that the losses depend on, by name, to be differentiated too.

        Raises:
            UsageError: settings that contradict each other; a loss whose derivatives would be wrong.
        """
        if self._reduce is not None:
            raise UsageError("implicit gradients are not averaged over processes", remedy="of(ddp.module)")
        function = as_loss(loss)
        measure = function if outer_loss is None else as_loss(outer_loss)
        rule = inner_for(inner, dict(self._net.named_parameters()))
        return implicit_gradient(
            self._net,
            rule,
            lambda module: function(module, batch),
            lambda module: measure(module, outer_batch),
            steps=steps,
            prox=prox,
            solver=solver,
            iterations=iterations,
            tolerance=tolerance,
            rate=rate,
            outside=outside_tensors(outside, {"": batch}, {"": outer_batch}),
            phi=phi,
        )


def add_to(total: dict[str, Tensor], part: Mapping[str, Tensor]) -> None:
    """Running sums by name, so that a star's branches need not be held side by side."""
    for name, value in part.items():
        total[name] = total[name] + value if name in total else value


def average(tensors: list[Tensor], *, group: Any = None) -> None:
    """Average tensors over the processes of a group, in place, in one flat all-reduce for each dtype."""
    world = dist.get_world_size(group)
    for dtype in dict.fromkeys(t.dtype for t in tensors):
        same = [t for t in tensors if t.dtype == dtype]
        flat = torch.cat([t.reshape(-1) for t in same])
        dist.all_reduce(flat, group=group)
        parts = flat.div_(world).split([t.numel() for t in same])
        torch._foreach_copy_(same, [p.view_as(t) for p, t in zip(parts, same, strict=True)])


C = TypeVar("C", bound=type[nn.Module])
N = TypeVar("N", bound=nn.Module)
P = ParamSpec("P")

_TAKEN = "use dilkit.meta.of(net) and leave the class as it is, or rename that attribute"


class MetaDescriptor:
    """`Net.meta`; on an instance, its `Meta`."""

    def __get__(self, instance: nn.Module | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        own = (vars(instance), instance._modules, instance._parameters, instance._buffers)
        if any("meta" in names for names in own):
            raise UsageError(f"{type(instance).__name__} has a `meta` of its own", remedy=_TAKEN)
        return Meta(instance)

    def __set__(self, instance: nn.Module, value: Any) -> None:
        raise UsageError(f"{type(instance).__name__} sets a `meta` of its own", remedy=_TAKEN)


@overload
def decorate(target: C) -> C: ...
@overload
def decorate(target: N) -> N: ...
@overload
def decorate(target: Callable[P, N]) -> Callable[P, N]: ...
def decorate(target: Any) -> Any:
    """Give a module class, a module, or what a function builds, its `.meta`.

    A class is returned as itself, with one more attribute; an instance as itself, its class untouched; a
    factory is wrapped.

    Raises:
        UsageError: the class or module already means something else by `meta`.
    """
    if isinstance(target, type) and issubclass(target, nn.Module):
        present = getattr(target, "meta", None)
        if present is not None and not isinstance(present, MetaDescriptor):
            raise UsageError(f"{target.__name__} already has an attribute `meta`", remedy=_TAKEN)
        if present is None:
            target.meta = MetaDescriptor()  # type: ignore[attr-defined]
        return target
    if isinstance(target, nn.Module):
        if isinstance(getattr(type(target), "meta", None), MetaDescriptor):
            return target
        if not isinstance(getattr(target, "meta", None), Meta | None):
            raise UsageError(f"this {type(target).__name__} already has an attribute `meta`", remedy=_TAKEN)
        vars(target)["meta"] = Meta(target)
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
