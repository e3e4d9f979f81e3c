"""A dataset says what it is, holds true pairs, and is the same however it was made."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from dilkit.confounders.build import augment, plan_for
from dilkit.confounders.images import Alpha, FileImage, Pixels, dead_leaves, read_image
from dilkit.confounders.plan import Storage, storage_dtype
from dilkit.confounders.store import Store
from dilkit.distortions import REGISTRY, PrimitiveKind, SampleKey, as_float, awgn, parse, pixel_hash
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError, UsageError
from dilkit.registry import Entry

WORDS = "awgn[5, 25] | awgn(15) >> clip >> quantize | gaussian_blur(1)"


def test_views_are_the_word_applied_to_the_clean_tile(store: Store) -> None:
    assert len(store) == 6
    for label in store.labels:
        word = store.confounders[label]
        for item in range(len(store)):
            clean = store.clean(item)
            made = word.apply(as_float(clean), SampleKey(3, pixel_hash(clean)))
            assert np.array_equal(as_float(store.view(item, label)), made)


def test_only_the_expression_rounds(store: Store) -> None:
    dtypes = {view.label: view.dtype for view in store.header.views}
    assert dtypes == {
        "awgn(5)": "float32",
        "awgn(25)": "float32",
        "awgn(15)>>clip>>quantize": "uint8",
        "gaussian_blur(1)": "float32",
    }
    assert store.view(0, "awgn(25)").min() < 0


@pytest.mark.parametrize(
    ("word", "dtype"),
    [
        ("awgn(5)", "float32"),
        ("awgn(5) >> quantize", "float32"),
        ("awgn(5) >> quantize >> clip", "uint8"),
        ("awgn(5) >> clip >> quantize(bits=4)", "float32"),
        ("jpeg(30) >> clip", "uint8"),
        ("jpeg(30) >> awgn(5) >> clip", "float32"),
        ("clean", "uint8"),
    ],
)
def test_the_type_on_disk_loses_nothing(word: str, dtype: str) -> None:
    assert storage_dtype(parse(word), "uint8").name == dtype


def test_the_file_alone_says_how_to_make_it_again(store: Store, tmp_path: Path) -> None:
    with h5py.File(store.path) as file:
        attrs = dict(file.attrs)
        settings = json.loads(attrs["settings"])
        assert file["clean"].shape == (6, 32, 32, 3)
        assert set(file["distorted"]) == set(file["digest"]) == set(store.labels)
    again = tmp_path / "again.h5"
    augment("deadleaves:6@32", attrs["expression"], again, **settings)
    assert again.read_bytes() == store.path.read_bytes()


def test_any_number_of_workers_makes_the_same_file(pictures: Path, tmp_path: Path) -> None:
    made = []
    for workers in (1, 3):
        out = tmp_path / f"{workers}.h5"
        augment(pictures, WORDS, out, tile=16, stride=12, workers=workers)
        made.append(out.read_bytes())
    assert made[0] == made[1]


def test_images_of_several_sizes_are_kept_whole(pictures: Path, tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(pictures / "small.png")
    built = augment(pictures, "awgn(5)", tmp_path / "whole.h5", tile=0)
    store = Store(built.path)
    assert [store.size(i) for i in range(5)] == [(48, 40)] * 4 + [(20, 30)]
    assert np.array_equal(store.clean(2), read_image(pictures / "2.png"))
    assert np.array_equal(store.clean(4, Window(3, 4, 5, 6)), np.full((5, 6, 3), 77))
    assert store.view(4, "awgn(5)").shape == (20, 30, 3)
    assert store.index["source"][4] == b"pictures/small.png"


def test_small_images_are_kept_or_skipped_never_padded(pictures: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(pictures / "small.png")
    kept = augment(pictures, "awgn(5)", tmp_path / "a.h5", tile=32, stride=32)
    assert kept.items == 4 * 4 + 1
    skipped = augment(pictures, "awgn(5)", tmp_path / "b.h5", tile=32, stride=32, small="skip")
    assert skipped.items == 16 and skipped.skipped == ("pictures/small.png",)
    with pytest.raises(DilkitError, match="no image could be used"):
        augment(pictures / "small.png", "awgn(5)", tmp_path / "c.h5", tile=64, stride=64, small="skip")


def test_broken_images_are_named_and_the_rest_goes_on(pictures: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.h5"
    augment(pictures, "awgn(5)", whole, tile=16, stride=16)
    data = (pictures / "0.png").read_bytes()
    (pictures / "0b.png").write_bytes(data[: len(data) // 2])
    (pictures / "zero.png").touch()
    built = augment(pictures, "awgn(5)", tmp_path / "rest.h5", tile=16, stride=16, workers=2)
    assert [failure.name for failure in built.failures] == ["pictures/zero.png", "pictures/0b.png"]
    rest = Store(built.path)
    assert [name for name, _ in rest.left_out()] == ["pictures/zero.png", "pictures/0b.png"]
    assert all(np.array_equal(rest.index[name], column) for name, column in Store(whole).index.items())
    for item in range(len(rest)):
        assert np.array_equal(rest.view(item, "awgn(5)"), Store(whole).view(item, "awgn(5)"))
    for i in range(4):
        (pictures / f"{i}.png").unlink()
    with pytest.raises(DilkitError, match=r"0b\.png"):
        augment(pictures, "awgn(5)", tmp_path / "none.h5", tile=16, stride=16)
    assert not list(tmp_path.glob("none.h5*"))


def test_deep_sources_make_a_deep_dataset(tmp_path: Path) -> None:
    import cv2

    values = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) * 80
    cv2.imwrite(str(tmp_path / "deep.png"), values)
    Image.fromarray(np.full((16, 16, 3), 51, np.uint8)).save(tmp_path / "flat.png")
    store = Store(augment([tmp_path], "awgn(5)", tmp_path / "d.h5", tile=16, stride=16).path)
    assert store.clean(0).dtype == np.float32
    assert np.array_equal(store.clean(0), read_image(tmp_path / "deep.png"))
    assert store.clean(1)[0, 0, 0] == np.float32(0.2)


def test_the_reader_survives_pickling_fork_and_spawn(store: Store) -> None:
    expected = store.view(2, "awgn(5)", Window(3, 4, 5, 6)).tolist()
    copy = pickle.loads(pickle.dumps(store))  # noqa: S301
    assert copy.view(2, "awgn(5)", Window(3, 4, 5, 6)).tolist() == expected
    for method in ("fork", "spawn"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply(store.view, (2, "awgn(5)", Window(3, 4, 5, 6))).tolist() == expected


def test_a_worker_process_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("hello")
    with (
        multiprocessing.get_context("fork").Pool(1) as pool,
        pytest.raises(UsageError, match="not a whole HDF5 file"),
    ):
        pool.apply(len, (Store(tmp_path / "text.h5"),))


def test_wrong_questions_are_answered_by_name(store: Store) -> None:
    with pytest.raises(UsageError, match=r"did you mean: awgn\(25\)"):
        store.view(0, "awgn(26)")
    with pytest.raises(UsageError, match="leaves the item"):
        store.clean(0, Window(30, 0, 4, 4))
    with pytest.raises(UsageError, match="did you mean: train"):
        store.items("trian")


def test_files_that_are_no_dataset_are_named(store: Store, tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(store.path.read_bytes()[:-1000])
    with pytest.raises(UsageError, match="cut short"):
        len(Store(cut))
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(UsageError, match="not a whole HDF5 file"):
        len(Store(tmp_path / "text.h5"))
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UsageError, match="not a dilkit dataset"):
        len(Store(tmp_path / "other.h5"))
    older = tmp_path / "older.h5"
    shutil.copy(store.path, older)
    with h5py.File(older, "r+") as file:
        file.attrs["layout"] = 0
    with pytest.raises(UsageError, match="another layout"):
        len(Store(older))
    with pytest.raises(UsageError, match="no such dataset"):
        len(Store(tmp_path / "none.h5"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tile": 8, "stride": 9}, "skip pixels"),
        ({"seed": -1}, "seed"),
        ({"limit": 0}, "limit"),
        ({"storage": "visual"}, "storage"),
        ({"coupling": "none"}, "coupling"),
    ],
)
def test_senseless_settings_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        augment("deadleaves:1@16", "awgn(5)", tmp_path / "x.h5", **({"tile": 16, "stride": 16} | change))


@pytest.mark.parametrize(
    "words",
    [
        "resize_to(height=24, width=24)",
        "mix(clean, downsample(2))",
        "resize(uniform(0.5, 1))",
        "resize(2)",
        "alb('RandomCrop', height=32, width=32, spatial=True)",
    ],
)
def test_a_word_whose_size_is_not_always_the_same_share_is_refused(tmp_path: Path, words: str) -> None:
    with pytest.raises(
        UsageError, match=r"(no whole number of clean pixels|of several sizes)(.|\n)*of='clean'"
    ):
        augment("deadleaves:2@64", words, tmp_path / "x.h5", tile=32, stride=32)
    augment("deadleaves:2@64", f"{words} >> resize(1, of='clean')", tmp_path / "x.h5", tile=32, stride=32)


@pytest.mark.parametrize("storage", ["stored", "virtual"])
def test_a_rare_branch_of_another_size_is_refused_before_the_first_image(
    tmp_path: Path, storage: Storage
) -> None:
    """One in a hundred images would be twice as large."""
    with pytest.raises(UsageError, match=r"several sizes(.|\n)*resize\(1, of='clean'\)"):
        augment("deadleaves:4@32", "mix(100*clip, resize(2))", tmp_path / "x.h5", tile=16, storage=storage)
    assert not list(tmp_path.iterdir())


def test_what_is_written_of_a_dataset_may_be_long_but_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(dead_leaves(0, 0, 16)).save(tmp_path / "a.png")
    licence = "free " * 20_000
    store = Store(augment(tmp_path / "a.png", "awgn(5)", tmp_path / "x.h5", licence=licence).path)
    assert store.attrs["licence"] == licence
    monkeypatch.setattr("dilkit.distortions.grammar.MAX_TEXT", 6)
    with pytest.raises(UsageError, match=r"expression: .*too many to be read again"):
        augment(tmp_path / "a.png", awgn(5), tmp_path / "y.h5")


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "large disk").mkdir()
    target, link = tmp_path / "large disk" / "x.h5", tmp_path / "x.h5"
    link.symlink_to(target)
    for overwrite in (False, True):
        built = augment("deadleaves:1@16", "awgn(5)", link, overwrite=overwrite)
        assert built.path == target and link.is_symlink() and len(Store(target)) == 1


def test_a_large_image_is_read_once_for_all_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    load = FileImage.load

    def counted(image: FileImage, alpha: Alpha) -> Pixels:
        read.append(image.name)
        return load(image, alpha)

    monkeypatch.setattr(FileImage, "load", counted)
    monkeypatch.setattr("dilkit.confounders.plan.PART_PIXELS", 64 * 16 * 16)
    for name in ("a.png", "b.png"):
        Image.fromarray(dead_leaves(1, ord(name[0]), 256)).save(tmp_path / name)
    sources = [tmp_path / "a.png", tmp_path / "b.png"]
    built = augment(sources, "clean", tmp_path / "x.h5", tile=16, stride=16)
    assert built.items == 512 and len(plan_for(sources, "clean", tile=16, stride=16)[0].parts) == 8
    assert read == ["a.png", "b.png"]


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    (tmp_path / "there.h5").touch()
    with pytest.raises(UsageError, match="--overwrite"):
        augment("deadleaves:1@16", "awgn(5)", tmp_path / "there.h5")
    augment("deadleaves:1@16", "awgn(5)", tmp_path / "there.h5", overwrite=True)
    assert len(Store(tmp_path / "there.h5")) == 1
    with pytest.raises(UsageError, match="a folder"):
        augment("deadleaves:1@16", "awgn(5)", tmp_path)
    (tmp_path / "photo.png").write_bytes(b"somebody's picture")
    os.mkfifo(tmp_path / "pipe")
    for name in ("photo.png", "pipe"):
        with pytest.raises(UsageError, match="is not a dataset"):
            augment("deadleaves:1@16", "awgn(5)", tmp_path / name, overwrite=True)
    with pytest.raises(UsageError, match="cannot write there"):
        augment("deadleaves:1@16", "awgn(5)", tmp_path / "there.h5" / "x.h5")
    with pytest.raises(UsageError, match="no distortion"):
        augment("deadleaves:1@16", "none", tmp_path / "none.h5")


def test_a_dataset_of_a_plugin_that_is_not_here_reads_but_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = PrimitiveKind("tape", "", "", "", (), lambda image, params, draw: 1 - image)
    with monkeypatch.context() as patch:
        patch.setitem(REGISTRY._entries, "tape", Entry("tape", kind, "a test"))
        store = Store(augment("deadleaves:1@32", "tape", tmp_path / "x.h5", tile=32, stride=32).path)
    assert store.view(0, "tape").shape == (32, 32, 3)
    with pytest.raises(DilkitError, match=r"x.h5: the distortion 'tape' cannot be made here(.|\n)*plug-in"):
        store.word("tape")
