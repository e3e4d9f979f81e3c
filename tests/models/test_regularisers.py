"""Dropout before the last convolution and masks after the first: in training, and nowhere else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dilkit.errors import UsageError
from dilkit.models import build
from dilkit.models.regularisers import regularised
from dilkit.objectives import make_objective

SIZE = {"depth": 3, "width": 64, "norm": "none"}


def test_a_share_of_whole_channels_is_dropped_before_the_last_convolution() -> None:
    net = build("dncnn", **SIZE, dropout=0.5)
    caught: list[torch.Tensor] = []
    last = [m for m in net.modules() if isinstance(m, nn.Conv2d)][-1]
    last.register_forward_pre_hook(lambda _, given: caught.append(given[0]))
    torch.manual_seed(0)
    net.train()(torch.rand(8, 3, 12, 12))
    dropped = (caught[0] == 0).flatten(2).all(2)
    assert 0.4 < dropped.float().mean() < 0.75  # half of them, and those that are dead anyhow
    net.eval()(torch.rand(8, 3, 12, 12))
    assert (caught[1] == 0).flatten(2).all(2).float().mean() < 0.3


def test_a_share_of_the_pixels_is_masked_in_all_channels_after_the_first_convolution() -> None:
    net = build("dncnn", **SIZE, masked=(0.8, 0.9))
    caught: list[torch.Tensor] = []
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_hook(lambda _, __, output: caught.append(output.clone()))
    torch.manual_seed(0)
    net.train()(torch.rand(8, 3, 32, 32))
    zero = caught[0] == 0
    shares = zero.all(1).float().mean((1, 2))
    assert ((shares > 0.76) & (shares < 0.94)).all() and shares.std() > 0.005
    assert torch.equal(zero.all(1), zero.any(1))


@pytest.mark.parametrize("how", [{"dropout": 0.5}, {"masked": [0.8, 0.9]}])
def test_weights_and_outputs_in_use_are_those_of_the_net_without(how: dict) -> None:
    torch.manual_seed(0)
    plain = build("dncnn", **SIZE)
    torch.manual_seed(0)
    net = build("dncnn", **SIZE, **how)
    assert list(plain.state_dict()) == list(net.state_dict())
    x = torch.rand(2, 3, 12, 12)
    assert torch.equal(plain.eval()(x), net.eval()(x))
    torch.manual_seed(1)
    one = copy.deepcopy(net).train()(x)
    torch.manual_seed(1)
    assert torch.equal(one, net.train()(x))
    assert not torch.equal(one, plain.train()(x))


@pytest.mark.parametrize("name", ["dil_sf", "dil_ss", "iga", "fishr"])
def test_objectives_run_them_through(name: str) -> None:
    from dilkit.confounders.episodes import Episode

    net = build("dncnn", depth=3, width=4, norm="none", dropout=0.5, masked=(0.8, 0.9))
    clean = torch.rand(2, 3, 12, 12)
    views = {f"d{k}": clean + 0.1 * k for k in range(3)}
    objective = make_objective(name, loss=lambda n, b: (n(b[0]) - b[1]).abs().mean())
    grads = objective.gradients(net.train(), Episode(views, dict.fromkeys(views, clean))).grads
    assert all(g.isfinite().all() for g in grads.values())


def test_a_net_without_a_convolution_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.dropout"):
        regularised(nn.Linear(3, 3), 0.5, None)
