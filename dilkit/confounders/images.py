"""Where images come from and how they are read: files, folders, globs, real pairs, synthetic ones.

A file is read exactly: true depth, no invented channel, no half-decoded picture.
"""

from __future__ import annotations

import csv
import glob
import importlib.resources
import json
import math
import os
import re
import struct
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from PIL import UnidentifiedImageError

from dilkit.confounders.scenes import scene
from dilkit.distortions.render import MAX_PIXELS, as_float
from dilkit.errors import DilkitError, UsageError, expanded, nearest
from dilkit.libraries import cv2, np, npt, simplejpeg
from dilkit.libraries import pillow as Pil

Pixels: TypeAlias = "npt.NDArray[Any]"
"""(H, W, 3) RGB: uint8, or float32 in [0, 1] where the file holds more than 8 bits a channel."""

Alpha = Literal["refuse", "black", "grey", "white"]
"""What to do with a transparent image: refuse it, or lay it on a plain background."""

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".ppm", ".pgm", ".avif"))
"""Of the files that are read."""
NOT_READ = frozenset(
    (".heic", ".heif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2", ".jp2", ".j2k",
     ".jxl", ".exr", ".hdr", ".pfm", ".gif", ".tga", ".psd")
)  # fmt: skip
"""Of the image files that are not read, and named where they are met."""

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "PPM", "AVIF")
_BACKGROUND = {"black": 0.0, "grey": 0.5, "white": 1.0}
_EXIF_ORIENTATION = 0x0112
_NEW_SUBFILE_TYPE = 254
_BITS_PER_SAMPLE, _MAX_SAMPLE_VALUE, _SAMPLE_FORMAT = 258, 281, 339


class UnreadableImage(DilkitError):
    """This one file cannot be used; others may go on."""


class ImageHeader(NamedTuple):
    """What is known without decoding: height and width as shown, bits per channel."""

    height: int
    width: int
    bits: int


def read_header(path: str | Path) -> ImageHeader:
    """Size and depth of an image file; raises UnreadableImage."""
    path = Path(path)
    try:
        opened = _open(path)
    except UnreadableImage:
        if (shape := _float_tiff(path)) is None:
            raise
        return ImageHeader(shape[0], shape[1], 32)
    with opened as image:
        width, height = image.size
        if _orientation(image, path) >= 5:
            height, width = width, height
        return ImageHeader(height, width, _depth(image, path))


def read_image(path: str | Path, *, alpha: Alpha = "refuse") -> Pixels:
    """Decode PNG, JPEG, TIFF, BMP, WebP, PPM, PGM or AVIF to (H, W, 3) RGB, upright.

    Returns:
        uint8 for files of 8 bits a channel or fewer; float32 in [0, 1] for deeper ones, divided by their true
        maximum (65535, the TIFF's MaxSampleValue, the PPM's own), and for TIFF files of float32 as it is.
        Grey is repeated over the channels. A fully opaque alpha channel is dropped, since it says nothing.
        The array may be read-only.

    Raises:
        UnreadableImage: empty, cut short, of another format, of several frames or pages, transparent with
            `alpha="refuse"`, or CMYK.
    """
    path = Path(path)
    try:
        opened = _open(path)
    except UnreadableImage:
        if _float_tiff(path) is None:
            raise
        return _read_float_tiff(path, alpha)
    with opened as image:
        bits = _depth(image, path)
        turn = _orientation(image, path)
        pixels = _jpeg(path) if image.format == "JPEG" and image.mode == "RGB" else None
        if pixels is None:
            with _named(path, "cut short or damaged"):
                image.load()
            pixels = _deep(path, image, alpha) if bits > 8 else _shallow(path, image, alpha)
        return np.ascontiguousarray(_TURNS[turn](pixels)) if turn in _TURNS else pixels


@contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Whatever a decoder raises becomes an UnreadableImage; what it only warns of is dropped."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (OSError, SyntaxError, ValueError, EOFError, struct.error) as error:
        raise UnreadableImage(f"{what}: {error}", where=path) from None


def _open(path: Path) -> Pil.Image:
    if path.suffix.lower() in NOT_READ:
        raise UnreadableImage(
            f"{path.suffix} files are not read",
            where=path,
            remedy="convert it, to PNG or TIFF for more than 8 bits a channel",
        )
    if path.is_symlink() and not path.exists():
        raise UnreadableImage("a link that leads nowhere", where=path)
    with _named(path, "cannot be opened"):
        try:
            if path.stat().st_size == 0:
                raise UnreadableImage("the image file is empty (0 bytes)", where=path)
            return one_picture(Pil.open(path, formats=_FORMATS), path)
        except FileNotFoundError:
            raise UnreadableImage("no such image", where=path) from None
        except UnidentifiedImageError:
            raise UnreadableImage(
                "not an image this program reads",
                where=path,
                expected="PNG, JPEG, TIFF, BMP, WebP, PPM, PGM or AVIF",
            ) from None
        except Pil.DecompressionBombError as error:
            raise UnreadableImage(
                f"refused: {error}", where=path, remedy="cut it into smaller files first"
            ) from None


def one_picture(image: Pil.Image, path: Path) -> Pil.Image:
    """The image, if its file shows one picture; thumbnails and previews beside it do not count."""
    frames = 1 if image.format in ("JPEG", "MPO") else getattr(image, "n_frames", 1)
    if image.format == "TIFF" and frames > 1:
        kinds = []
        for k in range(frames):
            image.seek(k)
            kinds.append(image.tag_v2.get(_NEW_SUBFILE_TYPE, 0))  # type: ignore[attr-defined]
        image.seek(0)
        frames = sum(not kind & 1 for kind in kinds)
    if frames > 1:
        raise UnreadableImage(
            "several pictures in one file",
            where=path,
            found=f"{frames} frames or pages",
            expected="one",
            remedy="save those that are meant as files of their own",
        )
    return image


