"""Cases that the test suites of higher, learn2learn, torchopt and betty pin down, in closed form."""

import pytest
import torch
from meta_reference import relative_error
from torch import nn

import dilkit

torch.set_num_threads(1)


def regression(seed=0, n=6):
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=rng, dtype=torch.float64)
    return x, torch.randn(n, 1, generator=rng, dtype=torch.float64)


def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 1, bias=False).double()


def hessian(x):
    return 2 * x.T @ x / len(x)


def slope(w, x, y):
    return 2 * (x @ w - y).T @ x / len(x)


def step_matrix(x, rate):
    return torch.eye(3).double() - rate * hessian(x)


def test_gradients_reach_the_initial_weights_of_linear_regression():
    """higher, test_patch: the adapted weights are differentiable functions of the first ones."""
    net, (x, y), (u, v) = linear(), regression(1), regression(2)
    w, jacobian = net.weight.detach().T, torch.eye(3).double()
    for _ in range(7):
        w, jacobian = w - 0.1 * slope(w, x, y).T, step_matrix(x, 0.1) @ jacobian
    got = dilkit.meta.of(net).grad(nn.MSELoss(), [(x, y)], inner=0.1, steps=7, outer_batches=[(u, v)])
    torch.testing.assert_close(got.phi[0]["weight"], w.T, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(got.grads["weight"], slope(w, u, v) @ jacobian, rtol=1e-12, atol=1e-14)


def test_overridden_rates_get_their_gradients():
    """higher, test_optim: learnable hyperparameters; d J / d a_k = -<g_k, lam_(k+1)>."""
    net, (x, y), (u, v) = linear(), regression(1), regression(2)
    rates = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in (0.1, 0.05, 0.2)]
    w, slopes = net.weight.detach().T, []
    for a in rates:
        slopes.append(slope(w, x, y))
        w = w - a.detach() * slopes[-1].T
    lam, want = slope(w, u, v), {}
    for k in (2, 1, 0):
        want[f"lr[{k}]"] = -(slopes[k] * lam).sum()
        lam = lam @ step_matrix(x, float(rates[k]))
    got = dilkit.meta.of(net).grad(nn.MSELoss(), [(x, y)], inner=rates, steps=3, outer_batches=[(u, v)])
    assert relative_error(got.hyper, {k: want[k] for k in got.hyper}) <= 1e-12


def test_tasks_do_not_touch_the_base_model_nor_each_other():
    """learn2learn, maml_test: clones adapt alone."""
    net, a, b = linear(), regression(1), regression(2)
    before = net.weight.detach().clone()
    meta = dilkit.meta.of(net)
    together = meta.grad(nn.MSELoss(), {"a": a, "b": b}, trajectory="star", inner=0.1, steps=4, outer="same")
    alone = [meta.grad(nn.MSELoss(), {"x": t}, inner=0.1, steps=4) for t in (a, b)]
    for phi, one in zip(together.phi, alone, strict=True):
        assert torch.equal(phi["weight"], one.phi[0]["weight"])
    want = alone[0].grads["weight"] + alone[1].grads["weight"]
    torch.testing.assert_close(together.grads["weight"], want, rtol=1e-13, atol=0)
    assert torch.equal(net.weight, before) and net.weight.grad is None


def test_first_order_maml_is_the_outer_gradient_alone():
    """learn2learn, maml_test: first_order=True."""
    net, (x, y), (u, v) = linear(), regression(1), regression(2)
    got = dilkit.meta.of(net).grad(
        nn.MSELoss(), [(x, y)], inner=0.1, steps=3, order="fomaml", outer_batches=[(u, v)]
    )
    torch.testing.assert_close(got.grads["weight"], slope(got.phi[0]["weight"].T, u, v), rtol=1e-12, atol=0)


def test_metasgd_learns_a_rate_for_each_weight():
    """learn2learn, metasgd_test."""
    net, (x, y), (u, v) = linear(), regression(1), regression(2)
    rate = torch.full_like(net.weight, 0.1).requires_grad_()
    got = dilkit.meta.of(net).grad(nn.MSELoss(), [(x, y)], inner={"weight": rate}, outer_batches=[(u, v)])
    g = slope(net.weight.detach().T, x, y)
    want = -g * slope((net.weight.detach() - 0.1 * g).T, u, v)
    torch.testing.assert_close(got.hyper["lr.weight"], want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("cls", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.SGD])
def test_virtual_steps_are_the_optimisers_own_and_their_state_goes_on(cls):
    """torchopt, test_meta_optim: forward steps equal torch's, and extracted states are taken up."""
    net, twin, batch = linear(), linear(), regression(1)
    optimizer = cls(twin.parameters(), lr=0.05)
    meta, state, phi = dilkit.meta.of(net), None, {}
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.mse_loss(twin(batch[0]), batch[1]).backward()
        optimizer.step()
        phi, state = meta.step(phi, nn.MSELoss(), batch, inner=cls(net.parameters(), lr=0.05), state=state)
    torch.testing.assert_close(phi["weight"], twin.weight.detach(), rtol=1e-12, atol=1e-14)


def test_sample_weights_get_minus_the_product_of_gradients():
    """betty, data reweighting: d J(phi) / d z_i = -a <grad L_i, grad J(phi)> for one step."""
    net, (x, y), (u, v) = linear(), regression(1), regression(2)
    z = torch.full((len(x), 1), 1 / len(x), dtype=torch.float64, requires_grad=True)
    got = dilkit.meta.of(net).grad(
        lambda module, batch: (z * (module(batch[0]) - batch[1]).square()).sum(),
        [(x, y)],
        inner=0.1,
        outer_batches=[(u, v)],
        outer_loss=nn.MSELoss(),
        outside={"z": z},
    )
    w = net.weight.detach()
    each = 2 * (x @ w.T - y) * x
    outer = slope((w - 0.1 * (z.detach() * each).sum(0, keepdim=True)).T, u, v)
    torch.testing.assert_close(got.outside["z"], -0.1 * each @ outer.T, rtol=1e-11, atol=1e-14)
