"""The first page: forms of losses and batches, steps, what comes back, and what is refused."""

import functools

import pytest
import torch
import torch.nn.functional as F
from meta_reference import meta_gradient, relative_error, sgd
from meta_zoo import Plain, batches, build, charbonnier
from torch import nn

import dilkit
from dilkit.errors import UsageError

torch.set_num_threads(1)


def mse(module, batch):
    return (module(batch[0]) - batch[1]).square().mean()


def own_criterion(pred, target):
    return (pred - target).square().mean()


@pytest.mark.parametrize(
    "loss",
    [nn.MSELoss(), F.mse_loss, functools.partial(F.mse_loss, reduction="mean"), own_criterion,
     dilkit.meta.criterion(lambda a, b: (a - b).square().mean())],
)  # fmt: skip
def test_a_plain_criterion_is_a_loss(loss):
    net, _ = build("plain")
    want = dilkit.meta.of(net).grad(mse, batches(), inner=0.1).grads
    got = dilkit.meta.of(net).grad(loss, batches(), inner=0.1).grads
    assert relative_error(got, want) <= 1e-13


def test_steps_repeat_a_chain_a_branch_and_a_pool():
    net, _ = build("plain")
    meta, data = dilkit.meta.of(net), batches()
    want, _ = meta_gradient(
        net,
        lambda at, b: charbonnier(at, data[b]),
        {f"{k}{n}": n for k in range(2) for n in data},
        sgd,
        star=False,
    )
    assert relative_error(meta.grad(charbonnier, data, inner=0.05, steps=2).grads, want) <= 1e-12
    one = {"a": data["d0"]}
    got = meta.grad(charbonnier, one, inner=0.05, steps=3, outer_batches=[data["d1"]])
    listed = meta.grad(charbonnier, [data["d0"]] * 3, inner=0.05, outer_batches=[data["d1"]])
    assert relative_error(got.grads, listed.grads) == 0
    assert list(got.inner) == ["a", "a (step 2)", "a (step 3)"]


@pytest.mark.parametrize("outer", ["all", "others", "same"])
@pytest.mark.parametrize("shape", ["star", "pooled"])
def test_branches_and_pools_take_several_steps_with_losses_after_each(outer, shape):
    if shape == "pooled" and outer != "all":
        return
    net, _ = build("plain")
    settings = {
        "inner": 0.05,
        "steps": 3,
        "trajectory": shape,
        "outer": outer,
        "outer_weights": [0.2, 0.0, 0.8],
    }
    got = dilkit.meta.of(net).grad(charbonnier, batches(), **settings)
    want = dilkit.meta.of(net).grad(charbonnier, batches(), backend="unrolled", **settings)
    assert relative_error(got.grads, want.grads) <= 1e-12
    assert len(got.phi) == (3 if shape == "star" else 1)
    assert got.outer.keys() == want.outer.keys() and float(got.loss) == pytest.approx(
        float(want.loss), rel=1e-12
    )


