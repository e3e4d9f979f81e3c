"""`dilkit restore`: nothing lost, nothing overwritten, the rest done."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from dilkit.cli.app import app
from PIL import Image, ImageCms
from torch import Tensor, nn
from typer.testing import CliRunner

from dilkit.checkpoint import save_weights
from dilkit.errors import DilkitError, UsageError
from dilkit.inference.forward import Tiling
from dilkit.inference.image_files import read_picture
from dilkit.inference.restore import plan_jobs, restore, restore_picture
from dilkit.models import from_config
from dilkit.recipe import Recipe

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Image.Exif()
EXIF[0x010F] = "dilkit camera"
EXIF[0x0112] = 6


class Dim(nn.Module):
    """Halves every value, so that what was restored can be told from what was copied."""

    def forward(self, x: Tensor) -> Tensor:
        return x / 2


def random_pixels(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep" / "er").mkdir(parents=True)
    kept = {"icc_profile": PROFILE, "exif": EXIF.tobytes()}
    Image.fromarray(random_pixels((40, 50, 3))).save(folder / "rgb.png", **kept)
    Image.fromarray(random_pixels((40, 50))).save(folder / "grey.png", **kept)
    Image.fromarray(random_pixels((40, 50, 4))).save(folder / "alpha.png", **kept)
    Image.fromarray(random_pixels((40, 50, 2)), "LA").save(folder / "deep" / "greyalpha.png")
    Image.fromarray(random_pixels((40, 50, 3))).save(folder / "deep" / "photo.jpg", quality=90, **kept)
    Image.fromarray(random_pixels((40, 50, 3))).save(folder / "deep" / "er" / "scan.tif", **kept)
    Image.fromarray(random_pixels((40, 50, 3))).save(folder / "old.bmp")
    return folder


def test_structure_metadata_alpha_and_grey_are_kept(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    outcomes = restore(Dim(), photos, out, device="cpu")
    assert not [o.error for o in outcomes if o.error]
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names == {
        "rgb.png", "grey.png", "alpha.png", "deep/greyalpha.png", "deep/photo.png", "deep/er/scan.tif",
        "old.bmp",
    }  # fmt: skip
    for name in ("rgb.png", "grey.png", "alpha.png", "deep/photo.png", "deep/er/scan.tif"):
        with Image.open(out / name) as image:
            assert image.info["icc_profile"] == PROFILE, name
            assert image.getexif()[0x010F] == "dilkit camera", name
            upright = name.endswith(".tif")  # turned when it was loaded
            assert image.getexif().get(0x0112, 1) == (1 if upright else 6), name
    for outcome in outcomes:
        before, after = read_picture(outcome.job.source), read_picture(outcome.job.target)
        assert before.pixels.shape == after.pixels.shape
        assert np.abs(after.pixels - before.pixels / 2.0).max() <= 0.5 + 1e-4
        assert (before.alpha is None) == (after.alpha is None)
        if before.alpha is not None:
            np.testing.assert_array_equal(before.alpha, after.alpha)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3), (30, 40, 4)])
def test_sixteen_bits_stay_sixteen(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    pixels = random_pixels(shape, np.uint16)
    source = tmp_path / f"deep{suffix}"
    if suffix == ".tif":
        photometric = "rgb" if len(shape) == 3 else "minisblack"
        extra = ["unassalpha"] if shape[-1] == 4 else None
        tifffile.imwrite(
            source, pixels, photometric=photometric, extrasamples=extra, iccprofile=PROFILE,
            extratags=[(271, 2, 0, "dilkit camera", True), (274, 3, 1, 6, True)],
        )  # fmt: skip
    else:
        cv2.imwrite(str(source), pixels if pixels.ndim == 2 else pixels[..., [2, 1, 0, 3][: shape[2]]])
        with_profile(source)
    (outcome,) = restore(Dim(), source, tmp_path / "out", device="cpu")
    assert not outcome.error
    after = read_picture(outcome.job.target)
    assert after.pixels.dtype == np.uint16
    colour = pixels[..., :3] if pixels.ndim == 3 else pixels
    assert np.abs(after.pixels - colour / 2.0).max() <= 0.5 + 0.01
    if shape[-1] == 4:
        np.testing.assert_array_equal(after.alpha, pixels[..., 3])
    assert after.profile == PROFILE
    with Image.open(outcome.job.target) as image:
        assert image.getexif()[0x010F] == "dilkit camera"
        assert image.getexif()[0x0112] == 6


def with_profile(path: Path) -> None:
    """Give a PNG a profile and EXIF by the writer of another library."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    data = path.read_bytes()
    more = chunk(b"iCCP", b"x\0\0" + zlib.compress(PROFILE)) + chunk(b"eXIf", EXIF.tobytes()[6:])
    path.write_bytes(data[:33] + more + data[33:])


def test_tiled_equals_untiled_to_one_grey_level(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, padding=2), nn.ReLU(), nn.Conv2d(8, 3, 5, padding=2), nn.Sigmoid())
    source = tmp_path / "a.png"
    Image.fromarray(random_pixels((203, 317, 3))).save(source)
    picture = read_picture(source)
    whole = restore_picture(net, picture).pixels.astype(int)
    tiled = restore_picture(net, picture, tiling=Tiling(64, 8, 4)).pixels.astype(int)
    assert np.abs(whole - tiled).max() <= 1
    assert (whole == tiled).mean() > 0.99


