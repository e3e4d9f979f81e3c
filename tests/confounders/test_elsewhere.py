"""An executor makes the same bytes as this process does, on one machine or several, whatever becomes of its
workers."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.confounders import plan
from dilkit.confounders.build import augment
from dilkit.errors import DilkitError

WORDS = "awgn[5, 25] >> clip >> quantize | jpeg(30)"


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART_PIXELS", 16 * 16)


@pytest.fixture
def alone(tmp_path: Path) -> bytes:
    """What one process makes."""
    return augment("deadleaves:9@32", WORDS, tmp_path / "alone.h5", tile=16, stride=16).path.read_bytes()


def test_any_executor_makes_the_same_bytes(alone: bytes, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with ThreadPoolExecutor(3) as threads:
        built = augment(
            "deadleaves:9@32", WORDS, tmp_path / "x.h5", tile=16, stride=16, executor=threads,
            progress=lambda *what: told.append(what),
        )  # fmt: skip
    assert built.path.read_bytes() == alone and told[-1] == ("distort", 36, 36)


class Losing:
    """Loses the first worker of every piece of work, or all of them."""

    def __init__(self, always: bool = False) -> None:
        self.always, self.tried = always, set[Any]()

    def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        key = (args[0].__name__, *args[1])
        if self.always or key not in self.tried:
            self.tried.add(key)
            future.set_exception(RuntimeError("the worker is gone"))
        else:
            future.set_result(fn(*args))
        return future


def test_what_was_lost_with_a_worker_is_done_again(alone: bytes, tmp_path: Path) -> None:
    made = augment("deadleaves:9@32", WORDS, tmp_path / "x.h5", tile=16, stride=16, executor=Losing())
    assert made.path.read_bytes() == alone
    with pytest.raises(DilkitError, match=r"lost 4 times(.|\n)*the worker is gone(.|\n)*repeat the command"):
        augment("deadleaves:9@32", WORDS, tmp_path / "y.h5", tile=16, stride=16, executor=Losing(always=True))
    again = augment("deadleaves:9@32", WORDS, tmp_path / "y.h5", tile=16, stride=16)
    assert again.resumed and again.path.read_bytes() == alone


def test_a_worker_of_an_earlier_run_leaves_the_next_one_alone(tmp_path: Path) -> None:
    """It may still be at work when its scheduler is killed and the dataset begun anew."""
    kept: list[tuple[Any, ...]] = []

    class Late(Losing):
        def submit(self, fn: Callable[..., Any], /, *args: Any) -> Future[Any]:
            kept.append((fn, args))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment("deadleaves:9@32", WORDS, tmp_path / "x.h5", tile=16, stride=16, executor=Late())
    with pytest.raises(KeyboardInterrupt):
        augment(
            "deadleaves:9@48", WORDS, tmp_path / "x.h5", tile=16, stride=16, executor=Late(), restart=True
        )
    fn, args = kept[0]
    with pytest.raises(DilkitError, match="begun this dataset anew"):
        fn(*args)
    (tmp_path / "x.h5.tmp").unlink()
    fn, args = kept[1]
    with pytest.raises(DilkitError, match="a worker does not see the dataset"):
        fn(*args)


def test_the_command_takes_its_work_to_local_workers(alone: bytes, tmp_path: Path) -> None:
    words = ["augment", "deadleaves:9@32", "-d", WORDS, "--tile", "16", "-o", str(tmp_path / "x.h5")]
    result = CliRunner().invoke(app, [*words, "--on", "local:2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "x.h5").read_bytes() == alone
    result = CliRunner().invoke(app, [*words, "--overwrite", "--on", "loacl:2"])
    assert "no such place to run" in str(result.exception)


def test_a_dask_worker_killed_in_the_middle_changes_no_byte(
    alone: bytes, tmp_path: Path, dask: tuple[str, list[subprocess.Popen[bytes]]]
) -> None:
    address, workers = dask
    out = tmp_path / "x.h5"

    def kill() -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and not (tmp_path / "x.h5.journal").exists():
            time.sleep(0.001)
        workers[0].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    words = ["augment", "deadleaves:9@32", "-d", WORDS, "--tile", "16", "-o", str(out)]
    result = CliRunner().invoke(app, [*words, "--on", f"dask:{address}"])
    killer.join()
    assert result.exit_code == 0, result.output
    assert out.read_bytes() == alone
