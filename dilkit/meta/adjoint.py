"""The way back: exact gradients through virtual updates, from one step's activations at a time.

For phi_{k+1}, s_{k+1} = U(phi_k, g_k, s_k), g_k = grad L_k(phi_k), with outer losses J_k at phi_k:

    lam_K = grad J_K(phi_K),    mu_K = 0
    p, c, m = VJP of U at (phi_k, g_k, s_k) with (lam_{k+1}, mu_{k+1})
    lam_k = p + H_k c + grad J_k(phi_k),    mu_k = m,

H_k being the Hessian of L_k at phi_k. The gradient for theta is lam_0. Of step k the weights phi_k (and s_k)
are remembered; its loss is computed again, one term at a time, for one Hessian-vector product.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dilkit.meta.hvp import gradient, graph_of, product, twice_differentiable
from dilkit.meta.inner import State, at_step, fresh, pull_back
from dilkit.meta.setting import Setting
from dilkit.meta.tape import Tape
from dilkit.meta.trajectory import Step, Sum, Swapped, Term


class Adjoint:
    """lam, and what comes along: learnable tensors of the rule, outside tensors, and the losses replayed."""

    def __init__(
        self, setting: Setting, steps: Sequence[Sequence[Term]], walked: Swapped, tape: Tape
    ) -> None:
        self._setting, self._steps, self._outer, self._tape = setting, steps, walked.outer, tape
        final = self._outer.pop(len(steps), None)
        self.lam = final.total(setting.reduce) if final else [torch.zeros_like(p) for p in walked.phi]
        self._own = final is None  # whether lam may be written to
        self.mu: State = fresh(setting.names)
        self.hyper: dict[str, Tensor] = {}
        self.outside = walked.outside
        self.replays: dict[str, tuple[Tensor, Tensor]] = {}

    def back(self, k: int) -> None:
        """lam_{k+1} becomes lam_k."""
        setting, step = self._setting, self._tape.recall(self._steps)
        rule = at_step(setting.rule, k)
        vjp = pull_back(rule, setting.names, step.phi, step.grads, step.state, self.lam, self.mu)
        curved = Sum()
        for i, term in enumerate(self._steps[k]):
            curved.add(self._curvature(k, i, term, step, vjp.grads), term.weight)
        made = curved.total(setting.reduce)
        vjp.grads.clear()  # before new tensors are made
        if self._own and vjp.phi is self.lam:
            torch._foreach_add_(self.lam, made[: len(vjp.phi)])
        else:
            self.lam, self._own = list(torch._foreach_add(vjp.phi, made[: len(vjp.phi)])), True
        if setting.outside:
            self.outside.add(made[len(vjp.phi) :])
        if k in self._outer:
            torch._foreach_add_(self.lam, self._outer.pop(k).total(setting.reduce))
        self.mu = vjp.state
        self.hyper |= {n: self.hyper[n] + g if n in self.hyper else g for n, g in vjp.hyper.items()}

    def _curvature(self, k: int, i: int, term: Term, step: Step, c: list[Tensor]) -> list[Tensor]:
        """H c of one term, and the mixed derivative by outside tensors: by the kept graph, or made again."""
        setting, outside = self._setting, list(self._setting.outside.values())
        if step.kept:
            with setting.on(step.leaves, step.buffers[i], k), twice_differentiable(setting.net):
                made = product(step.graphs[i], [*step.leaves, *outside], c)
            step.graphs[i] = []
            return made
        leaves = [nn.Parameter(p) for p in step.phi]
        world = setting.replay(leaves, step.buffers[i], step.random[i], k)
        with world, twice_differentiable(setting.net):
            loss = term.loss(setting.net)
            graph = graph_of(gradient(loss, leaves, create_graph=True))
            made = product(graph, [*leaves, *outside], c)
        self.replays[f"{term.name} ({len(self.replays)})"] = (step.losses[i], loss.detach())
        return made
