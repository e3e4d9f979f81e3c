"""What a disk or a process may do to a run, besides killing it."""

from __future__ import annotations

import fcntl
import multiprocessing
import time
from pathlib import Path

import pytest

from dilkit.confounders import build as builder
from dilkit.confounders import plan
from dilkit.confounders.build import Built, augment
from dilkit.errors import DilkitError

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(plan, "PART_PIXELS", 16 * 16)


def build(out: Path, workers: int = 1) -> Built:
    return augment("deadleaves:4@32", "awgn(5)", out, tile=16, workers=workers, checkpoint_every=0.0)


def stopped(out: Path, monkeypatch: Patch) -> None:
    """A run interrupted before anything is distorted."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(builder, "distort", stop)
        build(out)


def test_the_disk_space_is_claimed_before_the_work(tmp_path: Path, monkeypatch: Patch) -> None:
    stopped(tmp_path / "x.h5", monkeypatch)
    state = (tmp_path / "x.h5.tmp").stat()
    assert state.st_size > 16 * 16 * 16 * 3 * 4 and state.st_blocks * 512 >= state.st_size - 4096


def test_an_error_of_the_disk_at_the_start_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.h5.tmp").mkdir()
    with pytest.raises(DilkitError, match=r"x.h5: writing failed: Is a directory"):
        build(tmp_path / "x.h5")


def test_where_files_cannot_be_locked_a_run_goes_on(tmp_path: Path, monkeypatch: Patch) -> None:
    """HDF5 would lock the file; network disks may refuse, as one does where somebody holds the lock."""
    stopped(tmp_path / "x.h5", monkeypatch)
    with (tmp_path / "x.h5.tmp").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert build(tmp_path / "x.h5").resumed


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="asks the Linux kernel for children")
def test_workers_end_with_a_killed_parent(tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(builder, "distort", lambda desk, part: time.sleep(60) or [])
    victim = multiprocessing.get_context("fork").Process(target=build, args=(tmp_path / "x.h5", 2))
    victim.start()
    children = Path(f"/proc/{victim.pid}/task/{victim.pid}/children")
    while len(found := children.read_text().split()) < 2:
        time.sleep(0.01)
    victim.kill()
    victim.join()
    until = time.monotonic() + 600
    while (left := [pid for pid in found if _runs(pid)]) and time.monotonic() < until:
        time.sleep(0.1)
    assert not left


def _runs(pid: str) -> bool:
    try:
        return Path("/proc", pid, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
