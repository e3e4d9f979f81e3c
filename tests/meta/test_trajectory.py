"""Virtual worlds: at, step, and every switch of grad, against the reference."""

import functools
import math

import pytest
import torch
from meta_reference import adam, meta_gradient, momentum, relative_error, sgd
from meta_zoo import Plain, batches, build, charbonnier
from torch import nn

import dilkit
from dilkit.errors import UsageError
from dilkit.meta.backends.native import Engine
from dilkit.meta.setting import Setting
from dilkit.meta.trajectory import Term

torch.set_num_threads(1)


def net_and_reference(name="plain", rule=sgd, **kw):
    net, twin = build(name)
    want, _ = meta_gradient(twin, charbonnier, batches(), rule, star=kw.pop("star", False), **kw)
    return net, want


def test_at_runs_on_virtual_weights_and_puts_everything_back():
    net, _ = build("batch norm, train")
    own = dict(net.named_parameters())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    x = batches()["d0"][0]
    with (
        pytest.raises(RuntimeError, match="stop"),
        dilkit.meta.of(net).at({k: torch.zeros_like(p) for k, p in own.items()}) as module,
    ):
        assert module is net
        assert not net(x).any()
        raise RuntimeError("stop")
    assert all(p is own[k] for k, p in net.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_at_accepts_some_names_and_given_buffers():
    net, _ = build("batch norm, eval")
    x = batches()["d0"][0]
    with dilkit.meta.of(net).at({"tail.bias": torch.full((3,), 9.0).double()}) as module:
        assert (module(x) - 9).abs().max() < 9
    shifted = {"norm.running_mean": torch.full((5,), 3.0).double()}
    with dilkit.meta.of(net).at({}, buffers=shifted):
        inside = net(x)
    assert not torch.equal(inside, net(x))


@pytest.mark.parametrize(
    ("phi", "message"),
    [
        ({"heat.weight": torch.zeros(1)}, "did you mean: head.weight"),
        ({"head.bias": torch.zeros(2)}, "shape"),
    ],
)
def test_at_refuses_what_does_not_fit(phi, message):
    with pytest.raises(UsageError, match=message), dilkit.meta.of(Plain()).at(phi):
        pass


def test_at_reaches_tied_weights_everywhere():
    net, _ = build("shared weights")
    with dilkit.meta.of(net).at({"head.weight": torch.zeros_like(net.head.weight)}):
        assert net.head.weight is net.again.weight
        assert not net.again.weight.any()
    assert net.head.weight is net.again.weight
    assert isinstance(net.again.weight, nn.Parameter)


def test_steps_by_hand_make_the_chain_that_grad_walks():
    net, _ = build("plain")
    meta, optimizer = dilkit.meta.of(net), dilkit.meta.optimizer(torch.optim.Adam, lr=0.02)
    phi, state = meta.theta(), None
    for batch in batches().values():
        phi, state = meta.step(phi, charbonnier, batch, inner=optimizer, state=state)
    reptile = meta.grad(charbonnier, batches(), inner=optimizer, order="reptile")
    theta = meta.theta()
    for name in phi:
        torch.testing.assert_close(theta[name] - phi[name], reptile.grads[name], rtol=0, atol=1e-15)
    with meta.at(phi):
        want = torch.stack([charbonnier(net, b) for b in batches().values()]).mean()
    fomaml = meta.grad(charbonnier, batches(), inner=optimizer, order="fomaml")
    assert math.isclose(float(fomaml.loss), float(want.detach()), rel_tol=1e-12)


def test_fomaml_is_the_outer_gradient_at_the_last_weights():
    net, _ = build("plain")
    meta = dilkit.meta.of(net)
    phi = {
        n: p.requires_grad_() for n, p in meta.step({}, charbonnier, batches()["d0"], inner=0.1)[0].items()
    }
    with meta.at(phi):
        value = charbonnier(net, batches()["d1"])
    want = dict(zip(phi, torch.autograd.grad(value, list(phi.values())), strict=True))
    got = meta.grad(
        charbonnier, [batches()["d0"]], inner=0.1, order="fomaml", outer_batches=[batches()["d1"]]
    )
    assert relative_error(got.grads, want) < 1e-14


@pytest.mark.parametrize("outer", ["all", "others", "same"])
@pytest.mark.parametrize("star", [True, False])
def test_outer_choices(outer, star):
    net, want = net_and_reference(outer=outer, star=star)
    shape = "star" if star else "chain"
    got = dilkit.meta.of(net).grad(charbonnier, batches(), inner=0.05, trajectory=shape, outer=outer)
    assert relative_error(got.grads, want) <= 1e-12


@pytest.mark.parametrize("rule", [sgd, momentum, adam])
@pytest.mark.parametrize("keep", [0, 2])
def test_multi_step_outer_losses(rule, keep):
    weights = [0.2, 0.5, 0.3]
    net, want = net_and_reference(rule=rule, weights=weights)
    inner = {
        sgd: 0.05,
        momentum: dilkit.meta.optimizer(0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
        adam: dilkit.meta.optimizer(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)),
    }[rule]
    got = dilkit.meta.of(net).grad(charbonnier, batches(), inner=inner, outer_weights=weights, keep=keep)
    assert relative_error(got.grads, want) <= 1e-12


def rates(net, kind):
    if kind == "scalar":
        return torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    shape = (lambda p: ()) if kind == "tensor" else (lambda p: p.shape)
    return {
        n: torch.full(shape(p), 0.05, dtype=torch.float64).requires_grad_() for n, p in net.named_parameters()
    }


@pytest.mark.parametrize("kind", ["scalar", "tensor", "element"])
@pytest.mark.parametrize("rule", [sgd, momentum, adam])
@pytest.mark.parametrize("star", [True, False])
def test_learnable_rates(kind, rule, star):
    net, _ = build("plain")
    lr = rates(net, kind)
    leaves = [lr] if kind == "scalar" else list(lr.values())
    names = iter([])

    def ruled(p, g, s):
        nonlocal names
        name = next(names, None)
        if name is None:
            names = iter([n for n, _ in net.named_parameters()])
            name = next(names)
        return rule(p, g, s, lr=lr if kind == "scalar" else lr[name])

    want, value = _with_graph(net, ruled, star)
    grads = torch.autograd.grad(value, [*net.parameters(), *leaves])
    options = {
        sgd: {},
        momentum: {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        adam: {"betas": (0.5, 0.9)},
    }[rule]
    inner = (
        dilkit.meta.optimizer(torch.optim.Adam, lr=lr, **options)
        if rule is adam
        else dilkit.meta.optimizer(lr, **options)
    )
    got = dilkit.meta.of(net).grad(
        charbonnier, batches(), inner=inner, trajectory="star" if star else "chain"
    )
    names = ["lr"] if kind == "scalar" else [f"lr.{n}" for n in lr]
    want = dict(zip([*(n for n, _ in net.named_parameters()), *names], grads, strict=True))
    assert relative_error(got.grads | got.hyper, want) <= 1e-12


def _with_graph(net, rule, star):
    """The reference's value with its graph."""
    import meta_reference

    kept = {}
    original = torch.autograd.grad

    def spy(outputs, inputs, **kw):
        if not kw.get("create_graph"):
            kept["value"] = outputs
            kw["retain_graph"] = True
        return original(outputs, inputs, **kw)

    meta_reference.torch.autograd.grad = spy
    try:
        want, _ = meta_gradient(net, charbonnier, batches(), rule, star=star)
    finally:
        meta_reference.torch.autograd.grad = original
    return want, kept["value"]


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.5}),
        (torch.optim.Adagrad, {"lr": 0.02}),
        (torch.optim.NAdam, {"lr": 0.02}),
        (torch.optim.RAdam, {"lr": 0.02}),
        (torch.optim.Adamax, {"lr": 0.02}),
        (torch.optim.Adadelta, {"lr": 0.5}),
        (torch.optim.Adam, {"lr": 0.02, "amsgrad": True}),
    ],
)
def test_any_differentiable_class_of_torch(cls, options):
    def unrolled(net):
        """Everything in one graph, by the class's own differentiable step."""
        from torch.func import functional_call

        theta = dict(net.named_parameters())
        phi = [p.clone() for p in theta.values()]
        optimizer = cls(phi, differentiable=True, **options)

        def at(x):
            return functional_call(net, dict(zip(theta, phi, strict=True)), (x,))

        for batch in batches().values():
            leaves = [p.clone() for p in phi]  # the step below works in place

            def frozen(x, leaves=leaves):
                return functional_call(net, dict(zip(theta, leaves, strict=True)), (x,))

            grads = torch.autograd.grad(charbonnier(frozen, batch), leaves, create_graph=True)
            for p, g in zip(phi, grads, strict=True):
                p.grad = g
            optimizer.step()
            for p in phi:  # some classes change in place what their last step saved
                optimizer.state[p] = {k: v.clone() for k, v in optimizer.state[p].items()}
        value = torch.stack([charbonnier(at, b) for b in batches().values()]).mean()
        return dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))

    net, _ = build("plain")
    got = dilkit.meta.of(net).grad(charbonnier, batches(), inner=dilkit.meta.optimizer(cls, **options))
    assert relative_error(got.grads, unrolled(net)) <= 1e-12


