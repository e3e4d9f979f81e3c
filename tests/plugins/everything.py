"""A plug-in file that adds one thing of every kind, as a third party would."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from torch import Tensor, nn

import dilkit
from dilkit.distortions import Param, PrimitiveKind
from dilkit.evaluation.extra_metrics import Metric
from dilkit.evaluation.protocols import Protocol
from dilkit.models import ModelConfig
from dilkit.objectives import Objective
from dilkit.objectives.base import Gradients


def _dim(image: Any, params: Mapping[str, Any], draw: Any) -> Any:
    return image * np.float32(1 - params["depth"])


dilkit.register(
    PrimitiveKind(
        name="dimmed",
        family="plug-in",
        summary="Darker by a constant factor.",
        source="this test",
        params=(Param("depth", low=0, high=0.9, doc="Share of the light that is lost."),),
        apply=_dim,
        degree="depth",
    )
)


@dilkit.register
class LastOnly(Objective):
    """The gradient of the last distortion alone."""

    name = "last_only"

    def gradients(self, net: nn.Module, episode: Any) -> Gradients:
        last = {episode.labels[-1]: episode.batch(episode.labels[-1])}
        return self.mean_gradient(net, last, episode.step)

    def passes(self, n: int) -> int:
        return 1


@dilkit.register(kind="loss", name="cubed")
def cubed(output: Tensor, target: Tensor) -> Tensor:
    """Mean of |e|^3."""
    return ((output - target).abs() ** 3).mean()


class OneConv(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, y: Tensor) -> Tensor:
        return y + self.body(y)


@dilkit.register
class OneConvConfig(ModelConfig):
    """Two convolutions."""

    name: Literal["one_conv"] = "one_conv"
    width: int = 4
    net: ClassVar[str] = ""

    def build(self) -> nn.Module:
        return OneConv(self.width)


def _worst_pixel() -> Any:
    return lambda a, b: float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


dilkit.register(Metric("worst_pixel", _worst_pixel, higher_is_better=False))
dilkit.register(
    Protocol(
        name="dim-room",
        summary="A dark room.",
        source="this test",
        sets=("Room",),
        distort="dimmed[0.2, 0.5]",
    )
)


@dilkit.register(kind="sink", name="lines")
class Lines:
    """Every row as a line of `lines.jsonl` in the run's folder."""

    def __init__(self, out: Path) -> None:
        self.path = Path(out) / "lines.jsonl"

    def add(self, row: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(dict(row)) + "\n")
