"""Oracles in closed form, and places where a library is wrong and we are not."""

import warnings

import pytest
import torch
from meta_reference import meta_gradient, relative_error, sgd
from meta_zoo import batches, build, charbonnier
from torch import nn
from torch.func import functional_call

import dilkit

torch.set_num_threads(1)


class Quadratic(nn.Module):
    """Losses 1/2 (w - c)^T A (w - c), so that every gradient and Hessian is known."""

    def __init__(self, dim=5):
        super().__init__()
        self.w = nn.Parameter(torch.randn(dim, dtype=torch.float64))


def quadratic(net, batch):
    a, c = batch
    return 0.5 * (net.w - c) @ a @ (net.w - c)


def quadratics(n, dim=5):
    torch.manual_seed(1)
    out = {}
    for i in range(n):
        m = torch.randn(dim, dim, dtype=torch.float64)
        out[f"d{i}"] = (m @ m.T / dim + torch.eye(dim).double(), torch.randn(dim, dtype=torch.float64))
    return out


def test_quadratics_in_closed_form():
    torch.manual_seed(0)
    net, data, a = Quadratic(), quadratics(4), 0.1
    eye, w = torch.eye(5).double(), net.w.detach()
    jacobian, phi = eye, w
    for m, c in data.values():
        jacobian, phi = (eye - a * m) @ jacobian, phi - a * m @ (phi - c)
    outer = sum(m @ (phi - c) for m, c in data.values()) / 4
    got = dilkit.meta.of(net).grad(quadratic, data, inner=a)
    assert (got.grads["w"] - jacobian.T @ outer).norm() <= 1e-13 * outer.norm()

    want = torch.zeros(5).double()
    for m, c in data.values():
        phi = w - a * m @ (w - c)
        want += (eye - a * m) @ sum(n @ (phi - d) for n, d in data.values()) / 4
    got = dilkit.meta.of(net).grad(quadratic, data, inner=a, trajectory="star")
    assert (got.grads["w"] - want).norm() <= 1e-13 * want.norm()


@pytest.mark.parametrize("order", ["exact", "fomaml", "reptile"])
def test_the_nichol_expansion_with_a_residual_of_second_order(order):
    """Averaged over all orders of K batches, the last also the outer one (Nichol et al., 2018, section 5)."""
    import itertools

    torch.manual_seed(0)
    net, data = Quadratic(), quadratics(3)
    k, w = len(data), net.w.detach()
    g = {n: m @ (w - c) for n, (m, c) in data.items()}
    average = sum(g.values()) / k
    inner = sum(data[i][0] @ g[j] for i in g for j in g if i != j) / (k * (k - 1))

    def off(a):
        total = torch.zeros(5).double()
        for names in itertools.permutations(data):
            if order == "reptile":
                total += (
                    dilkit.meta.of(net)
                    .grad(quadratic, {n: data[n] for n in names}, inner=a, order=order)
                    .grads["w"]
                    / a
                )
                continue
            *first, last = names
            total += (
                dilkit.meta.of(net)
                .grad(
                    quadratic,
                    {n: data[n] for n in first},
                    inner=a,
                    order=order,
                    outer_batches={last: data[last]},
                )
                .grads["w"]
            )
        total /= 6
        # AvgGradInner is the mean of H_i g_j over ordered pairs (Nichol's, half of both orders, summed)
        expected = {
            "exact": average - 2 * (k - 1) * a * inner,
            "fomaml": average - (k - 1) * a * inner,
            "reptile": k * average - k * (k - 1) / 2 * a * inner,
        }[order]
        return float((total - expected).norm())

    assert 3.5 < off(2e-3) / off(1e-3) < 4.5
    assert off(1e-3) < 1e-3


def test_directional_differences_under_charbonnier():
    net, _ = build("plain")
    meta = dilkit.meta.of(net)
    direction = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    grads = meta.grad(charbonnier, batches(), inner=0.05, trajectory="star").grads

    def value(t):
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.add_(t * direction[n])
        out = meta.grad(charbonnier, batches(), inner=0.05, trajectory="star", order="fomaml").loss
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.sub_(t * direction[n])
        return float(out)

    slope = (value(1e-6) - value(-1e-6)) / 2e-6
    assert slope == pytest.approx(float(sum((grads[n] * direction[n]).sum() for n in grads)), rel=1e-6)


