"""Batch norm with rows for each inner step."""

import pytest
import torch
import torch.nn.functional as F
from meta_reference import relative_error
from torch import nn

import dilkit
from dilkit.errors import UsageError

torch.set_num_threads(1)


def net(steps=2, **kw):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.Conv2d(4, 2, 1)).double()
    return dilkit.meta.stepwise(plain, steps, **kw)


def data():
    torch.manual_seed(1)
    return [(torch.randn(2, 3, 6, 6).double(), torch.randn(2, 2, 4, 4).double())]


def test_each_step_moves_its_own_statistics_and_trains_its_own_weights():
    module = net()
    assert isinstance(module[1], dilkit.meta.StepwiseBatchNorm) and module[1].weight.shape == (3, 4)
    got = dilkit.meta.of(module).grad(F.mse_loss, data(), inner=0.1, steps=2, buffers="commit_last")
    assert module[1].num_batches_tracked.tolist() == [1, 1, 1]
    assert not torch.equal(module[1].running_mean[0], module[1].running_mean[1])
    assert all(row.abs().max() > 0 for row in got.grads["1.weight"])
    assert dilkit.meta.inner_step() == 0


def test_its_gradients_are_exact():
    module = net()
    got = dilkit.meta.of(module).grad(F.mse_loss, data(), inner=0.1, steps=2)
    layer, batch = module[1], data()[0]
    theta = dict(module.named_parameters())
    phi = theta
    for k in range(3):
        x = F.conv2d(batch[0], phi["0.weight"], phi["0.bias"])
        x = F.batch_norm(x, None, None, phi["1.weight"][k], phi["1.bias"][k], True, 0.0, layer.eps)
        value = F.mse_loss(F.conv2d(x.tanh(), phi["3.weight"], phi["3.bias"]), batch[1])
        if k < 2:
            grads = torch.autograd.grad(value, list(phi.values()), create_graph=True)
            phi = {n: p - 0.1 * g for (n, p), g in zip(phi.items(), grads, strict=True)}
    want = dict(zip(theta, torch.autograd.grad(value, list(theta.values())), strict=True))
    assert relative_error(got.grads, want) <= 1e-12


def test_shared_weights_and_evaluation():
    module = net(affine=False)
    assert module[1].weight.shape == (4,)
    before = module[1].running_mean.clone()
    module.eval()
    dilkit.meta.of(module).grad(F.mse_loss, data(), inner=0.1, steps=2, buffers="commit_last")
    assert torch.equal(before, module[1].running_mean)
    with pytest.raises(UsageError, match="steps"):
        net(steps=0)
