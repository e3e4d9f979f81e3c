"""Two processes with half of every batch each take the direction of one with the whole."""

from __future__ import annotations

import copy
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Episode
from dilkit.objectives import OBJECTIVES, make_objective

APART = {"lookahead": "mixes the samples of its own share", "fishr": "a variance", "coral": "a covariance"}
"""Why some are not equal: what they take over the samples of a process is not that over all."""


def loss(net: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return ((net(batch[0]) - batch[1]).square() + 1e-2).sqrt().mean()


def episode(step: int) -> Episode:
    rng = torch.Generator().manual_seed(step + 1)
    clean = torch.rand(4, 3, 6, 6, generator=rng, dtype=torch.float64)
    views = {
        f"d{k}": clean + 0.3 * (k + 1) * torch.randn(clean.shape, generator=rng).double() for k in range(3)
    }
    return Episode(views, dict.fromkeys(views, clean), step)


def share(whole: Episode, rank: int) -> Episode:
    rows = slice(2 * rank, 2 * rank + 2)
    target = whole.clean[rows]
    return Episode(
        {k: v[rows] for k, v in whole.views.items()}, dict.fromkeys(whole.views, target), whole.step
    )


@pytest.mark.parametrize("name", [name for name in (*OBJECTIVES.loaded,) if name not in APART])
def test_the_direction_does_not_depend_on_the_number_of_processes(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)).double()
    alone = make_objective(name, loss=loss, seed=1)
    wanted = [alone.gradients(net, episode(step)).grads for step in range(2)]
    barrier, sent, found = threading.Barrier(2), [None, None], [None, None]

    def process(rank: int) -> None:
        def average(tensors: list[Tensor]) -> None:
            sent[rank] = [t.detach().clone() for t in tensors]
            barrier.wait(30)
            mean = [(a + b) / 2 for a, b in zip(*sent, strict=True)]
            barrier.wait(30)
            with torch.no_grad():
                for t, m in zip(tensors, mean, strict=True):
                    t.copy_(m)

        own = copy.deepcopy(net)
        objective = make_objective(name, loss=loss, seed=1, reduce=average)
        found[rank] = [objective.gradients(own, share(episode(step), rank)).grads for step in range(2)]

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    got: Any
    for got in found:
        assert got is not None
        for grads, want in zip(got, wanted, strict=True):
            for key, g in want.items():
                torch.testing.assert_close(grads[key], g, rtol=1e-8, atol=1e-12)
