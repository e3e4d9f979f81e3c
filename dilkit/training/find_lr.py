"""The range test of learning rates: Smith, "Cyclical Learning Rates for Training Neural Networks", WACV
2017."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

import torch
from torch.optim.lr_scheduler import LambdaLR

from dilkit.confounders.episodes import Episode
from dilkit.errors import DilkitError
from dilkit.meta.guards import NonFinite
from dilkit.recipe import Composed
from dilkit.training.assemble import assemble
from dilkit.training.loop import Meter, Trainee, fit

RULE = "a tenth of the rate at which the smoothed loss was least"
_MEMORY = 0.9
"""Share of the earlier mean in the smoothed loss."""


@dataclass(frozen=True)
class RateTest:
    """Losses of one short run whose rate rises by a constant factor a step.

    Attributes:
        rates, losses, smoothed: step by step, up to where the loss left its range.
        suggested: by `RULE`.
    """

    rates: list[float]
    losses: list[float]
    smoothed: list[float]

    @property
    def suggested(self) -> float:
        return self.rates[self.smoothed.index(min(self.smoothed))] / 10


def find_lr(
    composed: Composed,
    *,
    low: float = 1e-6,
    high: float = 1.0,
    steps: int = 120,
    trust_code: bool = False,
) -> RateTest:
    """Train a new net for at most `steps` steps while the rate rises from `low` to `high`, and write nothing.

    It ends early where the loss is not finite, or its smoothed value lies above all of the first quarter by
    more than those differ.

    Raises:
        UsageError: whatever `train` would refuse, but for its output folder and its sinks.
        DilkitError: the loss is not finite even at the lowest rates.
    """
    made = assemble(composed.recipe, trust_code=trust_code)
    trainee, optim = made.trainee, composed.recipe.optim
    ratio = high / low
    trainee.schedule = LambdaLR(
        trainee.optimizer, lambda k: low / optim.lr * ratio ** (min(k, steps - 1) / (steps - 1))
    )
    found = RateTest([], [], [])
    mean, diverged = 0.0, False

    def after(trainee: Trainee, meter: Meter) -> bool:
        nonlocal mean
        loss = meter.read().get("loss")
        if loss is None:  # no step was taken
            return diverged
        k = len(found.rates)
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        found.rates.append(low * ratio ** (k / (steps - 1)))
        found.losses.append(loss)
        found.smoothed.append(mean / (1 - _MEMORY ** (k + 1)))
        early = found.losses[: steps // 4]
        return k + 1 == steps or (k > steps // 2 and found.smoothed[-1] > 2 * max(early) - min(early))

    def failed(trainee: Trainee, episode: Episode, error: NonFinite) -> None:
        nonlocal diverged
        diverged = True

    torch.manual_seed(composed.recipe.seed)
    episodes = (made.sampler.episode(step) for step in count())
    fit(
        trainee,
        episodes,
        made.accelerator,
        clip=optim.clip,
        after=after,
        failed=failed,
        accumulate=optim.accumulate,
    )
    if len(found.rates) < 10:
        raise DilkitError(
            "the loss is not finite even at the lowest rates",
            where=f"a rate of {low:g}",
            found=f"{len(found.rates)} steps",
        )
    return found
