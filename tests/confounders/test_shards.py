"""Shards made apart and joined read like the whole; verify names what is wrong."""

from __future__ import annotations

import os
import random
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import xxhash
from PIL import Image

from dilkit.confounders import format as layout
from dilkit.confounders.build import augment
from dilkit.confounders.combine import merge, shard_path, shards_of
from dilkit.confounders.format import Damaged, Header, is_pixels
from dilkit.confounders.inspect import verify
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError, UsageError

WORDS = "awgn[5, 10] | gaussian_blur(1) >> clip >> quantize"


@pytest.fixture(params=[16, 0], ids=["tiles", "whole images"])
def shards(request: pytest.FixtureRequest, pictures: Path, tmp_path: Path) -> tuple[Path, list[Path]]:
    """A whole dataset, and the same in three shards."""
    Image.fromarray(np.full((24, 33, 3), 77, np.uint8)).save(pictures / "odd.png")
    tile = request.param
    whole = augment(pictures, WORDS, tmp_path / "whole.h5", tile=tile, stride=tile or 1).path
    parts = [shard_path(tmp_path / "part.h5", k, 3) for k in (1, 2, 3)]
    for k, part in enumerate(parts, 1):
        augment(pictures, WORDS, part, tile=tile, stride=tile or 1, shard=(k, 3))
    return whole, parts


def test_joined_shards_read_like_the_whole(shards: tuple[Path, list[Path]], tmp_path: Path) -> None:
    whole, parts = shards
    assert shards_of(tmp_path / "part.h5") == parts
    joined, store = Store(merge(parts[::-1], tmp_path / "part.h5")), Store(whole)
    assert len(joined) == len(store) and joined.labels == store.labels
    for name, column in store.index.items():
        assert np.array_equal(joined.index[name], column), name
    for item in range(len(store)):
        assert np.array_equal(joined.clean(item), store.clean(item))
        for label in store.labels:
            window = Window(1, 2, 9, 8)
            assert np.array_equal(joined.view(item, label, window), store.view(item, label, window))
    with h5py.File(joined.path) as a, h5py.File(whole) as b:
        for name in ("clean", "distorted/awgn(5)", "digest/awgn(10)"):
            assert np.array_equal(a[name][...], b[name][...])
    assert verify(joined.path).sound


def test_virtual_shards_join_too(tmp_path: Path) -> None:
    def make(out: Path, shard: tuple[int, int] | None = None) -> Path:
        source = "deadleaves:3@32"
        return augment(source, WORDS, out, tile=16, stride=16, storage="virtual", shard=shard).path

    whole = Store(make(tmp_path / "w.h5"))
    parts = [make(shard_path(tmp_path / "p.h5", k, 2), (k, 2)) for k in (1, 2)]
    joined = Store(merge(parts, tmp_path / "p.h5"))
    for item in range(len(whole)):
        for label in whole.labels:
            assert np.array_equal(joined.view(item, label), whole.view(item, label))
    assert verify(joined.path).sound


