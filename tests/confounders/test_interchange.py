"""What is exported is read by the field's readers, and comes back as the same pairs."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from dilkit.confounders.build import augment
from dilkit.confounders.images import read_image
from dilkit.confounders.interchange import export_store
from dilkit.confounders.store import Store
from dilkit.distortions import as_float
from dilkit.errors import DilkitError, UsageError

LABEL = "awgn(15)>>clip>>quantize"


DEEPINV = """
import importlib.abc, importlib.machinery, sys, types
class Nothing(types.ModuleType):
    __path__ = []
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})
class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
    def create_module(self, spec):
        return Nothing(spec.name)
    def exec_module(self, module):
        pass
sys.meta_path.append(Finder())
import numpy as np
from deepinv.datasets import HDF5Dataset
data = HDF5Dataset(sys.argv[1], train=True)
x, y = data[5][:2]
np.savez(sys.argv[2], count=len(data), x=x, y1=y[1])
"""
"""deepinv's own reader; torchvision, which it imports but does not use here, may be missing."""


def back(pairs: str, tmp_path: Path) -> Store:
    return Store(augment([], [], tmp_path / "back.h5", pairs=[pairs], tile=0, allow_duplicates=True).path)


def same(store: Store, again: Store, name: str) -> None:
    assert len(again) == len(store)
    for item in range(len(store)):
        assert np.array_equal(again.clean(item), store.clean(item))
        assert np.array_equal(again.view(item, name), store.view(item, LABEL))


