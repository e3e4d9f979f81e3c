"""Copies are found through resizing and recompression; other images are not taken for copies."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dilkit.confounders.build import augment
from dilkit.confounders.combine import merge
from dilkit.confounders.duplicates import (
    NEAR,
    hashes_of,
    near_pairs,
    perceptual_hash,
    refuse_duplicates,
    symmetries,
)
from dilkit.errors import DilkitError


def test_pairs_are_those_of_the_full_comparison() -> None:
    draw = random.Random(0)
    hashes = [draw.getrandbits(64) for _ in range(60)]
    for k in range(40):
        flips = draw.sample(range(64), k % 12)
        hashes.append(hashes[k] ^ sum(1 << flip for flip in flips))
    hashes += [0, 0]
    turned = symmetries(np.array(hashes, np.uint64)).tolist()
    brute = [
        (i, j)
        for i in range(100)
        for j in range(i + 1, 100)
        if min((way[i] ^ hashes[j]).bit_count() for way in turned) <= NEAR
    ]
    assert near_pairs(hashes) == brute and len(brute) >= 15


def test_excluded_images_are_compared_with_the_others_alone() -> None:
    draw = random.Random(1)
    hashes = [draw.getrandbits(64) for _ in range(4)]
    hashes += [hashes[0], hashes[0] ^ 1, hashes[2], draw.getrandbits(64)]  # the last three are excluded
    assert near_pairs(hashes, excluded=3) == [(0, 4), (0, 5), (2, 6), (4, 5)]
    assert near_pairs(hashes, excluded=3, inside=False) == [(0, 5), (2, 6), (4, 5)]


def test_of_thousands_of_images_that_look_alike_only_some_pairs_are_sought() -> None:
    names, alike = [str(i) for i in range(20_000)], [1 << 40 | 1 << 20] * 20_000
    assert 10_000 <= len(near_pairs(alike, most=10_000)) < 10_000 + len(alike)  # of 200 million
    assert near_pairs([*alike, 0x123456789ABCDEF], excluded=1, inside=False) == []
    with pytest.raises(DilkitError, match=r"at least \d+ pairs(.|\n)*0 ~ 1\n"):
        refuse_duplicates(names, alike, {})


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A folder with a photograph and a small, brighter, recompressed copy of it."""
    folder = tmp_path / "photos"
    folder.mkdir()
    (original,) = (i for i in _photographs() if i[0] == "coffee")
    Image.fromarray(original[1]).save(folder / "a.png")
    small = Image.fromarray(original[1]).resize((150, 100))
    Image.fromarray(np.clip(np.array(small) * 1.1, 0, 255).astype(np.uint8)).save(
        folder / "b.jpg", quality=40
    )
    return folder


def _photographs() -> list[tuple[str, np.ndarray]]:
    from dilkit.confounders.images import expand

    return [(Path(i.name).stem, np.asarray(i.load("refuse"))) for i in expand(["samples:test"])]


def test_photographs_are_not_taken_for_each_other() -> None:
    assert near_pairs(list(hashes_of(["samples:", "deadleaves:20"]).values())) == []


def test_mirrored_and_turned_copies_are_found() -> None:
    for _, image in _photographs():
        ways = [
            way for flipped in (image, image[:, ::-1]) for way in (np.rot90(flipped, k) for k in range(4))
        ]
        hashes = [perceptual_hash(image), *(perceptual_hash(way) for way in ways)]
        assert {(0, k) for k in range(1, 9)} <= set(near_pairs(hashes))
    assert (symmetries(np.array([5], np.uint64))[0] == 5).all()


def test_an_excluded_image_that_cannot_be_read_is_named(copied: Path, tmp_path: Path) -> None:
    (copied / "c.png").write_bytes(b"")
    with pytest.raises(DilkitError, match=r"photos/c.png: an excluded image cannot be read"):
        augment("samples:test", "clean", tmp_path / "x.h5", tile=64, stride=64, exclude=[copied])


def test_copies_are_refused_unless_allowed(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    with pytest.raises(DilkitError, match=r"photos/a.png ~ photos/b.jpg(.|\n)*--allow-duplicates"):
        augment(copied, "clean", out, tile=64, stride=64)
    assert not out.exists()
    built = augment(copied, "clean", out, tile=64, stride=64, allow_duplicates=True)
    assert built.images == 2 and built.resumed


def test_images_of_the_test_set_are_refused(copied: Path, tmp_path: Path) -> None:
    for allow in (False, True):
        with pytest.raises(DilkitError, match=r"b.jpg ~ samples/coffee.png \(excluded\)"):
            augment(
                copied / "b.jpg", "clean", tmp_path / "x.h5", tile=64, stride=64,
                exclude=["samples:test"], allow_duplicates=allow,
            )  # fmt: skip
    augment(copied / "b.jpg", "clean", tmp_path / "x.h5", tile=64, stride=64, exclude=["samples:train"])


def test_copies_in_different_shards_are_found_when_they_are_joined(copied: Path, tmp_path: Path) -> None:
    parts = [tmp_path / f"{k}.h5" for k in (1, 2)]
    for k, part in enumerate(parts, 1):
        augment(copied, "clean", part, tile=64, stride=64, shard=(k, 2))
    with pytest.raises(DilkitError, match=r"photos/a.png ~ photos/b.jpg"):
        merge(parts, tmp_path / "m.h5")
    merge(parts, tmp_path / "m.h5", allow_duplicates=True)