@pytest.mark.parametrize("name", ["50% off.h5", "a%%b%b.h5", "[1]*?.h5", "new\nline.h5", "ünï.h5"])
def test_odd_names_join_too(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    for k in (1, 2):
        augment("deadleaves:2@16", "awgn(5)", shard_path(out, k, 2), tile=16, shard=(k, 2))
    shard_path(out.with_stem(f"{out.stem}.other"), 1, 2).touch()
    merge(shards_of(out), out)
    with h5py.File(out) as joined, h5py.File(shard_path(out, 2, 2)) as last:
        for array in ("clean", "distorted/awgn(5)"):
            assert np.array_equal(joined[array][1], last[array][0]) and joined[array][1].any()
    assert verify(out).sound


def test_shards_are_found_through_links(tmp_path: Path) -> None:
    """A folder that lies elsewhere, and a joined file opened by another name."""
    (tmp_path / "far" / "away" / "parts").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    parts = [shard_path(tmp_path / "near" / "parts" / "p.h5", k, 2) for k in (1, 2)]
    for k, part in enumerate(parts, 1):
        augment("deadleaves:2@16", "awgn(5)", part, tile=16, shard=(k, 2))
    joined = merge(parts, tmp_path / "near" / "p.h5")
    (tmp_path / "link.h5").symlink_to(joined)
    for path in (joined, joined.resolve(), tmp_path / "link.h5"):
        assert verify(path).sound
    with h5py.File(joined.resolve()) as file:
        assert file["clean"][1].any()


def test_shards_outside_the_folder_of_the_dataset_are_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for k in (1, 2):
        augment("deadleaves:2@16", "awgn(5)", shard_path(tmp_path / "p.h5", k, 2), tile=16, shard=(k, 2))
    with pytest.raises(UsageError, match=r"outside the folder(.|\n)*move them there"):
        merge(shards_of(tmp_path / "p.h5"), tmp_path / "elsewhere" / "p.h5")


def test_missing_doubled_and_foreign_shards_are_refused(
    shards: tuple[Path, list[Path]], pictures: Path, tmp_path: Path
) -> None:
    whole, parts = shards
    out = tmp_path / "part.h5"
    with pytest.raises(UsageError, match=r"no 2/3(.|\n)*--shard 2/3"):
        merge([parts[0], parts[2]], out)
    with pytest.raises(UsageError, match="there twice"):
        merge([*parts, shutil.copy(parts[1], tmp_path / "copy.h5")], out)
    with pytest.raises(UsageError, match="another dataset"):
        merge([*parts[:2], whole], out)
    merge(parts, out)
    parts[1].rename(tmp_path / "away.h5")
    for open_ in (lambda: len(Store(out)), lambda: verify(out)):
        with pytest.raises(UsageError, match=r"no part.2-of-3.h5"):
            open_()
    augment(pictures, "awgn(5)", parts[1], tile=16, stride=16)
    with pytest.raises(UsageError, match="not the file that was joined"):
        len(Store(out))


def test_joining_takes_no_joined_file_and_overwrites_no_shard(
    shards: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, parts = shards
    joined = merge(parts, tmp_path / "part.h5")
    with pytest.raises(UsageError, match=r"joined dataset itself(.|\n)*part.1-of-3.h5"):
        merge([joined], tmp_path / "again.h5")
    before = parts[0].read_bytes()
    (tmp_path / "link.h5").symlink_to(parts[0])
    for out in (parts[0], tmp_path / "link.h5"):
        with pytest.raises(UsageError, match="one of the shards"):
            merge(parts, out, overwrite=True)
    assert parts[0].read_bytes() == before and verify(joined).sound

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(layout, "close_checksum", full)
    with pytest.raises(DilkitError, match=r"cannot be joined: .*No space"):
        merge(parts, tmp_path / "full.h5")
    assert not list(tmp_path.glob("full.h5*"))


def test_impossible_shards_are_refused(pictures: Path, tmp_path: Path) -> None:
    for shard, message in (((0, 3), "k/n"), ((4, 3), "k/n"), ((1, 9), "empty")):
        with pytest.raises(UsageError, match=message):
            augment(pictures, WORDS, tmp_path / "x.h5", shard=shard)
    with pytest.raises(UsageError, match="no shards"):
        shards_of(tmp_path / "x.h5")


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    return Path(shutil.copy(store.path, tmp_path / "copy.h5"))


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_sound_dataset_is_sound(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    verdict = verify(store.path, progress=lambda done, total: seen.append((done, total)))
    assert verdict.sound and verdict.items == 6 and verdict.remade == 24 and seen[-1] == (6, 6)


def test_a_flipped_byte_is_found_wherever_it_is(store: Store, copy: Path) -> None:
    regions = store.header.regions
    item = 32 * 32 * 3
    view = regions["distorted/awgn(5)"].offset
    cases = {
        "clean": (regions["clean"].offset + 2 * item + 5, r"item 2 \(deadleaves/000002 at 0, 0\): the clean"),
        "view": (
            view + 4 * 4 * item,
            r"item 4 .* pixels of awgn\(5\)",
        ),
        "index": (regions["index/pixel_hash"].offset + 3, "attributes, index or digests"),
        "digest": (regions["digest/awgn(5)"].offset, "attributes, index or digests"),
    }
    for offset, message in cases.values():
        flip(copy, offset)
        faults = "\n".join(verify(copy).faults)
        assert re.search(message, faults), (message, faults)
        flip(copy, offset)
    assert verify(copy).sound


def test_damage_to_what_is_no_pixel_is_a_fault_or_a_refusal(
    store: Store, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of attributes, names, sizes, offsets: nothing passes, nothing else is raised."""
    monkeypatch.setattr("dilkit.confounders.format._PATIENCE", 1.0)
    data = copy.read_bytes()
    pixels = [r for name, r in store.header.regions.items() if is_pixels(name)]
    rest = [
        at for at, byte in enumerate(data)
        if byte and not any(r.offset <= at < r.offset + r.nbytes for r in pixels)
    ]  # fmt: skip
    draw = random.Random(0)
    for at in draw.sample(rest, 60):
        with copy.open("r+b") as file:
            file.seek(at)
            file.write(bytes([data[at] ^ 1 << draw.randrange(8)]))
            file.flush()
            try:
                assert not verify(copy, samples=2).sound, at
            except UsageError as error:
                assert str(copy) in str(error)
            file.seek(at)
            file.write(data[at : at + 1])


def test_hdf5_never_sees_a_damaged_structure(
    store: Store, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where it may crash or hang, so whoever opens the file is told before."""
    data = copy.read_bytes()
    pixels = [r for name, r in store.header.regions.items() if is_pixels(name)]
    rest = np.ones(len(data) - 8, bool)
    for region in pixels:
        rest[region.offset : region.offset + region.nbytes] = False
    monkeypatch.setattr(h5py, "File", lambda *_, **__: os.abort())
    for at in random.Random(0).sample(np.flatnonzero(rest).tolist(), 500):
        flip(copy, at)
        with pytest.raises(Damaged, match=r"copy.h5: attributes, index or digests were changed"):
            Header.read(copy)
        flip(copy, at)
    flip(copy, at)
    assert verify(copy).faults == ("copy.h5: attributes, index or digests were changed",)


@pytest.mark.parametrize("end", [lambda: os.abort(), lambda: time.sleep(60)])
def test_a_crash_or_a_hang_of_hdf5_is_a_refusal(
    copy: Path, monkeypatch: pytest.MonkeyPatch, end: Callable[[], None]
) -> None:
    """On what has no seal, such as half a copy."""
    copy.write_bytes(copy.read_bytes()[:-100] + bytes(100))
    monkeypatch.setattr("dilkit.confounders.format._PATIENCE", 0.5)
    monkeypatch.setattr("h5py.File", lambda *_, **__: end())
    for read in (verify, Header.read):
        with pytest.raises(UsageError, match="HDF5 cannot read it"):
            read(copy)


def test_a_dataset_that_another_program_wrote_to_is_refused(copy: Path) -> None:
    with h5py.File(copy, "r+") as file:
        file.attrs["note"] = "mine"
    with pytest.raises(UsageError, match="changed by another program"):
        len(Store(copy))


def test_pixels_that_are_not_what_the_recipe_makes_are_found(store: Store, copy: Path) -> None:
    """Pixels, digests and checksum agree with each other, but not with the seed."""
    view, digest = (store.header.regions[f"{group}/awgn(5)"] for group in ("distorted", "digest"))
    item = np.fromfile(copy, view.dtype, 32 * 32 * 3, offset=view.offset) + np.float32(0.01)
    with copy.open("r+b") as file:
        file.seek(view.offset)
        file.write(item.tobytes())
        file.seek(digest.offset)
        file.write(xxhash.xxh3_64_intdigest(item.data).to_bytes(8, "little"))
    layout.close_checksum(copy)
    verdict = verify(copy, samples=200)
    assert verdict.faults and "awgn(5) made again is not what is stored" in verdict.faults[0]


def test_virtual_datasets_are_verified_too(tmp_path: Path) -> None:
    path = augment("deadleaves:3@32", WORDS, tmp_path / "v.h5", tile=32, stride=32, storage="virtual").path
    assert verify(path).sound
    flip(path, Store(path).header.regions["clean"].offset + 7)
    faults = verify(path).faults
    assert any("clean pixels" in fault for fault in faults) and any("pixel hash" in fault for fault in faults)
