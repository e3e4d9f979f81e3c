"""Nets put to use: opened, run on images of any size, on files, and written for other programs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilkit.inference.export import EXPORTERS as EXPORTERS
    from dilkit.inference.nets import open_net as open_net
    from dilkit.inference.nets import open_nets as open_nets

_HOMES = {
    "EXPORTERS": "dilkit.inference.export",
    "open_net": "dilkit.inference.nets",
    "open_nets": "dilkit.inference.nets",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
