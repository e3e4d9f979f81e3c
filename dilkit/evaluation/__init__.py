"""Measuring nets honestly: the grid of images and distortions, rows, scores, protocols, metrics."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilkit.evaluation.extra_metrics import METRICS as METRICS
    from dilkit.evaluation.grid import evaluate as evaluate
    from dilkit.evaluation.protocols import PROTOCOLS as PROTOCOLS
    from dilkit.evaluation.rows import read_rows as read_rows
    from dilkit.evaluation.rows import write_rows as write_rows
    from dilkit.metrics import psnr as psnr
    from dilkit.metrics import ssim as ssim

_HOMES = {
    "METRICS": "dilkit.evaluation.extra_metrics",
    "PROTOCOLS": "dilkit.evaluation.protocols",
    "evaluate": "dilkit.evaluation.grid",
    "psnr": "dilkit.metrics",
    "read_rows": "dilkit.evaluation.rows",
    "ssim": "dilkit.metrics",
    "write_rows": "dilkit.evaluation.rows",
}
"""Public names by module; torch and pandas load only with the names that need them."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
