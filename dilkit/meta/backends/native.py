"""The native engine: trajectories swapped into the module, and their adjoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.adjoint import Adjoint
from dilkit.meta.guards import one_of, replay_tolerance, require_finite, require_replayed, size
from dilkit.meta.inner import Inner, State, fresh
from dilkit.meta.setting import Reduce, Setting
from dilkit.meta.tape import Keep, KeepWeights, Tape
from dilkit.meta.trajectory import Order, Record, Sum, Swapped, Term, Trajectory, walk

Buffers = Literal["isolate", "commit_last", "commit_mean", "frozen"]
BUFFERS = ("isolate", "commit_last", "commit_mean", "frozen")
ORDERS = ("exact", "fomaml", "reptile")


class Engine:
    """Runs trajectories of one module from its present weights.

    Args:
        net: any module; its weights, gradients, buffers (but see `settle`), mode and hooks stay as they are.
        rule: the inner optimiser.
        outside: tensors that losses depend on beside the module's, to be differentiated too.
        keep, memory, keep_weights: see `dilkit.meta.tape.Tape`.
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

    def __init__(
        self,
        net: nn.Module,
        rule: Inner,
        *,
        outside: Mapping[str, Tensor] | None = None,
        keep: Keep = 0,
        memory: int | None = None,
        keep_weights: KeepWeights = "device",
        buffers: Buffers = "isolate",
        truncate: int | None = None,
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> None:
        one_of("buffers", buffers, BUFFERS)
        if truncate is not None and (not isinstance(truncate, int) or truncate < 1):
            raise UsageError("truncate is a number of inner steps, at least 1", found=truncate)
        self._setting = Setting.of(
            net, rule, outside=outside, frozen_buffers=buffers == "frozen", reduce=reduce, where=where
        )
        self._policy, self._truncate = buffers, truncate
        self._keep: tuple[Keep, int | None, KeepWeights] = keep, memory, keep_weights
        Tape(self._setting, 0, keep=keep, memory=memory, keep_weights=keep_weights)  # wrong settings fail now

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory:
        """One trajectory.

        Args:
            steps: the terms of each inner step; its loss is their weighted sum, taken one at a time.
            outer: the terms of the outer loss at phi_k, by k (0 is theta, len(steps) the last).
            order: see `Trajectory.grads`.
            state: the inner optimiser's state to start from (a constant), or None for a fresh one.

        Raises:
            DilkitError: a NaN or an infinity, by the name of its term; a forward pass that cannot be
                replayed.
            UsageError: a module that would give wrong gradients (see `dilkit.meta.guards`).
        """
        one_of("order", order, ORDERS)
        setting, record, change = self._setting, Record(), None
        keep, memory, keep_weights = self._keep
        tape = None
        if order == "exact":
            tape = Tape(setting, len(steps), keep=keep, memory=memory, keep_weights=keep_weights)
        with torch.enable_grad():
            walked = Swapped(setting, state or fresh(setting.names), tape)
            walk(walked, steps, {} if order == "reptile" else outer, record)
            require_finite(record.scalars, where=setting.where)
            hyper: dict[str, Tensor] = {}
            outside = walked.outside
            if tape is not None:
                adjoint = Adjoint(setting, steps, walked, tape)
                stop = max(0, len(steps) - (self._truncate or len(steps)))
                for k in reversed(range(stop, len(steps))):
                    before = adjoint.lam
                    adjoint.back(k)
                if stop:
                    change = float(size(torch._foreach_sub(adjoint.lam, before)) / size(adjoint.lam))
                    for left in walked.outer.values():
                        torch._foreach_add_(adjoint.lam, left.total(setting.reduce))
                grads, hyper = adjoint.lam, adjoint.hyper
                require_finite({"the meta-gradient": size(grads)}, where=setting.where)
                tolerance = replay_tolerance(next(iter(record.inner.values())), setting.net)
                require_replayed(adjoint.replays, tolerance=tolerance)
            elif order == "fomaml":
                total = Sum()
                for part in walked.outer.values():
                    total.add(part.total(setting.reduce))
                grads = total.total()
            else:
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], walked.phi))
        by_name = dict(zip(setting.outside, outside.total(setting.reduce), strict=False))
        phi = dict(zip(setting.names, walked.phi, strict=True))
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            hyper,
            by_name,
            record.inner,
            record.outer,
            phi,
            walked.state,
            walked.buffers,
            change,
        )

    def settle(self, trajectories: Sequence[Trajectory]) -> None:
        """Apply the buffer policy, once all trajectories have succeeded."""
        if self._policy in ("isolate", "frozen"):
            return
        with torch.no_grad():
            own = self._setting.slots.buffer_values()
            for target, *met in zip(own, *(t.buffers for t in trajectories), strict=True):
                mean = self._policy == "commit_mean" and target.is_floating_point()
                target.copy_(torch.stack(met).mean(0) if mean else met[-1])
