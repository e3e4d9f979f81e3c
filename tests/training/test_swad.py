"""The window of SWAD against a plain port of its published algorithm, and across a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from dilkit.checkpoint import load
from dilkit.errors import UsageError
from dilkit.recipe import compose
from dilkit.training import train
from dilkit.training.swad import CONVERGE, RATIO, TOLERANCE, Swad

LOSSES = [
    [5, 4, 3, 3.5, 3.2, 3.1, 3.0, 3.6, 4.5, 5, 5, 6, 7, 8, 9, 10, 11, 12],  # opens, and closes
    [5, 4, 3, 2.9, 2.8, 2.9, 2.95, 2.7],  # opens; the run ends before it closes
    [9, 8, 7, 6, 5, 4],  # never opens
    [1, 2, 3, 9, 9, 9, 9, 9, 9, 1, 1],  # closes at once, and does not open again
]


def published(losses: list[float], weights: np.ndarray) -> np.ndarray:
    """Algorithm 1 over segments: where it starts, where it ends, and the mean between."""
    for start in range(len(losses) - CONVERGE + 1):
        ahead = losses[start : start + CONVERGE]
        if min(ahead) == ahead[0]:
            threshold = (1 + RATIO) * np.mean(ahead)
            end = start + 1
            while end < len(losses) and min(losses[end : end + TOLERANCE]) <= threshold:
                end += 1
            return weights[start:end].mean(0)
    return weights[-1]


def net_of(values: np.ndarray) -> nn.Module:
    net = nn.Linear(2, 1, bias=False).double()
    net.weight.data = torch.from_numpy(values)[None].clone()
    return net


@pytest.mark.parametrize("losses", LOSSES)
def test_the_window_is_the_published_one_also_after_a_restart(losses: list[float]) -> None:
    steps = np.random.default_rng(0).normal(size=(len(losses), 4, 2))  # four steps to a segment
    average = Swad(net_of(steps[0, 0]))
    for k, (segment, loss) in enumerate(zip(steps, losses, strict=True)):
        for weights in segment:
            average.update_parameters(net_of(weights))
        average.validated(loss)
        found = average.module.weight[0].detach().numpy()
        np.testing.assert_allclose(found, published(losses[: k + 1], steps[: k + 1].mean(1)), atol=1e-12)
        state, module = average.window(), average.module
        average = Swad(module)
        average.load_window(state)


WORDS = [
    "dncnn", "data.sources=['deadleaves:4@48']", "data.distort=awgn[5, 20]", "data.tile=48", "data.crop=16",
    "data.batch=1", "model.depth=3", "model.width=4", "model.norm=none", "hardware.device=cpu",
    "hardware.threads=1", "optim.lr=0.01", "swad=true", "validate.every=2",
    "validate.images=['deadleaves:2@32']",
]  # fmt: skip


def test_a_run_goes_on_with_its_window(tmp_path: Path) -> None:
    train(compose([*WORDS, "steps=12", "checkpoint.every=5"]), tmp_path / "whole")
    whole = load(tmp_path / "whole" / "checkpoints" / "last.safetensors")
    assert whole.metadata["weights"] == "ema"
    cut = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        train(compose([*WORDS, "steps=12", "checkpoint.every=5", "log.every=1"]), cut, log=_stop_at(8))
    train(compose([*WORDS, "steps=12", "checkpoint.every=5", "log.every=1"]), cut, resume=True)
    again = load(cut / "checkpoints" / "last.safetensors").net
    for a, b in zip(whole.net.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    latest = load(cut / "checkpoints" / "last.safetensors", weights="net").net
    assert any(not torch.equal(a, b) for a, b in zip(latest.parameters(), again.parameters(), strict=True))


def test_a_run_that_takes_it_up_on_resuming_averages_from_there(tmp_path: Path) -> None:
    train(compose([*WORDS, "swad=false", "steps=4"]), tmp_path / "run")
    train(compose([*WORDS, "steps=12"]), tmp_path / "run", resume=True, allow_changes=True)
    last = tmp_path / "run" / "checkpoints" / "last.safetensors"
    mean, latest = load(last).net, load(last, weights="net").net
    assert any(not torch.equal(a, b) for a, b in zip(mean.parameters(), latest.parameters(), strict=True))


def test_the_best_checkpoint_is_the_net_that_was_measured(tmp_path: Path) -> None:
    train(compose([*WORDS, "steps=12"]), tmp_path / "run")
    assert load(tmp_path / "run" / "checkpoints" / "best.safetensors").metadata["weights"] == "net"


def _stop_at(step: int):  # type: ignore[no-untyped-def]
    def log(row: dict) -> None:
        if row.get("step") == step:
            raise KeyboardInterrupt

    return log


def test_without_validation_there_is_no_window() -> None:
    with pytest.raises(UsageError, match="validate"):
        compose([word for word in WORDS if not word.startswith("validate")] + ["steps=2"])
