"""Empirical risk minimisation: over the pooled distortions, and one distortion at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dilkit.objectives.base import (
    Gradients,
    Loss,
    Objective,
    ObjectiveConfig,
    Reduce,
    accumulated,
    private_grads,
    require_finite_each,
    shuffled,
    summed_up,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dilkit.confounders.episodes import Batch, Episode


class Erm(Objective):
    """The direction is grad mean_i L(f_theta(I_di), I_c) (Eq. 2).

    One accumulated pass per distortion: n confounders need the activations of one. Running statistics
    advance once per distortion, and `.grad` of the parameters is left as it was found.
    """

    name = "erm"
    pooled = True

    class Config(ObjectiveConfig):
        """Empirical risk minimisation over the pooled distortions (Eq. 2).

        `together`: one pass over the batches of all distortions at once: faster where crops are small and
        few,
        with the activations of all of them; the loss of each distortion is then not logged.
        """

        together: bool = False
        """Take one pass over all distortions at once instead of one each; the same gradient, more memory."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        if self.config.together:
            import torch

            batches = episode.batches().values()
            whole = torch.cat([view for view, _ in batches]), torch.cat([target for _, target in batches])
            found = mean_gradient(
                net, self.loss, {"all": whole}, reduce=self.reduce, where=f"step {episode.step}"
            )
            return Gradients(found.grads, found.loss)
        return mean_gradient(
            net, self.loss, episode.batches(), reduce=self.reduce, where=f"step {episode.step}"
        )

    def passes(self, n: int) -> int:
        return n


class ErmPure(Objective):
    """The direction is grad L(f_theta(I_d), I_c) of one distortion d; the others of the episode are not used.

    Every n steps meet each of n distortions once, in a fresh order. At equal passes that is n times the outer
    steps of `erm`: what is left of a chain of `dil_sf` once its steps are real ones.
    """

    name = "erm_pure"

    class Config(ObjectiveConfig):
        """The control of mixing: each step takes the gradient of one distortion, all of them in turn."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        label = taken(episode.labels, seed=self.seed, step=episode.step)
        return mean_gradient(
            net,
            self.loss,
            {label: episode.batch(label)},
            reduce=self.reduce,
            where=f"step {episode.step}",
        )

    def passes(self, n: int) -> int:
        return 1


def mean_gradient(
    net: nn.Module, loss: Loss, batches: Mapping[str, Batch], *, reduce: Reduce | None, where: str
) -> Gradients:
    """The gradient of the mean loss of batches, by label; one accumulated pass for each."""
    losses: dict[str, Tensor] = {}
    with private_grads(net) as params:
        for label, batch in batches.items():
            value = loss(net, batch)
            (value / len(batches)).backward()
            losses[label] = value.detach()
        grads = accumulated(params)
    if reduce is not None:
        reduce(list(grads.values()))
    require_finite_each(losses, {", ".join(losses): grads}, where=where)
    return summed_up(grads, losses)


def taken(labels: Sequence[str], *, seed: int, step: int) -> str:
    """Whose turn it is: entry `step % n` of the shuffle of cycle `step // n`."""
    cycle, turn = divmod(step, len(labels))
    return labels[shuffled(len(labels), seed=seed, step=cycle)[turn]]
