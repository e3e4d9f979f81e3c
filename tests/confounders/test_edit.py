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
from pathlib import Path

import numpy as np
import pytest

from dilkit.confounders.build import augment
from dilkit.confounders.combine import add, check_drop, drop, merge
from dilkit.confounders.inspect import verify
from dilkit.confounders.store import Store
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
    assert not list(tmp_path.glob("*.changing*"))


def test_what_is_grown_and_cut_is_the_file_made_at_once(tmp_path: Path) -> None:
    """To the byte but for the identity of the plan, which the parts of a divided dataset share."""

    def make(words: str, name: str) -> Path:
        return augment("deadleaves:4@32", words, tmp_path / name, tile=16, stride=16).path

    path, whole = make("awgn(5) | awgn(25)", "a.h5"), make("awgn(25) | jpeg(30)", "b.h5")
    add(path, "jpeg(30)")
    drop(path, "awgn(5)")
    a, b = Store(path), Store(whole)
    assert path.stat().st_size == whole.stat().st_size and same_views(a, b)
    assert {name: a.attrs[name] == b.attrs[name] for name in a.attrs if name != "plan"} == {
        name: True for name in b.attrs if name != "plan"
    }
    assert all(np.array_equal(a.index[name], b.index[name]) for name in b.index)
    assert verify(path).sound


@pytest.mark.parametrize("storage", ["stored", "virtual"])
def test_what_could_not_be_made_is_not_added(tmp_path: Path, storage: str) -> None:
    out = augment("deadleaves:1@32", "awgn(5)", tmp_path / "x.h5", tile=17, storage=storage).path  # type: ignore[arg-type]
    before = out.read_bytes()
    for words in ("downsample(2)", "resize(0.5)"):
        with pytest.raises(UsageError, match=r"x.h5: .* 2 times smaller(.|\n)*17 x 17"):
            add(out, words)
    assert out.read_bytes() == before


def out_of_space(phase: str, done: int, total: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_change_leaves_the_dataset_as_it_was(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(DilkitError, match="as it was"):
        add(path, "jpeg(30)", progress=out_of_space)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["s.h5"]


def test_whatever_hdf5_says_of_a_full_disk_is_an_error_of_the_system(path: Path) -> None:
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for change, words in ((add, "jpeg(30)"), (add, "poisson[1, 2]"), (drop, "awgn(5)")):
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        try:
            with pytest.raises(DilkitError, match=r"writing failed: File too large(.|\n)*as it was"):
                change(path, words)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.read_bytes() == before


def test_only_one_run_at_a_time_changes_a_dataset(path: Path) -> None:
    second: list[str] = []

    def meanwhile(phase: str, done: int, total: int) -> None:
        with pytest.raises(UsageError, match="another run is changing") as refused:
            drop(path, "awgn(5)")
        second.append(str(refused.value))

    add(path, "jpeg(30)", progress=meanwhile)
    assert second and "awgn(5)" in Store(path).labels and verify(path).sound
    drop(path, "awgn(5)")


def test_a_change_killed_at_any_moment_has_not_happened_or_is_done(path: Path) -> None:
    """kill -9 while a confounder is added, then dropped, again and again."""
    moments = random.Random(1)
    fork = multiprocessing.get_context("fork")
    states = {False: path.read_bytes()}
    add(path, "jpeg(30)")
    states[True] = path.read_bytes()
    interrupted = 0
    for _ in range(24):
        had = "jpeg(30)" in Store(path).labels
        victim = fork.Process(target=drop if had else add, args=(path, "jpeg(30)"))
        victim.start()
        changing = path.with_name("s.h5.changing")
        while not changing.exists() and victim.is_alive():
            time.sleep(0.0005)
        time.sleep(moments.uniform(0, 0.02))
        os.kill(victim.pid or 0, signal.SIGKILL)
        victim.join()
        interrupted += changing.exists()
        has = "jpeg(30)" in Store(path).labels
        assert len(path.read_bytes()) == len(states[has]) and verify(path, samples=4).sound
    assert interrupted >= 2


def test_what_an_interrupted_change_left_is_in_nobodys_way(path: Path) -> None:
    path.with_name("s.h5.changing").write_bytes(b"half of it")
    assert verify(path).sound
    add(path, "jpeg(30)")
    assert verify(path).sound and [p.name for p in path.parent.iterdir()] == ["s.h5"]


def test_a_link_stays_and_what_it_points_to_is_changed(path: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "l.h5"
    link.symlink_to(path)
    add(link, "jpeg(30)")
    assert link.is_symlink() and "jpeg(30)" in Store(path).labels


def test_dropping_what_is_only_to_be_added_is_foreseen(path: Path) -> None:
    check_drop(path, "awgn(5) | jpeg(30)", "jpeg(30)")
    with pytest.raises(UsageError, match="no confounder 'jpeg"):
        check_drop(path, "jpeg(30)", "jpeg(10)")


def test_the_unfinished_change_of_an_earlier_version_is_named(path: Path) -> None:
    path.with_name("s.h5.undo").touch()
    with pytest.raises(UsageError, match="earlier dilkit was interrupted"):
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
