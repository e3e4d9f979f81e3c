"""Synthetic clean images: occluding discs whose radii follow a power law, as edges in photographs do.

Source: Lee, Mumford and Huang, "Occlusion models for natural images", IJCV 2001 (radii with density r**-3).

Read one image file exactly: true depth, no invented channel, no half-decoded picture.

Where clean images come from: folders, globs, files, `samples:`, `deadleaves:N` and `scenes:N`.
"""

from __future__ import annotations

import glob
import importlib.resources
import os
import re
import struct
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image as Pil
from PIL import UnidentifiedImageError

from dilkit.confounders.scenes import scene
from dilkit.errors import DilkitError, UsageError, expanded, nearest

_DISCS = 1500
_SMALLEST = 6.0
_OVER = 2
"""Discs are drawn at twice the size and averaged, so that their edges are anti-aliased."""


def dead_leaves(seed: int, index: int, size: int = 256) -> npt.NDArray[np.uint8]:
    """The `index`-th image of a seeded family: (size, size, 3) uint8 RGB."""
    import cv2

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
    def header(self) -> Header: ...
    def load(self, alpha: Alpha) -> Pixels: ...


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
        try:
            state = self.path.stat()
        except OSError:
            return "gone"
        return f"{state.st_size}-{state.st_mtime_ns}"

    def header(self) -> Header:
        return read_header(self.path)

    def load(self, alpha: Alpha) -> Pixels:
        return read_image(self.path, alpha=alpha)


@dataclass(frozen=True)
class DeadLeaves:
    """A synthetic image, made when it is loaded."""

    seed: int
    index: int
    size: int
    number: int = 1
    licence: str = "CC0 (synthetic)"

    @property
    def name(self) -> str:
        return f"deadleaves/{self.index:06d}" + (f"#{self.number}" if self.number > 1 else "")

    @property
    def stamp(self) -> str:
        return ""

    def header(self) -> Header:
        return Header(self.size, self.size, 8)

    def load(self, alpha: Alpha) -> Pixels:

        return dead_leaves(self.seed, self.index, self.size)


@dataclass(frozen=True)
class Scene(DeadLeaves):
    """A synthetic image with shading, texture and defocus (see `dilkit.confounders.scenes`)."""

    @property
    def name(self) -> str:
        return f"scenes/{self.index:06d}" + (f"#{self.number}" if self.number > 1 else "")

    def load(self, alpha: Alpha) -> Pixels:
        return scene(self.seed, self.index, self.size)


@dataclass(frozen=True)
class Failure:
    """An image that could not be used, and why."""

    name: str
    reason: str


def expand(
    sources: Iterable[str | Path], *, seed: int = 0, licence: str = "", limit: int | None = None
) -> list[CleanImage]:
    """The images that the sources name, in the order given, files sorted by path, each once.

    Args:
        sources: folders (searched through), globs, files, `samples:`, `samples:train`, `samples:test`,
            `samples:free`, `deadleaves:N` or `deadleaves:N@SIZE` (N synthetic images of SIZE x SIZE pixels,
            256 by default), `scenes:N` (the same with shading and texture).
        seed: of the synthetic images.
        licence: recorded with every file that has no licence of its own.
        limit: keep the first so many images.

    Raises:
        UsageError: nothing was named, or a source holds no image.
    """
    images: dict[object, CleanImage] = {}
    names: Counter[str] = Counter()
    texts = [str(source) for source in sources]
    if not licence.isprintable():
        raise UsageError("a licence is a line of text", where="licence", found=ascii(licence))
    if not texts:
        raise UsageError(
            "no source of clean images given", expected="folders, globs, files, samples: or deadleaves:N"
        )
    for text in texts:
        for image in _expand_one(text, seed, licence):
            if len(images) == limit:
                break
            known = image.path.resolve() if isinstance(image, FileImage) else image
            if known not in images:
                names[image.name] += 1
                images[known] = _numbered(image, names[image.name])
    return list(images.values())


def survey(images: Sequence[CleanImage]) -> tuple[list[tuple[CleanImage, Header]], list[Failure]]:
    """Size and depth of every image, without decoding; those that cannot be opened come second."""
    good: list[tuple[CleanImage, Header]] = []
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
    if count > 1 and isinstance(image, FileImage):
        return replace(image, name=f"{image.name}#{count}")
    return replace(image, number=count) if isinstance(image, DeadLeaves) else image


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
    files = [match for match in matches if match.is_file() and match.suffix.lower() in SUFFIXES]
    if files:
        return [FileImage.of(f"{file.parent.name}/{file.name}", file, licence) for file in files]
    raise UsageError(
        "no such folder, file or glob with images",
        where=text,
        nearest=_neighbour(path),
        remedy="name a folder, a glob in quotes, a file, samples:train or deadleaves:100",
    )


def _folder(folder: Path, licence: str) -> list[CleanImage]:
    files = sorted(p for p in _below(folder) if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise UsageError("the folder holds no images", where=folder, expected=" ".join(sorted(SUFFIXES)))
    base = folder.resolve().name
    return [FileImage.of(f"{base}/{p.relative_to(folder).as_posix()}", p, licence) for p in files]


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
    made = DeadLeaves if match[1] == "deadleaves" else Scene
    return (made(seed, i, int(match[3] or 256)) for i in range(int(match[2])))


def _neighbour(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    found = nearest(path.name, (e.name for e in path.parent.iterdir() if e.is_dir() or e.is_file()))
    return str(path.parent / found) if found else None
