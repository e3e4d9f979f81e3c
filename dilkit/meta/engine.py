"""The native engine: trajectories of virtual updates, and what becomes of the module's buffers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from dilkit.meta.adjoint import adjoint
from dilkit.meta.chain import Reduce
from dilkit.meta.forward import Forward
from dilkit.meta.hvp import Hvp, Mode
from dilkit.meta.inner import Inner
from dilkit.meta.rules import State, fresh
from dilkit.meta.trajectory import Order, Setting, Sum, Term, Trajectory

Buffers = Literal["isolate", "commit_last", "commit_mean", "frozen"]


class Engine:
    """Runs trajectories of one module from its present weights.

    Args:
        net: any module; its weights, gradients, buffers (but see `settle`), mode and hooks stay as they are.
        optimizer: the inner optimiser.
        hvp: how Hessian-vector products are made (see `dilkit.meta.hvp`).
        keep: of how many inner steps, from the last one, the graph is kept instead of being recomputed:
            one forward and backward pass less, one set of activations (and of their gradients) more, each.
        buffers: what becomes of buffers that forward passes change. Along a trajectory they move on, on a
            copy; then the copy is dropped (`isolate`), or written to the module: the one the last trajectory
            ended with (`commit_last`), or the mean over the trajectories (`commit_mean`). With `frozen`
            every forward pass starts from the module's own. Recomputation never moves them.
        reduce: averages a list of tensors over the processes, in place: every virtual gradient, outer
            gradient and curvature, so that all processes walk one trajectory.
        where: the outer step, for error messages.
    """

    def __init__(
        self,
        net: nn.Module,
        optimizer: Inner,
        *,
        hvp: Mode = "auto",
        keep: int | Literal["all"] = 0,
        buffers: Buffers = "isolate",
        reduce: Reduce | None = None,
        where: str | None = None,
    ) -> None:
        self._setting = Setting.of(
            net, optimizer, keep=keep, frozen_buffers=buffers == "frozen", reduce=reduce, where=where
        )
        self._hvp = Hvp(net, hvp)
        self._policy = buffers

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
        setting = self._setting
        with torch.enable_grad():
            forward = Forward(setting, state or fresh(setting.names), recording=order == "exact")
            forward.walk(steps, {} if order == "reptile" else outer)
            hyper: dict[str, Tensor] = {}
            if order == "exact":
                grads, hyper = adjoint(setting, steps, forward, self._hvp)
            elif order == "fomaml":
                total = Sum()
                for part in forward.outer_grads.values():
                    total.add(part)
                grads = total.total()
            else:
                grads = list(torch._foreach_sub([p.detach() for p in setting.theta], forward.phi))
        return Trajectory(
            dict(zip(setting.names, grads, strict=True)),
            hyper,
            forward.inner_losses,
            forward.outer_losses,
            dict(zip(setting.names, forward.phi, strict=True)),
            forward.state,
            forward.buffers,
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
