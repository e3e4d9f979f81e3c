"""Implicit gradients against closed forms: quadratics, ridge regression, and long unrolled chains."""

import pytest
import torch
from torch import nn

import dilkit
from dilkit.errors import UsageError

torch.set_num_threads(1)
DIM = 6


class Vector(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(DIM, dtype=torch.float64))


def quadratic(net, batch):
    a, c = batch
    return 0.5 * (net.w - c) @ a @ (net.w - c)


def problem():
    torch.manual_seed(0)
    m = torch.randn(DIM, DIM, dtype=torch.float64)
    a = m @ m.T / DIM + torch.eye(DIM).double()
    return Vector(), (a, torch.randn(DIM).double()), (torch.eye(DIM).double(), torch.randn(DIM).double())


@pytest.mark.parametrize(("solver", "tolerance"), [("cg", 1e-10), ("neumann", 1e-8)])
def test_imaml_in_closed_form(solver, tolerance):
    net, (a, c), (b, d) = problem()
    prox, eye, theta = 2.0, torch.eye(DIM).double(), net.w.detach()
    star = torch.linalg.solve(a + prox * eye, a @ c + prox * theta)
    got = dilkit.meta.of(net).implicit(
        quadratic, (a, c), outer_batch=(b, d), prox=prox, steps=0, phi={"w": star},
        solver=solver, iterations=500, tolerance=1e-12, rate=0.15,
    )  # fmt: skip
    want = prox * torch.linalg.solve(a + prox * eye, b @ (star - d))
    assert (got.grads["w"] - want).norm() <= tolerance * want.norm()
    assert got.stationarity < 1e-12 and got.residual <= 1e-11 and got.iterations > 1
    assert solver == "neumann" or got.iterations <= 2 * DIM


def test_the_solution_is_found_by_inner_steps_and_says_how_far_it_is():
    net, inner, outer = problem()

    def run(steps):
        return dilkit.meta.of(net).implicit(
            quadratic, inner, outer_batch=outer, inner=0.1, steps=steps, tolerance=1e-12, iterations=50
        )

    near, far = run(400), run(3)
    assert near.stationarity < 1e-9 < 1e-3 < far.stationarity
    unrolled = dilkit.meta.of(net).grad(
        lambda m, b: quadratic(m, b) + 0.5 * (m.w - net_theta).square().sum(),
        [inner], inner=0.1, steps=400, outer_batches=[outer], outer_loss=quadratic,
        outside={"theta": (net_theta := net.w.detach().clone().requires_grad_())},
    )  # fmt: skip
    whole = unrolled.grads["w"] + unrolled.outside["theta"]
    assert (near.grads["w"] - whole).norm() <= 1e-8 * whole.norm()


@pytest.mark.parametrize("solver", ["cg", "neumann"])
def test_a_regulariser_is_learned_by_the_implicit_function_theorem(solver):
    """Ridge regression: d validation loss / d log lambda."""
    torch.manual_seed(1)
    x, v = torch.randn(20, DIM).double(), torch.randn(15, DIM).double()
    y, u = torch.randn(20).double(), torch.randn(15).double()
    rho = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def solution(rho):
        return torch.linalg.solve(x.T @ x / 20 + rho.exp() * torch.eye(DIM).double(), x.T @ y / 20)

    (want,) = torch.autograd.grad(0.5 * (v @ solution(rho) - u).square().mean(), rho)
    net = Vector()
    got = dilkit.meta.of(net).implicit(
        lambda m, b: 0.5 * (b[0] @ m.w - b[1]).square().mean() + 0.5 * rho.exp() * m.w.square().sum(),
        (x, y),
        outer_loss=lambda m, b: 0.5 * (b[0] @ m.w - b[1]).square().mean(),
        outer_batch=(v, u), inner=0.3, steps=300, prox=0.0, outside={"rho": rho},
        solver=solver, iterations=500, tolerance=1e-12, rate=0.3,
    )  # fmt: skip
    assert float(got.outside["rho"]) == pytest.approx(float(want), rel=1e-8)
    assert not got.grads["w"].any()


def test_settings_that_mean_nothing_are_refused():
    net, inner, outer = problem()
    meta = dilkit.meta.of(net)
    for kw, message in (
        ({"prox": 0.0}, "nothing to differentiate by"),
        ({"solver": "gmres"}, "unknown solver"),
        ({"prox": -1.0}, "prox is at least 0"),
    ):
        with pytest.raises(UsageError, match=message):
            meta.implicit(quadratic, inner, outer_batch=outer, **kw)
