"""Every pass is guarded: what would make one gradient silently wrong is refused wherever it turns up."""

import pytest
import torch
from meta_zoo import Plain, batches, build, charbonnier
from torch import nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

import dilkit
from dilkit.errors import DilkitError, UsageError
from dilkit.meta.first_order import FirstOrderChain

torch.set_num_threads(1)
BACKENDS = ("native", "unrolled", "higher", "learn2learn")
ORDERS = ("exact", "fomaml", "reptile")


def grad(net, loss=charbonnier, data=None, **kw):
    return dilkit.meta.of(net).grad(loss, data or batches(), inner=kw.pop("inner", 0.05), **kw)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_an_outside_parameter_in_a_later_batch_alone(backend, order):
    net, _ = build("plain")
    held, data = net.tail.weight, batches()

    def loss(module, batch):
        extra = held.square().sum() if batch is data["d2"] else 0.0
        return charbonnier(module, batch) + extra

    with pytest.raises(UsageError, match=r"'tail\.weight' is used from outside"):
        grad(net, loss, data, backend=backend, order=order)


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_outside_parameter_in_the_outer_loss_alone(backend):
    net, _ = build("plain")
    held = net.tail.weight
    with pytest.raises(UsageError, match=r"'tail\.weight' is used from outside"):
        grad(net, outer_loss=lambda m, b: charbonnier(m, b) + held.square().sum(), backend=backend)


@pytest.mark.parametrize("backend", ["higher", "learn2learn"])
def test_a_loss_that_calls_the_closed_over_net_instead_of_the_one_it_is_given(backend):
    net, _ = build("plain")
    with pytest.raises(UsageError, match="call the module it is given"):
        grad(net, lambda module, batch: charbonnier(net, batch), backend=backend)
    assert grad(net, lambda module, batch: charbonnier(net, batch)).grads  # it is the same object natively


def test_a_first_order_chain_refuses_a_loss_that_reaches_the_real_net():
    net, _ = build("plain")
    chain = FirstOrderChain(lambda params: torch.optim.SGD(params, lr=0.1))
    batch = batches()["d0"]
    with pytest.raises(UsageError, match="used from outside"):
        chain.run(net, [{"a": lambda module: charbonnier(net, batch)}])
    assert all(p.grad is None for p in net.parameters())


class ReentrantLater(Plain):
    def __init__(self, data):
        super().__init__()
        self.later = data["d1"][0]

    def forward(self, x):
        if x is self.later:
            return self.tail(checkpoint(lambda y: torch.tanh(self.head(y)), x, use_reentrant=True))
        return super().forward(x)


@pytest.mark.parametrize("backend", ["native", "unrolled"])
def test_reentrant_checkpointing_in_a_later_batch(backend):
    data = {k: (x.requires_grad_(k == "d1"), y) for k, (x, y) in batches().items()}
    with pytest.raises(UsageError, match="use_reentrant=False"):
        grad(ReentrantLater(data).double(), data=data, backend=backend)


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


def once(module, batch):
    return Once.apply(module(batch[0]) - batch[1]).mean()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_once_differentiable_function(backend):
    net, _ = build("plain")
    with pytest.raises(UsageError, match="Once is an autograd function marked once_differentiable"):
        grad(net, once, backend=backend)
    assert grad(net, once, order="fomaml", backend=backend).grads  # one derivative is all that is taken
    assert grad(net, outer_loss=once, backend="native").grads


class DataInHook(Plain):
    def __init__(self, how):
        super().__init__()
        self.tail.register_forward_pre_hook(how)


def replaced(module, args):
    module.weight.data = module.weight.data.clamp(-0.1, 0.1)


def scaled(module, args):
    module.weight.data.mul_(0.9)


@pytest.mark.parametrize("how", [replaced, scaled])
@pytest.mark.parametrize("order", ORDERS)
def test_data_changed_behind_autograds_back(how, order):
    with pytest.raises(UsageError, match=r"changes parameter 'tail\.weight' in place"):
        grad(DataInHook(how).double(), order=order)


def in_place(module, args):
    with torch.no_grad():
        module.weight.mul_(0.9)


@pytest.mark.parametrize("how", [in_place, replaced, scaled])
@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_changed_in_the_forward_pass_are_found_by_every_backend(how, backend):
    class Changes(Plain):
        def forward(self, x):
            how(self.tail, ())
            return super().forward(x)

    with pytest.raises(UsageError, match=r"changes parameter 'tail\.weight' in place"):
        grad(Changes().double(), backend=backend)


class TensorState(Plain):
    """State that a plain attribute carries from one pass to the next."""

    def __init__(self):
        super().__init__()
        self.level = torch.ones(())

    def forward(self, x):
        out = super().forward(x) * self.level
        self.level = 0.9 * self.level + 0.1 * out.detach().abs().mean()
        return out


@pytest.mark.parametrize("shape", ["chain", "star"])
def test_state_in_a_tensor_attribute(shape):
    with pytest.raises(DilkitError, match="a tensor kept in a plain attribute"):
        grad(TensorState().double(), trajectory=shape)
    got = grad(TensorState().double(), trajectory=shape, keep="all")
    want = grad(TensorState().double(), trajectory=shape, backend="unrolled")
    assert got.grads.keys() == want.grads.keys()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hook_on_a_parameter(backend):
    net, _ = build("plain")
    net.tail.weight.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    with pytest.raises(UsageError, match=r"'tail\.weight' has a gradient hook"):
        grad(net, backend=backend)
    with pytest.raises(UsageError, match="gradient hook"):
        FirstOrderChain(lambda p: torch.optim.SGD(p, lr=0.1)).run(net, [])


