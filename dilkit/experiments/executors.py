"""Units of work on one core, several processes, or a cluster: done once, restarted safely, watched in one
table.

A unit is a name, a folder that every worker sees, the file that says it is done, and a function that does it.
Workers claim a unit by a file in its folder that only one of them can create, and touch it while they work; a
claim that has not been touched for a while, or whose process has died, may be taken over. So two schedulers
on one folder share the work, and a unit that was lost with its worker is done again, from where its own
checkpoints say.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, Literal
from uuid import uuid4

from dilkit.errors import DilkitError, UsageError

Row = Mapping[str, Any]
"""What a unit reports of itself, such as a row of metrics: JSON-able, with `step` and `steps` where it has
them."""
Report = Callable[[Row], None]

HERE = "local:1"
"""Where units are done one after the other in this process."""
CLAIM, PROGRESS = ".claim", ".progress"
PATIENCE = 60.0
"""Seconds without a sign of life after which a unit of another machine counts as lost."""
ATTEMPTS = 4
"""How often a unit whose worker was lost is tried in all."""


@dataclass(frozen=True)
class Unit:
    """One piece of work, which can be pickled.

    Attributes:
        name: what it is called in the table and in messages; unique among its fellows.
        folder: where it works; on a file system that all workers share.
        done: the file that `work` writes last, in one piece.
        work: called with a function that takes rows about the progress.
    """

    name: str
    folder: Path
    done: Path
    work: Callable[[Report], None]


@dataclass(frozen=True)
class Status:
    """Where a unit stands, and the last row it reported; `failed` also where no time was left for it."""

    unit: str
    state: Literal["waiting", "running", "done", "failed"]
    worker: str
    row: Row


Watch = Callable[[Sequence[Status]], None]


def run_units(
    units: Sequence[Unit],
    on: str | Executor = HERE,
    *,
    watch: Watch = lambda table: None,
    patience: float = PATIENCE,
    poll: float = 0.5,
    until: float | None = None,
) -> dict[str, DilkitError]:
    """Do all units that are not done, each by one worker at a time; what fails does not keep the others.

    Args:
        on: `local:N` (N processes of this machine; with 1, this process itself), `dask://HOST:PORT` (a Dask
            scheduler), `slurm` or `slurm:key=value,...` (submitit, with parameters of its `AutoExecutor`;
            `cluster=local` runs without Slurm), or any `concurrent.futures.Executor`.
        watch: called with where all units stand, when that has changed.
        patience: seconds after which a silent worker on another machine counts as lost.
        poll: seconds between two looks at what is going on.
        until: the time (of `time.monotonic`) after which no unit is begun; those under way are left to end.

    Returns:
        By name, the units that are not done, and why: what went wrong in them, that their workers were lost
        too often, or that there was no time left.

    Raises:
        UsageError: no such kind of executor, or its library is not installed; units of one name.
    """
    names = [unit.name for unit in units]
    if len(set(names)) < len(names):
        raise UsageError("two units have one name", found=next(n for n in names if names.count(n) > 1))
    with place_of(on) as place:
        if place == HERE:
            return _here(units, watch, patience, poll, until)
        return _Scheduler(place, units, watch, patience, poll, until).run()


def workers_of(on: str | Executor) -> int:
    """How many units run at a time, where that is known; else 1."""
    if isinstance(on, str):
        kind, _, rest = on.partition(":")
        return int(rest) if kind == "local" and rest.isdigit() else 1
    return int(getattr(on, "_max_workers", 1))


def place_of(on: str | Executor) -> AbstractContextManager[Any]:
    """What `run_units` takes, opened once for several calls: an executor, or `local:1`, this process."""
    return nullcontext(on) if on == HERE else opened(on)


def opened(on: str | Executor) -> AbstractContextManager[Any]:
    """The executor that `on` names; what was made here is shut down in the end.

    Raises:
        UsageError: no such kind, or its library is not installed.
    """
    if not isinstance(on, str):
        return nullcontext(on)
    kind, _, rest = on.partition(":")
    if kind == "local" and rest.isdigit() and int(rest) > 0:
        return LocalWorkers(int(rest))
    if kind == "dask" and rest.startswith("//"):
        return _dask(rest[2:])
    if kind == "slurm":
        return _slurm(rest)
    raise UsageError(
        "there is no such place to run", where="--on", found=on, expected="local:N, dask://HOST:PORT, slurm"
    )


# --- What a worker does -------------------------------------------------------------------------------------


def do(unit: Unit, patience: float = PATIENCE) -> Literal["done", "taken"]:
    """Do a unit, or see that it is done, or that another worker has it."""
    if unit.done.is_file():
        return "done"
    unit.folder.mkdir(parents=True, exist_ok=True)
    with hold_claim(unit.folder / CLAIM, patience) as claim:
        if claim is None:
            return "taken"
        if unit.done.is_file():
            return "done"
        reporter = _Reporter(unit.folder / PROGRESS, claim)
        reporter({})
        unit.work(reporter)
        if not unit.done.is_file():
            raise DilkitError(
                "the unit ended without writing that it is done", where=unit.name, found=unit.done
            )
        (unit.folder / PROGRESS).unlink(missing_ok=True)
    return "done"


class Claim:
    """A claim that is held: a file with this worker's mark, touched every so often."""

    def __init__(self, path: Path, mark: str, patience: float) -> None:
        self._path, self._mark, self._patience = path, mark, patience
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @property
    def held(self) -> bool:
        """Whether it is still this worker's."""
        return _mark_in(self._path) == self._mark

    def _beat(self) -> None:
        while not self._ended.wait(self._patience / 4):
            if self.held:
                os.utime(self._path)

    def release(self) -> None:
        self._ended.set()
        if self.held:
            self._path.unlink(missing_ok=True)


