"""Every rival against its objective written out in one graph, or a plain port of its published algorithm."""

import copy
import math
from random import Random

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm
from torch import nn
from torch.func import functional_call

from dilkit.confounders.episodes import Episode
from dilkit.errors import UsageError
from dilkit.objectives import make_objective
from dilkit.objectives.base import shuffled


def loss(net, batch):
    return ((net(batch[0]) - batch[1]).square() + 1e-2).sqrt().mean()


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)).double()


def episode(step=0, n=3, size=4):
    rng = torch.Generator().manual_seed(step + 1)
    clean = torch.rand(size, 3, 6, 6, generator=rng, dtype=torch.float64)
    views = {
        f"d{k}": clean + 0.3 * (k + 1) * torch.randn(clean.shape, generator=rng, dtype=clean.dtype)
        for k in range(n)
    }
    return Episode(views, dict.fromkeys(views, clean), step)


def losses_of(net, ep):
    return torch.stack([loss(net, ep.batch(label)) for label in ep.labels])


def gradient(net, value):
    params = dict(net.named_parameters())
    return dict(zip(params, torch.autograd.grad(value, list(params.values())), strict=True))


def each(net, ep):
    return [gradient(net, loss(net, ep.batch(label))) for label in ep.labels]


def flat(grads):
    return torch.cat([g.flatten() for g in grads.values()])


def assert_equal(got, want, tolerance=1e-10):
    a, b = flat(got.grads), flat(want)
    assert (a - b).norm() <= tolerance * b.norm()


def test_vrex_is_the_gradient_of_mean_and_variance():
    net, ep = small_net(), episode()
    values = losses_of(net, ep)
    want = gradient(net, values.mean() + 7 * values.var(unbiased=False))
    assert_equal(make_objective("vrex", loss=loss, beta=7).gradients(net, ep), want)
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads
    assert_equal(make_objective("vrex", loss=loss, beta=7, after=1).gradients(net, ep), erm)


def test_tilted_is_the_gradient_of_its_log_sum_and_its_weights_are_the_worst_prior():
    net, ep, tau = small_net(), episode(), 0.1
    values = losses_of(net, ep)
    want = gradient(net, tau * (torch.exp(values / tau).mean()).log())
    got = make_objective("tilted", loss=loss, tau=tau).gradients(net, ep)
    assert_equal(got, want)
    p = torch.stack([got.log[f"weight/{label}"] for label in ep.labels])
    at = values.detach()

    def value_of(prior):
        return float((prior * at).sum() - tau * (prior * (prior * len(at)).log()).sum())

    best = value_of(p)
    assert best == pytest.approx(tau * float(torch.exp(at / tau).mean().log()), rel=1e-12)
    random = np.random.default_rng(0)
    others = torch.from_numpy(random.dirichlet(np.ones(len(at)), 200))
    assert max(value_of(prior) for prior in others) < best
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads
    assert_equal(make_objective("tilted", loss=loss, tau=1e6).gradients(net, ep), erm, 1e-6)


def test_groupdro_follows_the_published_algorithm_over_steps():
    net, eta = small_net(), 3.0
    objective = make_objective("groupdro", loss=loss, eta=eta)
    q = torch.ones(3, dtype=torch.float64) / 3
    for step in range(4):
        ep = episode(step)
        values = losses_of(net, ep)
        q = q * torch.exp(eta * values.detach())
        q = q / q.sum()
        assert_equal(objective.gradients(net, ep), gradient(net, (q * values).sum()))
    assert q.max() > 1.2 * q.min()


def test_eqrm_is_the_derivative_of_the_quantile_of_the_kernel_density():
    net, ep, alpha = small_net(), episode(n=4), 0.8

    def quantile(values):
        width = 1.06 * values.std(ddof=1) * len(values) ** -0.2
        return brentq(lambda q: norm.cdf((q - values) / width).mean() - alpha, -10, 10, xtol=1e-15)

    at = losses_of(net, ep).detach().numpy()
    eps = 1e-6
    weights = [(quantile(at + eps * e) - quantile(at - eps * e)) / (2 * eps) for e in np.eye(len(at))]
    total = [w * flat(g) for w, g in zip(weights, each(net, ep), strict=True)]
    got = make_objective("eqrm", loss=loss, alpha=alpha).gradients(net, ep)
    want = torch.stack(total).sum(0)
    assert (flat(got.grads) - want).norm() < 1e-7 * want.norm()
    assert sum(weights) == pytest.approx(1, abs=1e-6)


def test_eqrm_of_one_distortion_is_erm():
    net, ep = small_net(), episode(n=1)
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads
    assert_equal(make_objective("eqrm", loss=loss).gradients(net, ep), erm)


