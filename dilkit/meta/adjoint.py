"""The way back: exact gradients through virtual updates, in memory that does not grow with their number.

For phi_{k+1} = U(phi_k, g_k, s_k), g_k = grad L_k(phi_k), with outer losses J_k at phi_k:

    lam_K = grad J_K(phi_K)
    lam_k = (dU/dphi)^T lam_{k+1} + H_k (dU/dg)^T lam_{k+1} + grad J_k(phi_k),

H_k being the Hessian of L_k at phi_k; the same with the optimiser's state beside phi. Nothing but phi_k (and
the state) is remembered of step k: its loss is computed again, one term at a time, for one Hessian-vector
product. The gradient for theta is lam_0.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dilkit.meta.finite import require_finite, size
from dilkit.meta.forward import Forward
from dilkit.meta.guards import replay_tolerance, require_replayed
from dilkit.meta.hvp import Hvp, through, twice_differentiable
from dilkit.meta.inner import pull_back
from dilkit.meta.rules import State, fresh
from dilkit.meta.trajectory import Setting, Step, Sum, Term

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
