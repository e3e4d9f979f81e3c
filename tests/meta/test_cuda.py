"""What needs a GPU: `make test-gpu`. Skipped, with the reason, where there is none."""

import pytest
import torch
from meta_reference import relative_error
from meta_zoo import Attention, Normed, Plain, charbonnier
from torch import nn

import dilkit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


def data(n=3, size=16, dtype=torch.float64):
    torch.manual_seed(0)
    return {
        f"d{i}": tuple(torch.randn(2, 3, size, size, device="cuda", dtype=dtype) for _ in "xy")
        for i in range(n)
    }


def deviation(a, b):
    return relative_error({n: g.double() for n, g in a.items()}, {n: g.double() for n, g in b.items()})


@pytest.mark.parametrize("make", [Plain, Attention, lambda: Normed(lambda: nn.Dropout(0.4))])
@pytest.mark.parametrize("inner", [0.05, torch.optim.Adam])
@pytest.mark.parametrize("keep_weights", ["device", "cpu", "recompute"])
def test_gradients_are_exact(make, inner, keep_weights):
    net = make().double().cuda()
    got, want = [], []
    for out, kw in ((got, {"keep_weights": keep_weights}), (want, {"backend": "unrolled"})):
        torch.manual_seed(1)
        out.append(dilkit.meta.of(net).grad(charbonnier, data(), inner=inner, steps=2, **kw).grads)
    assert relative_error(got[0], want[0]) <= 1e-10


def test_bfloat16_autocast_is_near():
    net = Plain().cuda()

    def cast(module, batch):
        with torch.autocast("cuda", torch.bfloat16):
            out = module(batch[0])
        return ((out.float() - batch[1]).square() + 1e-3).sqrt().mean()

    batches = data(dtype=torch.float32)
    exact = dilkit.meta.of(net).grad(charbonnier, batches, inner=0.05).grads
    near = dilkit.meta.of(net).grad(cast, batches, inner=0.05).grads
    assert all(g.dtype == torch.float32 for g in near.values()) and deviation(near, exact) < 0.1


def test_compiled_first_order_passes():
    net = Plain().cuda()
    batches = data(dtype=torch.float32)
    want = dilkit.meta.of(net).grad(charbonnier, batches, inner=0.05, order="fomaml").grads
    net.compile()
    assert (
        deviation(dilkit.meta.of(net).grad(charbonnier, batches, inner=0.05, order="fomaml").grads, want)
        < 1e-3
    )


def peak(run):
    run()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    return torch.cuda.max_memory_allocated() - before


def test_activations_do_not_grow_with_the_steps():
    net = nn.Sequential(*[nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)]).cuda()
    batches = data(size=256, dtype=torch.float32)

    def of(steps, **kw):
        return peak(lambda: dilkit.meta.of(net).grad(charbonnier, batches, inner=0.01, steps=steps, **kw))

    assert of(8) < 1.1 * of(1)
    assert of(8, backend="unrolled") > 3 * of(8)


def test_the_papers_net_takes_a_step_of_each_exact_variant():
    from dilkit.confounders.episodes import Episode
    from dilkit.models import build
    from dilkit.objectives import make_objective

    net = build("rrdb").cuda()
    views = {f"awgn({s})": torch.rand(8, 3, 64, 64, device="cuda") for s in (5, 10, 15, 20)}
    episode = Episode(views, dict.fromkeys(views, torch.rand(8, 3, 64, 64, device="cuda")))
    for name in ("dil_sf", "dil_ps", "dil_ss"):
        objective = make_objective(name, loss=lambda m, b: nn.functional.l1_loss(m(b[0]), b[1]))
        torch.cuda.reset_peak_memory_stats()
        assert all(g.isfinite().all() for g in objective.gradients(net, episode).grads.values())
        print(f"{name}: {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")  # noqa: T201
