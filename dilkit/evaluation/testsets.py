"""The images of a test set: named, and read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from dilkit.confounders.images import CleanImage, expand
from dilkit.distortions import pixel_hash
from dilkit.errors import UsageError
from dilkit.libraries import np, npt

Pixels: TypeAlias = "npt.NDArray[Any]"
"""(H, W, 3) RGB, uint8 or float32 in [0, 1]."""


@dataclass(frozen=True)
class PairFolder:
    """A test set of real pairs: `clean` and `distorted` are folders of images of the same names."""

    name: str
    clean: Path
    distorted: Path


Data = str | Path | PairFolder | Iterable[str | Path | PairFolder] | Mapping[str, Pixels]
"""Sources as `dilkit augment` takes them (folders, globs, files), images by name, or pairs."""


@dataclass(frozen=True, eq=False)
class TestImage:
    """A clean image: the set it belongs to, its name within it, and where its pixels come from."""

    __test__ = False  # no test case, whatever a test runner thinks of the name

    set: str
    name: str
    source: CleanImage | Pixels
    given: CleanImage | None = None
    """The distorted image, where it was taken and not made (real noise, real rain)."""

    def read(self) -> Pixels:
        """Raises `UnreadableImage` (a DilkitError) where the file cannot be used."""
        return self.source if isinstance(self.source, np.ndarray) else self.source.load("refuse")

    def read_given(self) -> Pixels:
        """The distorted image of a pair."""
        assert self.given is not None
        return self.given.load("refuse")

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W), without decoding."""
        if isinstance(self.source, np.ndarray):
            return self.source.shape[:2]
        header = self.source.header()
        return header.height, header.width

    @property
    def stamp(self) -> list[int]:
        """What changes when the file does: size and time of change; of an image in memory, its content."""
        if isinstance(self.source, np.ndarray):
            return list(pixel_hash(self.source))
        path = getattr(self.source, "path", None)
        if path is None:
            return []
        found = path.stat()
        return [found.st_size, found.st_mtime_ns]


def find_images(data: Data) -> tuple[TestImage, ...]:
    """Every image of `data`, in the order given, files sorted by path.

    A set is named after its folder, an image after its path within it.

    Raises:
        UsageError: a source that does not exist or holds no image; two images of one set and name.
    """
    if isinstance(data, Mapping):
        found = [TestImage("memory", str(name), _checked(str(name), x)) for name, x in data.items()]
    else:
        sources = [data] if isinstance(data, str | Path | PairFolder) else list(data)
        found = []
        for source in sources:
            if isinstance(source, PairFolder):
                pairs = find_pairs(source.clean, source.distorted)
                found += [replace(pair, set=source.name) for pair in pairs]
            else:
                place = find_folder(source)
                found += [_named(image, place) for image in expand([place])]
    if not found:
        raise UsageError("there is nothing to evaluate on", remedy="give a folder of images")
    seen: set[tuple[str, str]] = set()
    for image in found:
        if (image.set, image.name) in seen:
            raise UsageError("two test images have the same set and name", found=f"{image.set}/{image.name}")
        seen.add((image.set, image.name))
    return tuple(found)


def find_folder(source: str | Path) -> str | Path:
    """A source as it is, or, where there is nothing of that name, the set of that name in $DILKIT_DATA."""
    root = os.environ.get("DILKIT_DATA")
    if root is None or Path(source).is_absolute() or Path(source).exists():
        return source
    places = (Path(root, "test", source), Path(root, source), Path(root, "train", source))
    return next((place for place in places if place.is_dir()), source)


def find_pairs(targets: Data, inputs: Data) -> tuple[TestImage, ...]:
    """Clean images of `targets`, each with the image of the same path, endings aside, among `inputs`.

    Raises:
        UsageError: as `find_images`, or an image without its partner.
    """
    given = {_stem(image): image.source for image in find_images(inputs)}
    found = []
    for image in find_images(targets):
        partner = given.get(_stem(image))
        if partner is None or isinstance(partner, np.ndarray):
            raise UsageError(
                "a clean image has no distorted one of its name",
                where=f"{image.set}/{image.name}",
                found=inputs,
            )
        found.append(replace(image, given=partner))
    return tuple(found)


def _stem(image: TestImage) -> str:
    return image.name.rpartition(".")[0] or image.name


def _named(image: CleanImage, source: str | Path) -> TestImage:
    folder, _, name = image.name.partition("/")
    if not name:
        folder, name = Path(source).resolve().parent.name, folder
    return TestImage(folder, name, image)


def _checked(name: str, x: Pixels) -> Pixels:
    if x.ndim != 3 or x.shape[2] != 3 or x.dtype not in (np.uint8, np.float32):
        raise UsageError(
            f"image {name!r} cannot be used",
            found=f"shape {x.shape}, {x.dtype}",
            expected="(H, W, 3) RGB, uint8 or float32 in [0, 1]",
        )
    return x
