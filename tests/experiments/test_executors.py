"""Units are done once and only once, wherever they run, whoever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from dilkit.errors import DilkitError, UsageError
from dilkit.experiments.executors import CLAIM, Report, Status, Unit, do, hold_claim, run_units, status_of


@dataclass(frozen=True)
class Work:
    """Writes down that it ran, reports, and writes that it is done."""

    folder: Path
    seconds: float = 0.0
    dies: int = 0
    fails: bool = False

    def __call__(self, report: Report) -> None:
        with (self.folder / "runs.log").open("a") as log:
            log.write(f"{os.getpid()}\n")
        report({"step": 1, "steps": 2, "loss": 0.5})
        time.sleep(self.seconds)
        if self.runs <= self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fails:
            raise ValueError("the loss went up")
        (self.folder / "done").write_text("yes")

    @property
    def runs(self) -> int:
        log = self.folder / "runs.log"
        return len(log.read_text().splitlines()) if log.is_file() else 0


def units(folder: Path, count: int, **more: object) -> list[Unit]:
    made = []
    for k in range(count):
        own = folder / f"unit-{k}"
        made.append(Unit(f"unit-{k}", own, own / "done", Work(own, **more)))
    return made


def runs(made: list[Unit]) -> list[int]:
    return [unit.work.runs for unit in made]


@pytest.mark.parametrize("on", ["local:1", "local:2"])
def test_every_unit_is_done_once_and_not_again(tmp_path: Path, on: str) -> None:
    made = units(tmp_path, 5)
    made[0].folder.mkdir()
    made[0].done.write_text("yes")
    run_units(made, on, poll=0.05)
    assert runs(made) == [0, 1, 1, 1, 1]
    run_units(made, on, poll=0.05)
    assert runs(made) == [0, 1, 1, 1, 1]
    left = {path.name for unit in made for path in unit.folder.iterdir()}
    assert left == {"done", "runs.log"}  # no claim or progress stays behind


def test_any_executor_will_do_and_its_rows_are_seen(tmp_path: Path) -> None:
    made, seen = units(tmp_path, 3, seconds=0.3), []
    with ThreadPoolExecutor(3) as pool:
        run_units(made, pool, watch=seen.append, poll=0.02)
    assert runs(made) == [1, 1, 1]
    running = [status for table in seen for status in table if status.state == "running" and status.row]
    assert running and running[0].row == {"step": 1, "steps": 2, "loss": 0.5}
    assert {status.state for status in seen[-1]} == {"done"}


def test_in_this_process_rows_come_as_they_are_reported(tmp_path: Path) -> None:
    seen: list[Status] = []
    run_units(units(tmp_path, 1), watch=seen.extend)
    assert seen[0] == Status("unit-0", "running", "here", {"step": 1, "steps": 2, "loss": 0.5})


def test_the_unit_of_a_killed_worker_is_done_again_and_no_other(tmp_path: Path) -> None:
    made = [*units(tmp_path / "a", 1, dies=1), *units(tmp_path / "b", 3)]
    made = [Unit(f"{k}", unit.folder, unit.done, unit.work) for k, unit in enumerate(made)]
    run_units(made, "local:2", poll=0.05)
    assert runs(made) == [2, 1, 1, 1]


def test_a_unit_that_kills_every_worker_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    made = [*units(tmp_path / "a", 1, dies=99), *units(tmp_path / "b", 2)]
    made = [Unit(f"{k}", unit.folder, unit.done, unit.work) for k, unit in enumerate(made)]
    failed = run_units(made, "local:2", poll=0.05)
    assert list(failed) == ["0"]
    assert "the workers of this unit were lost 4 times" in failed["0"].message
    assert runs(made[1:]) == [1, 1]


@pytest.mark.parametrize("on", ["local:1", "local:2"])
def test_a_failure_is_told_by_name_and_the_others_are_done(tmp_path: Path, on: str) -> None:
    wrong, right = units(tmp_path / "wrong", 2, fails=True), units(tmp_path / "right", 2)
    made = [Unit(f"{k}", unit.folder, unit.done, unit.work) for k, unit in enumerate([*wrong, *right])]
    seen: list[list[Status]] = []
    failed = run_units(made, on, poll=0.05, watch=lambda table: seen.append(list(table)))
    assert {name: str(error).splitlines()[0] for name, error in failed.items()} == {
        name: f"{name}: ValueError: the loss went up" for name in ("0", "1")
    }
    assert runs(right) == [1, 1]
    if on == "local:2":
        assert [status.state for status in seen[-1]] == ["failed", "failed", "done", "done"]
    assert not list(tmp_path.glob(f"*/{CLAIM}"))


@pytest.mark.parametrize("on", ["local:1", "local:2"])
def test_when_the_time_is_over_no_unit_is_begun_and_those_under_way_end(tmp_path: Path, on: str) -> None:
    made = units(tmp_path, 40, seconds=0.3)
    began = time.monotonic()
    failed = run_units(made, on, poll=0.05, until=began + 0.5)
    done = [unit.name for unit in made if unit.done.is_file()]
    assert sorted([*done, *failed]) == sorted(unit.name for unit in made)
    assert len(failed) > 20
    assert {error.message for error in failed.values()} == {"there was no time left for it"}
    assert all(unit.work.runs == (unit.name in done) for unit in made)
    assert set(run_units(made, on, until=began)) == set(failed)


class AtTheDoor(ThreadPoolExecutor):
    """Its workers take a while between taking a unit and claiming it."""

    def submit(self, fn: Callable[..., object], /, *args: object) -> Future[object]:
        def slowly() -> object:
            time.sleep(0.5)
            return fn(*args)

        return super().submit(slowly)


def test_a_unit_that_a_worker_has_taken_when_the_time_is_over_is_not_given_up(tmp_path: Path) -> None:
    made = units(tmp_path, 2)
    with AtTheDoor(1) as pool:
        failed = run_units(made, pool, poll=0.01, until=time.monotonic() + 0.2)
    assert [unit.done.is_file() for unit in made] == [unit.name not in failed for unit in made]
    assert list(failed) == ["unit-1"]


def test_a_unit_that_does_not_say_it_is_done_is_an_error(tmp_path: Path) -> None:
    failed = run_units([Unit("idle", tmp_path, tmp_path / "done", lambda report: None)])
    assert "without writing" in failed["idle"].message


def test_two_schedulers_share_a_folder(tmp_path: Path) -> None:
    made = units(tmp_path, 12, seconds=0.05)

    def schedule() -> None:
        with ThreadPoolExecutor(3) as pool:
            run_units(made, pool, poll=0.02)

    threads = [threading.Thread(target=schedule) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert runs(made) == [1] * 12
    assert all(unit.done.is_file() for unit in made)


def test_a_claim_is_held_by_one(tmp_path: Path) -> None:
    path, held = tmp_path / CLAIM, []
    start = threading.Barrier(8)

    def compete() -> None:
        start.wait()
        with hold_claim(path) as claim:
            held.append(claim is not None)
            start.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(held) == [False] * 7 + [True]
    assert not list(tmp_path.iterdir())


def dead_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_the_claim_of_a_dead_process_is_taken_over_by_one(tmp_path: Path) -> None:
    import socket

    path = tmp_path / CLAIM
    path.write_text(f'{{"host": "{socket.gethostname()}", "pid": {dead_process()}, "id": "x"}}')
    held, start = [], threading.Barrier(8)

    def compete() -> None:
        start.wait()
        with hold_claim(path) as claim:
            held.append(claim is not None)
            start.wait()

    threads = [threading.Thread(target=compete) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(held) == 1
    assert not list(tmp_path.iterdir())


def test_the_claim_of_another_machine_is_taken_over_when_it_falls_silent(tmp_path: Path) -> None:
    path = tmp_path / CLAIM
    path.write_text('{"host": "elsewhere", "pid": 1, "id": "x"}')
    with hold_claim(path, patience=3600) as claim:
        assert claim is None
    old = time.time() - 7200
    os.utime(path, (old, old))
    with hold_claim(path, patience=3600) as claim:
        assert claim is not None and claim.held


def test_a_worker_whose_claim_was_taken_over_stops(tmp_path: Path) -> None:
    def work(report: Report) -> None:
        (tmp_path / CLAIM).write_text('{"host": "elsewhere", "pid": 1, "id": "y"}')
        report({"step": 2, "steps": 2})

    with pytest.raises(DilkitError, match="taken this unit over"):
        do(Unit("mine", tmp_path, tmp_path / "done", work))
    assert (tmp_path / CLAIM).is_file()  # the other's


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    made = units(tmp_path, 2)
    for on in ("loacl:2", "local:0", "local:x", "dask:host"):
        with pytest.raises(UsageError, match="no such place"):
            run_units(made, on)
    with pytest.raises(UsageError, match="one name"):
        run_units([made[0], made[0]])


def test_slurm_jobs_run_through_submitit_s_local_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    made = units(tmp_path, 2)
    run_units(made, f"slurm:cluster=local,folder={tmp_path / 'jobs'}", poll=0.1)
    assert runs(made) == [1, 1]
    wrong = units(tmp_path / "wrong", 1, fails=True)
    failed = run_units(wrong, f"slurm:cluster=local,folder={tmp_path / 'jobs'}")
    assert "the loss went up" in str(failed["unit-0"])


def _until(holds: Callable[[], bool], seconds: float = 600.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)


def test_a_dask_worker_killed_in_the_middle_costs_one_unit_s_time(
    tmp_path: Path, dask: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = dask
    made = units(tmp_path / "work", 6, seconds=0.5)
    victim = workers[0]

    def at_work() -> bool:
        return any(str(victim.pid) in log.read_text() for log in tmp_path.glob("work/*/runs.log"))

    def kill() -> None:
        _until(at_work)
        victim.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    run_units(made, f"dask:{address}", poll=0.05, patience=5)
    killer.join()
    assert all(unit.done.is_file() for unit in made)
    assert sorted(runs(made)) == [1, 1, 1, 1, 1, 2]
    assert [status_of(unit).state for unit in made] == ["done"] * 6
