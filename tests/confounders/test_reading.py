"""Every format at its true depth, and no half-read picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg
import skimage.data
from PIL import Image

from dilkit.confounders.images import UnreadableImage, read_header, read_image


def gradient(height: int, width: int) -> np.ndarray:
    """(H, W, 3) float64 in [0, 1], every value different."""
    return np.linspace(0, 1, height * width * 3).reshape(height, width, 3)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
def test_lossless_formats_are_exact(tmp_path: Path, suffix: str) -> None:
    pixels = np.rint(gradient(8, 6) * 255).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    assert np.array_equal(read_image(tmp_path / f"a.{suffix}"), pixels)


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_lossy_formats_are_close(tmp_path: Path, suffix: str) -> None:
    pixels = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}", quality=95)
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - pixels).max() <= 4


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}]
)
def test_a_jpeg_has_the_pixels_that_pillow_decodes(
    tmp_path: Path, subsampling: str, options: dict[str, Any]
) -> None:
    photo = skimage.data.astronaut()
    for height, width, quality in ((61, 47, 30), (64, 5, 95), (1, 3, 75)):
        file = tmp_path / "a.jpg"
        crop = Image.fromarray(photo[100 : 100 + height, 200 : 200 + width])
        crop.save(file, quality=quality, subsampling=subsampling, **options)
        assert np.array_equal(read_image(file), np.asarray(Image.open(file)))


def test_a_jpeg_that_the_fast_decoder_complains_of_is_left_to_pillow(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    Image.fromarray(np.rint(gradient(64, 64) * 255).astype(np.uint8)).save(file, restart_marker_blocks=2)
    whole = file.read_bytes()
    file.write_bytes(whole.replace(b"\xff\xd1", b"\xff\xd5", 1))
    with pytest.raises(ValueError, match="Corrupt"):
        simplejpeg.decode_jpeg(file.read_bytes())
    assert np.array_equal(read_image(file), np.asarray(Image.open(file)))


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_scaled_by_65535(tmp_path: Path, suffix: str, channels: int) -> None:
    values = np.rint(gradient(8, 6) * 65535).astype(np.uint16)
    file = tmp_path / f"a.{suffix}"
    cv2.imwrite(str(file), values[..., 0] if channels == 1 else values[..., ::-1])
    expected = np.repeat(values[..., :1], 3, axis=2) if channels == 1 else values
    read = read_image(file)
    assert read.dtype == np.float32
    assert np.array_equal(read, (expected / 65535.0).astype(np.float32))
    assert read_header(file).bits > 8


def test_twelve_bits_in_sixteen_are_scaled_by_what_the_file_declares(tmp_path: Path) -> None:
    values = np.array([[0, 1024, 4095]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={281: 4095})
    assert np.array_equal(read_image(tmp_path / "a.tif")[0, :, 0], (values[0] / 4095).astype(np.float32))


def test_grey_and_palette_become_rgb(tmp_path: Path) -> None:
    grey = np.arange(48, dtype=np.uint8).reshape(6, 8)
    Image.fromarray(grey).save(tmp_path / "g.png")
    assert np.array_equal(read_image(tmp_path / "g.png"), np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(grey).convert("P").save(tmp_path / "p.png")
    assert np.array_equal(read_image(tmp_path / "p.png"), np.repeat(grey[..., None], 3, axis=2))


def test_transparency_is_refused_or_laid_on_a_background(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 200, 51
    Image.fromarray(rgba).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="--alpha"):
        read_image(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", alpha="black")[0, 0].tolist() == [40, 0, 0]
    assert read_image(tmp_path / "a.png", alpha="white")[0, 0].tolist() == [244, 204, 204]
    rgba[..., 3] = 255
    Image.fromarray(rgba).save(tmp_path / "opaque.png")
    assert read_image(tmp_path / "opaque.png")[0, 0].tolist() == [200, 0, 0]


def test_an_image_lying_on_its_side_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.rint(gradient(6, 4) * 255).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(pixels, -1))
    header = read_header(tmp_path / "a.png")
    assert (header.height, header.width) == (4, 6)


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp", "bmp"])
def test_a_truncated_image_is_refused_by_name(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    file.write_bytes(file.read_bytes()[:-1500])
    with pytest.raises(UnreadableImage, match=f"cut.{suffix}"):
        read_image(file)


def test_a_truncated_sixteen_bit_image_is_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 65535, (64, 64, 3), dtype=np.uint16)
    for suffix in ("png", "tif"):
        file = tmp_path / f"cut.{suffix}"
        cv2.imwrite(str(file), noise)
        file.write_bytes(file.read_bytes()[:-1500])
        with pytest.raises(UnreadableImage):
            read_image(file)


def test_empty_foreign_and_missing_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("not a picture")
    for name, reason in (("empty.png", "0 bytes"), ("text.png", "not an image"), ("none.png", "no such")):
        with pytest.raises(UnreadableImage, match=reason):
            read_image(tmp_path / name)


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_several_pictures_in_one_file_are_refused(tmp_path: Path, suffix: str) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), level, np.uint8)) for level in (0, 100, 200)]
    frames[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:])
    for read in (read_header, read_image):
        with pytest.raises(UnreadableImage, match="several pictures in one file") as caught:
            read(tmp_path / f"a.{suffix}")
        assert caught.value.found == "3 frames or pages"


def test_a_reduced_copy_beside_the_picture_does_no_harm(tmp_path: Path) -> None:
    pixels = np.rint(gradient(8, 6) * 255).astype(np.uint8)
    thumbnail = Image.fromarray(pixels[::2, ::2])
    thumbnail.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(pixels).save(tmp_path / "a.tif", save_all=True, append_images=[thumbnail])
    with Image.open(tmp_path / "a.tif") as saved:
        assert saved.n_frames == 2
    assert np.array_equal(read_image(tmp_path / "a.tif"), pixels)
    Image.fromarray(pixels).save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[thumbnail])
    assert read_image(tmp_path / "a.jpg").shape == pixels.shape


def test_a_picture_too_large_to_decode_safely_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="exceeds limit") as caught:
        read_header(tmp_path / "a.png")
    assert caught.value.remedy == "cut it into smaller files first"
