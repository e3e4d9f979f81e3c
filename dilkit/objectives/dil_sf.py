"""DIL, serial and first order: the variant the authors released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.meta.chain import FirstOrderChain, Reduce
from dilkit.objectives.base import Gradients, Loss, on, summed_up
from dilkit.objectives.config import DilSfConfig
from dilkit.objectives.inner import optimizer_of
from dilkit.objectives.order import shuffled


class DilSf:
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on L(.; d_pi(k)), pi fresh each outer step (Eq. 3 in
    series, section 3.4). The direction is theta - phi_n, not divided by the inner learning rate.

    The loss reported is the mean over the confounders of the losses met along the chain.
    """

    name = "dil_sf"

    def __init__(
        self, config: DilSfConfig, loss: Loss, *, seed: int = 0, reduce: Reduce | None = None
    ) -> None:
        self._loss = loss
        self._seed = seed
        self._chain = FirstOrderChain(optimizer_of(config.inner), buffers=config.buffers, reduce=reduce)

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        order = shuffled(len(episode.labels), seed=self._seed, step=episode.step)
        labels = [episode.labels[i] for i in order]
        grads, met = self._chain.run(
            net,
            [{label: on(self._loss, episode.batch(label))} for label in labels],
            where=f"step {episode.step}",
        )
        return summed_up(grads, {label: loss for losses in met for label, loss in losses.items()})

    def passes(self, n: int) -> int:
        return n

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._chain.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chain.load_state_dict(state["inner"])
