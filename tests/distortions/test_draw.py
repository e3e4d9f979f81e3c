import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import randomness as module
from dilkit.distortions.randomness import Draw, Window, checked, normal_table
from dilkit.errors import DilkitError

KEY = hashlib.blake2b(b"a key", digest_size=32).digest()


def digest(array):
    return hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).hexdigest()


@st.composite
def windows(draw, height=23, width=19):
    y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
    return Window(y, x, draw(st.integers(1, height - y)), draw(st.integers(1, width - x)))


@given(window=windows(), channels=st.sampled_from([1, 2, 3]), pad=st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_the_field_of_a_window_is_the_cut_of_the_field_of_the_whole(window, channels, pad):
    whole = Draw.whole(KEY, (23, 19))
    part = whole.at(window)
    rows = slice(window.y, window.y + window.h + 2 * pad)
    columns = slice(window.x, window.x + window.w + 2 * pad)
    for field in ("bits", "normal", "uniform"):
        expected = getattr(whole, field)(channels, pad=pad)[rows, columns]
        np.testing.assert_array_equal(getattr(part, field)(channels, pad=pad), expected)


def test_a_narrow_window_of_a_wide_image_skips_from_row_to_row(monkeypatch):
    wide = Draw(KEY, (7, 9001), Window(2, 4000, 5, 33))
    skipping = wide.normal()
    monkeypatch.setattr(module, "_SKIP_COST", 10**9)
    np.testing.assert_array_equal(skipping, wide.normal())


def test_the_bits_are_the_same_for_ever():
    draw = Draw.whole(KEY, (8, 5))
    assert digest(draw.normal()) == "2d8fa7ecd7022370"
    assert digest(draw.uniform(stream="other")) == "a7096c52e7af32c1"
    assert draw.scalars(2) == (0.25831099000992375, 0.9547504773678657)


def test_streams_keys_and_kinds_of_numbers_are_independent():
    fields = [
        Draw.whole(KEY, (200, 200)).normal(),
        Draw.whole(KEY, (200, 200)).normal(stream="b"),
        Draw.whole(b"another key", (200, 200)).normal(),
    ]
    correlation = np.corrcoef([f.ravel() for f in fields])
    assert np.abs(correlation - np.eye(3)).max() < 0.015


def test_neighbours_and_channels_are_independent():
    field = Draw.whole(KEY, (256, 256)).normal()
    for shifted in (field[1:, :, :], field[:, 1:, :], field[:, :, 1:]):
        cut = field[: shifted.shape[0], : shifted.shape[1], : shifted.shape[2]]
        assert abs(np.mean(cut * shifted)) < 0.012


def test_the_normal_law():
    field = Draw.whole(KEY, (512, 512)).normal().astype(float)
    n = field.size
    assert abs(field.mean()) < 4 / np.sqrt(n)
    assert abs(field.std() - 1) < 4 / np.sqrt(2 * n)
    assert abs((field**4).mean() - 3) < 4 * np.sqrt(96 / n)
    table = normal_table().astype(float)
    assert abs(table.std() - 1) < 1e-7
    np.testing.assert_array_equal(table, -table[::-1])
    assert np.all(np.diff(table) >= 0)


def test_the_uniform_law():
    field = Draw.whole(KEY, (256, 256)).uniform()
    assert field.min() >= 0
    assert field.max() < 1
    counts = np.histogram(field, 64, (0, 1))[0]
    chi = ((counts - field.size / 64) ** 2 / (field.size / 64)).sum()
    assert chi < 63 + 5 * np.sqrt(126)


def test_scalars_do_not_depend_on_the_window():
    draw = Draw.whole(KEY, (64, 64))
    part = draw.at(Window(5, 6, 7, 8))
    assert draw.scalars(3) == part.scalars(3)
    assert draw.normal_scalars(3) == part.normal_scalars(3)
    assert draw.scalars(3)[:2] == draw.scalars(2)
    assert draw.scalars(3) != draw.scalars(3, stream="b")


def test_threads_and_pickling_change_nothing():
    draws = [Draw.whole(bytes([k]) * 32, (40, 40)) for k in range(16)]
    alone = [digest(d.normal()) for d in draws]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            assert list(pool.map(lambda d: digest(d.normal()), draws)) == alone
    assert pickle.loads(pickle.dumps(draws[3])) == draws[3]  # noqa: S301


def test_a_table_with_other_bits_is_refused():
    with pytest.raises(DilkitError, match="normal law has other bits"):
        checked(normal_table() * np.float32(1.0000001), "7013eb3e874e925f", "the normal law")
