"""The way back: exact gradients through virtual updates, in memory that does not grow with their number.

For phi_{k+1} = U(phi_k, g_k, s_k), g_k = grad L_k(phi_k), with outer losses J_k at phi_k:

    lam_K = grad J_K(phi_K)
    lam_k = (dU/dphi)^T lam_{k+1} + H_k (dU/dg)^T lam_{k+1} + grad J_k(phi_k),

H_k being the Hessian of L_k at phi_k; the same with the optimiser's state beside phi. Nothing but phi_k (and
the state) is remembered of step k: its loss is computed again, one term at a time, for one Hessian-vector
product. The gradient for theta is lam_0.

The native engine: trajectories of virtual updates, and what becomes of the module's buffers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from dilkit.meta.first_order import Reduce
from dilkit.meta.guards import replay_tolerance, require_finite, require_replayed, size
from dilkit.meta.hvp import Hvp, Mode, through, twice_differentiable
from dilkit.meta.inner import Inner, State, fresh, pull_back
from dilkit.meta.trajectory import Forward, Order, Setting, Step, Sum, Term, Trajectory

Replays = dict[str, tuple[Tensor, Tensor]]


def adjoint(
    setting: Setting, steps: Sequence[Sequence[Term]], forward: Forward, hvp: Hvp
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """lam_0, and the gradients of the inner optimiser's learnable tensors. Consumes what `forward` kept."""
    lam = forward.outer_grads.pop(len(steps), None) or [torch.zeros_like(p) for p in forward.phi]
    lam_state: State = fresh(setting.names)
    hyper: dict[str, Tensor] = {}
    replays: Replays = {}
    for k in reversed(range(len(steps))):
        step = forward.steps.pop()
        back = pull_back(setting.optimizer, setting.names, step.phi, step.grads, step.state, lam, lam_state)
        lam = list(
            torch._foreach_add(back.phi, _curvature(setting, steps[k], step, back.grads, hvp, replays))
        )
        if k in forward.outer_grads:
            torch._foreach_add_(lam, forward.outer_grads.pop(k))
        lam_state = back.state
        hyper = {name: hyper[name] + g if name in hyper else g for name, g in back.hyper.items()}
    require_finite({"the meta-gradient": size(lam)}, where=setting.where)
    if replays:
        loss = next(iter(forward.inner_losses.values()))
        require_replayed(replays, tolerance=replay_tolerance(loss, setting.net))
    return lam, hyper


def _curvature(
    setting: Setting, terms: Sequence[Term], step: Step, v: list[Tensor], hvp: Hvp, replays: Replays
) -> list[Tensor]:
    """H_k v, term by term: through the kept graph, or by computing the loss again."""
    total = Sum()
    for i, term in enumerate(terms):
        if step.graphs:
            with setting.world(step.leaves, step.buffers[i]), twice_differentiable(setting.net):
                part = through(step.graphs[i], step.leaves, v)
            step.graphs[i] = []
        else:
            leaves = [nn.Parameter(p) for p in step.phi]
            enter = partial(setting.replay, buffers=step.buffers[i], random=step.random[i])
            with twice_differentiable(setting.net):
                part, again = hvp(enter, partial(term.loss, setting.net), leaves, v)
            replays[f"{term.name} ({len(replays)})"] = (step.losses[i], again)
        total.add(part, term.weight)
    return total.total(setting.reduce)


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
