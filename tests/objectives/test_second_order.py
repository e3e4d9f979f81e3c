"""The exact objectives against the formulas written out, and their limits."""

import pytest
import torch
from torch import nn
from torch.func import functional_call

from dilkit.confounders.episodes import Episode
from dilkit.errors import UsageError
from dilkit.objectives import make_objective

A = 0.2


def loss(net, batch):
    return ((net(batch[0]) - batch[1]).square() + 1e-2).sqrt().mean()


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)).double()


def episode(n=3, size=2):
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand(size, 3, 5, 5, generator=rng, dtype=torch.float64)
    views = {
        f"d{i}": clean + 0.2 * (i + 1) * torch.randn(clean.shape, generator=rng, dtype=clean.dtype)
        for i in range(n)
    }
    return Episode(views, dict.fromkeys(views, clean), 1)


class ByHand:
    """phi as a function of theta, everything in one graph."""

    def __init__(self, net, ep):
        self.net, self.ep = net, ep
        self.theta = dict(net.named_parameters())

    def at(self, phi, label):
        view, target = self.ep.batch(label)
        return ((functional_call(self.net, phi, (view,)) - target).square() + 1e-2).sqrt().mean()

    def mean(self, phi):
        return torch.stack([self.at(phi, x) for x in self.ep.labels]).mean()

    def step(self, phi, value):
        grads = torch.autograd.grad(value, list(phi.values()), create_graph=True)
        return {n: p - A * g for (n, p), g in zip(phi.items(), grads, strict=True)}

    def direction(self, value):
        return dict(zip(self.theta, torch.autograd.grad(value, list(self.theta.values())), strict=True))


def assert_equal(got, want, tolerance=1e-12):
    for name, g in want.items():
        assert (got.grads[name] - g).norm() <= tolerance * g.norm(), name


def sgd(lr=A):
    return {"inner": {"name": "sgd", "lr": lr}}


@pytest.mark.parametrize("outer", ["all", "others", "same"])
def test_dil_ss_star_is_equation_4(outer):
    net, ep = small_net(), episode()
    hand = ByHand(net, ep)
    total = 0
    for label in ep.labels:
        phi = hand.step(hand.theta, hand.at(hand.theta, label))
        chosen = {"all": ep.labels, "same": (label,), "others": [x for x in ep.labels if x != label]}[outer]
        total = total + torch.stack([hand.at(phi, x) for x in chosen]).mean()
    got = make_objective("dil_ss", loss=loss, outer=outer, **sgd()).gradients(net, ep)
    assert_equal(got, hand.direction(total))
    assert float(got.log["loss/outer"]) == pytest.approx(float(total.detach()), rel=1e-12)


def test_dil_ss_chain_passes_through_all_distortions_in_a_fresh_order():
    net, ep = small_net(), episode()
    objective = make_objective("dil_ss", loss=loss, trajectory="chain", seed=4, **sgd())
    got = objective.gradients(net, ep)
    order = list(got.log)[:-1]
    hand = ByHand(net, ep)
    phi = hand.theta
    for key in order:
        phi = hand.step(phi, hand.at(phi, key.removeprefix("loss/")))
    assert_equal(got, hand.direction(hand.mean(phi)))
    orders = {tuple(objective.gradients(net, Episode(ep.views, ep.targets, s)).log) for s in range(12)}
    assert len(orders) > 2


def test_dil_ps_is_equation_5():
    net, ep = small_net(), episode()
    hand = ByHand(net, ep)
    phi = hand.step(hand.theta, hand.mean(hand.theta))
    got = make_objective("dil_ps", loss=loss, **sgd()).gradients(net, ep)
    assert_equal(got, hand.direction(hand.mean(phi)))


def test_dil_pf_is_the_distance_of_pooled_steps():
    net, ep = small_net(), episode()
    hand = ByHand(net, ep)
    phi = hand.theta
    for _ in range(3):
        phi = hand.step(phi, hand.mean(phi))
    got = make_objective("dil_pf", loss=loss, steps=3, **sgd()).gradients(net, ep)
    assert_equal(got, {n: (hand.theta[n] - phi[n]).detach() for n in phi}, 1e-11)


@pytest.mark.parametrize("name", ["dil_ss", "dil_ps", "dil_sf", "dil_pf"])
def test_erm_is_the_limit_of_small_inner_rates(name):
    net, ep = small_net(), episode()
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads

    def off(lr):
        grads = make_objective(name, loss=loss, **sgd(lr)).gradients(net, ep).grads
        scale = {"dil_ss": 3, "dil_ps": 1, "dil_sf": 3 * lr, "dil_pf": 4 * lr}[name]
        return float(sum((grads[n] / scale - erm[n]).square().sum() for n in erm) ** 0.5)

    assert off(1e-5) < 1e-3
    assert off(1e-4) / off(1e-5) == pytest.approx(10, rel=0.1)  # the difference is of first order


def test_one_confounder_makes_serial_first_order_into_erm():
    net, ep = small_net(), episode(n=1)
    erm = make_objective("erm", loss=loss).gradients(net, ep).grads
    got = make_objective("dil_sf", loss=loss, **sgd(0.1)).gradients(net, ep).grads
    for name, g in erm.items():
        torch.testing.assert_close(got[name] / 0.1, g, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "config"),
    [("erm", {}), ("dil_sf", {}), ("dil_pf", {}), ("dil_ss", {"trajectory": "star", "outer": "all"}),
     ("dil_ss", {"trajectory": "chain"}), ("dil_ps", {})],
)  # fmt: skip
def test_more_confounders_need_no_more_activations(name, config):
    def peak(n):
        held, most = 0, 0

        class Held:
            def __init__(self, tensor):
                nonlocal held, most
                self.tensor = tensor
                held += tensor.numel()
                most = max(most, held)

            def __del__(self):
                nonlocal held
                held -= self.tensor.numel()

        net, objective = small_net(), make_objective(name, loss=loss, **config)
        objective.gradients(net, episode(n))  # the first product is made in both modes
        held = most = 0
        with torch.autograd.graph.saved_tensors_hooks(Held, lambda h: h.tensor):
            objective.gradients(net, episode(n))
        return most

    assert peak(6) == peak(2) > 0


@pytest.mark.parametrize("name", ["dil_ss", "dil_ps"])
def test_running_statistics_move_once_per_pass_by_the_mean(name):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).double()
    make_objective(name, loss=loss, buffers="isolate").gradients(net, episode())
    assert int(net[1].num_batches_tracked) == 0
    make_objective(name, loss=loss).gradients(net, episode())
    assert int(net[1].num_batches_tracked) == (4 if name == "dil_ss" else 6)
    assert net[1].running_mean.abs().max() > 0


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UsageError, match="at least two"):
        make_objective("dil_ss", loss=loss, outer="others").gradients(small_net(), episode(n=1))
    with pytest.raises(UsageError, match="hvp"):
        make_objective("dil_ps", loss=loss, hvp="fd")


def test_the_first_product_on_a_net_has_the_bits_of_any_other():
    """Else a resumed run, whose engine is new, would part from one that went on."""
    net, ep = small_net().float(), episode()
    ep = Episode(
        {k: v.float() for k, v in ep.views.items()}, {k: v.float() for k, v in ep.targets.items()}, 1
    )
    objective = make_objective("dil_ss", loss=loss, inner={"name": "sgd", "lr": A})
    first = objective.gradients(net, ep).grads
    again = objective.gradients(net, ep).grads
    assert all(torch.equal(first[name], again[name]) for name in first)
