"""DIL, serial and first order: the variant the authors released."""

from __future__ import annotations

from torch import nn

from dilkit.confounders.episodes import Episode
from dilkit.objectives.base import Gradients, on, summed_up
from dilkit.objectives.chained import Chained
from dilkit.objectives.order import shuffled


class DilSf(Chained):
    """phi_0 = theta; phi_k = inner step of phi_{k-1} on L(.; d_pi(k)), pi fresh each outer step (Eq. 3 in
    series, section 3.4). The direction is theta - phi_n, not divided by the inner learning rate.

    The loss reported is the mean over the confounders of the losses met along the chain.
    """

    name = "dil_sf"

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
