"""Figures and the one-file HTML report, made from evaluation rows and run records."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilkit.report.plots import psnr_against_degree as psnr_against_degree

_HOMES = {"psnr_against_degree": "plots"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = list(_HOMES)
