"""What the first-order chains share: a chain whose inner optimiser's state outlives the step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilkit.meta.chain import FirstOrderChain, Reduce
from dilkit.objectives.base import Loss
from dilkit.objectives.config import DilPfConfig, DilSfConfig, LookaheadConfig
from dilkit.objectives.inner import optimizer_of


class Chained:
    """The part of an objective that holds the chain; its state is the inner optimiser's."""

    def __init__(
        self,
        config: DilSfConfig | DilPfConfig | LookaheadConfig,
        loss: Loss,
        *,
        seed: int = 0,
        reduce: Reduce | None = None,
    ) -> None:
        self._loss = loss
        self._seed = seed
        self._chain = FirstOrderChain(optimizer_of(config.inner), buffers=config.buffers, reduce=reduce)

    def state_dict(self) -> dict[str, Any]:
        return {"inner": self._chain.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._chain.load_state_dict(state["inner"])
