"""Ctrl-C, and Ctrl-C again: nobody writes after the call has ended, and the caller's threads come back."""

from __future__ import annotations

import multiprocessing
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import pytest

from dilkit.confounders import plan
from dilkit.confounders.build import ONE_THREAD, augment
from dilkit.confounders.combine import add
from dilkit.confounders.store import Store

Patch = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def _many_parts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(plan, "PART_PIXELS", 16 * 16)


@pytest.fixture
def _interrupted_twice(monkeypatch: Patch) -> None:
    """The second time while the workers are waited for."""
    whole = ProcessPoolExecutor.shutdown

    def shutdown(self: ProcessPoolExecutor, wait: bool = True, **options: Any) -> None:
        whole(self, wait=False, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(ProcessPoolExecutor, "shutdown", shutdown)


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.usefixtures("_interrupted_twice")
def test_a_dataset_is_as_it_was_after_two_interrupts(store: Store, tmp_path: Path) -> None:
    path = Path(shutil.copy(store.path, tmp_path / "d.h5"))
    before, threads = path.read_bytes(), cv2.getNumThreads()
    with pytest.raises(KeyboardInterrupt):
        add(path, "glass_blur(4)", workers=2, progress=interrupt)
    assert not multiprocessing.active_children()
    assert path.read_bytes() == before and not list(tmp_path.glob("*.changing*"))
    assert cv2.getNumThreads() == threads


def test_a_run_goes_on_after_two_interrupts(tmp_path: Path) -> None:
    def build(name: str, **options: Any) -> bytes:
        built = augment("deadleaves:6@32", "awgn[5, 10]", tmp_path / name, tile=16, **options)
        return built.path.read_bytes()

    whole = build("whole.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ProcessPoolExecutor, "shutdown", interrupt)
        with pytest.raises(KeyboardInterrupt):
            build("x.h5", workers=2, progress=interrupt, checkpoint_every=0.0)
    assert not multiprocessing.active_children()
    assert build("x.h5", workers=2) == whole


def test_threads_come_back_when_the_last_has_ended() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        ONE_THREAD.__enter__()
        with ONE_THREAD:
            ONE_THREAD.__exit__()
            assert cv2.getNumThreads() == 1
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)