@contextmanager
def hold_claim(path: Path, patience: float = PATIENCE) -> Iterator[Claim | None]:
    """Hold the claim at `path`; None where another worker holds it.

    Only one worker can create the file. One that is left over is taken over by whoever first creates the file
    named after its mark, so that of several who find it lost, one has it.
    """
    mark = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "id": uuid4().hex})
    if not _create(path, mark):
        old = _mark_in(path)
        if old is None or not _lost(path, old, patience):
            yield None
            return
        lock = path.with_name(f"{path.name}-{json.loads(old)['id']}")
        if not _create(lock, mark):
            held_by = _mark_in(lock)
            if held_by is not None and _lost(lock, held_by, patience):
                lock.unlink(missing_ok=True)
            yield None
            return
        taken_over = _mark_in(path) == old  # else another was faster, and its lock is gone already
        if taken_over:
            fresh = path.with_name(f"{path.name}-{uuid4().hex}")
            _create(fresh, mark)
            fresh.replace(path)
        lock.unlink(missing_ok=True)
        if not taken_over:
            yield None
            return
    claim = Claim(path, mark, patience)
    try:
        yield claim
    finally:
        claim.release()


def _create(path: Path, text: str) -> bool:
    """Create a file with its text in one piece; False where there is one."""
    whole = path.with_name(f".{path.name}-{uuid4().hex}")
    whole.write_text(text, encoding="utf-8")
    try:
        os.link(whole, path)
    except FileExistsError:
        return False
    finally:
        whole.unlink()
    return True