def test_adam_and_sgd_step_as_torch_does():
    for cls, options in [
        (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.1, "weight_decay": 0.01}),
        (torch.optim.SGD, {"lr": 0.1, "maximize": True}),
        (torch.optim.Adam, {"lr": 0.1, "weight_decay": 0.1}),
        (torch.optim.AdamW, {"lr": 0.1, "maximize": True}),
    ]:
        net, _ = build("plain")
        theirs, _ = build("plain")
        optimizer = cls(theirs.parameters(), **options)
        phi, state = {}, None
        for batch in batches().values():
            optimizer.zero_grad()
            charbonnier(theirs, batch).backward()
            optimizer.step()
            phi, state = dilkit.meta.of(net).step(
                phi, charbonnier, batch, inner=dilkit.meta.optimizer(cls, **options), state=state
            )
        for name, p in theirs.named_parameters():
            torch.testing.assert_close(phi[name], p.detach(), rtol=1e-12, atol=1e-14)


def test_a_carried_state_is_a_constant_of_the_next_chain():
    net, _ = build("plain")
    inner = dilkit.meta.optimizer(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9))
    meta = dilkit.meta.of(net)
    first = meta.grad(charbonnier, batches(), inner=inner)
    got = meta.grad(charbonnier, batches(), inner=inner, state=first.state)

    carried = {
        n: (s["exp_avg"], s["exp_avg_sq"], int(s["step"]))
        for n, s in zip(meta.theta(), first.state, strict=True)
    }
    names = iter(list(carried) * 3)

    def rule(p, g, s):
        name = next(names)
        return adam(p, g, s if s is not None else carried[name])

    want, _ = meta_gradient(net, charbonnier, batches(), rule, star=False)
    assert relative_error(got.grads, want) <= 1e-12
    with pytest.raises(UsageError, match="star"):
        meta.grad(charbonnier, batches(), inner=inner, state=first.state, trajectory="star")