@pytest.mark.parametrize("backend", ["unrolled", "higher", "learn2learn"])
def test_compiled_and_scripted_modules_are_refused_by_the_libraries(backend):
    net = Plain().double()
    x = batches()["d0"][0]
    compiled = torch.compile(net, backend="aot_eager")
    with pytest.raises(UsageError, match="compiled modules"):
        grad(compiled, backend=backend)
    with pytest.raises(UsageError, match="scripted modules"):
        grad(torch.jit.trace(net, x), backend=backend)
    assert len(list(net.parameters())) == 4 and grad(net, backend=backend).grads


def test_a_scripted_module_natively():
    net = Plain().double()
    with pytest.warns(DeprecationWarning) if False else torch.autograd.set_grad_enabled(True):
        scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double())
    data = [(torch.randn(4, 2).double(), torch.randn(4, 2).double())]
    plain = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    plain.load_state_dict(scripted.state_dict())
    want = dilkit.meta.of(plain).grad(nn.MSELoss(), data, inner=0.1, steps=2).grads
    got = dilkit.meta.of(scripted).grad(nn.MSELoss(), data, inner=0.1, steps=2).grads
    assert net is not None
    for name, g in want.items():
        torch.testing.assert_close(got[name], g, rtol=1e-12, atol=1e-15)


def test_a_tensor_outside_is_refused_until_it_is_named():
    net, _ = build("plain")
    z = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def loss(module, batch):
        return charbonnier(module, batch) * z.exp()

    for backend in BACKENDS:
        with pytest.raises(UsageError, match="its gradient would be dropped"):
            grad(net, loss, backend=backend)
    with pytest.raises(UsageError, match="does not require grad"):
        grad(net, loss, outside={"z": torch.ones(())})
    with pytest.raises(UsageError, match="reptile has no outer loss"):
        grad(net, loss, outside={"z": z}, order="reptile")


def test_third_order_is_refused():
    net, _ = build("plain")
    meta = dilkit.meta.of(net)
    z = torch.ones((), dtype=torch.float64, requires_grad=True)
    phi = {n: p * z for n, p in meta.theta().items()}
    with meta.at(phi), pytest.raises(UsageError, match="third order"):
        meta.grad(charbonnier, batches())


def test_an_operation_without_a_second_derivative_is_named():
    class Ctc(Plain):
        def forward(self, x):
            return torch.nn.functional.logsigmoid(super().forward(x)).sign() * super().forward(x)

    grad(Ctc().double())

    def missing(module, batch):
        out = module(batch[0]).flatten(1)[:, :4, None].permute(1, 0, 2).expand(4, 2, 5).log_softmax(-1)
        return torch.nn.functional.ctc_loss(out, torch.ones(2, 2).long(), [4, 4], [2, 2])

    with pytest.raises(UsageError, match="cannot be differentiated twice"):
        grad(Plain().double(), missing)


@pytest.mark.parametrize(
    ("kw", "message"),
    [
        ({"order": "exakt"}, "unknown order 'exakt'"),
        ({"buffers": "isolated"}, "unknown buffers 'isolated'"),
        ({"outer": "al"}, "unknown outer 'al'"),
        ({"trajectory": "stars"}, "unknown trajectory 'stars'"),
        ({"keep": "most"}, "unknown keep 'most'"),
        ({"keep": 1.5}, "keep is a number of inner steps"),
        ({"keep_weights": "disk"}, "unknown keep_weights 'disk'"),
        ({"backend": "torchopt"}, "unknown backend"),
        ({"truncate": 0}, "truncate is a number"),
        ({"steps": 0}, "steps is a whole number"),
        ({"trajectory": "pooled", "outer": "same"}, "a pooled step is on all batches"),
    ],
)
def test_every_setting_is_validated(kw, message):
    with pytest.raises(UsageError, match=message):
        grad(build("plain")[0], **kw)
    with pytest.raises(UsageError, match="unknown buffers"):
        FirstOrderChain(lambda p: torch.optim.SGD(p, lr=0.1), buffers="isolated")


def test_a_loss_that_does_not_depend_on_the_weights_is_refused():
    with pytest.raises(UsageError, match="does not depend on any trainable weight"):
        grad(build("plain")[0], lambda module, batch: charbonnier(module, batch).detach())


def test_a_large_buffer_that_stays_is_not_copied_at_every_step():
    class Table(Plain):
        def __init__(self):
            super().__init__()
            self.register_buffer("table", torch.randn(1 << 15))

        def forward(self, x):
            return super().forward(x) + self.table[0]

    from dilkit.meta.inner import fresh, optimizer
    from dilkit.meta.setting import Setting
    from dilkit.meta.tape import Tape
    from dilkit.meta.trajectory import Record, Swapped, Term, walk

    net = Table().double()
    setting = Setting.of(net, optimizer(0.05))
    tape = Tape(setting, 8)
    walked = Swapped(setting, fresh(setting.names), tape)
    batch = batches()["d0"]
    walk(walked, [[Term("a", lambda module: charbonnier(module, batch))]] * 8, {}, Record())
    tables = {step.buffers[0][0].data_ptr() for step in tape._steps}
    assert len(tables) == 1
