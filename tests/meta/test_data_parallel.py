"""Two processes walk the trajectory of one; wrappers are taken off, sharded weights are refused."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dilkit
from dilkit.errors import UsageError

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "meta_ddp.py"


def run(processes):
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), str(EXAMPLE)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=900)
    return [float(x) for x in out.stdout.split()]


def test_two_processes_equal_one():
    one, two = run(1), run(2)
    assert len(one) == 4 and one == pytest.approx(two, rel=1e-12, abs=1e-13)


def test_the_example_is_short():
    lines = [x for x in EXAMPLE.read_text().splitlines()[2:] if x.strip()]
    assert len(lines) <= 25


def test_a_wrapped_module_is_taken_out_and_averages_by_itself(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = nn.Linear(2, 2).double()
        wrapped = nn.parallel.DistributedDataParallel(net)
        data = [(torch.randn(3, 2).double(), torch.randn(3, 2).double())]
        got = dilkit.meta.of(wrapped).grad(nn.MSELoss(), data, inner=0.1)
        want = dilkit.meta.of(net).grad(nn.MSELoss(), data, inner=0.1)
        assert all(torch.equal(got.grads[n], g) for n, g in want.grads.items())
        got.apply(wrapped)
        assert torch.equal(net.weight.grad, want.grads["weight"])
        x = data[0][0].clone().requires_grad_()
        with pytest.raises(UsageError, match="cannot be averaged over processes"):
            dilkit.meta.of(wrapped).grad(nn.MSELoss(), [(x, data[0][1])])
    finally:
        torch.distributed.destroy_process_group()


def test_sharded_weights_are_refused_with_what_they_need(tmp_path):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        net = fully_shard(nn.Linear(2, 2), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(UsageError, match="is sharded"):
            dilkit.meta.of(net).grad(nn.MSELoss(), [(torch.ones(1, 2), torch.ones(1, 2))])
    finally:
        torch.distributed.destroy_process_group()