def test_pcgrad_projects_as_published():
    net, ep = small_net(), episode(n=4)
    contrary = Episode(ep.views, {k: (t - 5 if k == "d3" else t) for k, t in ep.targets.items()}, 0)
    grads = [flat(g) for g in each(net, contrary)]
    assert any((a @ b) < 0 for a in grads for b in grads)
    total = torch.zeros_like(grads[0])
    for i, g in enumerate(grads):
        g = g.clone()
        for j in shuffled(4, seed=5, step=0, purpose=f"project d{i}"):
            if j != i and g @ grads[j] < 0:
                g -= (g @ grads[j]) / (grads[j] @ grads[j]) * grads[j]
        total += g / 4
    got = flat(make_objective("pcgrad", loss=loss, seed=5).gradients(net, contrary).grads)
    assert (got - total).norm() <= 1e-10 * total.norm()
    assert (got - torch.stack(grads).mean(0)).norm() > 1e-3 * total.norm()


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_andmask_keeps_what_the_signs_agree_on(tau):
    net, ep = small_net(), episode(n=4)
    stacked = torch.stack([flat(g) for g in each(net, ep)])
    want = stacked.mean(0) * (stacked.sign().mean(0).abs() >= tau)
    got = make_objective("andmask", loss=loss, tau=tau).gradients(net, ep)
    assert torch.allclose(flat(got.grads), want, rtol=1e-12, atol=0)
    assert 0 < float(got.log["kept"]) < 1


def test_invariant_gradients_are_differentiated_exactly():
    net, ep, penalty = small_net(), episode(), 3.0
    params = list(net.parameters())
    values = losses_of(net, ep)
    grads = torch.stack(
        [torch.cat([g.flatten() for g in torch.autograd.grad(v, params, create_graph=True)]) for v in values]
    )
    variance = (grads - grads.mean(0)).square().sum(1).mean()
    got = make_objective("iga", loss=loss, penalty=penalty).gradients(net, ep)
    assert_equal(got, gradient(net, values.mean() + penalty * variance))
    assert float(got.log["penalty"]) == pytest.approx(float(variance.detach()), rel=1e-12)


def test_fish_is_its_authors_loop():
    stream, start = [episode(step) for step in range(4)], small_net()
    theirs, state = copy.deepcopy(start), None
    for ep in stream:
        inner = copy.deepcopy(theirs)
        optimizer = torch.optim.Adam(inner.parameters(), lr=1e-3)
        if state is not None:
            optimizer.load_state_dict(state)
        for i in shuffled(3, seed=2, step=ep.step):
            optimizer.zero_grad()
            loss(inner, ep.batch(ep.labels[i])).backward()
            optimizer.step()
        state = optimizer.state_dict()
        with torch.no_grad():
            for p, q in zip(theirs.parameters(), inner.parameters(), strict=True):
                p += 0.5 * (q - p)
    ours, objective = copy.deepcopy(start), make_objective("fish", loss=loss, seed=2)
    outer = torch.optim.SGD(ours.parameters(), lr=0.5)
    for ep in stream:
        grads = objective.gradients(ours, ep).grads
        for name, p in ours.named_parameters():
            p.grad = grads[name]
        outer.step()
    for p, q, p0 in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert (p - p0).abs().max() > 1e-4
        assert (p - q).abs().max() < 1e-12


@pytest.mark.parametrize("order", ["exact", "first"])
def test_mldg_is_its_objective_written_out(order):
    net, ep, a, beta = small_net(), episode(n=4), 0.3, 0.7
    objective = make_objective(
        "mldg", loss=loss, seed=1, beta=beta, held_out=2, order=order, inner={"name": "sgd", "lr": a}
    )
    cycle = shuffled(4, seed=1, step=0, purpose="hold out")
    test = [ep.labels[i] for i in cycle[:2]]
    train = [label for label in ep.labels if label not in test]
    theta = dict(net.named_parameters())

    def mean(phi, labels):
        return torch.stack(
            [
                ((functional_call(net, phi, (ep.views[x],)) - ep.targets[x]).square() + 1e-2).sqrt().mean()
                for x in labels
            ]
        ).mean()

    inside = mean(theta, train)
    grads = torch.autograd.grad(inside, list(theta.values()), create_graph=True)
    if order == "first":
        grads = [g.detach() for g in grads]
    phi = {k: p - a * g for (k, p), g in zip(theta.items(), grads, strict=True)}
    want = gradient(net, inside + beta * mean(phi, test))
    assert_equal(objective.gradients(net, ep), want)


def test_mldg_holds_every_distortion_out_once_a_cycle():
    from dilkit.objectives.generalisation import held_out

    labels = ("a", "b", "c", "d")
    for cycle in range(5):
        met = [held_out(labels, 1, seed=0, step=4 * cycle + k)[0] for k in range(4)]
        assert sorted(met) == list(labels)
    with pytest.raises(UsageError, match="nothing is left"):
        held_out(labels, 4, seed=0, step=0)


