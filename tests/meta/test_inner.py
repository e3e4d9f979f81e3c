"""What `inner` may be, and what of it can be learned, against everything in one graph."""

import functools

import pytest
import torch
from meta_reference import relative_error
from meta_zoo import batches, build, charbonnier
from torch import nn

import dilkit
from dilkit.errors import UsageError
from dilkit.meta.inner import key_of

torch.set_num_threads(1)


def grad(net, inner, **kw):
    return dilkit.meta.of(net).grad(charbonnier, batches(), inner=inner, **kw)


def same(a, b, tolerance=1e-13):
    assert relative_error(a.grads, b.grads) <= tolerance


@pytest.fixture
def net():
    return build("plain")[0]


def test_a_class_a_partial_and_an_instance_are_the_same(net):
    want = grad(net, dilkit.meta.optimizer(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)))
    same(grad(net, functools.partial(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9))), want)
    same(grad(net, torch.optim.Adam(net.parameters(), lr=0.02, betas=(0.5, 0.9))), want)
    same(grad(net, torch.optim.SGD), grad(net, 1e-3))


def test_the_groups_of_an_instance_are_read_and_what_it_does_not_hold_is_frozen(net):
    groups = [{"params": net.head.parameters(), "lr": 0.1}, {"params": [net.tail.bias], "momentum": 0.5}]
    got = grad(net, torch.optim.SGD(groups, lr=0.03))
    want = grad(
        net,
        {
            "head": 0.1,
            "tail.bias": functools.partial(torch.optim.SGD, lr=0.03, momentum=0.5),
            "tail.weight": None,
        },
    )
    same(got, want)
    theta = dilkit.meta.of(net).theta()
    assert torch.equal(got.phi[0]["tail.weight"], theta["tail.weight"])
    assert not torch.equal(got.phi[0]["tail.bias"], theta["tail.bias"])
    with pytest.raises(UsageError, match="not this module's"):
        grad(net, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1))


@pytest.mark.parametrize("backend", ["native", "unrolled"])
def test_anil_freezes_the_body_and_differentiates_it_all_the_same(net, backend):
    got = grad(net, {"tail": 0.05, "*": None}, backend=backend)
    assert got.grads["head.weight"].abs().max() > 0
    names = [n for n, _ in net.named_parameters()]
    lrs = {n: torch.tensor(0.05 if n.startswith("tail") else 0.0, dtype=torch.float64) for n in names}
    same(got, grad(net, lrs), 1e-12)


def test_learned_rates_are_found_by_prefix_as_numbers_are(net):
    head, rest = (torch.tensor(lr, dtype=torch.float64, requires_grad=True) for lr in (0.05, 0.02))
    got = grad(net, {"head": head, "*": rest})
    each = {
        n: (head if n.startswith("head") else rest).detach().clone().requires_grad_()
        for n, _ in net.named_parameters()
    }
    want = grad(net, each)
    same(got, want)
    assert set(got.hyper) == {"lr.head", "lr.*"}
    by_hand = sum(g for n, g in want.hyper.items() if n.startswith("lr.head"))
    torch.testing.assert_close(got.hyper["lr.head"], by_hand, rtol=1e-12, atol=0)


def test_the_longest_prefix_counts_and_the_star_last():
    assert key_of(["*", "0"], "0.weight") == "0"  # as short as the star, and after it
    assert key_of(["body", "body.0"], "body.0.weight") == "body.0"
    assert key_of(["body", "*"], "bodyguard.weight") == "*"
    assert key_of(["body"], "bodyguard.weight") is None


def test_one_rate_for_each_step_and_parameter_is_learned(net):
    rates = [torch.tensor(0.05 / (k + 1), dtype=torch.float64, requires_grad=True) for k in range(3)]
    got, want = grad(net, rates), grad(net, rates, backend="unrolled")
    assert set(got.hyper) == {"lr[0]", "lr[1]", "lr[2]"}
    assert relative_error(got.grads | got.hyper, want.grads | want.hyper) <= 1e-12
    lslr = [
        {n: torch.tensor(0.05, dtype=torch.float64, requires_grad=True) for n, _ in net.named_parameters()}
        for _ in range(3)
    ]
    got, want = grad(net, lslr), grad(net, lslr, backend="unrolled")
    assert "lr.tail.bias[2]" in got.hyper and len(got.hyper) == 12
    assert relative_error(got.grads | got.hyper, want.grads | want.hyper) <= 1e-12
    with pytest.raises(UsageError, match="inner step 3 has no learning rate"):
        grad(net, [0.1, 0.1])