def test_checkpointed_layers_mislead_functional_call_and_higher_but_not_us():
    net, twin = build("layer checkpointing")
    net.eval(), twin.eval()
    want, _ = meta_gradient(twin, charbonnier, batches(), sgd, star=False)
    assert relative_error(dilkit.meta.of(net).grad(charbonnier, batches(), inner=0.05).grads, want) < 1e-12

    theta = dict(net.named_parameters())
    phi = theta
    for batch in batches().values():
        value = charbonnier(lambda x, phi=phi: functional_call(net, phi, (x,)), batch)
        grads = torch.autograd.grad(value, list(phi.values()), create_graph=True, allow_unused=True)
        phi = {n: p if g is None else p - 0.05 * g for (n, p), g in zip(phi.items(), grads, strict=True)}
    value = sum(charbonnier(lambda x: functional_call(net, phi, (x,)), b) for b in batches().values()) / 3
    unrolled = torch.autograd.grad(value, list(theta.values()), allow_unused=True)
    unrolled = {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(theta.items(), unrolled, strict=True)
    }
    assert relative_error(unrolled, want) > 1e-3

    higher = pytest.importorskip("higher")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sgd_of_torch = torch.optim.SGD(net.parameters(), lr=0.05)
        with higher.innerloop_ctx(net, sgd_of_torch, copy_initial_weights=False) as (fnet, diffopt):
            for batch in batches().values():
                diffopt.step(charbonnier(fnet, batch))
            value = sum(charbonnier(fnet, b) for b in batches().values()) / 3
            grads = torch.autograd.grad(value, list(net.parameters()))
    theirs = dict(zip(theta, grads, strict=True))
    assert relative_error(theirs, want) > 1e-4


def test_torch_detaches_the_first_momentum_buffer_and_we_do_not():
    def unrolled(step):
        net, _ = build("plain")
        theta = dict(net.named_parameters())
        phi = [p.clone() for p in theta.values()]
        step = step(phi)
        for batch in batches().values():
            now = [p.clone() for p in phi]
            value = charbonnier(
                lambda x, now=now: functional_call(net, dict(zip(theta, now, strict=True)), (x,)), batch
            )
            phi = step(phi, torch.autograd.grad(value, now, create_graph=True))
        value = (
            sum(
                charbonnier(lambda x: functional_call(net, dict(zip(theta, phi, strict=True)), (x,)), b)
                for b in batches().values()
            )
            / 3
        )
        return dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))

    def by_torch(phi):
        optimizer = torch.optim.SGD(phi, lr=0.05, momentum=0.9, differentiable=True)

        def step(phi, grads):
            for p, g in zip(phi, grads, strict=True):
                p.grad = g
            optimizer.step()
            return phi

        return step

    def by_hand(phi):
        buffers = [torch.zeros_like(p) for p in phi]

        def step(phi, grads):
            nonlocal buffers
            buffers = [0.9 * b + g for b, g in zip(buffers, grads, strict=True)]
            return [p - 0.05 * b for p, b in zip(phi, buffers, strict=True)]

        return step

    want = unrolled(by_hand)
    inner = dilkit.meta.optimizer(torch.optim.SGD, lr=0.05, momentum=0.9)
    got = dilkit.meta.of(build("plain")[0]).grad(charbonnier, batches(), inner=inner).grads
    assert relative_error(got, want) <= 1e-12
    assert relative_error(unrolled(by_torch), want) > 1e-3


def test_functional_call_ties_an_aliased_module_wrongly_and_we_do_not():
    net, twin = build("shared weights")
    phi = {n: torch.randn_like(p) for n, p in net.named_parameters()}
    x = batches()["d0"][0]
    with dilkit.meta.of(net).at(phi):
        ours = net(x)
    assert torch.allclose(ours, functional_call(twin, phi, (x,)), rtol=1e-12)
