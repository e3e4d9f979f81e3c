"""Files that are either whole or not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from dilkit.errors import UsageError


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Write to a temporary name beside `path`, flush it to disk, then replace `path`.

    Where writing fails (a full disk), what was there before stays, and nothing half-written is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    write_atomically(path, lambda p: _write_text(p, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def link(source: Path, name: Path) -> None:
    """Give a finished file a second name, replacing what had it; a copy where links are not possible."""

    def write(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError:
            temporary.write_bytes(source.read_bytes())

    write_atomically(name, write)


def claim_output(out: Path, *, resume: bool) -> None:
    """Make a run's folder, or refuse: it has files in it already, or cannot be written. Empty folders in it,
    such as a start that was refused leaves, are no matter."""
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file, a run needs a folder", where=out)
    if not resume and any(path.is_symlink() or not path.is_dir() for path in out.rglob("*")):
        raise UsageError(
            "the output folder is not empty",
            where=out,
            remedy="--resume goes on with the run in it; otherwise give another --out",
        )
    probe = out / ".writable"
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder: {error.strerror}", where=out) from None