def test_irm_is_its_objective_written_out():
    net, ep, penalty = small_net(), episode(), 5.0
    values, slopes = [], []
    for label in ep.labels:
        view, target = ep.batch(label)
        w = torch.ones((), dtype=torch.float64, requires_grad=True)
        value = ((w * net(view) - target).square() + 1e-2).sqrt().mean()
        values.append(value)
        slopes.append(torch.autograd.grad(value, w, create_graph=True)[0])
    whole = torch.stack(values).mean() + penalty * torch.stack(slopes).square().mean()
    got = make_objective("irm", loss=loss, penalty=penalty).gradients(net, ep)
    assert_equal(got, gradient(net, whole))
    assert not net._forward_hooks


def test_fishr_is_its_objective_with_every_sample_s_gradient_taken_alone():
    net, ep, penalty = small_net(), episode(), 4.0
    last = list(net[2].parameters())
    variances = []
    for label in ep.labels:
        view, target = ep.batch(label)
        rows = []
        for k in range(len(view)):
            value = loss(net, (view[k : k + 1], target[k : k + 1]))
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, last, create_graph=True)]))
        variances.append(torch.stack(rows).var(0, unbiased=False))
    v = torch.stack(variances)
    whole = losses_of(net, ep).mean() + penalty * (v - v.mean(0)).square().sum(1).mean()
    got = make_objective("fishr", loss=loss, penalty=penalty).gradients(net, ep)
    assert_equal(got, gradient(net, whole))
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads
    assert (flat(got.grads) - flat(erm)).norm() > 1e-4 * flat(erm).norm()


def test_coral_is_its_objective_written_out():
    net, ep, penalty = small_net(), episode(), 50.0
    features = [
        net[1](net[0](ep.views[label])).movedim(1, 0).flatten(1).T for label in ep.labels
    ]  # (samples, 4)
    apart, pairs = 0, 0
    for i in range(3):
        for j in range(i + 1, 3):
            a, b = features[i], features[j]
            apart = apart + (a.mean(0) - b.mean(0)).square().mean()
            apart = apart + (torch.cov(a.T) - torch.cov(b.T)).square().mean()
            pairs += 1
    want = gradient(net, losses_of(net, ep).mean() + penalty * apart / pairs)
    assert_equal(make_objective("coral", loss=loss, penalty=penalty).gradients(net, ep), want)


def test_mixup_is_erm_on_blends_of_two_distortions():
    from hashlib import blake2b

    net, ep = small_net(), episode(step=3)
    independent = Episode(ep.views, {k: t + i for i, (k, t) in enumerate(ep.targets.items())}, 3)
    random = Random(blake2b(b"mixup:6:3", digest_size=16).digest())
    order = shuffled(3, seed=6, step=3, purpose="mixup")
    values = []
    for i, j in zip(order, [*order[1:], order[0]], strict=True):
        share = random.betavariate(0.4, 0.4)
        (x, y), (x2, y2) = independent.batch(ep.labels[i]), independent.batch(ep.labels[j])
        values.append(loss(net, (share * x + (1 - share) * x2, share * y + (1 - share) * y2)))
    got = make_objective("mixup", loss=loss, seed=6, alpha=0.4).gradients(net, independent)
    assert_equal(got, gradient(net, torch.stack(values).mean()))


@pytest.mark.parametrize("name", ["erm", "vrex", "dil_sf"])
def test_sharpness_aware_is_the_direction_at_the_steepest_neighbour(name):
    net, ep, rho = small_net(), episode(), 0.3
    g = gradient(net, losses_of(net, ep).mean())
    near = copy.deepcopy(net)
    with torch.no_grad():
        for key, p in near.named_parameters():
            p += rho * g[key] / flat(g).norm()
    want = make_objective(name, loss=loss).gradients(near, ep).grads
    before = {k: v.clone() for k, v in net.state_dict().items()}
    objective = make_objective(name, loss=loss, sam=rho)
    assert_equal(objective.gradients(net, ep), want)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert objective.passes(3) == 3 + make_objective(name, loss=loss).passes(3)


@pytest.mark.parametrize("name", ["fishr", "coral"])
def test_statistics_of_a_net_without_a_convolution_are_refused(name):
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, 108)).double()
    with pytest.raises(UsageError, match="last convolution"):
        make_objective(name, loss=lambda n, b: n(b[0]).mean()).gradients(net, episode())


def test_reweighting_is_robust_to_equal_losses():
    net, ep = small_net(), episode(n=2)
    same = Episode({"a": ep.views["d0"], "b": ep.views["d0"]}, {"a": ep.clean, "b": ep.clean}, 0)
    erm = make_objective("erm", loss=loss).gradients(net, same).grads
    for name in ("eqrm", "vrex", "tilted", "groupdro"):
        got = make_objective(name, loss=loss).gradients(net, same)
        assert_equal(got, erm)
        assert math.isfinite(float(got.loss))
