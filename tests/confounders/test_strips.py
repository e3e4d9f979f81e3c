"""Items lie in strips: every window is what it was, and less is read for it."""

from __future__ import annotations

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dilkit.confounders.build import augment
from dilkit.confounders.combine import add, merge
from dilkit.confounders.format import MappedFile, block_width, cut, pieces, to_blocks
from dilkit.confounders.inspect import verify
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError

WORDS = "awgn(5) | awgn(25) >> clip >> quantize | downsample(2)"
CORNERS = (Window(0, 0, 1, 1), Window(17, 40, 64, 60), Window(64, 64, 64, 64), Window(127, 127, 1, 1))


@pytest.mark.parametrize(
    ("width", "strip"),
    [(64, 64), (256, 64), (128, 64), (96, 48), (100, 50), (321, 107), (257, 257), (20, 20)],
)
def test_a_strip_divides_the_width_and_has_about_64_columns(width: int, strip: int) -> None:
    assert block_width(width) == strip


@given(st.integers(1, 4096))
def test_no_divisor_is_nearer_to_64_columns(width: int) -> None:
    def distance(d: int) -> float:
        return abs(math.log(d / 64))

    found = block_width(width)
    others = [d for d in range(32, 129) if width % d == 0]
    assert width % found == 0
    assert distance(found) == pytest.approx(min(map(distance, others), default=distance(width)))


@st.composite
def items(draw: st.DrawFn) -> tuple[np.ndarray, int, Window]:
    h, strip, count = draw(st.integers(1, 9)), draw(st.integers(1, 7)), draw(st.integers(1, 5))
    w = strip * count
    dtype = draw(st.sampled_from([np.uint8, np.float32]))
    y, x = draw(st.integers(0, h - 1)), draw(st.integers(0, w - 1))
    window = Window(y, x, draw(st.integers(1, h - y)), draw(st.integers(1, w - x)))
    return np.arange(h * w * 3).reshape(h, w, 3).astype(dtype), strip, window


@given(items())
def test_a_window_of_the_strips_is_that_of_the_item(given_: tuple[np.ndarray, int, Window]) -> None:
    item, strip, window = given_
    size, (y, x, h, w) = item.shape[:2], window
    values = to_blocks(item, strip).reshape(-1)
    found = cut(values, size, strip, window)
    assert found.dtype == item.dtype and not found.flags.writeable
    assert np.array_equal(found, item[y : y + h, x : x + w])
    assert np.array_equal(cut(values, size, strip), item)
    assert np.shares_memory(found, values) or x // strip != (x + w - 1) // strip


@given(items())
def test_the_pieces_of_a_window_hold_it_and_nothing_of_other_rows_or_strips(
    given_: tuple[np.ndarray, int, Window],
) -> None:
    item, strip, window = given_
    (height, width, _), (y, x, h, w) = item.shape, window
    numbers = np.arange(height * width).reshape(height, width, 1)
    laid = to_blocks(numbers, strip).reshape(-1)
    found = [laid[start : start + count] for start, count in pieces((height, width), strip, window)]
    first, last = x // strip * strip, -(-(x + w) // strip) * strip
    assert sorted(np.concatenate(found)) == sorted(numbers[y : y + h, first:last].flat)
    assert [*pieces((height, width), strip)] == [(0, height * width)]


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Three items of 128 x 128, two strips each."""
    return Store(augment("deadleaves:3@128", WORDS, tmp_path_factory.mktemp("wide") / "w.h5", tile=128).path)


def test_other_programs_see_whole_items(wide: Store) -> None:
    """And may have the file open, with the locks that h5py sets."""
    store = Store(wide.path)
    with h5py.File(store.path) as file:
        assert file["clean"].shape == (3, 128, 128, 3) and file["clean"].chunks == (1, 128, 64, 3)
        for item in range(3):
            assert np.array_equal(file["clean"][item], store.clean(item))
            for label in store.labels:
                assert np.array_equal(file[f"distorted/{label}"][item], store.view(item, label)), label


def test_windows_of_every_view_are_those_of_a_virtual_dataset(wide: Store, tmp_path: Path) -> None:
    virtual = Store(augment("deadleaves:3@128", WORDS, tmp_path / "v.h5", tile=128, storage="virtual").path)
    for window in CORNERS:
        assert np.array_equal(wide.clean(2, window), virtual.clean(2, window))
        for label in wide.labels[:2]:
            assert np.array_equal(wide.view(2, label, window), virtual.view(2, label, window)), label
    small = Window(3, 30, 20, 9)  # of a view of one strip
    assert np.array_equal(wide.view(1, "downsample(2)", small), virtual.view(1, "downsample(2)", small))


def test_what_is_asked_for_is_the_strips_of_the_window(wide: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "expect", lambda self, start, count: asked.append((start, count)))
    wide.expect(1, ["awgn(5)"], Window(10, 60, 20, 10))
    region, strip = wide.header.regions["distorted/awgn(5)"], 128 * 64 * 12
    first = region.offset + 2 * strip + 10 * 64 * 12
    assert asked[2:] == [(first, 20 * 64 * 12), (first + strip, 20 * 64 * 12)]
    asked.clear()
    wide.expect(1, ["awgn(5)"], Window(10, 64, 20, 10))
    assert asked[1:] == [(first + strip, 20 * 64 * 12)]


def test_strips_are_verified_joined_and_added_to(wide: Store, tmp_path: Path) -> None:
    parts = [
        augment("deadleaves:3@128", WORDS, tmp_path / f"{k}.h5", tile=128, shard=(k, 2)).path for k in (1, 2)
    ]
    joined = Store(merge(parts, tmp_path / "all.h5"))
    for label in wide.labels:
        assert np.array_equal(joined.view(2, label), wide.view(2, label))
    with h5py.File(joined.path) as file:
        assert np.array_equal(file["distorted/awgn(5)"][2], wide.view(2, "awgn(5)"))
    add(parts[1], "gaussian_blur(1)")
    assert Store(parts[1]).header.regions["distorted/gaussian_blur(1)"].block == 64
    assert verify(wide.path).sound and verify(parts[1]).sound


@pytest.mark.parametrize("chunks", [(1, 64, 64, 3), (3, 128, 64, 3), (1, 128, 60, 3)])
def test_other_chunks_are_refused(wide: Store, tmp_path: Path, chunks: tuple[int, ...]) -> None:
    other = tmp_path / "other.h5"
    with h5py.File(wide.path) as source, h5py.File(other, "w") as target:
        for name, value in source.attrs.items():
            target.attrs[name] = value
        for name in ("index", "distorted", "digest"):
            source.copy(name, target)
        target.create_dataset("clean", data=source["clean"][...], chunks=chunks)
    with pytest.raises(UsageError, match="'clean' is not stored in one piece"):
        Store(other).clean(0)