def _orientation(image: Pil.Image, path: Path) -> int:
    """The EXIF orientation, 1 being upright; of a PNG, if it is written before the pixels."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1
    with _named(path, "damaged EXIF data"):
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))


def _depth(image: Pil.Image, path: Path) -> int:
    """Bits per channel."""
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = max(tags.get(_BITS_PER_SAMPLE, (1,)))
        is_float = 3 in tags.get(_SAMPLE_FORMAT, (1,))
        if bits not in (1, 2, 4, 8, 16) and not (is_float and bits == 32):
            raise UnreadableImage(
                "unusual TIFF depth", where=path, found=f"{bits} bits", expected="8, 16 or float32"
            )
        return int(bits)
    with path.open("rb") as file:
        head = file.read(4096)
    if image.format == "PNG":
        return head[24]
    if image.format == "PPM":
        return 16 if _ppm_maximum(head) > 255 else 8
    if image.format == "AVIF" and (found := re.search(rb"av1C..(.)", head, re.DOTALL)) and found[1][0] & 0x40:
        raise UnreadableImage("AVIF of more than 8 bits a channel", where=path, remedy="convert it to PNG")
    return 8


def _ppm_maximum(head: bytes) -> int:
    """The greatest value of a PPM or PGM file, from its first bytes."""
    fields_ = re.sub(rb"#[^\n]*", b"", head).split(maxsplit=4)
    return int(fields_[3]) if len(fields_) > 3 and fields_[3].isdigit() else 255


def _float_tiff(path: Path) -> tuple[int, ...] | None:
    """The shape of a TIFF file of 32-bit floating point colours, which Pillow does not open; else None."""
    if path.suffix.lower() not in (".tif", ".tiff") or not path.is_file():
        return None
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            ours = len(file.pages) == 1 and page.dtype == np.float32 and page.planarconfig == 1
            return page.shape if ours and len(page.shape) == 3 and page.shape[2] in (3, 4) else None
    except (tifffile.TiffFileError, OSError, ValueError, IndexError, KeyError, struct.error):
        return None


def _read_float_tiff(path: Path, alpha: Alpha) -> Pixels:
    import tifffile

    with _named(path, "cut short or damaged"):
        try:
            return np.ascontiguousarray(_colour(path, np.asarray(tifffile.imread(path)), 1.0, alpha))
        except tifffile.TiffFileError as error:
            raise ValueError(error) from None


def _jpeg(path: Path) -> Pixels | None:
    """The pixels that Pillow decodes, in a third of its time; None where the decoder has to complain."""
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
    raw = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype not in (np.uint16, np.float32):
        raise UnreadableImage("cannot be decoded at its full depth", where=path)
    raw = raw.reshape(*raw.shape[:2], -1)
    if raw.shape[2] >= 3:
        raw = raw[..., [2, 1, 0, *range(3, raw.shape[2])]]
    maximum = 1.0 if raw.dtype == np.float32 else _true_maximum(image, path)
    return np.ascontiguousarray(_colour(path, raw, maximum, alpha), np.float32)


def _colour(path: Path, raw: Pixels, maximum: float, alpha: Alpha) -> Pixels:
    """RGB in [0, 1] from grey, RGB or either with alpha as they are stored."""
    if raw.dtype == np.float32 and not (np.isfinite(raw).all() and raw.min() >= 0 and raw.max() <= 1):
        raise UnreadableImage("float values outside [0, 1]", where=path, found=f"{raw.min()} .. {raw.max()}")
    values = raw.astype(np.float64) / maximum
    if values.max() > 1:
        raise UnreadableImage(
            "values above the maximum the file declares", where=path, expected=f"<= {maximum:g}"
        )
    channels = values.shape[2]
    colour = values[..., :3] if channels >= 3 else np.repeat(values[..., :1], 3, axis=2)
    if channels in (2, 4) and not (values[..., -1] == 1).all():
        colour = _composite(path, colour, values[..., -1:], alpha)
    return np.asarray(colour, np.float32)


_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1),
}


def _true_maximum(image: Pil.Image, path: Path) -> float:
    if image.format == "PPM":
        with path.open("rb") as file:
            return float(_ppm_maximum(file.read(4096)))
    declared = image.tag_v2.get(_MAX_SAMPLE_VALUE, 0) if image.format == "TIFF" else 0  # type: ignore[attr-defined]
    greatest = declared if isinstance(declared, int) else max(declared)
    return float(greatest) if greatest > 255 else 65535.0


def _composite(path: Path, colour: Pixels, opacity: Pixels, alpha: Alpha) -> Pixels:
    if alpha == "refuse":
        raise UnreadableImage(
            "the image is transparent", where=path, remedy="choose a background: --alpha black, grey or white"
        )
    return np.asarray(colour * opacity + _BACKGROUND[alpha] * (1 - opacity))


# -- Clean images -----------------------------------------------------------------------------------------

_DISCS = 1500
_SMALLEST = 6.0
_OVER = 2
"""Discs are drawn at twice the size and averaged, so that their edges are anti-aliased."""


def dead_leaves(seed: int, index: int, size: int = 256) -> npt.NDArray[np.uint8]:
    """The `index`-th image of a seeded family of occluding discs: (size, size, 3) uint8 RGB.

    The radii follow a power law, so that edges are as in photographs. Source: Lee, Mumford and Huang,
    "Occlusion models for natural images", IJCV 2001 (radii with density r**-3).
    """
    key = int.from_bytes(blake2b(f"dead-leaves-1/{seed}/{index}/{size}".encode(), digest_size=16).digest())
    uniform = (np.random.PCG64(key).random_raw(7 * _DISCS + 3) >> np.uint64(11)) * 2.0**-53
    big = size * _OVER
    u = uniform[: 7 * _DISCS].reshape(7, _DISCS)
    largest = big / 3
    radius = 1 / np.sqrt(1 / _SMALLEST**2 - u[0] * (1 / _SMALLEST**2 - 1 / largest**2))
    x, y = u[1] * big, u[2] * big
    light = 0.05 + 0.9 * u[3]
    hue = 0.6 * (u[4:7] - 0.5) * (1 - light)
    colours = np.clip(255 * (light + hue), 0, 255)
    canvas = np.empty((big, big, 3), np.uint8)
    canvas[:] = np.rint(255 * uniform[-3:])
    for r, cx, cy, colour in zip(radius, x, y, colours.T, strict=True):
        cv2.circle(canvas, (round(cx), round(cy)), round(r), colour.tolist(), thickness=-1)
    return np.asarray(cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


_SAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (
        ("astronaut.png", "public domain (NASA)"),
        ("hubble_deep_field.jpg", "public domain (NASA, ESA)"),
        ("motorcycle_left.png", "Middlebury 2014 stereo benchmark, licence not stated"),
        ("rocket.jpg", "public domain (SpaceX)"),
    ),
    "test": (
        ("chelsea.png", "CC0 (Stefan van der Walt)"),
        ("coffee.png", "CC0 (Rachel Michetti)"),
    ),
    "free": (
        ("astronaut.png", "public domain (NASA)"),
        ("rocket.jpg", "public domain (SpaceX)"),
        ("brick.png", "CC0 (CC0Textures)"),
        ("camera.png", "CC0 (Lav Varshney)"),
        ("grass.png", "CC0 (linolafett)"),
        ("gravel.png", "CC0 (CC0Textures)"),
    ),
}
"""The colour photographs among scikit-image's bundled images; the split is fixed for ever. `free`: what a net
that is given away may be trained on, grey textures too, and nothing of the split `test`."""

_GENERATED = re.compile(r"(deadleaves|scenes):(\d+)(?:@(\d+))?")


class CleanImage(Protocol):
    """One clean image that can be sized without decoding and decoded in any process (picklable)."""

    @property
    def name(self) -> str: ...
    @property
    def licence(self) -> str: ...
    @property
    def stamp(self) -> str: ...
    def header(self) -> ImageHeader: ...
    def load(self, alpha: Alpha) -> Pixels: ...


def _state(file: Path) -> str:
    """What changes with a file: its size and when it was written."""
    try:
        state = file.stat()
    except OSError:
        return "gone"
    return f"{state.st_size}-{state.st_mtime_ns}"


@dataclass(frozen=True)
class FileImage:
    """An image file; `name` is what the dataset remembers of its path."""

    name: str
    path: Path
    licence: str = ""

    @classmethod
    def of(cls, name: str, path: Path, licence: str) -> FileImage:
        """With a name that can be printed and stored, whatever bytes the path is made of."""
        return cls("".join(c if c.isprintable() else repr(c)[1:-1] for c in name), path, licence)

    @property
    def stamp(self) -> str:
        return _state(self.path)

    def header(self) -> ImageHeader:
        return read_header(self.path)

    def load(self, alpha: Alpha) -> Pixels:
        return read_image(self.path, alpha=alpha)


@dataclass(frozen=True)
class SyntheticImage:
    """A synthetic image, made when it is loaded: `deadleaves`, or `scenes` with shading, texture and defocus
    (see `dilkit.confounders.scenes`)."""

    kind: str
    seed: int
    index: int
    size: int
    number: int = 1
    licence: str = "CC0 (synthetic)"
    stamp: str = ""

    @property
    def name(self) -> str:
        return f"{self.kind}/{self.index:06d}" + (f"#{self.number}" if self.number > 1 else "")

    def header(self) -> ImageHeader:
        return ImageHeader(self.size, self.size, 8)

    def load(self, alpha: Alpha) -> Pixels:
        return (dead_leaves if self.kind == "deadleaves" else scene)(self.seed, self.index, self.size)


@dataclass(frozen=True)
class StoredImage:
    """An image inside a container: an LMDB folder, an HDF5 file (one array a split), a tar file.

    Attributes:
        key: of HDF5, ARRAY/NUMBER.
    """

    name: str
    container: Path
    key: str
    licence: str = ""

    @property
    def stamp(self) -> str:
        return _state(self.container / "data.mdb" if self.container.is_dir() else self.container)

    def header(self) -> ImageHeader:
        pixels = self.load("black")
        return ImageHeader(pixels.shape[0], pixels.shape[1], 8 if pixels.dtype == np.uint8 else 32)

    def load(self, alpha: Alpha) -> Pixels:
        if self.container.suffix.lower() in HDF5_SUFFIXES:
            return _from_hdf5(self.container, self.key)
        data = _bytes_of(self.container, self.key)
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        where = f"{self.container}: {self.key}"
        if raw is None or raw.dtype not in (np.uint8, np.uint16):
            raise UnreadableImage("not an image", where=where)
        raw = raw.reshape(*raw.shape[:2], -1)
        if raw.shape[2] == 4:
            raise UnreadableImage("the image has an alpha channel", where=where)
        rgb = np.ascontiguousarray(raw[..., ::-1] if raw.shape[2] == 3 else raw[..., :1].repeat(3, axis=2))
        return rgb if rgb.dtype == np.uint8 else (rgb / 65535).astype(np.float32)


HDF5_SUFFIXES = (".h5", ".hdf5")


def _from_hdf5(path: Path, key: str) -> Pixels:
    """An item of an array (N, 3, H, W), as deepinv keeps them, or (N, H, W, 3)."""
    import h5py

    array, _, number = key.rpartition("/")
    with h5py.File(path, "r", locking=False) as file:
        images = file[array]
        shape = getattr(images, "shape", ())  # a group has none
        if len(shape) != 4 or images.dtype not in (np.uint8, np.float32, np.float64):
            raise UnreadableImage("not an array of images", where=f"{path}: {key}", found=shape)
        if math.prod(shape[1:]) > 3 * MAX_PIXELS:
            raise UnreadableImage("the image is too large", where=f"{path}: {key}", found=shape)
        values = np.asarray(images[int(number)])
    if values.shape[0] in (1, 3) and values.shape[2] != 3:
        values = values.transpose(1, 2, 0)
    if values.shape[2] == 1:
        values = values.repeat(3, axis=2)
    return np.ascontiguousarray(values if values.dtype == np.uint8 else values.astype(np.float32))


def _bytes_of(container: Path, key: str) -> bytes:
    if container.is_dir():
        with _lmdb(container, os.getpid()).begin() as transaction:
            found = transaction.get(key.encode())
    else:
        with tarfile.open(container) as archive:
            member = archive.extractfile(key)
            found = member.read() if member is not None else None
    if found is None:
        raise UnreadableImage("no such image in it", where=container, found=key)
    return bytes(found)


@lru_cache(maxsize=8)
def _lmdb(folder: Path, process: int) -> Any:
    """An open LMDB folder; one for each process, since a handle must not cross a fork."""
    try:
        import lmdb
    except ImportError:
        raise UsageError(
            "reading LMDB needs the lmdb package", where=folder, remedy="pip install lmdb"
        ) from None
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UsageError(f"not an LMDB folder: {error}", where=folder) from None


# -- Real pairs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PairedImage:
    """A clean image and its real degraded counterparts, by the name of their set of pairs."""

    clean: CleanImage
    degraded: Mapping[str, CleanImage] = field(hash=False)

    @property
    def name(self) -> str:
        return self.clean.name

    @property
    def licence(self) -> str:
        return self.clean.licence

    @property
    def stamp(self) -> str:
        return " ".join([self.clean.stamp, *(image.stamp for image in self.degraded.values())])

    def header(self) -> ImageHeader:
        found = self.clean.header()
        bits = max([found.bits, *(image.header().bits for image in self.degraded.values())])
        return found._replace(bits=bits)

    def load(self, alpha: Alpha) -> Pixels:
        return self.clean.load(alpha)


_PAIR_NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}")
_CLEAN_WORDS = frozenset(("clean", "gt", "hq", "hr", "sharp", "norain", "target", "groundtruth", "mean"))
_DEGRADED_WORDS = frozenset(
    ("noisy", "lq", "lr", "blur", "blurry", "rain", "rainy", "input", "degraded", "real")
)


@dataclass(frozen=True)
class Pairs:
    """A set of real pairs: clean images, and what a camera, the weather or a codec made of them.

    Files belong together whose paths below `clean` and `degraded` are equal but for the suffix, and for what
    stands around the `*` of a pattern; where that leaves none over, a degraded name may also go on behind
    that of the clean one (`0001.png`, `0001_x4.png`, `0001_2.png`), so that many belong to one.

    Attributes:
        name: of the confounder.
        clean: a folder, a pattern (`photos/*_mean.png`), an LMDB folder (`FILE.lmdb`), `FILE.h5/ARRAY`, or a
            list of all pairs: a CSV file with the columns clean and degraded, a JSON file of
            [clean, degraded], with paths relative to it; a tar file in webdataset's form (`KEY.clean.png`,
            `KEY.NAME.png`, or the one other image of the key).
        degraded: the other side, of the same form; empty for a list or a tar file.
    """

    name: str
    clean: str
    degraded: str = ""

    @classmethod
    def parse(cls, given: str | Pairs) -> Pairs:
        """`NAME=CLEAN:DEGRADED`, `NAME=LIST.csv`, `NAME=pairs.tar`."""
        if isinstance(given, Pairs):
            return given
        name, equals, rest = str(given).partition("=")
        clean, _, degraded = rest.partition(":")
        if not equals or not _PAIR_NAME.fullmatch(name) or not clean:
            raise UsageError(
                "not a set of pairs",
                where="--pairs",
                found=given,
                expected="NAME=CLEAN:DEGRADED, such as rain100l=clean/:rain/, or NAME=LIST.csv",
            )
        return cls(name, clean, degraded)

    def files(self, licence: str = "") -> list[tuple[CleanImage, CleanImage]]:
        """The clean and the degraded image of every pair, in the order of their names.

        Raises:
            UsageError: a side is empty, files have no counterpart, or the folders look swapped.
        """
        if not self.degraded:
            return self._listed(licence)
        sides = [_side(self.name, text, licence) for text in (self.clean, self.degraded)]
        self._refuse_swapped()
        matched = _matched(*(list(side) for side in sides))
        if matched is None:
            raise self._unmatched(*sides)
        return [(sides[0][clean], sides[1][degraded]) for clean, degraded in matched]

    def _listed(self, licence: str) -> list[tuple[CleanImage, CleanImage]]:
        path = expanded(self.clean)
        tars = sorted(Path(match) for match in glob.glob(str(path))) if "*" in path.name else [path]  # noqa: PTH207
        if path.suffix.lower() == ".tar":
            return [pair for tar in tars for pair in _tar_pairs(tar, self.name, licence)]
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"the list of pairs cannot be read: {error}",
                where=f"--pairs {self.name}",
                found=self.clean,
                expected="NAME=CLEAN:DEGRADED, NAME=LIST.csv, NAME=LIST.json or NAME=FILE.tar",
            ) from None
        files = []
        for row in _list_of_pairs(path, text):
            clean, degraded = (expanded(path.parent / entry) for entry in row)
            for file in (clean, degraded):
                if not file.is_file():
                    raise UsageError("the list of pairs names no file", where=path, found=file)
            files.append([FileImage.of(f"{self.name}/{f.name}", f, licence) for f in (clean, degraded)])
        return [(clean, degraded) for clean, degraded in files]

    def _refuse_swapped(self) -> None:
        clean, degraded = (
            set(re.split(r"[^a-z]+", Path(t).name.lower())) for t in (self.clean, self.degraded)
        )
        if clean & _DEGRADED_WORDS and degraded & _CLEAN_WORDS:
            raise UsageError(
                "the folders look swapped",
                where=f"--pairs {self.name}",
                found=f"clean images in {self.clean}, degraded in {self.degraded}",
                expected="NAME=CLEAN:DEGRADED",
                remedy=f"--pairs {self.name}={self.degraded}:{self.clean}",
            )

    def _unmatched(self, clean: Mapping[str, CleanImage], degraded: Mapping[str, CleanImage]) -> UsageError:
        lone = sorted({*clean} - {*degraded})[:3], sorted({*degraded} - {*clean})[:3]
        return UsageError(
            "the files do not match",
            where=f"--pairs {self.name}",
            found=f"{len(clean)} clean and {len(degraded)} degraded; "
            + "; ".join(f"no {side} for {', '.join(names)}" for side, names in
                        zip(("degraded", "clean"), lone, strict=True) if names),
            expected="files of one name on both sides",
            remedy="name what differs by patterns (scenes/*_mean.png:scenes/*_real.png), or write a list: "
            "a CSV file with the columns clean and degraded",
        )  # fmt: skip


def _side(name: str, text: str, licence: str) -> dict[str, CleanImage]:
    """The images of one side of a set of pairs, by what must be equal on both."""
    path = expanded(text)
    found: dict[str, CleanImage] = {}
    if path.suffix.lower() == ".lmdb" and path.is_dir():
        for key in _lmdb_keys(path):
            found[key] = StoredImage(f"{path.stem}/{key}", path, key, licence)
    elif path.parent.suffix.lower() in HDF5_SUFFIXES and path.parent.is_file():
        import h5py

        with h5py.File(path.parent, "r", locking=False) as file:
            count = len(file[path.name]) if path.name in file else 0
        for number in range(count):
            found[f"{number:09d}"] = StoredImage(
                f"{path.parent.stem}/{path.name}/{number}", path.parent, f"{path.name}/{number}", licence
            )
    elif path.is_dir():
        for image in _folder(path, licence):
            found[image.path.relative_to(path).with_suffix("").as_posix()] = image
    elif "*" in path.name:
        before, _, after = path.stem.partition("*")
        for match in sorted(path.parent.glob(path.name)):
            if _is_image(match):
                key = match.stem[len(before) : len(match.stem) - len(after)]
                found[key] = FileImage.of(f"{match.parent.name}/{match.name}", match, licence)
    if not found:
        raise UsageError(
            "a side of the pairs is empty",
            where=f"--pairs {name}",
            found=text,
            expected="a folder or pattern of images, FILE.lmdb, or FILE.h5/ARRAY",
        )
    return found


def _lmdb_keys(folder: Path) -> list[str]:
    """From meta_info.txt, a line `KEY.png (H,W,C) LEVEL` an image, as BasicSR writes it."""
    try:
        lines = (folder / "meta_info.txt").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            "the LMDB folder has no meta_info.txt, which lists its images",
            where=folder,
            remedy="make it with BasicSR's create_lmdb, or with `dilkit data export --to lmdb`",
        ) from None
    return sorted(line.split(" ")[0].rpartition(".")[0] for line in lines if line.strip())


def _matched(clean: list[str], degraded: list[str]) -> list[tuple[str, str]] | None:
    """Which names belong together; None where some are left over."""
    if {*clean} == {*degraded}:
        return [(key, key) for key in sorted(clean)]
    known = {*clean}
    pairs = []
    for key in sorted(degraded):
        ends = [key, *(key[: found.start()] for found in re.finditer(r"(?<=[A-Za-z0-9])[._ x-]", key))]
        owner = max((end for end in ends if end in known), key=len, default=None)
        if owner is None:
            return None
        pairs.append((owner, key))
    return pairs if {owner for owner, _ in pairs} == known else None


def _list_of_pairs(path: Path, text: str) -> list[tuple[str, str]]:
    try:
        if path.suffix.lower() == ".json":
            rows = [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in json.loads(text)]
        else:
            table = [row for row in csv.reader(text.splitlines()) if row]
            has_head = [cell.strip().lower() for cell in table[0]][:2] == ["clean", "degraded"]
            rows = [tuple(cell.strip() for cell in row[:2]) for row in table[has_head:]]
        if not rows or any(len(row) != 2 or not all(isinstance(cell, str) for cell in row) for row in rows):
            raise ValueError("no rows of two paths")
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise UsageError(
            f"not a list of pairs: {error}",
            where=path,
            expected="CSV with the columns clean and degraded, or JSON [[clean, degraded], ...]",
        ) from None
    return [(str(clean), str(degraded)) for clean, degraded in rows]


def _tar_pairs(path: Path, name: str, licence: str) -> list[tuple[CleanImage, CleanImage]]:
    try:
        with tarfile.open(path) as archive:
            members = [member.name for member in archive if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise UsageError(f"the tar file cannot be read: {error}", where=path) from None
    kept: dict[str, dict[str, str]] = {}
    for member in members:
        key, _, kind = Path(member).name.partition(".")
        if f".{kind.rpartition('.')[2].lower()}" in SUFFIXES:
            kept.setdefault(str(Path(member).parent / key), {})[kind.rpartition(".")[0]] = member
    pairs = []
    for key, kinds in kept.items():
        others = [kind for kind in kinds if kind != "clean"]
        chosen = name if name in kinds else others[0] if len(others) == 1 else None
        if "clean" in kinds and chosen is not None:
            image = f"{path.stem}/{Path(key).name}"
            pairs.append([StoredImage(image, path, kinds[kind], licence) for kind in ("clean", chosen)])
    if not pairs:
        raise UsageError(
            "the tar file holds no pairs",
            where=path,
            expected=f"KEY.clean.png and KEY.{name}.png for every key",
        )
    return [(clean, degraded) for clean, degraded in pairs]


_CHECKED = 24
"""Pairs of each set whose pixels are looked at before the work begins."""
_REACH = 24
"""Pixels up to which a shift is looked for."""


def check_pairs(
    surveyed: Sequence[tuple[CleanImage, ImageHeader]], *, alpha: Alpha = "refuse", aligned: bool = True
) -> dict[str, int]:
    """How many times smaller than the clean images those of each set of pairs are.

    Sizes are compared for every pair; pixels for some of each set, evenly spread. Warns of a set whose sides
    look swapped (`SwappedPairs`).

    Args:
        aligned: refuse pairs that are shifted against each other or show different things, and look for
            swapped sides.

    Raises:
        UsageError: sizes that do not go together, a pair of equal images, one file in two pairs, a shift.
    """
    scales: dict[str, int] = {}
    for name in dict.fromkeys(
        n for image, _ in surveyed if isinstance(image, PairedImage) for n in image.degraded
    ):
        pairs = [
            (image, image.degraded[name], header)
            for image, header in surveyed
            if isinstance(image, PairedImage) and name in image.degraded
        ]
        found = Counter(
            _scale(name, header, degraded.header(), image.name) for image, degraded, header in pairs
        )
        if len(found) > 1:
            rare = min(found, key=lambda scale: found[scale])
            where = next(i.name for i, d, h in pairs if _scale(name, h, d.header(), i.name) == rare)
            raise UsageError(
                "the pairs have several scale factors",
                where=f"--pairs {name}",
                found=", ".join(f"{count} of x{scale}" for scale, count in found.most_common())
                + f"; x{rare} for example {where}",
                expected="one",
            )
        scales[name] = next(iter(found))
        _refuse_twins(name, [degraded for _, degraded, _ in pairs])
        chosen = pairs[:: max(1, -(-len(pairs) // _CHECKED))]
        swapped = sum(
            _compare(name, image, other, scales[name], alpha, aligned) for image, other, _ in chosen
        )
        if swapped >= max(2, _SWAPPED * len(chosen)):
            warnings.warn(
                f"--pairs {name}: the folders look swapped: in {swapped} of {len(chosen)} pairs the image "
                "given as clean has the noise, or is the blurred one; NAME=CLEAN:DEGRADED wants it first",
                SwappedPairs,
                stacklevel=2,
            )
    return scales


class SwappedPairs(UserWarning):
    """The clean images of a set of pairs look like its degraded ones, and the reverse."""


_SWAPPED = 0.4
"""The share of pairs that look swapped from which on a warning is given."""


def looks_swapped(clean: npt.NDArray[Any], degraded: npt.NDArray[Any]) -> bool:
    """Whether the sides of an aligned pair of grey images, (H, W) in [0, 1], look swapped.

    What noise or rain add has nothing to do with the image below: the fine detail of the difference goes with
    that of the noisy side alone. Of blur it goes with both sides, against the sharp one and the blurred one.
    JPEG lies between, and the wrong way round it cannot be told from noise: it is not found. Nor is a change
    of contrast, which has no wrong way round.

    Share of pairs taken for swapped, right way round / swapped, of PolyU's 100 pairs (real noise) 0 / .81;
    of photographs of BSD400 (24 or 40 each) AWGN 5 0 / .67, AWGN 15 to 50 and Poisson 0 / 1, rain 0 / .54 to
    .92, Gaussian blur 0.6 to 2 0 / .83 to 1, blur 4 .04 / 1, motion blur .04 / .88, defocus .04 / .75, blur,
    noise and JPEG together .05 / .45, snow .13 / .25, JPEG 10 to 90 0 / 0 to .03, haze and contrast 0 / 0.
    """
    a, b = clean.astype(np.float64), degraded.astype(np.float64)
    fine = [x - cv2.GaussianBlur(x, (0, 0), 1.5) for x in (b - a, a, b)]
    power = [float((x * x).mean()) + 1e-20 for x in fine]
    with_clean, with_degraded = (
        float((fine[0] * fine[k]).mean()) / math.sqrt(power[0] * power[k]) for k in (1, 2)
    )
    if 0.05 <= with_clean <= 0.95 and with_degraded >= 0.85:
        return True
    if not (with_clean <= -0.25 and 0.1 * with_clean <= with_degraded <= -0.3 * with_clean):
        return False
    if with_clean >= -0.85:
        return True
    # Strong noise, or blur: noise is in flat parts, too.
    smooth = cv2.GaussianBlur((a + b) / 2, (0, 0), 2)
    slope = np.hypot(cv2.Sobel(smooth, -1, 1, 0), cv2.Sobel(smooth, -1, 0, 1))
    steep, energy = (cv2.resize(x, None, fx=1 / 16, fy=1 / 16, interpolation=cv2.INTER_AREA)
                     for x in (slope, fine[0] ** 2))  # fmt: skip
    low, high = np.quantile(steep, (0.25, 0.75))
    return bool(energy[steep <= low].mean() >= 0.5 * energy[steep >= high].mean())


def _scale(name: str, clean: ImageHeader, degraded: ImageHeader, image: str) -> int:
    scale = max(1, round(clean.height / degraded.height))
    if (clean.height // scale, clean.width // scale) == (degraded.height, degraded.width):
        return scale
    larger = degraded.height >= 2 * clean.height
    raise UsageError(
        "the sizes of a pair do not go together" + (": the folders look swapped" if larger else ""),
        where=f"--pairs {name}: {image}",
        found=f"clean {clean.height} x {clean.width}, degraded {degraded.height} x {degraded.width}",
        expected="equal sizes, or 1/2, 1/3, 1/4, ... of the clean one",
    )


def _refuse_twins(name: str, images: Sequence[CleanImage]) -> None:
    """One picture given as the counterpart of two."""
    by_size: dict[int, list[FileImage]] = {}
    for image in images:
        if isinstance(image, FileImage):
            by_size.setdefault(image.path.stat().st_size, []).append(image)
    for alike in by_size.values():
        seen: dict[bytes, str] = {}
        for image in alike if len(alike) > 1 else ():
            digest = blake2b(image.path.read_bytes(), digest_size=16).digest()
            if digest in seen:
                raise UsageError(
                    "one degraded image stands in two pairs",
                    where=f"--pairs {name}",
                    found=f"{seen[digest]} and {image.name} are equal",
                    remedy="take one of the pairs out, or bring the right file",
                )
            seen[digest] = image.name


def _compare(
    name: str, image: PairedImage, degraded: CleanImage, scale: int, alpha: Alpha, aligned: bool
) -> bool:
    """Whether a pair looks swapped; raises UsageError where it is none."""
    try:
        clean, other = image.load(alpha), degraded.load(alpha)
    except UnreadableImage:
        return False  # it is named when it is read
    where = f"--pairs {name}: {image.name}"
    if clean.shape == other.shape and np.array_equal(as_float(clean), as_float(other)):
        raise UsageError(
            "the degraded image is the clean one: its PSNR is infinite",
            where=where,
            remedy="give the folder of the degraded images behind the colon",
        )
    if not aligned:
        return False
    h, w = other.shape[:2]
    a, b = (cv2.cvtColor(as_float(x), cv2.COLOR_RGB2GRAY) for x in (clean, other))
    a = cv2.resize(a, (w, h), interpolation=cv2.INTER_AREA) if scale > 1 else a
    small = [cv2.resize(x, (32, 32), interpolation=cv2.INTER_AREA).astype(np.float64).ravel() for x in (a, b)]
    alike = float(np.corrcoef(small[0], small[1])[0, 1])
    if min(x.std() for x in small) > 0.02 and alike < 0.2:
        raise UsageError(
            "the two images of a pair show different things",
            where=where,
            found=f"correlation {alike:.2f}",
            remedy="check which files belong together, or give --allow-misaligned",
        )
    if min(h, w) < 3 * _REACH:
        return False
    first, second = (cv2.GaussianBlur(x, (0, 0), 1.5).astype(np.float64) for x in (a, b))
    window = cv2.createHanningWindow((w, h), cv2.CV_64F)
    (dx, dy), _ = cv2.phaseCorrelate(first, second, window)
    dy, dx = round(dy), round(dx)
    if (dy, dx) == (0, 0) or max(abs(dy), abs(dx)) > _REACH:
        return scale == 1 and looks_swapped(a, b)
    inner = slice(_REACH, -_REACH)
    moved = np.roll(b, (-dy, -dx), (0, 1))
    before, after = (float(((x - a)[inner, inner] ** 2).mean()) for x in (b, moved))
    if after < 0.7 * before:
        raise UsageError(
            "the two images of a pair are shifted against each other",
            where=where,
            found=f"{dy} pixels down, {dx} to the right",
            remedy="cut both to what they share, or give --allow-misaligned",
        )
    return scale == 1 and looks_swapped(a, b)


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    name: str
    reason: str


def expand(
    sources: Iterable[str | Path],
    *,
    seed: int = 0,
    licence: str = "",
    limit: int | None = None,
    pairs: Iterable[str | Pairs] = (),
) -> list[CleanImage]:
    """The images that the sources name, in the order given, files sorted by path, each once.

    Args:
        sources: folders (searched through), globs, files, `samples:`, `samples:train`, `samples:test`,
            `samples:free`, `deadleaves:N` or `deadleaves:N@SIZE` (N synthetic images of SIZE x SIZE pixels,
            256 by default), `scenes:N` (the same with shading and texture).
        seed: of the synthetic images.
        licence: recorded with every file that has no licence of its own.
        limit: keep the first so many images of the sources, and of each set of pairs.
        pairs: clean images with real degraded counterparts, behind those of the sources; a clean file that is
            in several sets, or in the sources too, is one image.

    Raises:
        UsageError: nothing was named, or a source holds no image.
    """
    images: dict[object, CleanImage] = {}
    names: Counter[str] = Counter()
    texts, sets = [str(source) for source in sources], [Pairs.parse(pair) for pair in pairs]
    if not licence.isprintable():
        raise UsageError("a licence is a line of text", where="licence", found=ascii(licence))
    if not texts and not sets:
        raise UsageError(
            "no source of clean images given", expected="folders, globs, files, samples: or deadleaves:N"
        )
    for name in (found := Counter(pair.name for pair in sets)):
        if found[name] > 1:
            raise UsageError("two sets of pairs have one name", where="--pairs", found=name)
    for text in texts:
        for image in _expand_one(text, seed, licence):
            if len(images) == limit:
                break
            own: object = image.path.resolve() if isinstance(image, FileImage) else image
            if own not in images:
                names[image.name] += 1
                images[own] = _numbered(image, names[image.name])
    for pair in sets:
        counts: Counter[object] = Counter()
        for clean, degraded in pair.files(licence)[:limit]:
            file = clean.path.resolve() if isinstance(clean, FileImage) else clean
            counts[file] += 1
            known: object = file if counts[file] == 1 else (file, counts[file])
            if known not in images:
                names[clean.name] += 1
                images[known] = PairedImage(_numbered(clean, names[clean.name]), {})
            held = images[known]
            if not isinstance(held, PairedImage):
                held = PairedImage(held, {})
            images[known] = PairedImage(held.clean, {**held.degraded, pair.name: degraded})
    return list(images.values())


def survey(images: Sequence[CleanImage]) -> tuple[list[tuple[CleanImage, ImageHeader]], list[Failure]]:
    """Size and depth of every image, without decoding; those that cannot be opened come second."""
    good: list[tuple[CleanImage, ImageHeader]] = []
    bad: list[Failure] = []
    for image in images:
        try:
            good.append((image, image.header()))
        except UnreadableImage as error:
            bad.append(failure(image, error))
    return good, bad


def failure(image: CleanImage, error: UnreadableImage) -> Failure:
    """A line for the report at the end."""
    extra = "".join(f" ({k} {v})" for k, v in (("found", error.found), ("expected", error.expected)) if v)
    remedy = f"; {error.remedy}" if error.remedy else ""
    return Failure(image.name, error.message + extra + remedy)


def _numbered(image: CleanImage, count: int) -> CleanImage:
    """Files of one name from different folders are told apart, and synthetic images of several sizes."""
    if count > 1 and isinstance(image, FileImage | StoredImage):
        return replace(image, name=f"{image.name}#{count}")
    return replace(image, number=count) if isinstance(image, SyntheticImage) else image


def _expand_one(text: str, seed: int, licence: str) -> Iterable[CleanImage]:
    if text.startswith("samples:"):
        return _samples(text)
    if text.startswith(("deadleaves:", "scenes:")):
        return _generated(text, seed)
    path = expanded(text)
    if path.is_dir():
        return _folder(path, licence)
    if path.is_file():
        return [FileImage.of(path.name, path, licence)]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))  # noqa: PTH207
    files = [match for match in matches if _is_image(match)]
    if any(file.suffix.lower() in SUFFIXES for file in files):
        return [FileImage.of(f"{file.parent.name}/{file.name}", file, licence) for file in files]
    raise UsageError(
        "no such folder, file or glob with images",
        where=text,
        nearest=_neighbour(path),
        remedy="name a folder, a glob in quotes, a file, samples:train or deadleaves:100",
    )


def _folder(folder: Path, licence: str) -> list[FileImage]:
    files = sorted(path for path in _below(folder) if _is_image(path))
    if not any(file.suffix.lower() in SUFFIXES for file in files):
        raise UsageError("the folder holds no images", where=folder, expected=" ".join(sorted(SUFFIXES)))
    base = folder.resolve().name
    return [FileImage.of(f"{base}/{p.relative_to(folder).as_posix()}", p, licence) for p in files]


def _is_image(path: Path) -> bool:
    """Whether a path is to be read, or named where it cannot be: an image file, or a link that was one."""
    return path.suffix.lower() in SUFFIXES | NOT_READ and (path.is_file() or path.is_symlink())


def _below(folder: Path) -> Iterator[Path]:
    """Everything in it and its folders, also those that links lead to, each folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(root) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders.sort(key=lambda name: ((Path(root) / name).is_symlink(), name))
        yield from (Path(root) / name for name in files)


