"""Killed, starved or interrupted, a run leaves a state that the next one completes to the same bytes."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from PIL import Image

from dilkit.confounders import build as builder
from dilkit.confounders import plan
from dilkit.confounders.build import Built, Progress, augment
from dilkit.confounders.images import FileImage, dead_leaves
from dilkit.errors import DilkitError, UsageError

Patch = pytest.MonkeyPatch
fork = multiprocessing.get_context("fork")
WORDS = "awgn[5, 10] | gaussian_blur(1) | poisson(2) >> clip >> quantize"
PARTS, ITEMS = 12, 4


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: Patch) -> None:
    monkeypatch.setattr(plan, "PART_PIXELS", 4 * 32 * 32)


Build = Callable[..., Built]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Makes a dataset of 48 tiles in 12 parts."""
    folder = tmp_path_factory.mktemp("survival")
    for i in range(PARTS):
        Image.fromarray(dead_leaves(0, i, 64)).save(folder / f"{i:02d}.png")

    def build(out: Path, workers: int = 1, **changes: object) -> Built:
        settings = {"tile": 32, "stride": 32, "checkpoint_every": 0.0, "workers": workers} | changes
        return augment(folder, WORDS, out, **settings)  # type: ignore[arg-type]

    return build


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, build: Build) -> bytes:
    out = tmp_path_factory.mktemp("whole") / "w.h5"
    build(out)
    return out.read_bytes()


def journal(out: Path) -> list[str]:
    path = out.with_name(out.name + ".journal")
    return path.read_text().splitlines() if path.exists() else []


def test_killed_at_twenty_moments_and_resumed_the_file_is_the_same(
    build: Build, whole: bytes, tmp_path: Path
) -> None:
    """Each kill -9 comes at a random moment of what is left; runs differ in their number of workers."""
    moments = random.Random(0)
    started = time.monotonic()
    build(tmp_path / "timed.h5")
    span = time.monotonic() - started
    went_on = kills = 0
    for round_ in range(100):
        out = tmp_path / f"{round_}.h5"
        started = time.monotonic()
        victim = fork.Process(target=build, args=(out, 1 + round_ % 2))
        victim.start()
        while not out.with_name(out.name + ".tmp").exists() and victim.is_alive():
            time.sleep(0.001)
        time.sleep(moments.uniform(0, span))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        kills += not out.exists()
        if not out.exists():
            went_on += build(out, 1 + (round_ + 1) % 3).resumed
        assert out.read_bytes() == whole, f"round {round_}, killed after {time.monotonic() - started:.2f} s"
        if kills == 20:
            break
    assert kills == 20 and went_on >= 5


@pytest.mark.parametrize("renamed", [False, True])
def test_killed_at_the_very_end_it_is_found_complete(
    build: Build, whole: bytes, tmp_path: Path, monkeypatch: Patch, renamed: bool
) -> None:
    out = tmp_path / "x.h5"

    def give_name(path: Path, out: Path) -> None:
        if renamed:
            path.replace(out)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("dilkit.confounders.build.give_name", give_name)
        assert in_a_child(lambda: [build(out)].clear()) == -signal.SIGKILL
    assert out.exists() == renamed and journal(out)
    if renamed:
        for other in ({"seed": 1}, {"allow_duplicates": True}, {"exclude": ["samples:test"]}):
            with pytest.raises(UsageError, match="exists already"):
                build(out, **other)
    built = build(out)
    assert built.resumed and built.images == PARTS and built.nbytes == len(whole)
    assert out.read_bytes() == whole and [p.name for p in tmp_path.iterdir()] == ["x.h5"]
    with pytest.raises(UsageError, match="exists already"):
        build(out)


def test_a_run_that_waited_for_the_end_of_another_does_not_begin_again(
    build: Build, tmp_path: Path, monkeypatch: Patch
) -> None:
    """It opened the journal before the other deleted it."""
    out, lockf = tmp_path / "x.h5", fcntl.lockf

    def late(file: IO[str], flags: int) -> None:
        (tmp_path / "x.h5.journal").unlink()
        lockf(file, flags)

    monkeypatch.setattr(fcntl, "lockf", late)
    with pytest.raises(UsageError, match="another run"):
        build(out)
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_not_repeated_from_the_start(build: Build, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    interrupted(build, out, after=5)
    told: list[int] = []
    again = build(out, progress=lambda phase, done, total: told.append(done) if phase == "distort" else None)
    assert again.resumed and told == list(range(5 * ITEMS, PARTS * ITEMS + 1, ITEMS))


def raising(after: int, error: BaseException) -> Progress:
    """An error when so many parts are distorted."""

    def progress(phase: str, done: int, total: int) -> None:
        if phase == "distort" and done == after * ITEMS:
            raise error

    return progress


def interrupted(build: Build, out: Path, after: int, error: BaseException | None = None) -> None:
    with pytest.raises((KeyboardInterrupt, DilkitError)) as caught:
        build(out, progress=raising(after, error or KeyboardInterrupt()))
    if error is not None:
        assert "repeat the command" in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "I/O error")],
)
def test_an_error_half_way_leaves_a_state_to_go_on_from(
    build: Build, whole: bytes, tmp_path: Path, error: BaseException
) -> None:
    out = tmp_path / "x.h5"
    interrupted(build, out, 7, error if isinstance(error, OSError) else None)
    assert not out.exists() and journal(out)
    assert build(out, workers=2).resumed
    assert out.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["x.h5"]