def _mark_in(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


def _lost(path: Path, mark: str, patience: float) -> bool:
    """Whether the worker that left this mark is gone: its process on this machine, or its sign of life."""
    worker = json.loads(mark)
    if worker["host"] == socket.gethostname():
        return not _alive(worker["pid"])
    clock = path.with_name(f".{path.name}-{uuid4().hex}")
    try:
        clock.touch()  # the time of the file system, whatever the machines' own clocks say
        return clock.stat().st_mtime - path.stat().st_mtime > patience
    except FileNotFoundError:
        return False
    finally:
        clock.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:  # killed, and not yet waited for by its parent
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


class _Reporter:
    """Writes the last row beside the claim, at most twice a second, for the scheduler's table."""

    def __init__(self, path: Path, claim: Claim) -> None:
        self._path, self._claim, self._said = path, claim, -1.0

    def __call__(self, row: Row) -> None:
        now = time.monotonic()
        if row and now - self._said < 0.5 and row.get("step") != row.get("steps"):
            return
        self._said = now if row else -1.0
        if not self._claim.held:
            raise DilkitError(
                "another worker has taken this unit over",
                where=self._path.parent,
                remedy="raise the patience",
            )
        shown = {k: v for k, v in row.items() if isinstance(v, str | int | float)}
        temporary = self._path.with_name(f"{self._path.name}-{os.getpid()}")
        temporary.write_text(
            json.dumps({"worker": f"{socket.gethostname()}:{os.getpid()}", "row": shown}), encoding="utf-8"
        )
        temporary.replace(self._path)


# --- What the scheduler does --------------------------------------------------------------------------------


@dataclass
class _Scheduler:
    """Submits units, looks at the folders for what became of them, and submits again what was lost."""

    executor: Any
    units: Sequence[Unit]
    watch: Watch
    patience: float
    poll: float
    until: float | None
    lost: dict[str, int] = field(default_factory=dict)
    shown: Any = None

    def run(self) -> dict[str, DilkitError]:
        left = {unit.name: unit for unit in self.units if not unit.done.is_file()}
        failed: dict[str, DilkitError] = {}
        if _over(self.until):
            return {name: _no_time() for name in left}
        under_way = {name: self._submit(unit) for name, unit in left.items()}
        elsewhere: set[str] = set()
        looked = 0.0
        try:
            while under_way or elsewhere:
                ended = [name for name, future in under_way.items() if future.done()]
                for name in ended:
                    try:
                        became = self._became(left[name], under_way.pop(name))
                    except DilkitError as error:
                        failed[name] = error
                        continue
                    if became == "taken":
                        elsewhere.add(name)
                    elif became == "lost":
                        under_way[name] = self._submit(left[name])
                if time.monotonic() - looked > self.poll:
                    looked = time.monotonic()
                    if _over(self.until):
                        for name in self._not_begun(under_way.keys() | elsewhere, left):
                            if name in under_way and under_way[name].cancel() is False:
                                continue  # a worker is about to claim it
                            under_way.pop(name, None)
                            elsewhere.discard(name)
                            failed[name] = _no_time()
                    for name in [name for name in elsewhere if self._free(left[name])]:
                        elsewhere.remove(name)
                        if not left[name].done.is_file():
                            under_way[name] = self._submit(left[name])
                    self._look(under_way.keys() | elsewhere, failed)
                if not ended:
                    time.sleep(min(self.poll, 0.01))
        except BaseException:
            for future in under_way.values():
                future.cancel()
            raise
        self._look(set(), failed)
        return failed

    def _not_begun(self, names: Set[str], left: Mapping[str, Unit]) -> list[str]:
        """Those that no worker is at work on."""
        return [name for name in names if not left[name].done.is_file() and self._free(left[name])]

    def _free(self, unit: Unit) -> bool:
        """Whether nobody else is at work on it any more."""
        if unit.done.is_file():
            return True
        mark = _mark_in(unit.folder / CLAIM)
        return mark is None or _lost(unit.folder / CLAIM, mark, self.patience)

    def _submit(self, unit: Unit) -> Any:
        return self.executor.submit(do, unit, self.patience)

    def _became(self, unit: Unit, future: Any) -> Literal["done", "taken", "lost"]:
        """What became of a unit; raises what went wrong in it."""
        try:
            return future.result()
        except Exception as error:
            if not is_loss(error):
                raise _named(unit, error) from error
            self.lost[unit.name] = self.lost.get(unit.name, 0) + 1
            if self.lost[unit.name] >= ATTEMPTS:
                raise DilkitError(
                    f"the workers of this unit were lost {ATTEMPTS} times",
                    where=unit.name,
                    found=str(error).split("\n")[0],
                    remedy="look for the reason in the worker's log; it may lack memory",
                ) from error
            return "done" if unit.done.is_file() else "lost"

    def _look(self, under_way: Set[str], failed: Mapping[str, DilkitError]) -> None:
        table = [
            Status(unit.name, "failed", "", {})
            if unit.name in failed
            else status_of(unit, unit.name in under_way)
            for unit in self.units
        ]
        if table != self.shown:
            self.shown = table
            self.watch(table)


def status_of(unit: Unit, expected: bool = True) -> Status:
    """Where a unit stands, as far as its folder tells."""
    if not expected or unit.done.is_file():
        return Status(unit.name, "done", "", {})
    try:
        said = json.loads((unit.folder / PROGRESS).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return Status(unit.name, "waiting", "", {})
    return Status(unit.name, "running", said["worker"], said["row"])


def _named(unit: Unit, error: Exception) -> DilkitError:
    """The error, with the unit it happened in."""
    made = error if isinstance(error, DilkitError) else DilkitError(f"{type(error).__name__}: {error}")
    made.where = unit.name if made.where is None else f"{unit.name}, {made.where}"
    return made


def is_loss(error: BaseException) -> bool:
    """Whether an error says that the worker is gone, not that the work is wrong."""
    names = {cls.__name__ for cls in type(error).__mro__}
    if "FailedJobError" in names:  # the job ended, with an exception of its own
        return False
    lost = {"KilledWorker", "FutureCancelledError", "UncompletedJobError", "CommClosedError"}
    return isinstance(error, BrokenProcessPool | CancelledError) or bool(names & lost)


def _here(
    units: Sequence[Unit], watch: Watch, patience: float, poll: float, until: float | None
) -> dict[str, DilkitError]:
    """One unit after the other in this process; what others hold comes last."""
    left = [unit for unit in units if not unit.done.is_file()]
    failed: dict[str, DilkitError] = {}
    while left:
        taken = []
        for unit in left:
            if _over(until):
                failed[unit.name] = _no_time()
                continue
            try:
                if do(_watched(unit, watch), patience) == "taken":
                    taken.append(unit)
            except Exception as error:  # noqa: BLE001  (handed back by name)
                failed[unit.name] = _named(unit, error)
        left = taken
        if left:
            watch([status_of(unit) for unit in left])
            time.sleep(poll)
    return failed


def _over(until: float | None) -> bool:
    return until is not None and time.monotonic() >= until


def _no_time() -> DilkitError:
    return DilkitError("there was no time left for it")


def _watched(unit: Unit, watch: Watch) -> Unit:
    """The same unit, whose rows are shown as they come."""

    def work(report: Report) -> None:
        def both(row: Row) -> None:
            report(row)
            watch([Status(unit.name, "running", "here", row)])

        unit.work(both)

    return replace(unit, work=work)


# --- Places to run ------------------------------------------------------------------------------------------


class LocalWorkers(Executor):
    """N processes of this machine, each in a pool of its own, so that one that dies takes no other with it.

    They start afresh (spawn), with one thread each, and are replaced when they die.
    """

    def __init__(self, count: int) -> None:
        self._queue: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._ended = False
        for thread in self._threads:
            thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._queue.put((future, partial(fn, *args, **kwargs)))
        return future

    def _serve(self) -> None:
        me = threading.get_ident()
        while (item := self._queue.get()) is not None:
            future, work = item
            if self._ended:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                continue
            if me not in self._pools:
                self._pools[me] = ProcessPoolExecutor(1, get_context("spawn"), _one_thread)
            try:
                future.set_result(self._pools[me].submit(work).result())
            except BaseException as error:  # noqa: BLE001  (handed to whoever asks for the result)
                if isinstance(error, BrokenProcessPool):
                    self._pools.pop(me).shutdown(wait=False)
                future.set_exception(error)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._ended = True
        for _ in self._threads:
            self._queue.put(None)
        for pool in list(self._pools.values()):
            for process in list((pool._processes or {}).values()):
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)


def _one_thread() -> None:
    """In a new worker: an interrupt of the scheduler is the scheduler's, and several workers share the
    cores."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = "1"


@contextmanager
def _dask(address: str) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "Dask is not installed", where="--on", remedy="pip install 'dilkit[cluster]'"
        ) from None
    try:
        client = Client(address, timeout=10)
    except (OSError, TimeoutError) as error:
        raise DilkitError(
            "no Dask scheduler answers", where=f"dask://{address}", found=str(error).split("\n")[0]
        ) from None
    with client:  # a task is never taken for equal to another
        yield SimpleNamespace(submit=partial(client.submit, pure=False))


@contextmanager
def _slurm(options: str) -> Iterator[Any]:
    """A job for each unit, through submitit; jobs that were submitted go on when the scheduler ends."""
    try:
        import submitit
    except ImportError:
        raise UsageError(
            "submitit is not installed", where="--on", remedy="pip install 'dilkit[cluster]'"
        ) from None
    given = dict(pair.partition("=")[::2] for pair in options.split(",") if pair)
    cluster, folder = given.pop("cluster", None), given.pop("folder", "slurm-%j")
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    settings = {key: int(value) if value.isdigit() else value for key, value in given.items()}
    executor.update_parameters(**{"timeout_min": 24 * 60, **settings})
    yield executor
