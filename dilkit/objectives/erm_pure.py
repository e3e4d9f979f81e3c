"""The control of mixing: empirical risk minimisation one distortion at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.chain import Reduce
from dilkit.objectives.base import Gradients, Loss
from dilkit.objectives.config import ErmPureConfig
from dilkit.objectives.erm import mean_gradient
from dilkit.objectives.order import shuffled


class ErmPure:
    """The direction is grad L(f_theta(I_d), I_c) of one distortion d; the others of the episode are not used.

    Every n steps meet each of n distortions once, in a fresh order. At equal passes that is n times the outer
    steps of `erm`: what is left of a chain of `dil_sf` once its steps are real ones.
    """

    name = "erm_pure"

    def __init__(
        self, config: ErmPureConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._loss = loss
        self._seed = seed
        self._reduce = reduce

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        label = taken(episode.labels, seed=self._seed, step=episode.step)
        return mean_gradient(
            net,
            self._loss,
            {label: episode.batch(label)},
            reduce=self._reduce,
            where=f"step {episode.step}",
        )

    def passes(self, n: int) -> int:
        return 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def taken(labels: Sequence[str], *, seed: int, step: int) -> str:
    """Whose turn it is: entry `step % n` of the shuffle of cycle `step // n`."""
    cycle, turn = divmod(step, len(labels))
    return labels[shuffled(len(labels), seed=seed, step=cycle)[turn]]