def test_learned_transforms_are_differentiated():
    net, _ = build("plain")
    mix = nn.Linear(3, 3, bias=False).double()
    inner = dilkit.meta.Learned({"tail.bias": mix}, lr=0.05)
    got = dilkit.meta.of(net).grad(charbonnier, batches(), inner=inner)

    order = iter([])

    def rule(p, g, s):
        nonlocal order
        name = next(order, None)
        if name is None:
            order = iter([n for n, _ in net.named_parameters()])
            name = next(order)
        return p - 0.05 * (mix(g) if name == "tail.bias" else g), s

    want, value = _with_graph(net, rule, False)
    (transform,) = torch.autograd.grad(value, [mix.weight], retain_graph=True)
    assert relative_error(got.grads, want) <= 1e-12
    assert (got.hyper["tail.bias.transform.weight"] - transform).norm() <= 1e-12 * transform.norm()


@pytest.mark.parametrize("policy", ["isolate", "commit_last", "commit_mean", "frozen"])
def test_buffer_policies(policy):
    net, _ = build("batch norm, train")
    before = net.norm.running_mean.clone()
    dilkit.meta.of(net).grad(charbonnier, batches(), inner=0.05, trajectory="star", buffers=policy)
    moved = not torch.equal(before, net.norm.running_mean)
    assert moved == (policy in ("commit_last", "commit_mean"))
    if moved:
        assert int(net.norm.num_batches_tracked) == 4  # one inner and three outer passes, each once


def test_a_pooled_step_streams_its_terms():
    net, _ = build("plain")
    terms = [Term(n, functools.partial(charbonnier, batch=b), 1 / 3) for n, b in batches().items()]
    got = Engine(Setting.of(net, dilkit.meta.optimizer(0.05))).run([terms, terms], {2: terms}).grads

    def pooled(at, _):
        return torch.stack([charbonnier(at, b) for b in batches().values()]).mean()

    want, _ = meta_gradient(net, pooled, {"first": 0, "second": 0}, sgd, star=False)
    assert relative_error(got, want) <= 1e-12


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"trajectory": "ring"}, "unknown trajectory"),
        ({"outer": "none"}, "unknown outer"),
        ({"outer_weights": [1.0]}, "one weight for each inner step"),
        ({"outer": "same", "outer_batches": {"x": 0}}, "outer batch of each name"),
        ({"keep": -1}, "keep"),
        ({"inner": -0.1}, "positive"),
        ({"inner": torch.optim.LBFGS}, "no differentiable step"),
        ({"backend": "highr"}, "did you mean: higher"),
    ],
)
def test_wrong_settings_are_refused(kw, message):
    with pytest.raises(UsageError, match=message):
        dilkit.meta.of(build("plain")[0]).grad(charbonnier, batches(), **kw)
