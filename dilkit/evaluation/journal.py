"""Rows on disk as they are found, so that an evaluation cut short goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Any, Self

Key = tuple[Any, ...]
"""(net, set, image, distortion, draw)."""


class Journal:
    """A JSONL file: the identity of the evaluation, then a row per line. Kept until `finish`.

    A journal of another evaluation is started over; a last line cut short by a kill is dropped.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, Any], key: tuple[str, ...]) -> None:
        self.path = path
        self._key = key
        self._head = {"dilkit": "evaluation", "identity": _digest(identity)}
        self.rows: dict[Key, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.rows = {self.key(row): row for row in self._read(self.path)}
            self._file = self.path.open("w", encoding="utf-8")
            for line in (self._head, *self.rows.values()):
                self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self.path is not None:
            self._file.close()

    def key(self, row: Mapping[str, Any]) -> Key:
        return tuple(row[name] for name in self._key)

    def add(self, row: dict[str, Any]) -> None:
        self.rows[self.key(row)] = row
        if self.path is not None:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def finish(self) -> None:
        """The rows are safe elsewhere: remove the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _read(self, path: Path) -> list[dict[str, Any]]:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return found[1:] if found and found[0] == self._head else []


def _digest(identity: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
