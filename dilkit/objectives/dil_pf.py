"""DIL, parallel and first order."""

from __future__ import annotations

from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.chain import Reduce
from dilkit.objectives.base import Gradients, Loss, on, summed_up
from dilkit.objectives.chained import Chained
from dilkit.objectives.config import DilPfConfig


class DilPf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on mean_i L(.; d_i), K times (the update of Eq. 5). The
    direction is theta - phi_K. With K = 1 it would be ERM's up to scale.

    The losses reported are those at theta. One distortion at a time is in memory.
    """

    name = "dil_pf"

    def __init__(
        self, config: DilPfConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        super().__init__(config, loss, seed=seed, reduce=reduce)
        self._steps = config.steps

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        pooled = {label: on(self._loss, batch) for label, batch in episode.batches().items()}
        grads, met = self._chain.run(net, [pooled] * self._steps, where=f"step {episode.step}")
        return summed_up(grads, met[0])

    def passes(self, n: int) -> int:
        return self._steps * n
