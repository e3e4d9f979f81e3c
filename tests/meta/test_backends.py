"""Three backends, one behaviour."""

import subprocess
import sys

import pytest
import torch
from meta_reference import relative_error
from meta_zoo import Normed, Plain, batches, build, charbonnier
from torch import nn

import dilkit
from dilkit.errors import DilkitError, UsageError

torch.set_num_threads(1)
LIBRARIES = ("higher", "learn2learn")
PARITY = (
    "plain",
    "shared weights",
    "unused and frozen",
    "batch norm, eval",
    "batch norm, train",
    "group norm",
    "pixel shuffle",
    "grid sample",
)


def grad(net, backend="native", loss=charbonnier, inner=0.05, **kw):
    return dilkit.meta.of(net).grad(loss, batches(), inner=inner, backend=backend, **kw)


@pytest.mark.parametrize("order", ["exact", "fomaml", "reptile"])
@pytest.mark.parametrize("shape", ["chain", "star"])
@pytest.mark.parametrize("name", PARITY)
@pytest.mark.parametrize("backend", LIBRARIES)
def test_parity(backend, name, shape, order):
    net, _ = build(name)
    if backend == "higher" and name == "unused and frozen" and order != "exact":
        with pytest.raises(UsageError, match="frozen parameters in first order"):
            grad(net, backend, trajectory=shape, order=order)
        return
    before = {k: v.clone() for k, v in net.state_dict().items()}
    ours = grad(net, trajectory=shape, order=order)
    theirs = grad(net, backend, trajectory=shape, order=order)
    assert relative_error(theirs.grads, ours.grads) <= 1e-12
    assert theirs.inner.keys() == ours.inner.keys() and theirs.outer.keys() == ours.outer.keys()
    assert float(theirs.loss) == pytest.approx(float(ours.loss), rel=1e-12)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("cls", "options", "tolerance"),
    [
        (torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}, 1e-12),
        (torch.optim.Adam, {"lr": 0.02, "betas": (0.5, 0.9)}, 1e-11),
        (torch.optim.RMSprop, {"lr": 0.01}, 1e-9),
        (torch.optim.Adagrad, {"lr": 0.02}, 1e-6),  # torch rounds the rate to float32
    ],
)
def test_parity_of_optimisers_with_higher(cls, options, tolerance):
    net, _ = build("plain")
    inner = dilkit.meta.optimizer(cls, **options)
    assert relative_error(grad(net, "higher", inner=inner).grads, grad(net, inner=inner).grads) <= tolerance


@pytest.mark.parametrize("backend", LIBRARIES)
def test_parity_of_a_learnable_rate(backend):
    net, _ = build("plain")
    lr = torch.tensor(0.05, dtype=torch.float64, requires_grad=True)
    ours, theirs = grad(net, inner=lr), grad(net, backend, inner=lr)
    assert relative_error(theirs.grads | theirs.hyper, ours.grads | ours.hyper) <= 1e-12


def test_parity_with_metasgd():
    net, _ = build("plain")
    lr = {n: torch.full_like(p, 0.05).requires_grad_() for n, p in net.named_parameters()}
    ours, theirs = grad(net, inner=lr), grad(net, "learn2learn", inner=lr)
    assert len(theirs.hyper) == 4
    assert relative_error(theirs.grads | theirs.hyper, ours.grads | ours.hyper) <= 1e-12


def test_parity_with_the_transforms_of_learn2learn():
    from dilkit.meta.backends.learn2learn import load_learn2learn

    load_learn2learn()
    optim = sys.modules["learn2learn.optim"]
    net, _ = build("plain")
    torch.manual_seed(1)
    transforms = {
        "head.bias": optim.ModuleTransform(nn.Linear)(net.head.bias).double(),
        "tail.weight": optim.MetaCurvatureTransform(net.tail.weight).double(),
    }
    for transform in transforms.values():
        for p in transform.parameters():
            p.data.add_(0.05 * torch.randn_like(p))
    inner = dilkit.meta.Learned(transforms, lr=0.05)
    ours, theirs = grad(net, inner=inner), grad(net, "learn2learn", inner=inner)
    assert len(ours.hyper) > 2
    assert relative_error(theirs.grads | theirs.hyper, ours.grads | ours.hyper) <= 1e-12


