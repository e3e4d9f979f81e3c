"""The dense average of the last steps: a plain mean, which goes on alike after a restart."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from dilkit.checkpoint import load
from dilkit.errors import UsageError
from dilkit.recipe import compose
from dilkit.training import train
from dilkit.training.assemble import mean_from


@pytest.mark.parametrize("first", [0, 1, 3, 5])
def test_it_is_the_mean_of_the_weights_after_each_step_from_the_first_on(first: int) -> None:
    torch.manual_seed(0)
    net = nn.Linear(3, 2).double()
    average = AveragedModel(net, multi_avg_fn=mean_from(first), use_buffers=True)
    met = []
    for step in range(1, 7):
        with torch.no_grad():
            net.weight.add_(torch.randn(2, 3, dtype=torch.float64))
        average.update_parameters(net)
        met.append(net.weight.detach().clone())
        if step == 4:  # a restart: a new average with the old one's values and count
            new = AveragedModel(copy.deepcopy(net), multi_avg_fn=mean_from(first), use_buffers=True)
            new.module.load_state_dict(average.module.state_dict())
            new.n_averaged.fill_(average.n_averaged)
            average = new
    want = torch.stack(met[max(first, 1) - 1 :]).mean(0)
    torch.testing.assert_close(average.module.weight, want, rtol=1e-12, atol=1e-12)


def test_two_averages_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="instead of ema"):
        compose(["denoise-gaussian-small", "swa=0.25", "ema=0.9"])


def test_a_run_that_takes_it_up_on_resuming_averages_its_last_steps(tiny: list[str], tmp_path: Path) -> None:
    train([*tiny, "steps=6"], tmp_path / "run")
    words = [*tiny, "steps=12", "swa=0.25", "optim.lr=0.01"]
    last = train(words, tmp_path / "run", resume=True, allow_changes=True).checkpoint
    mean, latest = load(last).net, load(last, weights="net").net
    assert any(not torch.equal(a, b) for a, b in zip(mean.parameters(), latest.parameters(), strict=True))