def learnable(x):
    return torch.tensor(x, dtype=torch.float64, requires_grad=True)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: dilkit.meta.Sgd(learnable(0.05), learnable(0.9), weight_decay=learnable(0.01)),
         {"lr", "momentum", "weight_decay"}),
        (lambda: dilkit.meta.Adam(learnable(0.02), (learnable(0.5), learnable(0.9)), learnable(1e-3)),
         {"lr", "betas[0]", "betas[1]", "eps"}),
        (lambda: dilkit.meta.Adam(0.02, weight_decay=learnable(0.1), decoupled=True), {"weight_decay"}),
        (lambda: {"head": dilkit.meta.Sgd(learnable(0.05), learnable(0.9)), "*": 0.02},
         {"head.lr", "head.momentum"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("keep", [0, "all"])
def test_betas_momentum_and_decay_are_learned(net, make, names, keep):
    inner = make()
    got, want = grad(net, inner, keep=keep), grad(net, inner, backend="unrolled")
    assert set(got.hyper) == names and all(g.abs().max() > 0 for g in got.hyper.values())
    assert relative_error(got.grads | got.hyper, want.grads | want.hyper) <= 1e-11


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (torch.optim.ASGD, {"lr": torch.tensor(0.1)}),
        (torch.optim.Rprop, {"lr": torch.tensor(0.1)}),
        (torch.optim.RMSprop, {"alpha": torch.tensor(0.9, requires_grad=True)}),
    ],
)
def test_what_cannot_be_learned_is_refused(net, cls, options):
    with pytest.raises(UsageError, match=r"takes no tensor as learning rate|cannot be learned"):
        grad(net, functools.partial(cls, **options))


@pytest.mark.parametrize("backend", ["higher", "learn2learn"])
def test_libraries_refuse_what_they_would_drop(net, backend):
    with pytest.raises(UsageError, match="cannot serve a learnable momentum"):
        grad(net, dilkit.meta.Sgd(0.05, learnable(0.9)), backend=backend)


def test_transformed_gradients_are_differentiated_and_may_be_learned(net):
    def clipped(grads):
        norm = torch.stack([g.square().sum() for g in grads.values()]).sum().sqrt()
        return {n: g * (0.1 / norm).clamp(max=1.0) for n, g in grads.items()}

    class Gate(nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

        def forward(self, grads):
            return {n: self.gain * g for n, g in grads.items()}

    for transform, names in ((clipped, set()), (Gate(), {"transform.gain"})):
        inner = dilkit.meta.optimizer(0.05, momentum=0.9, transform=transform)
        got, want = grad(net, inner), grad(net, inner, backend="unrolled")
        assert set(got.hyper) == names
        assert relative_error(got.grads | got.hyper, want.grads | want.hyper) <= 1e-12
    with pytest.raises(UsageError, match="a gradient for every name"):
        grad(net, dilkit.meta.optimizer(0.05, transform=lambda grads: None))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        ("sgd", "this is no inner optimiser"),
        (True, "this is no inner optimiser"),
        (0.0, "positive number"),
        ({"hed": 0.1, "*": None}, "'hed', which is no trainable parameter"),
        ({"hed": torch.ones(()), "*": torch.ones(())}, "'hed', which is no trainable parameter"),
        ({"head": 0.1}, "belongs to no group"),
        ({"head": torch.ones(())}, "no inner learning rate for parameter 'tail"),
        (functools.partial(torch.optim.Adam, [], 0.1), "options by name"),
        (functools.partial(torch.optim.Adam, beta=0.1), "no option 'beta'"),
        (dilkit.meta, "this is no inner optimiser"),
    ],
)
def test_first_mistakes_name_their_cause(net, inner, message):
    with pytest.raises(UsageError, match=message):
        grad(net, inner)
