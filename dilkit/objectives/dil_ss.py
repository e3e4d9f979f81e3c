"""DIL, serial and second order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.chain import Reduce
from dilkit.meta.view import Meta
from dilkit.objectives.base import Gradients, Loss, summed_up
from dilkit.objectives.config import DilSsConfig
from dilkit.objectives.inner import HVP_PASSES, rule_of
from dilkit.objectives.order import shuffled


class DilSs:
    """phi_i = theta - a grad L(theta; d_i) for each d_i (Eq. 3; `star`), or one chain through all in a fresh
    order (`chain`). The direction is grad_theta sum_i mean_j L(phi_i; d_j), through the updates (Eq. 4); a
    chain has the one phi_n.

    The losses reported are the inner ones: at theta for a star, along the way for a chain.
    """

    name = "dil_ss"

    def __init__(
        self, config: DilSsConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._config = config
        self._loss = loss
        self._seed = seed
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        config = self._config
        order = shuffled(len(episode.labels), seed=self._seed, step=episode.step)
        got = Meta(net).grad(
            self._loss,
            {episode.labels[i]: episode.batch(episode.labels[i]) for i in order},
            inner=rule_of(config.inner),
            trajectory=config.trajectory,
            outer=config.outer,
            hvp=config.hvp,
            keep=config.keep,
            buffers=config.buffers,
            backend=config.backend,
            reduce=self._reduce,
            where=f"step {episode.step}",
        )
        made = summed_up(got.grads, got.inner)
        return Gradients(made.grads, made.loss, made.log | {"loss/outer": got.loss})

    def passes(self, n: int) -> int:
        measured = {"all": n, "others": n - 1, "same": 1}[self._config.outer]
        trajectories = n if self._config.trajectory == "star" else 1
        return n * (1 + HVP_PASSES) + trajectories * measured

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass
