"""Which image files are read, exactly, and how those that are not are named."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, features

from dilkit.confounders.build import augment
from dilkit.confounders.images import UnreadableImage, dead_leaves, read_header, read_image
from dilkit.confounders.store import Store


def test_ppm_and_pgm_are_read(tmp_path: Path) -> None:
    image = dead_leaves(0, 0, 32)[:, :20]
    Image.fromarray(image).save(tmp_path / "a.ppm")
    assert np.array_equal(read_image(tmp_path / "a.ppm"), image)
    Image.fromarray(image[..., 0]).save(tmp_path / "a.pgm")
    assert np.array_equal(read_image(tmp_path / "a.pgm"), image[..., :1].repeat(3, 2))


def test_a_deep_ppm_is_read_at_its_full_depth(tmp_path: Path) -> None:
    values = np.arange(16 * 16 * 3, dtype=np.uint16).reshape(16, 16, 3) * 85
    cv2.imwrite(str(tmp_path / "a.ppm"), values[..., ::-1])
    assert read_header(tmp_path / "a.ppm").bits == 16
    assert np.array_equal(read_image(tmp_path / "a.ppm"), (values / 65535).astype(np.float32))


def test_avif_is_read_where_pillow_can(tmp_path: Path) -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    image = dead_leaves(0, 0, 64)
    Image.fromarray(image).save(tmp_path / "a.avif", quality=95)
    found = read_image(tmp_path / "a.avif")
    assert found.shape == image.shape and float(np.abs(found.astype(int) - image).mean()) < 6


@pytest.mark.parametrize("channels", [1, 3])
def test_float_tiff_is_read_as_it_is(tmp_path: Path, channels: int) -> None:
    values = np.random.default_rng(0).random((12, 20, channels), np.float32)
    values = values[..., 0] if channels == 1 else values
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack" if channels == 1 else "rgb")
    header = read_header(tmp_path / "a.tif")
    assert (header.height, header.width, header.bits) == (12, 20, 32)
    expected = values if channels == 3 else np.repeat(values[..., None], 3, 2)
    assert np.array_equal(read_image(tmp_path / "a.tif"), expected)
    tifffile.imwrite(tmp_path / "b.tif", values * 2, photometric="minisblack" if channels == 1 else "rgb")
    with pytest.raises(UnreadableImage, match="float values outside"):
        read_image(tmp_path / "b.tif")


def test_what_is_not_read_is_named_and_the_file_knows_how_many(pictures: Path, tmp_path: Path) -> None:
    for name in ("phone.heic", "camera.DNG", "moving.gif"):
        (pictures / name).write_bytes(b"something")
    (pictures / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (pictures / "notes.txt").touch()
    built = augment(pictures, "awgn(5)", tmp_path / "x.h5", tile=16)
    reasons = {failure.name: failure.reason for failure in built.failures}
    assert set(reasons) == {f"pictures/{n}" for n in ("phone.heic", "camera.DNG", "moving.gif", "gone.png")}
    assert ".heic files are not read" in reasons["pictures/phone.heic"]
    assert "leads nowhere" in reasons["pictures/gone.png"]
    assert len(Store(built.path).left_out()) == 4


def test_plain_hdf5_sees_items_of_any_size(pictures: Path, tmp_path: Path) -> None:
    """One odd image among others: `clean[i]` stays an image."""
    import h5py

    Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(pictures / "odd.png")
    for storage in ("stored", "virtual"):
        built = augment(
            pictures, "awgn(5) | downsample(2)", tmp_path / f"{storage}.h5", tile=0,
            storage=storage,  # type: ignore[arg-type]
        )  # fmt: skip
        store = Store(built.path)
        assert built.sizes == 2
        with h5py.File(built.path) as file:
            assert file["clean"].shape == (5, 48, 40, 3)
            for item in range(5):
                h, w = (int(file[f"index/{side}"][item]) for side in "hw")
                assert np.array_equal(file["clean"][item][:h, :w], store.clean(item))
                assert not file["clean"][item][h:].any() and not file["clean"][item][:, w:].any()
                if storage == "stored":
                    half = file["distorted/downsample(2)"][item][: h // 2, : w // 2]
                    assert np.array_equal(half, store.view(item, "downsample(2)"))


def test_sides_are_cut_to_a_multiple(pictures: Path, tmp_path: Path) -> None:
    Image.fromarray(dead_leaves(0, 0, 64)[:45, :37]).save(pictures / "odd.png")
    store = Store(augment(pictures, "downsample(2)", tmp_path / "x.h5", tile=0, crop_multiple=8).path)
    assert store.size(4) == (40, 32)
    assert np.array_equal(store.clean(4), read_image(pictures / "odd.png")[:40, :32])
