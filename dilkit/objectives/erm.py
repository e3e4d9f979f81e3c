"""Empirical risk minimisation: over the pooled distortions, and one distortion at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dilkit.objectives.base import Gradients, Objective, ObjectiveConfig, shuffled

if TYPE_CHECKING:
    from torch import nn

    from dilkit.confounders.episodes import Episode


class Erm(Objective):
    """The direction is grad mean_i L(f_theta(I_di), I_c) (Eq. 2).

    One accumulated pass per distortion: n confounders need the activations of one. Running statistics
    advance once per distortion, and `.grad` of the parameters is left as it was found.
    """

    name = "erm"
    pooled = True

    class Config(ObjectiveConfig):
        """Empirical risk minimisation over the pooled distortions (Eq. 2)."""

        together: bool = False
        """Take one pass over all distortions at once instead of one each: the same gradient, faster where
        crops are small and few, with the activations of all; the loss of each is then not logged."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        if not self.config.together:
            return self.mean_gradient(net, episode.batches(), episode.step)
        import torch

        batches = episode.batches().values()
        whole = torch.cat([view for view, _ in batches]), torch.cat([target for _, target in batches])
        found = self.mean_gradient(net, {"all": whole}, episode.step)
        return Gradients(found.grads, found.loss)


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
        return self.mean_gradient(net, {label: episode.batch(label)}, episode.step)

    def passes(self, n: int) -> int:
        return 1


def taken(labels: Sequence[str], *, seed: int, step: int) -> str:
    """Whose turn it is: entry `step % n` of the shuffle of cycle `step // n`."""
    cycle, turn = divmod(step, len(labels))
    return labels[shuffled(len(labels), seed=seed, step=cycle)[turn]]
