"""What is refused before anything is done, and images that are left out without a trace."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.confounders.build import augment
from dilkit.confounders.inspect import verify
from dilkit.confounders.store import Store
from dilkit.errors import UsageError


def refused(match: str, *words: object) -> None:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert isinstance(result.exception, UsageError), (result.exception, result.output)
    assert match in str(result.exception)


def test_an_image_that_is_left_out_decides_no_type(pictures: Path, tmp_path: Path) -> None:
    words = "awgn(5) | awgn(5) >> clip >> quantize | clip >> quantize"
    made = []
    for name in ("alone", "with"):
        folder = Path(shutil.copytree(pictures, tmp_path / name / "photos"))
        if name == "with":  # transparent, 16 bits a channel, and one too small for a tile
            cv2.imwrite(str(folder / "z.png"), np.full((64, 64, 4), 9000, np.uint16))
            cv2.imwrite(str(folder / "y.png"), np.full((8, 8, 3), 9000, np.uint16))
        out = tmp_path / f"{name}.h5"
        augment(folder, words, out, tile=32, small="skip" if name == "with" else "keep", workers=2)
        made.append(Store(out))
    assert made[1].clean(0).dtype == np.uint8 and len(made[0]) == len(made[1])
    assert [v.dtype for v in made[0].header.views] == [v.dtype for v in made[1].header.views]
    assert all(verify(store.path).sound for store in made)


def test_shards_keep_the_type_of_the_whole(pictures: Path, tmp_path: Path) -> None:
    cv2.imwrite(str(pictures / "0.png"), np.full((64, 64, 4), 9000, np.uint16))
    for k in (1, 2):
        built = augment(pictures, "awgn(5)", tmp_path / f"{k}.h5", tile=16, shard=(k, 2))
        assert Store(built.path).clean(0).dtype == np.float32
        assert len(built.failures) == (k == 1)


def test_a_preview_does_not_replace_a_photograph(pictures: Path) -> None:
    before = (pictures / "0.png").read_bytes()
    refused(
        "one of the sources",
        *("augment", pictures, "-d", "awgn(5)", "--tile", 16, "--preview", pictures / "0.png"),
    )
    assert (pictures / "0.png").read_bytes() == before


@pytest.mark.parametrize("shard", ["1/2", "2/2"])
def test_a_shard_that_can_never_be_merged_is_not_made(pictures: Path, tmp_path: Path, shard: str) -> None:
    words = ("augment", pictures, "-d", "awgn(5)", "-o", tmp_path / "s.h5", "--shard", shard)
    refused("1 images do not fill 2 shards", *words, "--limit", 1)
    result = CliRunner().invoke(app, [*map(str, words), "--tile", "999", "--small", "skip"])
    assert "smaller than a tile" in str(result.exception)


def test_nothing_is_added_where_something_cannot_be_dropped(store: Store, tmp_path: Path) -> None:
    path = Path(shutil.copy(store.path, tmp_path / "d.h5"))
    before = path.read_bytes()
    refused("has no confounder 'awgn(55)'", "augment", path, "--add", "awgn(6)", "--drop", "awgn(55)")
    assert path.read_bytes() == before


def test_a_leading_tilde_may_be_part_of_a_name(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures.rename(tmp_path / "~nobody-of-this-name")
    augment("~nobody-of-this-name", "awgn(5)", "~made.h5", tile=16)
    assert verify("~made.h5").sound


def test_a_dataset_that_is_still_being_made_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "x.h5.tmp").touch()
    with pytest.raises(UsageError, match="not finished"):
        len(Store(tmp_path / "x.h5"))


def test_a_licence_is_text(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="licence"):
        augment(pictures, "awgn(5)", tmp_path / "x.h5", tile=16, licence="\udcff")


def test_synthetic_images_of_two_sizes_have_two_names(tmp_path: Path) -> None:
    built = augment(["deadleaves:2@32", "deadleaves:2@48"], "awgn(5)", tmp_path / "x.h5", tile=16)
    sources = Store(built.path).index["source"]
    assert len(set(sources.tolist())) == 4
