"""dilkit: Distortion-Invariant Learning for image restoration.

The public names are imported when first used, so that `import dilkit` stays cheap.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "DilkitError": "dilkit.errors",
    "EpisodeSampler": "dilkit.confounders.episodes",
    "Store": "dilkit.confounders.store",
    "UsageError": "dilkit.errors",
    "augment": "dilkit.confounders.build",
    "confounder_set": "dilkit.distortions",
    "parse": "dilkit.distortions",
    "register": "dilkit.distortions",
}
"""Public name -> the module that defines it."""

__all__ = ["__version__", "meta", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name == "meta":
        return importlib.import_module("dilkit.meta")
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dilkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), "meta", *_PUBLIC})