def test_phi_is_what_the_steps_led_to_and_apply_writes_grad():
    net, _ = build("plain")
    meta, data = dilkit.meta.of(net), batches()
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    got = meta.grad(charbonnier, data, inner=lr, trajectory="star")
    for phi, batch in zip(got.phi, data.values(), strict=True):
        by_hand, _ = meta.step({}, charbonnier, batch, inner=0.05)
        assert relative_error(phi, by_hand) <= 1e-15
    got.apply(net)
    assert all(torch.equal(p.grad, got.grads[n]) for n, p in net.named_parameters())
    assert torch.equal(lr.grad, got.hyper["lr"])
    got.apply(net, accumulate=True)
    assert torch.equal(net.head.weight.grad, 2 * got.grads["head.weight"])
    torch.optim.Adam(net.parameters()).step()
    with pytest.raises(UsageError, match="has no parameter"):
        got.apply(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("loss", "data", "message"),
    [
        (charbonnier, (torch.ones(1), torch.ones(1)), r"looks like one batch(.|\n)*\[batch\]"),
        (charbonnier, torch.ones(3), "looks like one batch"),
        (charbonnier, iter([1]), "itertools.islice"),
        (charbonnier, 3, "a list of batches"),
        (3, [(1, 2)], "called as loss"),
        (lambda module: 0, [(1, 2)], r"called as loss\(module, batch\)"),
        (F.mse_loss, [torch.ones(1)], "a plain criterion needs batches"),
        (lambda m, b: float(charbonnier(m, b)), [batches()["d0"]], "returns a scalar tensor"),
        (charbonnier, [], "at least one batch"),
        (nn.MSELoss(reduction="none"), [batches()["d0"]], r"returns a scalar tensor(.|\n)*\.mean\(\)"),
        (nn.MSELoss()(torch.ones(1), torch.ones(1)), [batches()["d0"]], "called as loss"),
        (lambda m, b: charbonnier(m, b).detach(), [batches()["d0"]], "does not depend on any trainable"),
    ],
)
def test_first_mistakes_name_their_cause(loss, data, message):
    with pytest.raises(UsageError, match=message):
        dilkit.meta.of(Plain().double()).grad(loss, data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner": "sgd"}, "no inner optimiser(.|\n)*a learning rate, a torch.optim class"),
        ({"inner": torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)}, "not this module's"),
        ({"inner": torch.optim.LBFGS}, "no differentiable step"),
        ({"inner": {"heat": 0.1}}, "belongs to no group"),
        ({"inner": {"heat": 0.1, "*": None}}, "no trainable parameter or part of the module"),
        ({"inner": [0.1, 0.1]}, "inner step 3 has no learning rate"),
        ({"steps": 0}, "at least 1"),
        ({"order": "second"}, "exact, fomaml, reptile"),
        ({"keep": "everything"}, "all, auto"),
        ({"keep_weights": "gpu"}, "device, cpu, recompute"),
        ({"buffers": "comit_last"}, "did you mean: commit_last"),
        ({"truncate": 0}, "at least 1"),
        ({"outer_batches": (torch.ones(1), torch.ones(1))}, r"outer_batches=\[batch\]"),
        ({"outside": {"z": torch.ones(1)}}, "does not require grad"),
        ({"outside": {"z": torch.ones(1, requires_grad=True)}, "order": "reptile"}, "no outer loss"),
    ],
)
def test_wrong_settings_name_what_there_is(settings, message):
    with pytest.raises(UsageError, match=message):
        dilkit.meta.of(Plain().double()).grad(charbonnier, batches(), **settings)


def test_what_belongs_to_a_net_is_not_looked_for_on_the_package():
    with pytest.raises(AttributeError, match=r"it is dilkit\.meta\.of\(net\)\.grad"):
        dilkit.meta.grad  # noqa: B018


def test_something_that_is_no_module():
    with pytest.raises(UsageError, match=r"works on a torch\.nn\.Module"):
        dilkit.meta.of(lambda x: x)


def hand_rolled(net, value_of, leaves):
    """Gradients of an expression of theta in one graph."""
    return torch.autograd.grad(value_of(), leaves, allow_unused=True)


@pytest.mark.parametrize("keep", [0, "all"])
@pytest.mark.parametrize("order", ["exact", "fomaml"])
def test_tensors_outside_and_batches_that_require_grad(keep, order):
    """Data distillation and learned losses: d J / dz through inner and outer losses."""
    net, _ = build("plain")
    data = batches()
    z = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    x = data["d0"][0].clone().requires_grad_()
    inside = {"d0": (x, data["d0"][1]), "d1": data["d1"]}

    def loss(module, batch):
        return charbonnier(module, batch) * z.exp()

    settings = {"inner": 0.05, "outside": {"z": z}, "outer_batches": [data["d2"]], "order": order}
    got = dilkit.meta.of(net).grad(loss, inside, keep=keep, **settings)
    want = dilkit.meta.of(net).grad(loss, inside, backend="unrolled", **settings)
    assert set(got.outside) == {"z", "batches.d0[0]"}
    assert relative_error(got.grads | got.outside, want.grads | want.outside) <= 1e-12
    if order == "exact":
        assert got.outside["batches.d0[0]"].abs().max() > 0
    got.apply(net)
    assert torch.equal(x.grad, got.outside["batches.d0[0]"]) and torch.equal(z.grad, got.outside["z"])


