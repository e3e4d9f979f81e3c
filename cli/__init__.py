"""The command line: `dilkit.cli:main` is the program. Each command is a thin call of the public API."""

from __future__ import annotations

from .app import main

__all__ = ["main"]
