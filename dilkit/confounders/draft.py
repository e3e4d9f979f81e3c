"""A dataset in the making: the unfinished file, and a journal of the parts that are safely in it.

`OUT.tmp` is laid out in full from the start and filled in place; `OUT.journal` gains a line when a part has
reached the disk. Killed at any moment, the next run with the same settings does only what the journal lacks.
When all is there the file is sealed, flushed and given its name in one step.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import h5py

from dilkit import __version__
from dilkit.confounders import layout, seal
from dilkit.confounders.plan import Plan
from dilkit.confounders.regions import regions
from dilkit.confounders.sources import Failure
from dilkit.errors import DilkitError, UsageError, reason

Done = tuple[str, int]
"""A phase and the number of a part."""

Compared = list[str | bool]
"""What its images were compared with: excluded sources, and whether they may look like each other."""


class Draft:
    """Open it with `with`; one process at a time may."""

    def __init__(self, out: Path, plan: Plan, *, restart: bool = False, every: float = 0.2) -> None:
        self.out = out
        self.path = out.with_name(out.name + ".tmp")
        self.journal_path = _journal_path(out)
        self.plan = plan
        self.failures: list[Failure] = []
        self.done: set[Done] = set()
        self._base = {"base": plan.stamp, "plan": plan.identity, "version": __version__}
        self._restart = restart
        self._every = every
        self._pending: list[Done] = []
        self._last_flush = time.monotonic()
        self._writing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, "dilkit-journal")
        self._journal: IO[str]

    @property
    def resumed(self) -> bool:
        return self._resumed

    def __enter__(self) -> Self:
        try:
            self._journal = self.journal_path.open("a+", encoding="utf-8")
        except OSError as error:
            raise UsageError(
                f"cannot write there: {error.strerror}", where=self.out, remedy="choose another --out"
            ) from None
        try:
            # lockf, not flock: forked workers must not keep the lock
            fcntl.lockf(self._journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.fstat(self._journal.fileno()).st_nlink:
                raise BlockingIOError("it was completed since the journal was opened")
        except OSError:
            self._journal.close()
            raise UsageError("another run is writing this dataset", where=self.out) from None
        try:
            self._resumed = self._resume()
            if not self._resumed:
                self._begin()
            self._find()
        except BaseException:
            self._journal.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.path.exists():
                self._finish()
        except OSError:
            if kind is None:
                raise
        finally:
            self._writer.shutdown()
            self._journal.close()

    def record(self, done: Done) -> None:
        """A part is written; it is journalled with the next flush."""
        self.done.add(done)
        self._pending.append(done)
        if time.monotonic() - self._last_flush >= self._every:
            self.flush()

    def leave_out(self, failures: list[Failure]) -> None:
        """Start again without images that turned out to be unreadable."""
        self._settle()
        self.failures += failures
        self.plan = self.plan.without({failure.name for failure in failures})
        self.done.clear()
        self._pending.clear()
        if len(self.plan):
            self._begin()
            self._find()
        else:
            self.discard()

    def seal(self, compared: Compared) -> None:
        """Everything is written: make it durable, then give it its name."""
        self._finish()
        self._write([{"sealed": seal.close(self.path), "compared": compared}])
        give_name(self.path, self.out)
        self.journal_path.unlink(missing_ok=True)

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.journal_path.unlink(missing_ok=True)

    def _find(self) -> None:
        with h5py.File(self.path, "r", locking=False) as file:
            self.regions = regions(file)

    def _begin(self) -> None:
        self.path.unlink(missing_ok=True)
        self._journal.truncate(0)
        try:
            layout.create(self.path, self.plan)
        except OSError as error:
            needed = sum(self.plan.nbytes().values())
            self.discard()
            raise DilkitError(
                f"no room for the dataset: {reason(error)}",
                where=self.out,
                expected=f"{needed / 1e6:,.0f} MB free, and some for the index",
                remedy="free some space, choose another disk, or use --storage virtual",
            ) from None
        self._write([{**self._base, "left out": [[f.name, f.reason] for f in self.failures]}])

    def _resume(self) -> bool:
        self._journal.seek(0)
        lines = [_parsed(line) for line in self._journal]
        if not lines or lines[0] is None or not self.path.exists():
            return False
        if lines[0].get("base") != self._base["base"]:
            if self._restart:
                return False
            same = lines[0].get("plan") == self._base["plan"]
            other = "with other settings or sources"
            if same:
                other = "of images that were changed since, or with another licence"
            if lines[0].get("version") != __version__:
                other = f"of dilkit {lines[0].get('version')}"
            raise UsageError(
                f"an unfinished dataset {other} is in the way",
                where=self.path,
                remedy=f"repeat the earlier command, or give --restart, or delete {self.path.name}",
            )
        if self._restart:
            return False
        self.failures = [Failure(*pair) for pair in lines[0]["left out"]]
        self.plan = self.plan.without({failure.name for failure in self.failures})
        self.done = {(line["phase"], part) for line in lines[1:] if line for part in line.get("parts", ())}
        return True

    def flush(self) -> None:
        """Begin to hand what is written to the disk, then say so in the journal; one such job at a time."""
        if not self._pending or (self._writing is not None and not self._writing.done()):
            return
        self._settle()
        phases: dict[str, list[int]] = {}
        for phase, part in self._pending:
            phases.setdefault(phase, []).append(part)
        self._pending = []
        self._last_flush = time.monotonic()
        lines: list[dict[str, Any]] = [{"phase": phase, "parts": parts} for phase, parts in phases.items()]
        self._writing = self._writer.submit(self._sync_and_write, lines)

    def _finish(self) -> None:
        self._settle()
        self.flush()
        self._settle()

    def _settle(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _sync_and_write(self, lines: list[dict[str, Any]]) -> None:
        with self.path.open("r+b") as file:
            os.fdatasync(file.fileno()) if hasattr(os, "fdatasync") else os.fsync(file.fileno())
        self._write(lines)

    def _write(self, lines: list[dict[str, Any]]) -> None:
        self._journal.write("".join(json.dumps(line) + "\n" for line in lines))
        self._journal.flush()
        os.fsync(self._journal.fileno())


def completed(out: Path, plan: Plan, compared: Compared) -> list[Failure] | None:
    """What was left out of `out`, if a run of just this plan made it and was killed before it said so."""
    journal = _journal_path(out)
    if not (out.is_file() and journal.is_file()):
        return None
    with journal.open(encoding="utf-8") as file:
        lines = [_parsed(line) or {} for line in file] or [{}]
    sealed = {"sealed": seal.claimed(out), "compared": compared}
    if lines[0].get("base") != plan.stamp or lines[-1] != sealed:
        return None
    journal.unlink(missing_ok=True)
    return [Failure(*pair) for pair in lines[0]["left out"]]


def _journal_path(out: Path) -> Path:
    return out.with_name(out.name + ".journal")


def give_name(path: Path, out: Path) -> None:
    """Move a finished file to its place, durably."""
    path.replace(out)
    sync_folder(out.parent)


def _parsed(line: str) -> dict[str, Any] | None:
    """A line of the journal; None for one that a crash has torn."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and line.endswith("\n") else None


def sync_folder(folder: Path) -> None:
    """Make the names of its files durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
