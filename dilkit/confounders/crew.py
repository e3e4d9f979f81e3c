"""Who does the work: this process, or several others, each at a desk of its own."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from multiprocessing import get_context
from types import TracebackType
from typing import Any, Self

from dilkit.confounders.sources import Failure
from dilkit.confounders.work import Desk
from dilkit.distortions._memory import keep_freed_memory
from dilkit.errors import DilkitError

Task = Callable[[Desk, int], list[Failure]]
"""(desk, part) -> the images that failed."""

_desk: Desk | None = None


class Crew:
    """Works on one dataset; open it with `with`. Processes start at the first task and stay to the end."""

    def __init__(self, desk: Desk, workers: int) -> None:
        self._desk = desk
        self._workers = min(workers, len(desk.plan.parts))
        self._pool: ProcessPoolExecutor | None = None
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.enter_context(ONE_THREAD)
        if self._workers > 1:
            forked = os.uname().sysname == "Linux"
            context = get_context("fork" if forked else "spawn")
            settling = (self._desk, os.getpid(), forked)
            self._pool = ProcessPoolExecutor(self._workers, context, _settle_in, settling)
        else:
            self._closing.callback(self._desk.open().close)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._pool is not None:
                _dismiss(self._pool)
        finally:
            self._closing.close()

    def do(self, task: Task, parts: list[int]) -> Iterator[tuple[int, list[Failure]]]:
        """Do a task on every part, in any order; yields each part when it is written.

        Raises:
            DilkitError: a worker process died.
        """
        if self._pool is None:
            for part in parts:
                yield part, task(self._desk, part)
            return
        try:
            futures = {self._pool.submit(_at_desk, task, part): part for part in parts}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise DilkitError(
                "a worker process died (killed, or out of memory)",
                where=self._desk.path,
                remedy="repeat the command, which goes on from what is written; "
                "fewer --workers need less memory",
            ) from None


def _dismiss(pool: ProcessPoolExecutor) -> None:
    """Wait for what is in hand; where that is interrupted, too, nobody may write any more on return."""
    workers = list((pool._processes or {}).values())
    try:
        pool.shutdown(wait=True, cancel_futures=True)
    except BaseException:
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join()
        raise


def _at_desk(task: Task, part: int) -> list[Failure]:
    assert _desk is not None
    return task(_desk, part)


def _settle_in(desk: Desk, parent: int, forked: bool) -> None:
    """A worker leaves interrupts to its parent, dies with it, and uses one thread, as a forked one does."""
    import signal

    global _desk
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if not forked:
        _limit_threads()
    keep_freed_memory()
    _desk = desk.open()


def _watch(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _limit_threads() -> Any:
    import cv2
    import threadpoolctl
    from PIL import Image

    # Pillow keeps 32 MB for its next image: fresh pages are slow.
    Image.core.set_blocks_max(2)  # type: ignore[attr-defined]
    cv2.setNumThreads(1)
    return threadpoolctl.threadpool_limits(1)


class _OneThread:
    """One OpenCV and BLAS thread as long as anybody in this process wants it, from whichever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0

    def __enter__(self) -> None:
        import cv2

        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._before, self._limits = cv2.getNumThreads(), _limit_threads()

    def __exit__(self, *_: object) -> None:
        import cv2

        with self._lock:
            self._wanted -= 1
            if not self._wanted:
                self._limits.restore_original_limits()
                cv2.setNumThreads(self._before)


ONE_THREAD = _OneThread()