def test_an_outside_tensor_may_be_made_from_others():
    net, _ = build("plain")
    raw = torch.zeros((), dtype=torch.float64, requires_grad=True)
    z = raw.exp()
    got = dilkit.meta.of(net).grad(
        lambda m, b: charbonnier(m, b) * z, batches(), inner=0.05, steps=2, outside={"z": z}
    )
    z.backward(got.outside["z"])
    assert torch.equal(raw.grad, got.outside["z"])


@pytest.mark.parametrize("weights", ["cpu", "recompute"])
@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_weights_that_are_not_kept_are_computed_again_to_the_bit(weights, rule):
    net, _ = build("batch norm, train")
    inner = torch.optim.Adam if rule == "adam" else 0.05
    want = dilkit.meta.of(net).grad(charbonnier, batches(), inner=inner, steps=3)
    got = dilkit.meta.of(net).grad(charbonnier, batches(), inner=inner, steps=3, keep_weights=weights)
    assert all(torch.equal(got.grads[n], g) for n, g in want.grads.items())


@pytest.mark.parametrize("memory", [1, 10**9, None])
def test_graphs_are_kept_within_the_memory_allowed(memory):
    net, _ = build("dropout")
    torch.manual_seed(0)
    want = dilkit.meta.of(net).grad(charbonnier, batches(), inner=0.05, steps=2)
    torch.manual_seed(0)
    calls = []

    def loss(module, batch):
        calls.append(1)
        return charbonnier(module, batch)

    got = dilkit.meta.of(net).grad(loss, batches(), inner=0.05, steps=2, keep="auto", memory=memory)
    assert relative_error(got.grads, want.grads) <= 1e-13
    assert len(calls) == (9 + 6 if memory == 1 else 9)  # six inner and three outer passes; replays


def test_a_truncated_adjoint_is_exact_at_full_length_and_says_what_it_drops():
    net, _ = build("plain")

    def grad(**kw):
        return dilkit.meta.of(net).grad(charbonnier, batches(), inner=0.3, steps=2, **kw)

    exact, fomaml = grad(), grad(order="fomaml")
    assert relative_error(grad(truncate=6).grads, exact.grads) == 0 and grad(truncate=6).change is None
    off = [relative_error(grad(truncate=k).grads, exact.grads) for k in (1, 3, 5)]
    assert off[0] > off[1] > off[2] > 0
    assert relative_error(fomaml.grads, exact.grads) > off[0]
    assert grad(truncate=3).change > 0
    # the last step alone: (I - a H_K) grad J(phi_K), by hand
    meta, phi = dilkit.meta.of(net), {}
    for batch in [*batches().values(), *batches().values()][:-1]:
        phi, _ = meta.step(phi, charbonnier, batch, inner=0.3)
    leaves = {n: p.clone().requires_grad_() for n, p in phi.items()}
    last = list(batches().values())[-1]
    with meta.at(leaves) as module:
        grads = torch.autograd.grad(charbonnier(module, last), list(leaves.values()), create_graph=True)
        v = [fomaml.grads[n] for n in leaves]
        curved = torch.autograd.grad(grads, list(leaves.values()), v)
    want = {n: x - 0.3 * h for n, x, h in zip(leaves, v, curved, strict=True)}
    assert relative_error(grad(truncate=1).grads, want) <= 1e-12
