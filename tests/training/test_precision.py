"""Half precision: fp16 scales its loss, skips what overflows, and resumes to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dilkit.errors import UsageError
from dilkit.meta.guards import NonFinite
from dilkit.recipe import compose
from dilkit.recipe.schema import Hardware
from dilkit.training import train
from dilkit.training.precision import LossScale, make_loss


@pytest.mark.parametrize("objective", ["erm", "erm_pure", "dil_sf", "dil_pf"])
def test_fp16_trains_as_float32_does(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "steps=20", "optim.schedule=constant"]
    plain = train(words, tmp_path / "a")
    low = train([*words, "hardware.precision=fp16"], tmp_path / "b")
    assert low.loss == pytest.approx(plain.loss, rel=0.05)
    assert all(t.dtype == torch.float32 for t in load_file(low.checkpoint).values())


def test_fp16_resumes_to_the_bit(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "hardware.precision=fp16", "objective=dil_sf"]
    whole = train(words, tmp_path / "whole")
    steps = iter(range(100))
    train(words, tmp_path / "part", stop=lambda: next(steps) >= 5)
    part = train(words, tmp_path / "part", resume=True)
    a, b = load_file(whole.checkpoint), load_file(part.checkpoint)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_gradients_are_scaled_within_the_net_and_not_after_it() -> None:
    """In float16 a gradient of 1e-9 is zero; scaled by 2**16 on its way it is not."""
    net = nn.Conv2d(3, 3, 1)
    batch = torch.rand(1, 3, 4, 4), torch.rand(1, 3, 4, 4)

    def gradient(precision: str, scale: LossScale | None) -> torch.Tensor:
        measured = make_loss("l2", torch.device("cpu"), Hardware(precision=precision), scale)
        (found,) = torch.autograd.grad(measured(net, batch) * 1e-8, [net.weight])
        return found

    true = gradient("fp32", None)
    assert gradient("fp16", None).abs().max() < true.abs().max() / 10
    assert torch.allclose(gradient("fp16", LossScale()), true, rtol=0.02, atol=1e-12)


def test_the_scale_is_halved_by_overflow_and_doubled_after_many_good_steps() -> None:
    scale = LossScale(8.0, double_every=3)
    assert scale.step(finite=False) and scale.value == 4
    assert all(scale.step(finite=True) for _ in range(3)) and scale.value == 8
    assert [scale.step(finite=False) for _ in range(4)] == [True, True, True, False]


def test_a_loss_that_is_never_finite_still_stops_the_run(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(NonFinite):
        train([*tiny, "hardware.precision=fp16", "steps=60", "loss=1e38*l1 + 1e38*l1"], tmp_path / "run")


def test_fp16_is_refused_where_an_objective_differentiates_twice() -> None:
    with pytest.raises(UsageError, match="use bf16"):
        compose(["demo", "synthetic", "objective=dil_ps", "hardware.precision=fp16"])
