"""Training: the loop, the device, checkpoints and the records of a run. Torch loads on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilkit.checkpoint import Loaded, load
    from dilkit.training.run import RunResult, train

__all__ = ["Loaded", "RunResult", "load", "train"]


def __getattr__(name: str) -> Any:
    if name in ("train", "RunResult"):
        from dilkit.training import run

        return getattr(run, name)
    if name in ("load", "Loaded"):
        from dilkit import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
