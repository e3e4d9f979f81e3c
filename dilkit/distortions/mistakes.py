"""Mistakes in an expression, shown with carets under them."""

from __future__ import annotations

import unicodedata
from typing import Any

from dilkit.distortions.words import KindError
from dilkit.errors import UsageError


class ExpressionError(UsageError):
    """A mistake at a place in an expression; `column` counts from 1."""

    def __init__(self, message: str, *, text: str, start: int, end: int, **details: Any) -> None:
        self.column = start + 1
        super().__init__(f"{message}\n{_pointed(text, start, end)}", where=f"column {self.column}", **details)


class ExpressionTypeError(ExpressionError, KindError):
    """A set where one word was expected, or nothing that is a distortion."""


def _pointed(text: str, start: int, end: int, around: int = 50) -> str:
    """The text about a place, with carets under it."""
    left, right = max(0, start - around), min(len(text), max(end, start + 1) + around)
    before = ("..." if left else "") + text[left:start]
    after = text[end:right] + ("..." if right < len(text) else "")
    shown = text[start:end]
    if len(shown) > 2 * around:
        shown, after = shown[: 2 * around], "..."
    line = "".join(c if c.isprintable() else "\ufffd" for c in before + shown + after)
    return f"  {line}\n  {' ' * _width(before)}{'^' * max(1, _width(shown))}"


def _width(text: str) -> int:
    """Columns of a terminal: two for a wide character, none for an accent put over another."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
