"""Implicit gradients: through where an inner optimisation ends, not through how it got there.

At phi with grad_phi G(phi) = 0, G(phi) = L(phi) + prox/2 |phi - theta|^2, an outer loss J has

    q = (H + prox I)^-1 grad J(phi),    dJ/dtheta = prox q,    dJ/dz = grad_z J - (d^2 L / dz dphi) q

(iMAML, Rajeswaran et al., NeurIPS 2019, Eq. 6; with prox = 0 the implicit function theorem for tensors z that
the inner loss depends on). q is found by conjugate gradients, or by Neumann's series
q = sum_i eta (I - eta (H + prox I))^i grad J (Lorraine et al., AISTATS 2020). Memory: one set of activations,
whatever the number of inner steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from dilkit.errors import UsageError
from dilkit.meta.guards import RandomState, one_of, require_finite, require_scalar, size
from dilkit.meta.hvp import gradient, product, twice_differentiable
from dilkit.meta.inner import Inner, fresh
from dilkit.meta.setting import Setting
from dilkit.meta.trajectory import Closure, Record, Swapped, Term, walk

Solver = Literal["cg", "neumann"]
Vector = list[Tensor]


@dataclass(frozen=True)
class ImplicitGradient:
    """What `net.meta.implicit` gives.

    Attributes:
        grads: dJ/dtheta by parameter name; zero where prox is 0.
        outside: dJ/dz by name.
        inner: the inner loss at phi, without the proximal term.
        loss: the outer loss at phi.
        phi: the inner solution.
        residual: |(H + prox I) q - grad J| / |grad J| that was reached.
        iterations: of the solver.
        stationarity: |grad G(phi)| / |grad J|: the gradient is exact only as far as this is small.
    """

    grads: dict[str, Tensor]
    outside: dict[str, Tensor]
    inner: Tensor
    loss: Tensor
    phi: dict[str, Tensor]
    residual: float
    iterations: int
    stationarity: float


def implicit_gradient(
    net: nn.Module,
    rule: Inner,
    inner: Closure,
    outer: Closure,
    *,
    steps: int,
    prox: float,
    solver: Solver,
    iterations: int,
    tolerance: float,
    rate: float,
    outside: Mapping[str, Tensor],
    phi: Mapping[str, Tensor] | None,
) -> ImplicitGradient:
    """See `dilkit.meta.api.Meta.implicit`."""
    one_of("solver", solver, ("cg", "neumann"))
    if prox < 0 or iterations < 1 or tolerance <= 0 or steps < 0:
        raise UsageError("prox is at least 0, iterations at least 1, tolerance above 0, steps at least 0")
    if prox == 0 and not outside:
        raise UsageError(
            "with prox=0 the inner solution does not depend on theta: there is nothing to differentiate by",
            remedy="prox=1.0 (iMAML's lambda), or name the tensors it depends on in outside={...}",
        )
    setting = Setting.of(net, rule, outside=outside)
    start = setting.slots.ordered(phi or {})
    theta = [p.detach() for p in setting.theta]

    def proximal(module: nn.Module) -> Tensor:
        loss = inner(module)
        require_scalar(loss, "the inner loss")
        if not prox:
            return loss
        now = setting.slots.param_values()
        away = [(p - t).abs().square().sum() for p, t in zip(now, theta, strict=True)]
        return loss + 0.5 * prox * torch.stack(away).sum()

    with torch.enable_grad():
        walked = Swapped(setting, fresh(setting.names), start=start)
        record = Record()
        walk(walked, [[Term("inner", proximal)]] * steps, {steps: [Term("outer", outer)]}, record)
        require_finite(record.scalars)
        right = walked.outer[steps].total()
        by_outside = walked.outside.total()
        leaves: list[Tensor] = [nn.Parameter(p) for p in walked.phi]
        random, loose = RandomState.now(setting.devices), list(outside.values())
        with setting.replay(leaves, walked.buffers, random, steps), twice_differentiable(net):
            value = inner(net)
            setting.guard(value, leaves, twice=True)
            grads = gradient(value, leaves, create_graph=True)

            def curvature(v: Vector) -> Vector:
                live = [(g, x) for g, x in zip(grads, v, strict=True) if g.requires_grad]
                made = torch.autograd.grad(
                    [g for g, _ in live],
                    leaves,
                    grad_outputs=[x for _, x in live],
                    retain_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                return list(torch._foreach_add(list(made), v, alpha=prox))

            solve = _conjugate_gradients if solver == "cg" else _neumann
            q, residual, taken = solve(curvature, right, iterations, tolerance, rate)
            mixed = product(grads, loose, q) if loose else []
    slope = torch._foreach_add([g.detach() for g in grads], torch._foreach_sub(walked.phi, theta), alpha=prox)
    made = torch._foreach_mul(q, prox)
    require_finite({"the implicit gradient": size(made) + size(q)})
    return ImplicitGradient(
        dict(zip(setting.names, made, strict=True)),
        {n: a - b for n, a, b in zip(outside, by_outside, mixed, strict=True)},
        value.detach(),
        record.outer[steps, "outer"],
        dict(zip(setting.names, walked.phi, strict=True)),
        residual,
        taken,
        float(_norm(list(slope)) / _norm(right).clamp(min=1e-30)),
    )


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    parts = [
        (x.conj() * y).real.sum() if x.is_complex() else (x * y).sum() for x, y in zip(a, b, strict=True)
    ]
    return torch.stack(parts).sum()


def _norm(a: Sequence[Tensor]) -> Tensor:
    return _dot(a, a).sqrt()


def _conjugate_gradients(
    apply: Callable[[Vector], Vector], right: Vector, iterations: int, tolerance: float, rate: float
) -> tuple[Vector, float, int]:
    """Hestenes and Stiefel (1952); stops early where the curvature along a direction is not positive."""
    x = [torch.zeros_like(b) for b in right]
    r = [b.clone() for b in right]
    p, rr, scale = [b.clone() for b in right], _dot(right, right), _norm(right).clamp(min=1e-30)
    k = 0
    while k < iterations and float(rr.sqrt() / scale) > tolerance:
        ap = apply(p)
        pap = _dot(p, ap)
        if float(pap) <= 0:
            break
        alpha = rr / pap
        x = [a + alpha * b for a, b in zip(x, p, strict=True)]
        r = [a - alpha * b for a, b in zip(r, ap, strict=True)]
        new = _dot(r, r)
        p = [a + (new / rr) * b for a, b in zip(r, p, strict=True)]
        rr, k = new, k + 1
    return x, float(rr.sqrt() / scale), k


def _neumann(
    apply: Callable[[Vector], Vector], right: Vector, iterations: int, tolerance: float, rate: float
) -> tuple[Vector, float, int]:
    """sum_i rate (I - rate A)^i b: converges where rate is below 2 over the largest eigenvalue of A."""
    scale = _norm(right).clamp(min=1e-30)
    x = [torch.zeros_like(b) for b in right]
    r, k, off = right, 0, 1.0
    while k < iterations and off > tolerance:
        x = list(torch._foreach_add(x, r, alpha=rate))
        r = list(torch._foreach_sub(r, apply(r), alpha=rate))
        off, k = float(_norm(r) / scale), k + 1
    return x, off, k
