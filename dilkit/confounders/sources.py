"""Where clean images come from: folders, globs, files, `samples:` and `deadleaves:N`."""

from __future__ import annotations

import glob
import importlib.resources
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from dilkit.confounders.reading import (
    ALPHAS,
    SUFFIXES,
    Alpha,
    Header,
    Pixels,
    UnreadableImage,
    read_header,
    read_image,
)
from dilkit.errors import UsageError, nearest
from dilkit.paths import expanded

__all__ = ["ALPHAS", "Alpha", "CleanImage", "Failure", "UnreadableImage", "expand", "read_image", "survey"]

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
}
"""The colour photographs among scikit-image's bundled images; the split is fixed for ever."""

_GENERATED = re.compile(r"deadleaves:(\d+)(?:@(\d+))?")


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
        from dilkit.confounders.deadleaves import dead_leaves

        return dead_leaves(self.seed, self.index, self.size)


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
            `deadleaves:N` or `deadleaves:N@SIZE` (N synthetic images of SIZE x SIZE pixels, 256 by default).
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
    if text.startswith("deadleaves:"):
        return _dead_leaves(text, seed)
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
            expected="samples:, samples:train or samples:test",
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


def _dead_leaves(text: str, seed: int) -> Iterator[CleanImage]:
    match = _GENERATED.fullmatch(text)
    if not match or int(match[1]) == 0 or int(match[2] or 256) < 16:
        raise UsageError(
            "not a synthetic source",
            where=text,
            expected="deadleaves:N or deadleaves:N@SIZE, SIZE >= 16",
            remedy="for example deadleaves:100 or deadleaves:100@320",
        )
    return (DeadLeaves(seed, i, int(match[2] or 256)) for i in range(int(match[1])))


def _neighbour(path: Path) -> str | None:
    if not path.parent.is_dir():
        return None
    found = nearest(path.name, (e.name for e in path.parent.iterdir() if e.is_dir() or e.is_file()))
    return str(path.parent / found) if found else None
