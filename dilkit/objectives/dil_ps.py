"""DIL, parallel and second order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.backends import engine_for
from dilkit.meta.chain import Reduce
from dilkit.meta.trajectory import Term
from dilkit.objectives.base import Gradients, Loss, on, summed_up
from dilkit.objectives.config import DilPsConfig
from dilkit.objectives.inner import HVP_PASSES, rule_of


class DilPs:
    """phi = theta - a grad mean_i L(theta; d_i); the direction is grad_theta mean_i L(phi; d_i), through the
    update (Eq. 5). The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_ps"

    def __init__(
        self, config: DilPsConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._config = config
        self._loss = loss
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        config = self._config
        engine = engine_for(
            config.backend,
            net,
            rule_of(config.inner),
            hvp=config.hvp,
            keep=config.keep,
            buffers=config.buffers,
            reduce=self._reduce,
            where=f"step {episode.step}",
        )
        weight = 1 / len(episode.labels)
        terms = [Term(label, on(self._loss, batch), weight) for label, batch in episode.batches().items()]
        got = engine.run([terms], {1: terms})
        engine.settle([got])
        made = summed_up(got.grads, got.inner)
        outer = torch.stack(list(got.outer.values())).mean()
        return Gradients(made.grads, made.loss, made.log | {"loss/outer": outer})

    def passes(self, n: int) -> int:
        return n * (1 + HVP_PASSES) + n

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
