"""Read one image file exactly: true depth, no invented channel, no half-decoded picture."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from dilkit.errors import DilkitError

Pixels = npt.NDArray[Any]
"""(H, W, 3) RGB: uint8, or float32 in [0, 1] where the file holds more than 8 bits a channel."""

Alpha = Literal["refuse", "black", "grey", "white"]
"""What to do with a transparent image: refuse it, or lay it on a plain background."""

ALPHAS: tuple[Alpha, ...] = ("refuse", "black", "grey", "white")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp"})

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
_BACKGROUND = {"black": 0.0, "grey": 0.5, "white": 1.0}
_EXIF_ORIENTATION = 0x0112
_NEW_SUBFILE_TYPE = 254
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SAMPLE_FORMAT = 258, 281, 339


class UnreadableImage(DilkitError):
    """This one file cannot be used; others may go on."""


@dataclass(frozen=True)
class Header:
    """What is known without decoding: height and width as shown, bits per channel, floating point or not."""

    height: int
    width: int
    bits: int
    is_float: bool = False

    @property
    def eight_bit(self) -> bool:
        return self.bits <= 8


def read_header(path: str | Path) -> Header:
    """Size and depth of an image file; raises UnreadableImage."""
    with _open(Path(path)) as image:
        width, height = image.size
        if _orientation(image, Path(path)) >= 5:
            height, width = width, height
        bits, is_float = _depth(image, Path(path))
        return Header(height, width, bits, is_float)


def read_image(path: str | Path, *, alpha: Alpha = "refuse") -> Pixels:
    """Decode PNG, JPEG, TIFF, BMP or WebP to (H, W, 3) RGB, upright.

    Returns:
        uint8 for files of 8 bits a channel or fewer; float32 in [0, 1] for deeper ones, divided by their true
        maximum (65535, or the TIFF's MaxSampleValue). Grey is repeated over the channels. A fully opaque
        alpha channel is dropped, since it says nothing. The array may be read-only.

    Raises:
        UnreadableImage: empty, cut short, of another format, of several frames or pages, transparent with
            `alpha="refuse"`, or CMYK.
    """
    path = Path(path)
    with _open(path) as image:
        bits, _ = _depth(image, path)
        turn = _orientation(image, path)
        pixels = _jpeg(path) if image.format == "JPEG" and image.mode == "RGB" else None
        if pixels is None:
            _load(image, path)
            pixels = _deep(path, image, alpha) if bits > 8 else _shallow(path, image, alpha)
        return np.ascontiguousarray(_TURNS[turn](pixels)) if turn in _TURNS else pixels


def _open(path: Path) -> Pil.Image:
    try:
        if path.stat().st_size == 0:
            raise UnreadableImage("the image file is empty (0 bytes)", where=path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what matters is raised, here or when the pixels are decoded
            return one_picture(Pil.open(path, formats=_FORMATS), path)
    except FileNotFoundError:
        raise UnreadableImage("no such image", where=path) from None
    except UnidentifiedImageError:
        raise UnreadableImage(
            "not an image this program reads", where=path, expected="PNG, JPEG, TIFF, BMP or WebP"
        ) from None
    except Pil.DecompressionBombError as error:
        raise UnreadableImage(
            f"refused: {error}", where=path, remedy="cut it into smaller files first"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UnreadableImage(f"cannot be opened: {error}", where=path) from None


def one_picture(image: Pil.Image, path: Path) -> Pil.Image:
    """The image, if its file shows one picture; thumbnails and previews beside it do not count."""
    frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    if image.format == "TIFF" and frames > 1:
        frames = sum(not _page(image, k).get(_NEW_SUBFILE_TYPE, 0) & 1 for k in range(frames))
        image.seek(0)
    if frames > 1:
        raise UnreadableImage(
            "several pictures in one file",
            where=path,
            found=f"{frames} frames or pages",
            expected="one",
            remedy="save those that are meant as files of their own",
        )
    return image


def _page(image: Pil.Image, number: int) -> Any:
    image.seek(number)
    return image.tag_v2  # type: ignore[attr-defined]


def _orientation(image: Pil.Image, path: Path) -> int:
    """The EXIF orientation, 1 being upright; of a PNG, if it is written before the pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise UnreadableImage(f"damaged EXIF data: {error}", where=path) from None


def _load(image: Pil.Image, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image.load()
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UnreadableImage(f"cut short or damaged: {error}", where=path) from None


def _depth(image: Pil.Image, path: Path) -> tuple[int, bool]:
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
        is_float = 3 in tags.get(_SAMPLE_FORMAT, (1,))
        if bits not in (1, 2, 4, 8, 16) and not (is_float and bits == 32):
            raise UnreadableImage(
                "unusual TIFF depth", where=path, found=f"{bits} bits", expected="8, 16 or float32"
            )
        return bits, is_float
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24], False
    return 8, False


def _jpeg(path: Path) -> Pixels | None:
    """The pixels that Pillow decodes, in a third of its time; None where the decoder has to complain."""
    import simplejpeg

    try:
        return np.asarray(simplejpeg.decode_jpeg(path.read_bytes(), "RGB", fastdct=False, fastupsample=False))
    except ValueError:
        return None


def _shallow(path: Path, image: Pil.Image, alpha: Alpha) -> Pixels:
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        raise UnreadableImage("colour space is not RGB", where=path, found=image.mode, expected="RGB or grey")
    if not image.has_transparency_data:
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    rgba = np.array(image.convert("RGBA"))
    if (rgba[..., 3] == 255).all():
        return np.ascontiguousarray(rgba[..., :3])
    flat = _composite(path, rgba[..., :3] / 255.0, rgba[..., 3:] / 255.0, alpha)
    return np.rint(flat * 255).astype(np.uint8)


def _deep(path: Path, image: Pil.Image, alpha: Alpha) -> Pixels:
    """Pillow reduces 16-bit colour to 8 bits, so OpenCV decodes what Pillow has checked to be whole."""
    import cv2

    raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint16, np.float32):
        raise UnreadableImage("cannot be decoded at its full depth", where=path)
    raw = raw.reshape(*raw.shape[:2], -1)
    if raw.dtype == np.float32:
        scale = 1.0
        if not (np.isfinite(raw).all() and raw.min() >= 0 and raw.max() <= 1):
            raise UnreadableImage(
                "float values outside [0, 1]", where=path, found=f"{raw.min()} .. {raw.max()}"
            )
    else:
        scale = _true_maximum(image)
    values = raw.astype(np.float64) / scale
    if values.max() > 1:
        raise UnreadableImage(
            "values above the maximum the file declares", where=path, expected=f"<= {scale:g}"
        )
    channels = values.shape[2]
    colour = values[..., [2, 1, 0]] if channels >= 3 else np.repeat(values[..., :1], 3, axis=2)
    if channels in (2, 4) and not (values[..., -1] == 1).all():
        colour = _composite(path, colour, values[..., -1:], alpha)
    return np.ascontiguousarray(colour, np.float32)


_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def _true_maximum(image: Pil.Image) -> float:
    if image.format == "TIFF":
        declared = image.tag_v2.get(_MAX_SAMPLE_VALUE)  # type: ignore[attr-defined]
        if declared is not None:
            value = declared if isinstance(declared, int) else max(declared)
            if value > 255:
                return float(value)
    return 65535.0


def _composite(path: Path, colour: Pixels, opacity: Pixels, alpha: Alpha) -> Pixels:
    if alpha == "refuse":
        raise UnreadableImage(
            "the image is transparent", where=path, remedy="choose a background: --alpha black, grey or white"
        )
    return np.asarray(colour * opacity + _BACKGROUND[alpha] * (1 - opacity))
