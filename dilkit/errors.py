"""The two errors that reach a person, and how a wrong name is answered.

Paths as people type them.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


class DilkitError(Exception):
    """Something failed at run time (exit code 1).

    Args:
        message: what is wrong, in one sentence.
        where: the file, key, image or position it is about.
        found: what was there.
        expected: what should have been there.
        nearest: the nearest valid name, if the mistake looks like a misspelling.
        remedy: what to do now.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        where: object = None,
        found: object = None,
        expected: object = None,
        nearest: str | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.found = found
        self.expected = expected
        self.nearest = nearest
        self.remedy = remedy

    def __str__(self) -> str:
        head = f"{self.where}: {self.message}" if self.where is not None else self.message
        lines = [head]
        if self.found is not None:
            lines.append(f"  found:    {self.found}")
        if self.expected is not None:
            lines.append(f"  expected: {self.expected}")
        if self.nearest is not None:
            lines.append(f"  did you mean: {self.nearest}?")
        if self.remedy is not None:
            lines.append(f"  to do:    {self.remedy}")
        return printable("\n".join(lines))


class UsageError(DilkitError, ValueError):
    """Wrong usage or configuration (exit code 2)."""

    exit_code = 2


def printable(text: str, keep: str = "\n\t") -> str:
    """Text from a file or a stranger, with what would steer a terminal (escapes, direction marks) written
    out, all but the characters to `keep`."""
    return "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in text)


def reason(error: BaseException) -> str:
    """Why the system refused something, in one line."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else str(error).split("\n")[0]


def nearest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate closest to a misspelt `name`; None where nothing is close.

    A name in other letters' case comes first, then swapped letters.
    """
    candidates = list(candidates)
    same = [close for close in candidates if close.lower() == name.lower()]
    found = difflib.get_close_matches(name, candidates, n=3, cutoff=0.6)
    swapped = [close for close in found if sorted(close) == sorted(name)]
    return next(iter(same + swapped + found), None)


def expanded(path: str | Path) -> Path:
    """With the home folder for a leading `~`; as it is where that names no user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