def test_an_enlarging_net_enlarges_everything(tmp_path: Path) -> None:
    Image.fromarray(random_pixels((20, 30, 4))).save(tmp_path / "a.png")
    net = nn.Upsample(scale_factor=2)
    after = restore_picture(net, read_picture(tmp_path / "a.png"), tiling=Tiling(16, 2, 2))
    assert after.pixels.shape == (40, 60, 3)
    assert after.alpha is not None and after.alpha.shape == (40, 60)


def test_failures_are_named_and_the_rest_is_done(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.png").touch()
    (photos / "cut.png").write_bytes((photos / "rgb.png").read_bytes()[:2000])
    (photos / "text.jpg").write_text("no image")
    page = Image.fromarray(random_pixels((40, 50, 3)))
    page.save(photos / "pages.tif", save_all=True, append_images=[page])
    outcomes = restore(Dim(), photos, tmp_path / "out", device="cpu")
    failed = {o.job.source.name: o.error for o in outcomes if o.error}
    assert set(failed) == {"empty.png", "cut.png", "text.jpg", "pages.tif"}
    assert "0 bytes" in failed["empty.png"]
    assert "several pictures in one file" in failed["pages.tif"]
    assert sum(1 for p in (tmp_path / "out").rglob("*") if p.is_file()) == 7


def test_inputs_and_outputs_are_not_overwritten(photos: Path, tmp_path: Path) -> None:
    before = (photos / "rgb.png").read_bytes()
    with pytest.raises(UsageError, match="input would be overwritten"):
        restore(Dim(), photos, photos, device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    (out / "rgb.png").write_text("mine")
    with pytest.raises(UsageError, match="exist already"):
        restore(Dim(), photos, out, device="cpu")
    restore(Dim(), photos, out, device="cpu", existing="skip")
    assert (out / "rgb.png").read_text() == "mine"
    restore(Dim(), photos, out, device="cpu", existing="replace")
    assert (out / "rgb.png").read_bytes() != b"mine"
    assert (photos / "rgb.png").read_bytes() == before
    assert not list(out.rglob(".*"))


def test_a_file_is_no_place_for_several(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("psnr\n")
    with pytest.raises(UsageError, match="a folder"):
        restore(Dim(), photos, tmp_path / "rows.csv", device="cpu")
    assert (tmp_path / "rows.csv").read_text() == "psnr\n"


def test_names_that_meet_are_told_apart(photos: Path, tmp_path: Path) -> None:
    Image.fromarray(random_pixels((8, 8, 3))).save(photos / "rgb.jpg")
    targets = {job.source.name: job.target.name for job in plan_jobs(photos, tmp_path / "out")}
    assert {targets["rgb.png"], targets["rgb.jpg"]} == {"rgb.png", "rgb.jpg.png"} or (
        targets["rgb.jpg"] == "rgb.png" and targets["rgb.png"] == "rgb.png.png"
    )
    two = plan_jobs([photos / "deep", photos / "deep" / "er"], tmp_path / "out")
    assert {job.target.relative_to(tmp_path / "out").parts[0] for job in two} == {"deep", "er"}
    with pytest.raises(UsageError, match="no such"):
        plan_jobs(tmp_path / "none", tmp_path / "out")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = {"name": "dncnn", "depth": 3, "width": 4, "norm": "none"}
    recipe = Recipe.model_validate({"steps": 1, "model": model})
    path = tmp_path / "net.safetensors"
    save_weights(path, from_config(recipe.model), None, recipe, {})
    return path


def test_several_processes_do_the_same(tmp_path: Path, photos: Path, checkpoint: Path) -> None:
    one = restore(checkpoint, photos, tmp_path / "one", device="cpu")
    two = restore(checkpoint, photos, tmp_path / "two", device="cpu", processes=2)
    assert [o.error for o in one] == [o.error for o in two] == [""] * 7
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(read_picture(a.job.target).pixels, read_picture(b.job.target).pixels)


def test_the_command_says_what_failed(
    photos: Path, tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "empty.png").touch()
    args = ["restore", str(checkpoint), str(photos), "--out", str(tmp_path / "out")]
    with pytest.raises(DilkitError, match="1 of 8 images"):
        CliRunner().invoke(app, args, catch_exceptions=False)
    assert sum(1 for p in (tmp_path / "out").rglob("*") if p.is_file()) == 7
    args[1] = str(tmp_path / "none.safetensors")
    with pytest.raises(UsageError, match="no such checkpoint"):
        CliRunner().invoke(app, [*args, "--existing", "replace"], catch_exceptions=False)


def test_a_full_disk_ends_the_run_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dilkit.inference import restore as module

    for name in "abc":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((20, 20, 3), 99, np.uint8))
    write, written = module.write_picture, iter([None, OSError(errno.ENOSPC, "No space left on device")])

    def full(path: Path, picture: Any) -> None:
        error = next(written)
        if error is not None:
            raise error
        write(path, picture)

    monkeypatch.setattr(module, "write_picture", full)
    files = [tmp_path / f"{name}.png" for name in "abc"]
    with pytest.raises(DilkitError, match="no space left: 1 of 3 images were restored") as error:
        restore(nn.Identity(), files, tmp_path / "out", device="cpu")
    assert "--existing skip" in str(error.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.png"]