def test_interrupt_of_a_run_with_workers(build: Build, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    at_work = fork.Event()

    def wait_for_the_interrupt(phase: str, done: int, total: int) -> None:
        if phase == "distort" and done:
            at_work.set()
            time.sleep(600)

    victim = fork.Process(target=build, args=(out, 2), kwargs={"progress": wait_for_the_interrupt})
    victim.start()
    assert at_work.wait(600)
    os.kill(victim.pid or 0, signal.SIGINT)
    victim.join(600)
    assert victim.exitcode not in (None, 0) and not out.exists()
    assert build(out).resumed and out.read_bytes() == whole


def kill_a_worker(phase: str, done: int, total: int) -> None:
    if phase == "distort" and done == 0:
        os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)


def test_a_lost_worker_is_named_and_the_run_goes_on(build: Build, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    for _ in range(20):  # on a busy machine all work may be done before the worker is killed
        try:
            build(out, workers=2, progress=kill_a_worker)
        except DilkitError as error:
            assert re.search(r"died(.|\n)*repeat the command", str(error))
            break
        out.unlink()
    else:
        pytest.fail("no worker could be killed at work")
    assert build(out, workers=2).resumed and out.read_bytes() == whole


def in_a_child(task: Callable[[], None]) -> int | None:
    child = fork.Process(target=task)
    child.start()
    child.join(60)
    return child.exitcode


def test_a_full_disk_is_met_before_any_work(build: Build, tmp_path: Path) -> None:
    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
        with pytest.raises(DilkitError, match="no room for the dataset") as caught:
            build(tmp_path / "x.h5")
        assert caught.value.exit_code == 1
        os._exit(7)

    assert in_a_child(starve) == 7
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_cannot_be_written_is_refused(build: Build) -> None:
    with pytest.raises(UsageError, match="cannot write there"):
        build(Path("/proc/x.h5"))


def test_two_runs_do_not_write_one_file(build: Build, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"

    def second(phase: str, done: int, total: int) -> None:
        def refused() -> None:
            with pytest.raises(UsageError, match="another run"):
                build(out)
            os._exit(7)

        assert in_a_child(refused) == 7
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(out, progress=second)


def test_other_settings_do_not_go_on_from_it(build: Build, tmp_path: Path, monkeypatch: Patch) -> None:
    out = tmp_path / "x.h5"
    interrupted(build, out, 7)
    with pytest.raises(UsageError, match=r"other settings(.|\n)*--restart"):
        build(out, seed=1)
    with pytest.raises(UsageError, match="another licence"):
        build(out, licence="CC0")
    with (
        monkeypatch.context() as patch,
        pytest.raises(UsageError, match="dataset of dilkit 0"),
    ):
        patch.setattr(builder, "__version__", "9.9")
        patch.setattr(plan, "__version__", "9.9")
        build(out)
    assert not build(out, seed=1, restart=True).resumed


def test_a_changed_image_does_not_go_into_it_and_is_named(
    build: Build, tmp_path: Path, monkeypatch: Patch, whole: bytes
) -> None:
    out = tmp_path / "x.h5"
    interrupted(build, out, 7)
    stamp = FileImage.stamp.fget
    assert stamp is not None
    with monkeypatch.context() as patch:
        changed = property(lambda image: stamp(image) + "-" * image.name.endswith("03.png"))
        patch.setattr(FileImage, "stamp", changed)
        with pytest.raises(UsageError, match=r"changed since(.|\n)*\d/03.png\n(.|\n)*--restart"):
            build(out)
    assert build(out).resumed and out.read_bytes() == whole


def test_a_torn_journal_line_is_forgotten(build: Build, whole: bytes, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    interrupted(build, out, 7)
    with out.with_name("x.h5.journal").open("a") as file:
        file.write('{"phase": "distort", "par')
    assert build(out).resumed and out.read_bytes() == whole
