"""What holds for every objective of first order: purity, state, orders, mixing, errors."""

import copy
import io
import math
import subprocess
import sys

import pytest
import torch
from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.errors import DilkitError, UsageError
from dilkit.objectives import OBJECTIVES, make_objective
from dilkit.objectives.base import shuffled
from dilkit.objectives.controls import mixed
from dilkit.objectives.erm import taken

CHAINS = ("dil_sf", "dil_pf", "lookahead")


def l1(net, batch):
    return nn.functional.l1_loss(net(batch[0]), batch[1])


def net_with_everything():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 1))
    net.register_parameter("unused", nn.Parameter(torch.ones(2)))
    net[3].bias.requires_grad_(False)
    return net.double()


def episode(step=0, n=3, size=4):
    rng = torch.Generator().manual_seed(step + 1)
    clean = torch.rand(size, 3, 6, 6, generator=rng, dtype=torch.float64)
    views = {
        f"awgn({k})": clean + 0.1 * (k + 1) * torch.randn(clean.shape, generator=rng, dtype=clean.dtype)
        for k in range(n)
    }
    return Episode(views, dict.fromkeys(views, clean), step)


def snapshot(net):
    return {k: v.clone() for k, v in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_erm_is_the_gradient_of_the_mean_loss():
    net = net_with_everything().eval()
    got = make_objective("erm", loss=l1).gradients(net, episode())
    total = torch.stack([l1(net, b) for b in episode().batches().values()]).mean()
    params = {k: p for k, p in net.named_parameters() if p.requires_grad}
    want = torch.autograd.grad(total, list(params.values()), allow_unused=True)
    for (name, p), g in zip(params.items(), want, strict=True):
        torch.testing.assert_close(
            got.grads[name], torch.zeros_like(p) if g is None else g, rtol=1e-12, atol=0
        )
    assert float(got.loss) == pytest.approx(float(total.detach()), rel=1e-12)
    assert set(got.log) == {f"loss/{x}" for x in episode().labels}


@pytest.mark.parametrize("step", range(4))
def test_erm_pure_is_the_gradient_of_one_distortion(step):
    net, given = net_with_everything().eval(), episode(step)
    objective = make_objective("erm_pure", loss=l1, seed=3)
    got = objective.gradients(net, given)
    label = given.labels[shuffled(3, seed=3, step=step // 3)[step % 3]]
    value = l1(net, given.batch(label))
    params = {k: p for k, p in net.named_parameters() if p.requires_grad}
    want = torch.autograd.grad(value, list(params.values()), allow_unused=True, materialize_grads=True)
    for name, g in zip(params, want, strict=True):
        torch.testing.assert_close(got.grads[name], g, rtol=1e-12, atol=0)
    assert set(got.log) == {f"loss/{label}"}
    assert float(got.loss) == pytest.approx(float(value.detach()), rel=1e-12)
    assert objective.passes(3) == 1


@pytest.mark.parametrize("n", [1, 2, 4])
def test_erm_pure_meets_every_distortion_once_per_cycle(n):
    labels = [f"d{i}" for i in range(n)]
    cycles = [
        tuple(taken(labels, seed=0, step=cycle * n + turn) for turn in range(n)) for cycle in range(200)
    ]
    assert all(sorted(cycle) == labels for cycle in cycles)
    assert len(set(cycles)) == math.factorial(n)


@pytest.mark.parametrize("name", tuple(OBJECTIVES))
def test_parameters_and_their_grads_stay_as_they_were(name):
    net = net_with_everything()
    for p in net.parameters():
        p.grad = torch.full_like(p, 7.0)
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    got = make_objective(name, loss=l1).gradients(net, episode())
    assert same(before, {k: p.detach() for k, p in net.named_parameters()})
    assert all((p.grad == 7).all() for p in net.parameters())
    assert set(got.grads) == {k for k, p in net.named_parameters() if p.requires_grad}
    assert not got.grads["unused"].any()
    assert got.grads["0.weight"].abs().max() > 0


@pytest.mark.parametrize("name", CHAINS)
def test_a_failing_inner_step_leaves_the_net_untouched(name):
    net, calls = net_with_everything(), []

    def fails_at_second(module, batch):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return l1(module, batch)

    before = snapshot(net)
    with pytest.raises(RuntimeError, match="out of memory"):
        make_objective(name, loss=fails_at_second).gradients(net, episode())
    assert same(before, snapshot(net))


@pytest.mark.parametrize("name", tuple(OBJECTIVES))
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_view_is_named_with_its_step(name, value):
    net, bad = net_with_everything().eval(), episode(step=5)
    bad.views["awgn(1)"][0, 0, 0, 0] = value
    before = snapshot(net)
    with pytest.raises(DilkitError, match="step 5") as caught:
        make_objective(name, loss=l1, seed=4).gradients(
            net, bad
        )  # the seed by which erm_pure takes it at step 5
    assert ("mixed batch" if name == "lookahead" else "awgn(1)") in str(caught.value)
    assert same(before, snapshot(net))


def test_a_gradient_that_overflows_is_named_though_its_loss_is_finite():
    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x * self.w.sub(1).abs().sqrt()

    with pytest.raises(DilkitError, match="the gradient of awgn"):
        make_objective("dil_sf", loss=l1).gradients(Root(), episode(n=2))


@pytest.mark.parametrize("name", CHAINS)
def test_running_statistics_follow_the_chain_unless_isolated(name):
    net = net_with_everything()
    before = net[1].running_mean.clone()
    make_objective(name, loss=l1, buffers="isolate").gradients(net, episode())
    assert torch.equal(net[1].running_mean, before)
    make_objective(name, loss=l1).gradients(net, episode())
    assert int(net[1].num_batches_tracked) == (12 if name == "dil_pf" else 3)
    assert not torch.equal(net[1].running_mean, before)


@pytest.mark.parametrize("name", CHAINS)
def test_inner_moments_persist_and_survive_a_save(name):
    net = net_with_everything()
    running, fresh = make_objective(name, loss=l1), make_objective(name, loss=l1)
    assert not fresh.state_dict()["inner"]
    running.gradients(net, episode(0))
    file = io.BytesIO()
    torch.save(running.state_dict(), file)
    file.seek(0)
    resumed = make_objective(name, loss=l1)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    nets = [copy.deepcopy(net) for _ in range(3)]
    a, b, c = (
        o.gradients(m, episode(1)).grads for o, m in zip((_moved(running), resumed, fresh), nets, strict=True)
    )
    assert same(a, b)
    assert not same(a, c)


def _moved(objective):
    """The same state, free to serve another net."""
    state = copy.deepcopy(objective.state_dict())
    objective.load_state_dict(state)
    return objective


def test_a_state_of_another_net_is_refused():
    objective = make_objective("dil_sf", loss=l1)
    objective.gradients(net_with_everything(), episode())
    other = make_objective("dil_sf", loss=l1)
    other.load_state_dict(objective.state_dict())
    with pytest.raises(UsageError, match="does not fit"):
        other.gradients(nn.Conv2d(3, 3, 3, padding=1).double(), episode())


def test_the_chain_uses_one_set_of_moments_per_net():
    objective = make_objective("dil_sf", loss=l1)
    objective.gradients(net_with_everything(), episode())
    with pytest.raises(UsageError, match="another net"):
        objective.gradients(net_with_everything(), episode())


def test_orders_are_fresh_each_step_and_fixed_by_seed():
    orders = [tuple(shuffled(4, seed=0, step=s)) for s in range(200)]
    assert set(map(frozenset, orders)) == {frozenset(range(4))}
    assert len(set(orders)) == 24
    assert orders == [tuple(shuffled(4, seed=0, step=s)) for s in range(200)]
    assert orders != [tuple(shuffled(4, seed=1, step=s)) for s in range(200)]
    assert orders[:3] == [(2, 1, 3, 0), (0, 1, 2, 3), (0, 1, 2, 3)]


@pytest.mark.parametrize(("n", "size"), [(4, 8), (3, 4), (4, 2)])
def test_mixing_uses_every_view_once_and_evenly(n, size):
    views = {f"d{i}": torch.arange(size).float().add(100 * i).view(size, 1, 1, 1) for i in range(n)}
    targets = {x: torch.arange(size).float().view(size, 1, 1, 1) for x in views}
    batches = mixed(Episode(views, targets, 2), seed=0)
    assert len(batches) == n
    seen = torch.cat([v for v, _ in batches]).flatten()
    assert torch.equal(seen.sort().values, torch.cat([*views.values()]).flatten())
    for view, target in batches:
        assert torch.equal(view % 100, target)
        shares = torch.bincount((view.flatten() // 100).long(), minlength=n)
        assert shares.max() - shares.min() <= 1


def test_reduce_sees_every_inner_gradient_and_may_change_it():
    def halve(grads):
        calls.append(len(grads))
        for g in grads:
            g.mul_(0.5)

    for name, count in (("erm", 1), ("dil_sf", 3)):
        calls = []
        net = net_with_everything().eval()
        config = {} if name == "erm" else {"inner": {"name": "sgd", "lr": 1e-6}}
        plain = make_objective(name, loss=l1, **config).gradients(net, episode()).grads["0.weight"]
        halved = (
            make_objective(name, loss=l1, reduce=halve, **config).gradients(net, episode()).grads["0.weight"]
        )
        assert calls == [6] * count  # six trainable parameters, the unused one among them
        torch.testing.assert_close(halved, plain / 2, rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("dil_sff", {}, "did you mean: dil_sf"),
        ("dil_pf", {"steps": 1}, "steps"),
        ("dil_sf", {"inner": {"name": "adam", "lr": -1}}, "inner"),
        ("erm", {"inner_lr": 1e-4}, "inner_lr"),
    ],
)
def test_wrong_settings_are_refused(name, config, message):
    with pytest.raises(UsageError, match=message):
        make_objective(name, loss=l1, **config)


def test_the_settings_load_no_torch():
    code = "import dilkit.objectives, sys; dilkit.objectives.configs(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
