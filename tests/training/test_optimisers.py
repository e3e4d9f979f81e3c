"""Muon moves kernels along orthogonal directions, and everything else as Adam does; Lion goes by signs; and
no setting is dropped without a word."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from dilkit.errors import UsageError
from dilkit.recipe.schema import Optim
from dilkit.training.assemble import make_optimizer
from dilkit.training.optimisers import Lion, Muon, orthogonal


def test_singular_values_become_about_one() -> None:
    torch.manual_seed(0)
    for shape in ((4, 8, 24), (2, 24, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.6 and values.max() < 1.3


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))).square().mean().backward()
    optimizer.step()


def test_the_ends_and_the_biases_take_adams_steps() -> None:
    ours = net()
    theirs = copy.deepcopy(ours)
    muon, adam = Muon(ours.named_parameters(), lr=1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2)
    step(ours, muon)
    step(theirs, adam)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6) == (name != "2.weight")


def test_a_kernels_update_has_the_size_of_adams() -> None:
    model = net()
    before = model[2].weight.detach().clone()
    step(model, Muon(model.named_parameters(), lr=1e-2))
    change = (model[2].weight.detach() - before).square().mean().sqrt()
    assert float(change) == pytest.approx(0.2e-2, rel=0.3)


def test_its_state_goes_on_to_the_bit() -> None:
    whole = net()
    optimizer = Muon(whole.named_parameters())
    for _ in range(3):
        step(whole, optimizer)
    again, state = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    step(whole, optimizer)
    resumed = Muon(again.named_parameters())
    resumed.load_state_dict(state)
    step(again, resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_lion_moves_by_the_sign_of_a_mean_of_gradients() -> None:
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))
    optimizer = Lion([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    mean, expected = torch.zeros(3), p.detach().clone()
    for grad in (torch.tensor([1.0, -1.0, 0.2]), torch.tensor([-5.0, -1.0, -0.1])):
        p.grad = grad.clone()
        optimizer.step()
        expected = expected * (1 - 0.1 * 0.5) - 0.1 * (0.9 * mean + 0.1 * grad).sign()
        mean = 0.99 * mean + 0.01 * grad
        assert torch.allclose(p, expected)


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"name": "muon", "rates": {"0.*": 0.1}}, "optim.rates"),
        ({"name": "adam", "args": {"amsgrad": True}}, "optim.args"),
        ({"name": "lion", "args": {"betas": [0.9, 0.99]}}, "optim.args"),
    ],
)
def test_a_setting_that_an_optimiser_does_not_take_is_refused(given: dict, where: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_optimizer(Optim.model_validate(given), net())
    assert caught.value.where == where
