"""What sources mean, and how images are cut."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dilkit.confounders.build import augment
from dilkit.confounders.images import dead_leaves, expand, survey
from dilkit.confounders.plan import as_settings, boxes
from dilkit.confounders.store import Store
from dilkit.errors import UsageError


def test_folders_globs_and_files_name_the_same_images_once(pictures: Path) -> None:
    names = [image.name for image in expand([pictures])]
    assert names == [f"pictures/{i}.png" for i in range(4)]
    assert len(expand([pictures, str(pictures / "*.png"), pictures / "1.png"])) == 4
    assert [image.name for image in expand([str(pictures / "[12].png")])] == [
        "pictures/1.png",
        "pictures/2.png",
    ]
    assert len(expand([pictures], limit=3)) == 3
    assert len(expand([pictures, "deadleaves:1000000000000"], limit=6)) == 6


def test_folders_behind_links_are_searched_once(pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "all"
    (folder / "real").mkdir(parents=True)
    (pictures / "3.png").rename(folder / "real" / "3.png")
    for name, target in (("a", pictures), ("b", pictures), ("c", folder / "real"), ("loop", folder)):
        (folder / name).symlink_to(target)
    names = [image.name for image in expand([folder])]
    assert names == ["all/a/0.png", "all/a/1.png", "all/a/2.png", "all/real/3.png"]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "img").mkdir(parents=True)
        Image.fromarray(dead_leaves(0, 0, 16)).save(tmp_path / folder / "img" / "1.png")
    found = expand([tmp_path / "a" / "img", tmp_path / "b" / "img"])
    assert [image.name for image in found] == ["img/1.png", "img/1.png#2"]


def test_names_of_any_bytes_can_be_printed_and_stored(pictures: Path, tmp_path: Path) -> None:
    for name, picture in zip((b"a\xff.png", b"b\n.png"), sorted(pictures.iterdir()), strict=False):
        picture.rename(pictures / os.fsdecode(name))
    store = Store(augment(pictures, "clean", tmp_path / "x.h5", tile=0, allow_duplicates=True).path)
    names = [name.decode().removeprefix("pictures/") for name in store.index["source"]]
    assert sorted(names) == ["2.png", "3.png", "a\\udcff.png", "b\\n.png"]


def test_the_samples_are_colour_photographs_with_a_fixed_split() -> None:
    train, test = (expand([f"samples:{split}"]) for split in ("train", "test"))
    assert [image.name for image in test] == ["samples/chelsea.png", "samples/coffee.png"]
    assert len(train) == 4 and not set(train) & set(test)
    assert len(expand(["samples:"])) == 6
    for image in train + test:
        pixels = image.load("refuse")
        assert pixels.dtype == np.uint8 and min(pixels.shape[:2]) >= 300
        assert not np.array_equal(pixels[..., 0], pixels[..., 1])
        assert image.licence


def test_synthetic_images_depend_on_seed_and_index_alone() -> None:
    a, b = expand(["deadleaves:2@64"], seed=5)
    assert np.array_equal(a.load("refuse"), dead_leaves(5, 0, 64))
    assert a.load("refuse").shape == (64, 64, 3)
    assert not np.array_equal(a.load("refuse"), b.load("refuse"))
    assert not np.array_equal(a.load("refuse"), dead_leaves(6, 0, 64))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("pictres", "did you mean: .*pictures"),
        ("samples:trian", "did you mean: train"),
        ("deadleaves:none", "deadleaves:100"),
        ("deadleaves:0", "deadleaves:100"),
        ("empty", "holds no images"),
    ],
)
def test_a_source_that_is_none_is_named(pictures: Path, source: str, message: str) -> None:
    (pictures.parent / "empty").mkdir()
    path = source if ":" in source else str(pictures.parent / source)
    with pytest.raises(UsageError, match=message):
        expand([path])


def test_unreadable_headers_are_collected(pictures: Path) -> None:
    (pictures / "zero.png").touch()
    good, bad = survey(expand([pictures]))
    assert len(good) == 4
    assert [failure.name for failure in bad] == ["pictures/zero.png"]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.data())
def test_tiles_are_whole_and_reach_every_pixel(h: int, w: int, tile: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, tile))
    cut = boxes(h, w, tile, stride)
    seen = np.zeros((h, w), int)
    for box in cut:
        assert 0 <= box.y <= box.y + box.h <= h and 0 <= box.x <= box.x + box.w <= w
        seen[box.y : box.y + box.h, box.x : box.x + box.w] += 1
    assert (seen > 0).all()
    if h >= tile and w >= tile:
        assert {(box.h, box.w) for box in cut} == {(tile, tile)} and len(set(cut)) == len(cut)
    else:
        assert len(cut) == 1
        assert boxes(h, w, tile, stride, keep_small=False) == []


def test_senseless_tilings_are_refused() -> None:
    for tile, stride in ((-1, 1), (8, 0), (8, 9)):
        with pytest.raises(UsageError):
            as_settings(tile=tile, stride=stride)
