"""Figures and the one-file HTML report, made from evaluation rows and run records.

The room is called like a function: `dilkit.report(runs, out)` is `dilkit.report.page.build_report`.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dilkit.report.plots import psnr_against_degree as psnr_against_degree

_HOMES = {"psnr_against_degree": "dilkit.report.plots", "build_report": "dilkit.report.page"}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dilkit.report.page import build_report

        return build_report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
