"""What cannot be differentiated rightly is refused, with the reason."""

import random

import numpy as np
import pytest
import torch
from meta_zoo import Plain, batches, build, charbonnier
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import dilkit
from dilkit.errors import DilkitError, UsageError

torch.set_num_threads(1)


class Listed(Plain):
    def __init__(self):
        super().__init__()
        self.also = [self.tail.weight]

    def forward(self, x):
        return torch.conv2d(torch.tanh(self.head(x)), self.also[0], padding=1)


class InPlace(Plain):
    def forward(self, x):
        with torch.no_grad():
            self.tail.weight.clamp_(-1, 1)
        return super().forward(x)


class Reentrant(Plain):
    def forward(self, x):
        return self.tail(
            checkpoint(lambda y: torch.tanh(self.head(y)), x.requires_grad_(), use_reentrant=True)
        )


class Counting(Plain):
    calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x) * (1 + 0.01 * self.calls)


class Private(Plain):
    def __init__(self):
        super().__init__()
        self.rng = torch.Generator().manual_seed(0)

    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn(x.shape, generator=self.rng, dtype=x.dtype)


class Global(Plain):
    """Draws from every generator that is replayed."""

    def forward(self, x):
        return super().forward(x * (1 + random.random())) * (1 + np.random.rand()) + torch.rand(1)  # noqa: NPY002


def grad(net, loss=charbonnier, **kw):
    return dilkit.meta.of(net.double()).grad(loss, batches(), inner=0.05, **kw)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Listed, "'tail.weight' is used from outside"),
        (InPlace, "changes parameter 'tail.weight' in place"),
        (Reentrant, "use_reentrant=False"),
        (Counting, "came out otherwise when it was recomputed"),
        (Private, "a private generator"),
    ],
)
@pytest.mark.parametrize("shape", ["chain", "star"])
def test_modules_that_would_mislead(cls, message, shape):
    with pytest.raises(DilkitError, match=message):
        grad(cls(), trajectory=shape)


def test_a_parameter_in_a_closure_is_found_too():
    net = Plain().double()
    theta = net.tail.bias

    def loss(module, batch):
        return charbonnier(module, batch) + theta.square().sum()

    with pytest.raises(UsageError, match=r"tail\.bias"):
        grad(net, loss)
    got = grad(net, lambda module, batch: charbonnier(module, batch) + theta.detach().square().sum())
    assert got.grads


def test_what_cannot_be_replayed_can_be_kept():
    assert grad(Private(), keep="all").grads


def test_global_generators_are_replayed_and_left_as_if_untouched():
    net = Global()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    kept = grad(net, keep="all")
    after = torch.rand(1), random.random(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(3), random.seed(3), np.random.seed(3)  # noqa: NPY002
    replayed = grad(net)
    assert (torch.rand(1), random.random(), np.random.rand()) == after  # noqa: NPY002
    for name, g in kept.grads.items():
        torch.testing.assert_close(replayed.grads[name], g, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("shape", ["chain", "star"])
def test_what_is_not_finite_is_named(bad, shape):
    net, data = Plain().double(), batches()
    data["d1"][0][0, 0, 0, 0] = bad
    with pytest.raises(DilkitError, match=r"step 7: the (outer )?(loss|gradient) of d1.* is not fin"):
        dilkit.meta.of(net).grad(charbonnier, data, inner=0.05, trajectory=shape, where="step 7")


def test_a_diverging_step_is_named():
    with pytest.raises(DilkitError, match="not finite"):
        dilkit.meta.of(Plain().double()).grad(
            lambda m, b: (m(b[0]) - b[1]).pow(4).sum(), batches(), inner=1e40
        )


def test_losses_must_be_scalars_and_there_must_be_something_to_learn():
    net, _ = build("plain")
    with pytest.raises(UsageError, match="returns a scalar"):
        grad(net, lambda module, batch: module(batch[0]))
    with pytest.raises(UsageError, match="at least one batch"):
        dilkit.meta.of(net).grad(charbonnier, [])
    with pytest.raises(UsageError, match="no trainable parameter"):
        grad(net.requires_grad_(False))


def test_contexts_that_would_hide_virtual_weights():
    net, _ = build("weight norm")
    with parametrize.cached(), pytest.raises(UsageError, match="cached"):
        grad(net)
    with torch.inference_mode(), pytest.raises(UsageError, match="inference_mode"):
        grad(net)


@pytest.mark.parametrize("kind", ["raise at once", "raise when recomputed"])
def test_a_failure_leaves_the_module_as_it_was(kind):
    net, _ = build("batch norm, train")
    own = dict(net.named_parameters())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    calls = []

    def loss(module, batch):
        calls.append(1)
        if len(calls) == (2 if kind == "raise at once" else 7):
            raise RuntimeError("out of memory")
        return charbonnier(module, batch)

    state = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="out of memory"):
        grad(net, loss, buffers="commit_last")
    assert torch.equal(state, torch.get_rng_state())
    assert all(p is own[k] and p.grad is None for k, p in net.named_parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_autocast_inside_the_loss_and_around_the_call():
    net, data = Plain(), {k: (x.float(), y.float()) for k, (x, y) in batches().items()}

    def cast(module, batch):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return charbonnier(module, batch)

    plain = dilkit.meta.of(net).grad(charbonnier, data, inner=0.5)
    inside = dilkit.meta.of(net).grad(cast, data, inner=0.5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        around = dilkit.meta.of(net).grad(charbonnier, data, inner=0.5)
    for name, g in plain.grads.items():
        for other in (inside, around):
            assert other.grads[name].dtype == torch.float32
            assert (other.grads[name] - g).norm() < 0.1 * g.norm() + 1e-2


def test_hidden_state_is_not_seen_by_the_first_order():
    """Nothing is recomputed there, so nothing need be replayable."""
    assert grad(Private(), order="fomaml").grads
    assert grad(Counting(), order="reptile").grads
