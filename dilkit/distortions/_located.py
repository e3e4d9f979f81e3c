"""Where in a text the nodes of its syntax tree stand, so that errors point there."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from dilkit.distortions.mistakes import ExpressionError, ExpressionTypeError
from dilkit.distortions.primitive import ParameterError
from dilkit.errors import UsageError


class Located:
    """An expression in one line; `code` is what is parsed of it, which begins at `offset`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.code = text.lstrip()
        self.offset = len(text) - len(self.code)

    def span(self, node: ast.AST) -> tuple[int, int]:
        line = self.code.encode()
        start = len(line[: node.col_offset].decode(errors="replace"))  # type: ignore[attr-defined]
        end = len(line[: node.end_col_offset].decode(errors="replace"))  # type: ignore[attr-defined]
        return start + self.offset, end + self.offset

    def what(self, node: ast.AST) -> str:
        """The node as it is written, shortened."""
        start, end = self.span(node)
        shown = self.text[start:end]
        return shown if len(shown) <= 40 else shown[:37] + "..."

    def error(self, node: ast.AST, message: str, **details: Any) -> ExpressionError:
        start, end = self.span(node)
        return ExpressionError(message, text=self.text, start=start, end=end, **details)

    def located(self, node: ast.AST, build: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """`build(...)`, its errors pointing at the node (or at the argument they are about)."""
        try:
            return build(*args, **kwargs)
        except ExpressionError:
            raise
        except UsageError as error:
            start, end = self.span(_blamed(node, error))
            kind = ExpressionTypeError if isinstance(error, TypeError) else ExpressionError
            raise kind(
                error.message, text=self.text, start=start, end=end, found=error.found,
                expected=error.expected, nearest=error.nearest, remedy=error.remedy,
            ) from None  # fmt: skip


def _blamed(node: ast.AST, error: UsageError) -> ast.AST:
    if isinstance(error, ParameterError) and isinstance(node, ast.Call):
        if isinstance(error.parameter, int) and error.parameter < len(node.args):
            return node.args[error.parameter]
        for keyword in node.keywords:
            if keyword.arg == error.parameter:
                return keyword
        if error.parameter is not None and len(node.args) == 1:
            return node.args[0]
    if isinstance(error, ParameterError) and isinstance(node, ast.Subscript):
        return node.slice
    return node