@pytest.mark.parametrize("backend", LIBRARIES)
@pytest.mark.parametrize("objective", ["dil_ss", "dil_ps"])
def test_objectives_over_a_library(backend, objective):
    from dilkit.confounders.episodes import Episode
    from dilkit.objectives import make_objective as objective_of

    net, _ = build("plain")
    data = batches()
    episode = Episode({k: v[0] for k, v in data.items()}, {k: v[1] for k, v in data.items()})
    ours = objective_of(objective, loss=charbonnier).gradients(net, episode)
    theirs = objective_of(objective, loss=charbonnier, backend=backend)
    assert relative_error(theirs.gradients(net, episode).grads, ours.grads) <= 1e-12


@pytest.mark.parametrize(
    ("backend", "module", "kw", "able"),
    [
        ("higher", "layer checkpointing", {}, "native"),
        ("learn2learn", "layer checkpointing", {}, "native"),
        ("higher", "hooks", {}, "native"),
        ("learn2learn", "plain", {"keep": 1}, "native"),
        ("higher", "batch norm, train", {"buffers": "commit_last"}, "native"),
        ("learn2learn", "plain", {"reduce": print}, "native"),
        ("higher", "plain", {"state": [{"a": torch.ones(1)}]}, "native"),
        ("learn2learn", "plain", {"inner": dilkit.meta.optimizer(0.1, momentum=0.9)}, "higher"),
        ("higher", "plain", {"inner": dilkit.meta.Learned({})}, "native"),
        ("higher", "plain", {"inner": dilkit.meta.optimizer(0.1, maximize=True)}, "native"),
        ("higher", "plain", {"inner": dilkit.meta.optimizer(torch.optim.NAdam, lr=0.1)}, "native"),
    ],
)
def test_an_unsupported_request_names_the_backend_that_can(backend, module, kw, able):
    with pytest.raises(UsageError, match=f"use backend='{able}'"):
        grad(build(module)[0], backend, **kw)


@pytest.mark.parametrize("name", ["shared weights", "unused and frozen"])
def test_metasgd_refuses_what_it_would_break(name):
    net, _ = build(name)
    lr = {n: torch.full_like(p, 0.05).requires_grad_() for n, p in net.named_parameters()}
    with pytest.raises(UsageError, match="MetaSGD on"):
        grad(net, "learn2learn", inner=lr)


@pytest.mark.parametrize("backend", LIBRARIES)
def test_a_failure_leaves_the_module_as_it_was(backend):
    net = Normed(lambda: nn.BatchNorm2d(5)).double()
    own, before = dict(net.named_parameters()), {k: v.clone() for k, v in net.state_dict().items()}
    data = batches()
    data["d1"][0][0] = float("nan")
    with pytest.raises(DilkitError, match="d1 is not finite"):
        dilkit.meta.of(net).grad(charbonnier, data, inner=0.05, backend=backend)
    assert all(p is own[k] for k, p in net.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_a_missing_library_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "higher", None)
    with pytest.raises(UsageError, match="pip install"):
        grad(Plain().double(), "higher")


def test_libraries_are_loaded_only_when_asked_for():
    code = (
        "import sys, torch, dilkit; net = dilkit.meta(torch.nn.Linear(2, 2));"
        "loss = lambda m, b: m(b).square().mean();"
        "net.meta.grad(loss, [torch.ones(1, 2)]);"
        "assert not {'higher', 'learn2learn', 'learn2learn.algorithms'} & set(sys.modules);"
        "net.meta.grad(loss, [torch.ones(1, 2)], backend='learn2learn');"
        "assert 'learn2learn' not in sys.modules and 'learn2learn.algorithms' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