def _samples(text: str) -> list[CleanImage]:
    split = text.removeprefix("samples:")
    if split and split not in _SAMPLES:
        raise UsageError(
            "unknown sample split",
            where=text,
            expected="samples:, samples:train, samples:test or samples:free",
            nearest=nearest(split, _SAMPLES),
        )
    folder = Path(str(importlib.resources.files("skimage") / "data"))
    chosen = _SAMPLES[split] if split else _SAMPLES["train"] + _SAMPLES["test"]
    missing = [name for name, _ in chosen if not (folder / name).is_file()]
    if missing:
        raise UsageError(
            "the installed scikit-image lacks sample images",
            where=text,
            found=f"no {', '.join(missing)}",
            remedy="install a scikit-image wheel that dilkit supports (0.25 or 0.26)",
        )
    return [FileImage(f"samples/{name}", folder / name, note) for name, note in chosen]


def _generated(text: str, seed: int) -> Iterator[CleanImage]:
    match = _GENERATED.fullmatch(text)
    if not match or int(match[2]) == 0 or int(match[3] or 256) < 16:
        raise UsageError(
            "not a synthetic source",
            where=text,
            expected="deadleaves:N or deadleaves:N@SIZE, SIZE >= 16; scenes: the same",
            remedy="for example deadleaves:100 or scenes:100@320",
        )
    return (SyntheticImage(match[1], seed, i, int(match[3] or 256)) for i in range(int(match[2])))


def _neighbour(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    found = nearest(path.name, (e.name for e in path.parent.iterdir() if e.is_dir() or e.is_file()))
    return str(path.parent / found) if found else None
