"""What is put is in the file when `settle` returns, whatever the system can and the disk does."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dilkit.confounders import format as outbox
from dilkit.confounders.build import augment
from dilkit.confounders.format import Outbox
from dilkit.errors import DilkitError

SIZE = 24 << 20
PAGE = 4096

Pwrite = Callable[[int, Any, int], int]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "x.bin"
    found.write_bytes(bytes(SIZE))
    return found


@pytest.fixture(params=["past the cache", "without huge pages", "as usual"])
def box(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    if request.param == "as usual":
        monkeypatch.setattr(outbox, "_open_past_the_cache", lambda path: None)
    if request.param == "without huge pages":
        monkeypatch.setattr(outbox.mmap, "MADV_HUGEPAGE", 12345, raising=False)
    made = Outbox(path)
    if request.param != "as usual" and made._disk is None:
        made.close()
        pytest.skip("this system or file system has no O_DIRECT")
    yield made
    made.close()


def bytes_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, count, dtype=np.uint8)


def disk_that(monkeypatch: pytest.MonkeyPatch, box: Outbox, does: Callable[[Pwrite], Pwrite]) -> None:
    """Change what writes past the cache do."""
    really = os.pwrite
    other = does(really)
    monkeypatch.setattr(outbox.os, "pwrite", lambda f, d, p: (other if f == box._disk else really)(f, d, p))


@pytest.mark.parametrize("seed", range(4))
def test_neighbours_far_places_and_odd_sizes_all_arrive(box: Outbox, path: Path, seed: int) -> None:
    """Up to forty rows of items grow in turn, as views do; some items are no whole pages."""
    draw = np.random.default_rng(seed)
    streams = int(draw.integers(1, 41))
    room = SIZE // streams // PAGE * PAGE
    expected, ends = np.zeros(SIZE, np.uint8), [k * room for k in range(streams)]
    for n in range(400):
        k = n % streams
        count = int(draw.integers(1, 90)) * PAGE - (int(draw.integers(PAGE)) if draw.random() < 0.1 else 0)
        count = min(count, (k + 1) * room - ends[k])
        values = bytes_of(count, n)
        expected[ends[k] : ends[k] + count] = values
        box.put(ends[k], values.reshape(1, -1))
        values[:] = 0  # was copied
        ends[k] += count
        if n in (150, 300):
            box.settle()
    box.settle()
    assert np.array_equal(np.fromfile(path, np.uint8), expected)


def test_an_item_larger_than_a_piece_arrives(box: Outbox, path: Path) -> None:
    values = bytes_of(5 * (1 << 20) + 3 * PAGE).view(np.float32)
    box.put(2 * PAGE, values)
    box.settle()
    found = np.fromfile(path, np.uint8)
    assert np.array_equal(found[2 * PAGE :][: values.nbytes], values.view(np.uint8))
    assert not found[: 2 * PAGE].any() and not found[2 * PAGE + values.nbytes :].any()


def refusing(really: Pwrite) -> Pwrite:
    def write(file: int, data: Any, place: int) -> int:
        raise OSError(errno.EINVAL, "no such pieces")

    return write


def stingy(really: Pwrite) -> Pwrite:
    return lambda file, data, place: really(file, data[:PAGE], place)


@pytest.mark.parametrize("does", [refusing, stingy])
def test_what_the_disk_does_not_take_is_written_as_usual(
    path: Path, monkeypatch: pytest.MonkeyPatch, does: Callable[[Pwrite], Pwrite]
) -> None:
    box, values = Outbox(path), bytes_of(3 << 20)
    disk_that(monkeypatch, box, does)
    box.put(0, values)
    box.settle()
    box.close()
    assert np.array_equal(np.fromfile(path, np.uint8)[: len(values)], values)


def test_a_full_disk_is_said_and_the_run_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Path:
        return augment("deadleaves:4@64", "awgn[5, 10]", tmp_path / "x.h5", tile=64).path

    written = Outbox._write_now

    def full(self: Outbox, piece: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Outbox, "_write_now", full)
    with pytest.raises(DilkitError, match="No space left on device"):
        make()
    assert (tmp_path / "x.h5.tmp").exists()
    monkeypatch.setattr(Outbox, "_write_now", written)
    resumed = make().read_bytes()
    again = augment("deadleaves:4@64", "awgn[5, 10]", tmp_path / "y.h5", tile=64).path
    assert resumed == again.read_bytes()


@pytest.mark.parametrize("interrupted", [False, True])
def test_after_close_nothing_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, interrupted: bool
) -> None:
    written: list[int] = []

    def slow(self: Outbox, piece: Any) -> None:
        time.sleep(0.2)
        written.append(piece.place)

    monkeypatch.setattr(Outbox, "_write_now", slow)
    box = Outbox(path)
    if box._disk is None:
        pytest.skip("this system or file system has no O_DIRECT")
    box.put(0, bytes_of(8 << 20))
    if interrupted:  # while the first is written
        threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            box.close()
    else:
        box.close()
    before = len(written)
    box._write(box._sent[1][1])  # as if it had just been begun
    time.sleep(0.3)
    assert len(written) == before == 1
