"""Image files in and out with nothing lost: depth, grey, alpha, colour profile and EXIF.

Pixels are kept in the file's own type and orientation; a net sees parts of them as RGB float32.
"""

from __future__ import annotations

import errno
import shutil
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from dilkit.confounders.images import UnreadableImage, one_picture

LOSSLESS = {".png", ".tif", ".tiff", ".bmp"}
Array = npt.NDArray[Any]
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_ORIENTATION = 274
_TIFF_LAYOUT = {
    *range(254, 267), 273, *range(277, 282), 284, 317, 320, *range(322, 326), *range(330, 348), 34675,
}  # fmt: skip
"""Tags that say how the pixels of a TIFF lie in the file, and its profile: they hold for that file alone."""
_TIFF_TEXTS = (271, 272, 306, 315, 33432)
"""Make, model, date, artist, copyright."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image file as it is.

    Attributes:
        pixels: (H, W) grey or (H, W, 3) RGB, uint8, uint16 or float32.
        alpha: (H, W) of the same type, or None.
        profile, exif: bytes as the file holds them, or None.
        texts, turn: of a deep TIFF, the tags in plain text, by number, and the orientation.
    """

    pixels: Array
    alpha: Array | None
    profile: bytes | None
    exif: bytes | None
    texts: dict[int, str]
    turn: int = 1

    @property
    def scale(self) -> float:
        """The value of white."""
        return 1.0 if self.pixels.dtype == np.float32 else float(np.iinfo(self.pixels.dtype).max)

    @property
    def shape(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def part(self, rows: slice, columns: slice) -> npt.NDArray[np.float32]:
        """(h, w, 3) float32 in [0, 1]; grey is repeated."""
        cut = self.pixels[rows, columns].astype(np.float32)
        cut /= np.float32(self.scale)
        return np.repeat(cut[..., None], 3, axis=2) if cut.ndim == 2 else cut

    def rows_like(self, restored: npt.NDArray[np.float32]) -> Array:
        """Restored rows (n, w, 3) in the type and channels of the file."""
        values = restored.mean(axis=2) if self.pixels.ndim == 2 else restored
        if self.pixels.dtype == np.float32:
            return values.clip(0, 1)
        return np.rint(values.clip(0, 1) * self.scale).astype(self.pixels.dtype)


def read_picture(path: Path) -> Picture:
    """PNG, JPEG, TIFF, BMP or WebP.

    Raises:
        UnreadableImage: empty, cut short, of another format or colour space, or of several frames or pages.
    """
    with _no_pixel_limit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if path.stat().st_size == 0:
                raise UnreadableImage("the image file is empty (0 bytes)", where=path)
            with Pil.open(path, formats=_FORMATS) as image:
                return _read(path, one_picture(image, path))
        except FileNotFoundError:
            raise UnreadableImage("no such image", where=path) from None
        except UnidentifiedImageError:
            raise UnreadableImage(
                "not an image this program reads", where=path, expected="PNG, JPEG, TIFF, BMP or WebP"
            ) from None
        except (OSError, SyntaxError, ValueError, EOFError, SystemError, cv2.error) as error:
            raise UnreadableImage(f"cut short or damaged: {error}", where=path) from None


def _read(path: Path, image: Pil.Image) -> Picture:
    tags = getattr(image, "tag_v2", {})
    texts = {tag: str(tags[tag]) for tag in _TIFF_TEXTS if tag in tags}
    turn = int(tags.get(_ORIENTATION, 1))
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise UnreadableImage("colour space is not RGB", where=path, found=image.mode, expected="RGB or grey")
    if image.mode.startswith("I") or image.mode == "F" or _bits(path, image) > 8:
        pixels, alpha = _deep(path)
    else:
        pixels, alpha = _shallow(image)
    return Picture(pixels, alpha, image.info.get("icc_profile"), _exif(image), texts, turn)


def _exif(image: Pil.Image) -> bytes | None:
    found = image.getexif()
    for tag in _TIFF_LAYOUT:
        found.pop(tag, None)
    if image.format == "TIFF":
        found.pop(_ORIENTATION, None)  # Pillow turns a TIFF upright when it loads it
    return found.tobytes() if found else None


def _bits(path: Path, image: Pil.Image) -> int:
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(258, (1,))))  # type: ignore[attr-defined]
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24]
    return 8


def _shallow(image: Pil.Image) -> tuple[Array, Array | None]:
    if image.mode in ("1", "L"):
        return np.array(image.convert("L")), None
    if image.mode == "LA":
        both = np.array(image)
        return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])
    if image.mode == "RGB" and not image.has_transparency_data:
        return np.array(image), None
    if not image.has_transparency_data:
        return np.array(image.convert("RGB")), None
    both = np.array(image.convert("RGBA"))
    return np.ascontiguousarray(both[..., :3]), np.ascontiguousarray(both[..., 3])


