"""A dataset from a stranger is refused by name, in bounded time and memory, and prints nothing of its own."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hostile_stores import STORES, good, hours_of_work

from dilkit.confounders.format import Header, close_checksum, is_pixels
from dilkit.confounders.inspect import summarize, verify
from dilkit.confounders.store import Store
from dilkit.errors import DilkitError, UsageError

CPU_SECONDS, BYTES = 60, 4 << 30
"""What a reader may take at most: far more than it needs, and far less than an attack would."""


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good(tmp_path_factory.mktemp("sound") / "s.h5")


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(sound, tmp_path / "s.h5"))


def bounded(work: Callable[[], None]) -> int | None:
    """The exit code of a process with little time and memory beyond what it starts with: 0 where all held."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))
        work()
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=limited)
    child.start()
    child.join(600)
    if child.is_alive():
        child.kill()
    return child.exitcode


@pytest.mark.parametrize("name", STORES)
def test_a_hostile_dataset_is_refused_by_name(copy: Path, name: str) -> None:
    recipe, message = STORES[name]
    recipe(copy)

    def read() -> None:
        for look in (Header.read, summarize, lambda path: len(Store(path))):
            with pytest.raises(UsageError, match=message) as refused:
                look(copy)
            shown = str(refused.value)
            assert all(c.isprintable() or c == "\n" for c in shown) and len(shown) < 2000

    assert bounded(read) == 0


def test_a_view_that_would_be_computed_for_hours_is_refused(copy: Path) -> None:
    hours_of_work(copy)

    def read() -> None:
        store = Store(copy)
        with pytest.raises(DilkitError):
            store.view(0, "awgn(5)")

    assert bounded(read) == 0


def test_damage_with_a_right_checksum_is_refused_or_does_no_harm(copy: Path) -> None:
    """Bytes that are not pixels are changed at random, the checksum made anew: a reader gives the dataset or
    a named error, whatever HDF5 makes of it. More with DILKIT_FUZZ=N."""
    rounds = int(os.environ.get("DILKIT_FUZZ", "60"))
    data = copy.read_bytes()
    header = Header.read(copy)
    free = np.ones(len(data) - 24 - 16 * 3, bool)
    for name, region in header.regions.items():
        if is_pixels(name):
            free[region.offset : region.offset + region.nbytes] = False
    places = [at for at in np.flatnonzero(free).tolist() if data[at]]
    draw = random.Random(int(os.environ.get("DILKIT_FUZZ_SEED", "0")))
    for _ in range(rounds):
        changed = bytearray(data)
        for at in draw.sample(places, draw.randrange(1, 4)):
            changed[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, changed[at] ^ 1 << draw.randrange(8)))
        copy.write_bytes(changed)
        close_checksum(copy)

        def read() -> None:
            try:
                verify(copy, samples=2)
            except DilkitError as error:
                assert all(c.isprintable() or c in "\n\t" for c in str(error))

        assert bounded(read) == 0, [at for at in range(len(data)) if data[at] != changed[at]][:8]
