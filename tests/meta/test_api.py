"""`dilkit.meta` changes nothing but `.meta`."""

import copy
import functools
import io
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import dilkit
from dilkit.errors import UsageError


class Bare(nn.Module):
    def __init__(self, width=3):
        super(Bare, self).__init__()  # noqa: UP008 - the legacy form is what is tested
        self.conv = nn.Conv2d(3, width, 1)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x):
        return self.norm(self.conv(x))


forward, keys, text = Bare.forward, list(Bare().state_dict()), repr(Bare())
Decorated = dilkit.meta(Bare)


class Child(Decorated):
    def __init__(self):
        super(Child, self).__init__(width=5)  # noqa: UP008


def loss(net, batch):
    return (net(batch[0]) - batch[1]).square().mean()


def batches(n=2):
    return {f"d{i}": (torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4)) for i in range(n)}


def test_a_class_comes_back_as_itself_with_nothing_but_meta_added():
    net = Decorated()
    assert Decorated is Bare
    assert isinstance(net, Bare)
    assert list(net.state_dict()) == keys
    assert repr(net) == text
    assert list(vars(net)) == list(vars(nn.Module())) + [k for k in vars(net) if k not in vars(nn.Module())]
    assert "meta" not in vars(net)
    assert Bare.forward is forward
    assert Bare.__call__ is nn.Module.__call__
    assert not net._forward_hooks and not net._forward_pre_hooks
    assert "Bare" in repr(net.meta)


def test_subclasses_and_legacy_super_work():
    assert set(Child().meta.grad(loss, {"a": (torch.rand(2, 3, 4, 4), torch.rand(2, 5, 4, 4))}).grads) == {
        "conv.weight", "conv.bias", "norm.weight", "norm.bias"
    }  # fmt: skip


def test_pickle_and_deepcopy_give_the_same_net():
    net = Decorated()
    for twin in (pickle.loads(pickle.dumps(net)), copy.deepcopy(net)):  # noqa: S301
        assert type(twin) is Bare
        assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), net.parameters(), strict=True))
        assert twin.meta.theta().keys() == net.meta.theta().keys()


def test_a_saved_whole_module_names_only_its_own_class():
    file = io.BytesIO()
    torch.save(Decorated(), file)
    assert b"dilkit" not in file.getvalue()


def test_an_instance_and_a_factory():
    net = nn.Sequential(nn.Conv2d(3, 3, 1))
    assert dilkit.meta(net) is net
    assert set(net.meta.theta()) == {"0.weight", "0.bias"}

    @dilkit.meta
    def build(width):
        """Build."""
        return nn.Linear(width, width)

    assert build.__doc__ == "Build."
    assert set(build(2).meta.theta()) == {"weight", "bias"}


@pytest.mark.parametrize("meta_first", [True, False])
def test_registries_stack_in_either_order(meta_first):
    registry = {}

    def register(cls):
        registry[cls.__name__] = cls
        return cls

    class Net(Bare):
        def __init__(self):
            super(Net, self).__init__()  # noqa: UP008

    cls = register(dilkit.meta(Net)) if meta_first else dilkit.meta(register(Net))
    assert registry["Net"] is cls is Net
    assert registry["Net"]().meta.theta()


def test_eval_mode_is_respected_and_no_grad_does_not_break_it():
    net = Decorated().eval()
    with torch.no_grad():
        got = net.meta.grad(loss, batches())
    assert not net.training and not net.norm.training
    assert any(g.abs().max() > 0 for g in got.grads.values())
    assert not any(g.requires_grad for g in got.grads.values())


def test_compiled_modules_step_compiled_and_differentiate_eagerly():
    net = Decorated().double().eval()
    data = {k: (x.double(), y.double()) for k, (x, y) in batches().items()}
    want = net.meta.grad(loss, data, inner=0.1).grads
    compiled = torch.compile(net, backend="aot_eager")
    through_wrapper = compiled.meta.grad(loss, data, inner=0.1).grads
    itself = dilkit.meta.of(compiled).grad(loss, data, inner=0.1).grads
    for name, g in want.items():
        torch.testing.assert_close(through_wrapper[name], g, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(itself[f"_orig_mod.{name}"], g, rtol=1e-10, atol=1e-13)


def test_wrapped_for_distributed_training(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = Decorated()
        wrapped = nn.parallel.DistributedDataParallel(net)
        wrapped(torch.rand(2, 3, 4, 4)).sum().backward()
        assert wrapped.module.meta.grad(loss, batches()).grads.keys() == net.meta.theta().keys()
    finally:
        torch.distributed.destroy_process_group()


def test_reduce_averages_what_two_processes_walk():
    """Two halves of a batch with averaged gradients equal the whole batch on one process."""
    net = Decorated().double().eval()
    whole = {k: (x.double(), y.double()) for k, (x, y) in batches().items()}
    want = net.meta.grad(loss, whole, inner=0.1).grads

    import threading

    halves = [{k: (x[i : i + 1], y[i : i + 1]) for k, (x, y) in whole.items()} for i in range(2)]
    barrier, shared, out = threading.Barrier(2), [None, None], [None, None]

    def work(rank):
        def reduce(tensors):
            shared[rank] = [t.clone() for t in tensors]
            barrier.wait()
            for i, t in enumerate(tensors):
                t.copy_((shared[0][i] + shared[1][i]) / 2)
            barrier.wait()

        twin = copy.deepcopy(net)
        out[rank] = dilkit.meta.of(twin).grad(loss, halves[rank], inner=0.1, reduce=reduce).grads

    threads = [threading.Thread(target=functools.partial(work, r)) for r in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(30)
    for name, g in want.items():
        torch.testing.assert_close(out[0][name], g, rtol=1e-11, atol=1e-14)
        assert torch.equal(out[0][name], out[1][name])


class Owner(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.meta = value


@pytest.mark.parametrize("value", [nn.Linear(1, 1), 3])
def test_a_meta_of_the_users_own_is_refused_by_name(value):
    class Class(Owner):
        pass

    with pytest.raises(UsageError, match=r"Class (has|sets) a `meta` of its own"):
        dilkit.meta(Class)(value).meta  # noqa: B018
    with pytest.raises(UsageError, match="this Owner already has an attribute `meta`"):
        dilkit.meta(Owner(value))
    if isinstance(value, nn.Module):
        assert dilkit.meta.of(Owner(value)).theta().keys() == {"meta.weight", "meta.bias"}

    class Method(nn.Module):
        def meta(self):
            return 1

    with pytest.raises(UsageError, match="already has"):
        dilkit.meta(Method)


def test_an_instance_gives_its_class_nothing():
    net = dilkit.meta(nn.Sequential(nn.Linear(2, 2)))
    assert net.meta.theta() and not hasattr(nn.Sequential(), "meta")
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):  # noqa: S301
        assert twin.meta._net is twin
    assert list(net.state_dict()) == ["0.weight", "0.bias"]


@pytest.mark.parametrize("what", [3, int, "net"])
def test_anything_else_is_refused(what):
    with pytest.raises(UsageError, match="takes a module class"):
        dilkit.meta(what)


def test_importing_costs_little_and_no_torch():
    code = (
        "import time; t = time.process_time(); import dilkit; dilkit.meta; t = time.process_time() - t; "
        "import sys; assert 'torch' not in sys.modules; assert callable(dilkit.meta); "
        "assert dilkit.meta.__name__ == 'dilkit.meta'; assert t < 0.5, t"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
