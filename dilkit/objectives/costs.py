"""What a step of each objective costs on a given net: predicted, and measured."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Batch, Episode
from dilkit.meta.footprint import saved_activations
from dilkit.objectives import make_objective

VARIANTS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("erm", {}),
    ("dil_sf", {}),
    ("dil_pf", {"steps": 2}),
    ("dil_ss", {"trajectory": "star", "buffers": "isolate"}),
    ("dil_ss", {"trajectory": "chain", "buffers": "isolate"}),
    ("dil_ps", {"buffers": "isolate"}),
)


@dataclass(frozen=True)
class Units:
    """u: seconds of one forward and backward pass; A: bytes of activations it saves; P: bytes of weights."""

    seconds: float
    activations: int
    parameters: int


@dataclass(frozen=True)
class Cost:
    """Of one step over n confounders: time in u, activations in A."""

    variant: str
    predicted_time: float
    time: float
    predicted_activations: float
    activations: float


def units(net: nn.Module, batch: Batch, *, repeats: int = 5) -> Units:
    """Measure u, A and P."""
    params = [p for p in net.parameters() if p.requires_grad]

    def once() -> None:
        torch.autograd.grad(_loss(net, batch), params, allow_unused=True)

    held = saved_activations(net, once)
    size = sum(p.numel() * p.element_size() for p in params)
    return Units(_seconds(once, repeats), held, size)


def costs(net: nn.Module, batches: list[Batch], base: Units, *, repeats: int = 3) -> Iterator[Cost]:
    """One step of each variant, over as many confounders as there are batches."""
    labels = [f"d{i}" for i in range(len(batches))]
    episode = Episode(
        {k: x for k, (x, _) in zip(labels, batches, strict=True)},
        {k: y for k, (_, y) in zip(labels, batches, strict=True)},
    )
    for name, config in VARIANTS:
        objective = make_objective(name, loss=_loss, **config)

        def once(objective: Any = objective) -> None:
            objective.gradients(net, episode)

        once()
        held = saved_activations(net, once)
        shape = f" {config['trajectory']}" if "trajectory" in config else ""
        yield Cost(
            name + shape,
            float(objective.passes(len(batches))),
            _seconds(once, repeats) / base.seconds,
            objective.activations,
            held / base.activations if base.activations else 0.0,
        )


def _loss(net: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.l1_loss(net(batch[0]), batch[1])


def _seconds(run: Any, repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
