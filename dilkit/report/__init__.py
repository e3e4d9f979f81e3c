"""Figures and the one-file HTML report, made from evaluation rows and run records.

The room is called like a function: `dilkit.report(runs, out)` is `dilkit.report.page.build_report`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from dilkit.report.page import build_report  # jinja2 and matplotlib stay out of start-up

        return build_report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