def _deep(path: Path) -> tuple[Array, Array | None]:
    held = np.fromfile(path, np.uint8)
    _forget_turn(held)
    raw = cv2.imdecode(held, cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint16, np.float32):
        raise UnreadableImage("cannot be decoded at its full depth", where=path)
    if raw.ndim == 2 or raw.shape[2] == 1:
        return raw.reshape(raw.shape[:2]), None
    alpha = np.ascontiguousarray(raw[..., 3]) if raw.shape[2] == 4 else None
    return raw[..., 2::-1], alpha


def _forget_turn(held: npt.NDArray[np.uint8]) -> None:
    """Set the orientation of a TIFF in memory to upright, for OpenCV follows it half of the way."""
    file = held.data
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(bytes(file[:4]))
    if order is None:
        return
    (at,) = struct.unpack_from(order + "I", file, 4)
    (count,) = struct.unpack_from(order + "H", file, at)
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        if struct.unpack_from(order + "H", file, entry) == (_ORIENTATION,):
            struct.pack_into(order + "H", file, entry + 8, 1)


def write_picture(path: Path, picture: Picture) -> None:
    """Write under the format that the ending of `path` names: PNG, TIFF, BMP, JPEG or WebP (both at 95)."""
    suffix = path.suffix.lower()
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if picture.pixels.dtype == np.uint8:
            _write_shallow(partial, picture, suffix)
        elif suffix in (".tif", ".tiff"):
            _write_tiff(partial, picture)
        else:
            _write_deep_png(partial, picture)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_shallow(path: Path, picture: Picture, suffix: str) -> None:
    image = Pil.fromarray(picture.pixels)
    if picture.alpha is not None and suffix not in (".jpg", ".jpeg", ".bmp"):
        image.putalpha(Pil.fromarray(picture.alpha))
    options: dict[str, Any] = {"icc_profile": picture.profile, "exif": picture.exif or b""}
    if suffix in (".jpg", ".jpeg", ".webp"):
        options["quality"] = 95
    elif suffix in (".tif", ".tiff"):
        options["compression"] = "tiff_deflate"
    elif suffix == ".png":
        options["compress_level"] = 4
    image.save(path, **{name: value for name, value in options.items() if value})


def _write_deep_png(path: Path, picture: Picture) -> None:
    """OpenCV writes 16 bits a channel; the profile and EXIF are put in afterwards, behind the header."""
    pixels = picture.pixels
    if pixels.dtype == np.float32:
        pixels = np.rint(pixels * 65535).astype(np.uint16)
    bare = path.with_name(path.name + ".bare.png")
    try:
        if not cv2.imwrite(str(bare), _bgr(pixels, picture.alpha)):
            full = shutil.disk_usage(path.parent).free < pixels.nbytes
            raise OSError(errno.ENOSPC if full else errno.EIO, "cannot be written", str(path))
        with bare.open("rb") as source, path.open("wb") as target:
            target.write(source.read(33))  # signature and IHDR
            if picture.profile:
                target.write(_chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(picture.profile)))
            if picture.exif:
                target.write(_chunk(b"eXIf", picture.exif.removeprefix(b"Exif\0\0")))
            shutil.copyfileobj(source, target, 1 << 20)
    finally:
        bare.unlink(missing_ok=True)


def _write_tiff(path: Path, picture: Picture) -> None:
    """16 bits or float. Of EXIF, the plain-text tags are kept."""
    import tifffile

    pixels, alpha = picture.pixels, picture.alpha
    stacked = pixels if alpha is None else np.concatenate([np.atleast_3d(pixels), alpha[..., None]], axis=2)
    tifffile.imwrite(
        path,
        np.ascontiguousarray(stacked),
        photometric="rgb" if pixels.ndim == 3 else "minisblack",
        extrasamples=None if alpha is None else ["unassalpha"],
        iccprofile=picture.profile,
        compression="zlib",
        metadata=None,
        extratags=[
            *((tag, 2, 0, text, True) for tag, text in picture.texts.items()),
            (_ORIENTATION, 3, 1, picture.turn, True),
        ],
    )


def _bgr(pixels: Array, alpha: Array | None) -> Array:
    if alpha is None:
        return pixels if pixels.ndim == 2 else np.ascontiguousarray(pixels[..., ::-1])
    colour = np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels[..., ::-1]
    return np.concatenate([colour, alpha[..., None]], axis=2)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


@contextmanager
def _no_pixel_limit() -> Iterator[None]:
    """Pillow's guard against decompression bombs is for strangers' files; these are the user's own."""
    limit, Pil.MAX_IMAGE_PIXELS = Pil.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Pil.MAX_IMAGE_PIXELS = limit
