"""Where metrics may go besides CSV and JSONL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from dilkit.errors import UsageError
from dilkit.models import import_object


class Sink(Protocol):
    """The plug-in point: `log.to: [package.module:Class]` calls `Class(run_folder)`, then `add` for each row.

    A row is one of metrics.jsonl: `step`, `loss`, `val/<label>` ..., all numbers.
    """

    def add(self, row: Mapping[str, Any]) -> None: ...


class TensorBoard:
    """Scalars under RUN/tensorboard (`pip install dilkit[tensorboard]`)."""

    def __init__(self, out: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UsageError(
                "TensorBoard is not installed", where="log.to", remedy="pip install dilkit[tensorboard]"
            ) from None
        self._writer: Any = SummaryWriter(str(out / "tensorboard"))

    def add(self, row: Mapping[str, Any]) -> None:
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()


def open_sinks(names: Sequence[str], out: Path) -> list[Sink]:
    """`tensorboard`, or any `package.module:Class`."""
    made_by = [TensorBoard if name == "tensorboard" else import_object(name, "log.to") for name in names]
    return [make(out) for make in made_by]
