"""An episode: what one outer step of training sees. (The one file of this room that imports torch.)"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dilkit.errors import UsageError

Batch = tuple[Tensor, Tensor]
"""(distorted (B, 3, h, w), clean (B, 3, H, W)), float32; h, w differ from H, W in super-resolution only."""


@dataclass(frozen=True)
class Episode:
    """One batch per confounder.

    Attributes:
        views: distorted images by confounder label, each (B, 3, h, w) float32.
        targets: clean images by label, each (B, 3, H, W) float32. With `pairing: paired` they are one
            and the same tensor (the counterfactual of section 3.2); with `independent` each label has its own.
        step: the outer step, 0-based; objectives derive their shuffles from it, never from global state.
    """

    views: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    step: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.views)

    @property
    def clean(self) -> Tensor:
        """The shared clean batch of a paired episode."""
        first, *rest = self.targets.values()
        if any(t is not first for t in rest):
            raise UsageError("an independent episode has no single clean batch; use `targets`")
        return first

    def batch(self, label: str) -> Batch:
        return self.views[label], self.targets[label]

    def batches(self) -> dict[str, Batch]:
        return {label: self.batch(label) for label in self.labels}