def test_folders_are_those_of_basicsr(store: Store, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    made = export_store(store, tmp_path / "out", "folders", progress=lambda *both: told.append(both))
    assert made.items == 6 and told[-1] == (6, 6)
    assert made.names[LABEL] == "awgn_15_clip_quantize"
    assert set(made.rounded) == {"awgn(5)", "awgn(25)", "gaussian_blur(1)"}
    lq, gt = (sorted((tmp_path / "out" / n).iterdir()) for n in (made.names[LABEL], "clean"))
    assert [path.name for path in lq] == [path.name for path in gt]  # paired by name, as BasicSR wants
    assert np.array_equal(read_image(lq[2]), store.view(2, LABEL))
    rows = list(csv.DictReader((tmp_path / "out" / "index.csv").open()))
    assert rows[2]["source"] == store.index["source"][2].decode()
    about = json.loads((tmp_path / "out" / "confounders.json").read_text())
    assert about["confounders"]["awgn_5"]["expression"] == "awgn(5)"
    same(store, back(f"p={tmp_path}/out/clean:{tmp_path}/out/awgn_15_clip_quantize", tmp_path), "p")


def test_lmdb_is_read_as_basicsr_reads_it(store: Store, tmp_path: Path) -> None:
    """Its paired_paths_from_lmdb, its LmdbBackend and its imfrombytes, in a few lines."""
    lmdb = pytest.importorskip("lmdb")
    made = export_store(store, tmp_path / "out", "lmdb", labels=[LABEL])
    folders = [tmp_path / "out" / f"{name}.lmdb" for name in (made.names[LABEL], "clean")]
    keys = [[line.split(".")[0] for line in (f / "meta_info.txt").read_text().splitlines()] for f in folders]
    assert set(keys[0]) == set(keys[1])
    client = lmdb.open(str(folders[0]), readonly=True, lock=False, readahead=False)
    with client.begin(write=False) as transaction:
        value = bytes(transaction.get(keys[0][4].encode("ascii")))
    client.close()
    image = cv2.imdecode(np.frombuffer(value, np.uint8), cv2.IMREAD_COLOR).astype(np.float32) / 255.0
    assert np.array_equal(image[..., ::-1], as_float(store.view(4, LABEL)))
    same(store, back(f"p={folders[1]}:{folders[0]}", tmp_path), "p")
    (folders[0] / "meta_info.txt").unlink()
    with pytest.raises(UsageError, match=r"no meta_info.txt(.|\n)*--to lmdb"):
        back(f"p={folders[1]}:{folders[0]}", tmp_path)


def test_tar_files_are_read_by_webdataset(store: Store, tmp_path: Path) -> None:
    export_store(store, tmp_path / "out", "webdataset", labels=[LABEL])
    tar = tmp_path / "out" / "000000.tar"
    wds = pytest.importorskip("webdataset")
    name = "awgn_15_clip_quantize"
    read = wds.WebDataset(str(tar), shardshuffle=False).decode("rgb8").to_tuple("clean.png", f"{name}.png")
    samples = list(read)
    assert len(samples) == 6 and np.array_equal(samples[3][1], store.view(3, LABEL))
    same(store, back(f"p={tar}", tmp_path), "p")
    with tarfile.open(tmp_path / "no.tar", "w"):
        pass
    with pytest.raises(UsageError, match="holds no pairs"):
        back(f"p={tmp_path / 'no.tar'}", tmp_path)


def test_deepinv_reads_its_arrays(store: Store, tmp_path: Path) -> None:
    """The layout that deepinv's HDF5Dataset documents: x_train, and y0_train ... where `stacked` says so."""
    export_store(store, tmp_path / "d.h5", "deepinv", labels=[LABEL, "awgn(5)"], split="train")
    with h5py.File(tmp_path / "d.h5") as file:
        assert file.attrs["stacked"] == 2 and set(file) == {"x_train", "y0_train", "y1_train"}
        assert file["x_train"].shape == (6, 3, 32, 32) and file["x_train"].dtype == np.float32
        assert np.array_equal(file["y1_train"][5], store.view(5, "awgn(5)").transpose(2, 0, 1))
    again = back(f"p={tmp_path}/d.h5/x_train:{tmp_path}/d.h5/y1_train", tmp_path)
    assert np.array_equal(again.view(5, "p"), store.view(5, "awgn(5)"))
    if importlib.util.find_spec("deepinv") is None:
        pytest.skip("its own reader is not here: pip install --no-deps deepinv tqdm")
    done = subprocess.run([sys.executable, "-c", DEEPINV, tmp_path / "d.h5", tmp_path / "e.npz"], check=False)
    read = np.load(tmp_path / "e.npz")
    assert done.returncode == 0 and read["count"] == 6
    assert np.array_equal(read["x"], as_float(store.clean(5)).transpose(2, 0, 1))
    assert np.array_equal(read["y1"], store.view(5, "awgn(5)").transpose(2, 0, 1))


def test_wrong_exports_are_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: folders"):
        export_store(store, tmp_path / "x", "folder")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no confounder 'awgn"):
        export_store(store, tmp_path / "x", "folders", labels=["awgn(6)"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(UsageError, match="exists already"):
        export_store(store, tmp_path / "full", "folders")
    ragged = augment(["deadleaves:2@32", "deadleaves:1@48"], "awgn(5)", tmp_path / "r.h5", tile=0).path
    with pytest.raises(UsageError, match=r"images of one size(.|\n)*2 sizes"):
        export_store(ragged, tmp_path / "d.h5", "deepinv")
    assert export_store(ragged, tmp_path / "ragged", "folders").items == 3


@pytest.mark.parametrize(
    ("shape", "said"),
    [(None, "not an array of images"), ((2, 8), "not an array"), ((1, 3, 99999, 99999), "too large")],
)
def test_an_array_that_holds_no_images_is_named_and_not_read(
    shape: tuple[int, ...] | None, said: str, tmp_path: Path
) -> None:
    """A file of a few kB can declare an image of 30 GB."""
    with h5py.File(tmp_path / "d.h5", "w") as file:
        if shape is None:
            file.create_group("x/0")
        else:
            file.create_dataset("x", shape, "u1", chunks=True)
    with pytest.raises(DilkitError, match=said):
        back(f"p={tmp_path}/d.h5/x:{tmp_path}/d.h5/x", tmp_path)
