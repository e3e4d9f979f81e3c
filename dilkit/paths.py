"""Paths as people type them."""

from __future__ import annotations

from pathlib import Path


def expanded(path: str | Path) -> Path:
    """With the home folder for a leading `~`; as it is where that names no user's home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
