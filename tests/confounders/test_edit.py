"""Confounders come and go; the pixels of the others stay where they are."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from dilkit.confounders import build as work
from dilkit.confounders import combine as edit
from dilkit.confounders import format as seal
from dilkit.confounders.build import augment
from dilkit.confounders.combine import add, check_drop, drop, merge, recover
from dilkit.confounders.format import undo_path
from dilkit.confounders.images import Failure
from dilkit.confounders.inspect import verify
from dilkit.confounders.store import Store
from dilkit.distortions import confounder_set
from dilkit.errors import DilkitError, UsageError


@pytest.fixture
def path(store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copy(store.path, tmp_path / "s.h5"))


def same_views(a: Store, b: Store) -> bool:
    return a.labels == b.labels and all(
        np.array_equal(a.view(item, label), b.view(item, label))
        for item in range(len(a))
        for label in a.labels
    )


@pytest.mark.parametrize("storage", ["stored", "virtual"])
def test_added_views_are_those_of_a_dataset_made_at_once(tmp_path: Path, storage: str) -> None:
    def make(words: str, name: str) -> Path:
        return augment("deadleaves:4@32", words, tmp_path / name, tile=16, stride=16, storage=storage).path  # type: ignore[arg-type]

    grown, whole = make("awgn(5) | awgn(25)", "a.h5"), make("awgn[5, 15, 25] | jpeg(30)", "b.h5")
    assert add(grown, "jpeg(30) | awgn(15)", workers=2) == ("awgn(15)", "jpeg(30)")
    assert same_views(Store(grown), Store(whole))
    for name in ("expression", "hash"):
        assert Store(grown).attrs[name] == Store(whole).attrs[name]
    assert verify(grown).sound
    assert not list(tmp_path.glob("*.undo*"))


def test_nothing_else_is_rewritten(path: Path) -> None:
    def pixels(label: str) -> tuple[int, bytes]:
        region = Store(path).head.regions[f"distorted/{label}"]
        return region.offset, path.read_bytes()[region.offset : region.offset + region.nbytes]

    before = {label: pixels(label) for label in Store(path).labels}
    add(path, "jpeg(30)")
    drop(path, "awgn(5)")
    assert Store(path).labels == ("awgn(15)>>clip>>quantize", "awgn(25)", "gaussian_blur(1)", "jpeg(30)")
    for label in Store(path).labels[:3]:
        assert pixels(label) == before[label]
    assert verify(path).sound
    drop(path, "jpeg(30)")
    add(path, "awgn(5)")
    assert pixels("awgn(5)")[1] == before["awgn(5)"][1]
    assert verify(path).sound


@pytest.mark.parametrize("storage", ["stored", "virtual"])
def test_what_could_not_be_made_is_not_added(tmp_path: Path, storage: str) -> None:
    out = augment("deadleaves:1@32", "awgn(5)", tmp_path / "x.h5", tile=17, storage=storage).path  # type: ignore[arg-type]
    before = out.read_bytes()
    for words in ("downsample(2)", "resize(0.5)"):
        with pytest.raises(UsageError, match=r"x.h5: .* 2 times smaller(.|\n)*17 x 17"):
            add(out, words)
    assert out.read_bytes() == before


def failing(desk: work.Desk, part: int) -> list[Failure]:
    work.distort(desk, part)
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_change_leaves_the_dataset_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(edit, "distort", failing)
    with pytest.raises(DilkitError, match="as it was"):
        add(path, "jpeg(30)")
    assert path.read_bytes() == before


def test_whatever_hdf5_says_of_a_full_disk_is_an_error_of_the_system(path: Path) -> None:
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for change, words in ((add, "jpeg(30)"), (add, "poisson[1, 2]")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        try:
            with pytest.raises(DilkitError, match=r"writing failed: File too large(.|\n)*as it was"):
                change(path, words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before


def test_a_drop_that_fails_is_finished_by_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    left = Store(path).labels[1:]
    with monkeypatch.context() as patch:
        patch.setattr(seal, "close", fail)
        with pytest.raises(DilkitError, match="finishes it"):
            drop(path, Store(path).labels[0])
    with pytest.raises(UsageError, match="was interrupted"):
        len(Store(path))
    assert drop(path, "awgn(5)") == ("awgn(5)",)
    assert Store(path).labels == left and verify(path).sound
    with pytest.raises(UsageError, match="no confounder"):
        drop(path, "awgn(5)")


def test_only_one_run_at_a_time_changes_a_dataset(path: Path) -> None:
    second: list[str] = []

    def meanwhile(phase: str, done: int, total: int) -> None:
        with pytest.raises(UsageError, match="another run is changing") as refused:
            drop(path, "awgn(5)")
        second.append(str(refused.value))

    add(path, "jpeg(30)", progress=meanwhile)
    assert second and "awgn(5)" in Store(path).labels and verify(path).sound
    drop(path, "awgn(5)")


def test_a_change_killed_at_any_moment_is_taken_back_or_done(path: Path) -> None:
    """kill -9 while a confounder is added, then dropped, again and again."""
    moments = random.Random(1)
    fork = multiprocessing.get_context("fork")
    interrupted = 0
    for round_ in range(16):
        task, word = ((add, "jpeg(30)"), (drop, "jpeg(30)"))["jpeg(30)" in Store(path).labels]
        victim = fork.Process(target=task, args=(path, word))
        victim.start()
        while not path.with_name("s.h5.undo").exists() and victim.is_alive():
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        interrupted += recover(path)
        verdict = verify(path, samples=4)
        assert verdict.sound, (round_, verdict.faults)
    assert interrupted >= 2


Change = Callable[[Path, str], tuple[str, ...]]


def killed(change: Change, path: Path, words: str, module: ModuleType, moment: str) -> None:
    """kill -9 when the change comes to a function."""

    def work() -> None:
        setattr(module, moment, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        change(path, words)

    victim = multiprocessing.get_context("fork").Process(target=work)
    victim.start()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL and undo_path(path.resolve()).exists()


def test_a_drop_whose_completion_is_killed_is_completed_later(path: Path) -> None:
    """HDF5 may have written over the pixels by then, so nobody may read them."""
    killed(drop, path, "awgn(5)", seal, "close")
    killed(drop, path, "awgn(5)", edit, "_cut")
    with pytest.raises(UsageError, match="was interrupted"):
        len(Store(path))
    assert recover(path) and "awgn(5)" not in Store(path).labels and verify(path).sound


WHOLE = "awgn[5, 25] | awgn(15) >> clip >> quantize | gaussian_blur(1)"


@pytest.mark.parametrize(("change", "word"), [(add, "jpeg(30)"), (drop, "awgn(5)")])
@pytest.mark.parametrize("words", ["awgn(50)", WHOLE])
def test_what_an_interrupted_change_left_does_no_harm_to_a_new_file(
    path: Path, change: Change, word: str, words: str
) -> None:
    """One that was made in its place since, whether or not it is the same again."""
    killed(change, path, word, seal, "close")
    augment("deadleaves:6@32", words, path, tile=32, seed=3, overwrite=True)
    add(path, "jpeg(10)")
    assert verify(path).sound
    assert Store(path).confounders == confounder_set(f"{words} | jpeg(10)")


def test_a_change_of_what_a_link_points_to_is_taken_back_by_any_name(path: Path, tmp_path: Path) -> None:
    before = path.read_bytes()
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "l.h5"
    link.symlink_to(path)
    killed(add, link, "jpeg(30)", seal, "close")
    for name in (link, path):
        with pytest.raises(UsageError, match="was interrupted"):
            len(Store(name))
    assert recover(path) and path.read_bytes() == before


def test_adding_and_dropping_at_once_goes_on_after_a_kill(path: Path) -> None:
    killed(add, path, "jpeg(30)", seal, "close")
    check_drop(path, "awgn(5) | jpeg(30)", "jpeg(30)")
    with pytest.raises(UsageError, match="no confounder 'jpeg"):
        check_drop(path, "jpeg(30)", "jpeg(10)")
    assert verify(path).sound


def test_a_file_that_is_opened_while_it_changes_is_not_called_damaged(path: Path) -> None:
    at = Store(path).head.regions["index/digest"].offset
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"changing")
    with pytest.raises(seal.Damaged):
        len(Store(path))
    undo_path(path.resolve()).touch()
    with pytest.raises(UsageError, match="goes on"):
        len(Store(path))


def test_wrong_changes_are_refused(path: Path, tmp_path: Path) -> None:
    cases = [
        (add, "awgn(5)", "there already"),
        (add, "none", "no distortion"),
        (drop, "awgn(6)", "did you mean: awgn"),
        (drop, Store(path).attrs["expression"], "no confounder would be left"),
    ]
    for change, words, message in cases:
        with pytest.raises(UsageError, match=message):
            change(path, words)
    parts = [tmp_path / f"p{k}.h5" for k in (1, 2)]
    for k, part in enumerate(parts, 1):
        augment("deadleaves:2@32", "awgn(5)", part, tile=32, stride=32, shard=(k, 2))
    with pytest.raises(UsageError, match="its shards"):
        add(merge(parts, tmp_path / "m.h5"), "awgn(6)")
