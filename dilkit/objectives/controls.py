"""The control of `dil_sf`: its chain and outer step, on batches that mix the distortions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dilkit.errors import UsageError
from dilkit.objectives.base import Gradients, on, shuffled
from dilkit.objectives.dil import ChainConfig, Chained

if TYPE_CHECKING:
    from torch import nn

    from dilkit.confounders.episodes import Batch, Episode


class Lookahead(Chained):
    """Lookahead (Zhang et al., NeurIPS 2019) with k = n: what is left of DIL_sf once an inner step no
    longer intervenes on one distortion. Same images, passes, inner optimiser and direction theta - phi_n.
    """

    name = "lookahead"

    class Config(ChainConfig):
        """The control of `dil_sf`: the same chain and outer step on batches that mix the distortions."""

    def gradients(self, net: nn.Module, episode: Episode) -> Gradients:
        import torch

        batches = mixed(episode, seed=self.seed)
        grads, met = self._chain.run(
            net,
            [{f"mixed batch {k + 1}": on(self.loss, batch)} for k, batch in enumerate(batches)],
            where=f"step {episode.step}",
        )
        losses = [loss for step in met for loss in step.values()]
        return Gradients(grads, torch.stack(losses).mean())


def mixed(episode: Episode, *, seed: int) -> list[Batch]:
    """n batches of the episode's n, every (position, distortion) in exactly one of them, and each batch with
    as equal a share of every distortion as its size allows (a Latin square, shuffled by seed and step).
    """
    import torch

    labels, step = episode.labels, episode.step
    shapes = {(episode.views[x].shape, episode.targets[x].shape) for x in labels}
    if len(shapes) > 1:
        raise UsageError(
            "distortions of different shapes cannot share a batch", found=sorted(map(str, shapes))
        )
    n, size = len(labels), len(episode.views[labels[0]])
    symbols = shuffled(n, seed=seed, step=step, purpose="mix distortions")
    offsets = [i % n for i in shuffled(size, seed=seed, step=step, purpose="mix positions")]
    views = torch.stack([episode.views[x] for x in labels])
    targets = torch.stack([episode.targets[x] for x in labels])
    positions = torch.arange(size, device=views.device)
    out = []
    for k in range(n):
        rows = torch.tensor([symbols[(offset + k) % n] for offset in offsets], device=views.device)
        out.append((views[rows, positions], targets[rows, positions]))
    return out
