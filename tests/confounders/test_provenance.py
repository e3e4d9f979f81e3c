"""Of every item: where it is from, under which licence, and in which split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dilkit.confounders.build import augment
from dilkit.confounders.combine import merge
from dilkit.confounders.images import dead_leaves
from dilkit.confounders.store import Store


def test_the_split_goes_by_image_and_by_its_name_alone(tmp_path: Path) -> None:
    source, settings = "deadleaves:400@16", {"tile": 8, "storage": "virtual", "allow_duplicates": True}

    def splits(limit: int, validation: float) -> dict[bytes, set[bytes]]:
        out = tmp_path / "x.h5"
        augment(source, "awgn(5)", out, limit=limit, validation=validation, overwrite=True, **settings)  # type: ignore[arg-type]
        index = Store(out).index
        found: dict[bytes, set[bytes]] = {}
        for name, split in zip(index["source"], index["split"], strict=True):
            found.setdefault(name, set()).add(split)
        return found

    whole, some, more = splits(400, 0.25), splits(100, 0.25), splits(400, 0.5)
    assert all(len(split) == 1 for split in whole.values())
    held_out = [name for name, split in whole.items() if split == {b"validation"}]
    assert 70 < len(held_out) < 130
    assert some.items() <= whole.items()
    assert all(more[name] == {b"validation"} for name in held_out)


def test_each_item_keeps_its_licence_and_a_joined_dataset_names_all(pictures: Path, tmp_path: Path) -> None:
    sources, settings = [str(pictures), "deadleaves:2@16"], {"tile": 16, "licence": "CC BY 4.0, me"}
    whole = Store(augment(sources, "awgn(5)", tmp_path / "w.h5", **settings).path)  # type: ignore[arg-type]
    theirs = np.char.startswith(whole.index["source"], b"pictures/")
    assert set(whole.index["licence"][theirs]) == {b"CC BY 4.0, me"}
    assert set(whole.index["licence"][~theirs]) == {b"CC0 (synthetic)"}
    parts = [tmp_path / f"{k}.h5" for k in (1, 2, 3)]
    for k, part in enumerate(parts, 1):
        augment(sources, "awgn(5)", part, shard=(k, 3), **settings)  # type: ignore[arg-type]
    joined = Store(merge(parts, tmp_path / "m.h5"))
    assert joined.attrs["licence"] == whole.attrs["licence"] == "CC BY 4.0, me; CC0 (synthetic)"


def test_images_that_were_left_out_stay_out_when_a_run_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(dead_leaves(0, i, 32)).save(folder / f"{i}.png")
    augment([folder / "0.png", folder / "2.png"], "awgn(5)", tmp_path / "two.h5", tile=16)
    whole = Store(tmp_path / "two.h5")
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:-500])
    out = tmp_path / "x.h5"

    def stop(phase: str, done: int, total: int) -> None:
        if phase == "distort":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        augment(folder, "awgn(5)", out, tile=16, progress=stop)
    built = augment(folder, "awgn(5)", out, tile=16)
    assert built.resumed and built.images == 2
    assert [failure.name for failure in built.failures] == ["images/1.png"]
    assert [name for name, _ in Store(out).left_out()] == ["images/1.png"] and not whole.left_out()
    for item in range(len(whole)):
        assert np.array_equal(Store(out).view(item, "awgn(5)"), whole.view(item, "awgn(5)"))
