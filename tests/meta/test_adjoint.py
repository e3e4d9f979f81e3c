"""Our meta-gradients against autograd through everything, in double precision."""

import math

import pytest
import torch
from meta_reference import adam, meta_gradient, momentum, relative_error, sgd
from meta_zoo import ZOO, batches, build, charbonnier

import dilkit

torch.set_num_threads(1)

RULES = {
    "sgd": (sgd, dilkit.meta.optimizer(0.05)),
    "momentum": (momentum, dilkit.meta.optimizer(0.05, momentum=0.9, nesterov=True, weight_decay=0.01)),
    "adam": (adam, dilkit.meta.optimizer(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9))),
}


def ours(net, seed=0, **kw):
    torch.manual_seed(seed)
    return dilkit.meta.of(net).grad(charbonnier, batches(), **kw)


@pytest.mark.parametrize("shape", ["chain", "star"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ZOO)
def test_every_module_optimiser_and_trajectory(name, rule, shape):
    net, twin = build(name)
    by_hand, optimizer = RULES[rule]
    torch.manual_seed(0)
    want, value = meta_gradient(twin, charbonnier, batches(), by_hand, star=shape == "star")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    got = ours(net, inner=optimizer, trajectory=shape)
    assert relative_error(got.grads, want) <= 1e-12
    assert math.isclose(float(got.loss), float(value), rel_tol=1e-12)
    kept = ours(net, inner=optimizer, trajectory=shape, keep="all")
    assert relative_error(kept.grads, want) <= 1e-12
    after = net.state_dict()
    assert all(torch.equal(v, after[k]) for k, v in before.items())
