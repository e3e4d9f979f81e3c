"""Our step against a plain port of the released update rule, from the same weights and batches."""

import copy

import pytest
import torch
from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.objectives import make_objective
from dilkit.objectives.base import shuffled

LABELS = ("awgn(5)", "awgn(10)", "awgn(15)", "awgn(20)")


def l1(net, batch):
    return nn.functional.l1_loss(net(batch[0]), batch[1])


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(),
        nn.Conv2d(6, 3, 3, padding=1),
    ).double()  # fmt: skip


def episodes(count, *, paired=False):
    rng = torch.Generator().manual_seed(1)
    out = []
    for step in range(count):
        shared = torch.rand(2, 3, 10, 10, generator=rng, dtype=torch.float64)
        targets = {
            x: shared if paired else torch.rand(2, 3, 10, 10, generator=rng, dtype=torch.float64)
            for x in LABELS
        }
        views = {
            x: (t + 0.1 * torch.randn(t.shape, generator=rng, dtype=t.dtype)).clamp(0, 1)
            for x, t in targets.items()
        }
        out.append(Episode(views, targets, step))
    return out


def released_rule(net, stream, orders, *, lr=1e-4, inner_lr=1e-4):
    """The released loop: a copy of the net, one Adam for it whose state persists, Reptile outside."""
    net = copy.deepcopy(net)
    virtual = copy.deepcopy(net)
    outer = torch.optim.Adam(net.parameters(), lr=lr)
    inner = torch.optim.Adam(virtual.parameters(), lr=inner_lr, betas=(0.0, 0.999))
    for episode, order in zip(stream, orders, strict=True):
        virtual.load_state_dict(net.state_dict())
        for i in order:
            inner.zero_grad()
            l1(virtual, episode.batch(LABELS[i])).backward()
            inner.step()
        outer.zero_grad()
        for p, q in zip(net.parameters(), virtual.parameters(), strict=True):
            p.grad = p.data - q.data
        outer.step()
    return net


@pytest.mark.parametrize("paired", [False, True])
def test_theta_equals_the_released_rule_over_outer_steps(paired):
    stream = episodes(6, paired=paired)
    orders = [shuffled(4, seed=3, step=e.step) for e in stream]
    assert len({tuple(o) for o in orders}) > 1
    start = small_net()
    theirs = released_rule(start, stream, orders)

    ours = copy.deepcopy(start)
    objective = make_objective("dil_sf", loss=l1, seed=3)
    outer = torch.optim.Adam(ours.parameters(), lr=1e-4)
    for episode in stream:
        grads = objective.gradients(ours, episode).grads
        for name, p in ours.named_parameters():
            p.grad = grads[name]
        outer.step()

    for p, q, p0 in zip(ours.parameters(), theirs.parameters(), start.parameters(), strict=True):
        assert (p - p0).abs().max() > 1e-5
        assert (p - q).abs().max() <= 1e-12
