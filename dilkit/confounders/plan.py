"""The two ways a view is stored, the size it has, and how it is made.

Cut images into tiles: every pixel that a full tile can reach is in one, and none is invented.

What a dataset will hold, decided before a pixel is read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dilkit import __version__
from dilkit.confounders.images import CleanImage, Header, Pixels, UnreadableImage
from dilkit.distortions import ConfounderSet, SampleKey, Word, as_float
from dilkit.distortions.randomness import Window
from dilkit.distortions.render import require_numbers
from dilkit.errors import UsageError

Render = Callable[[npt.NDArray[np.float32], SampleKey, Window | None], npt.NDArray[Any]]
"""(whole clean image, its key, the part that is wanted) -> the view as it is stored, uint8 or float32."""

_TRIALS = 4
"""Keys with which a word of random size is tried."""


def renderer(word: Word, dtype: str, scale: int = 1) -> Render:
    """How a word's view is made in the type it is stored in (`storage_dtype`, `output_scale`).

    The function returned raises DilkitError where a distortion made values that are no numbers, or a view of
    another size than its place has.
    """

    def render(
        image: npt.NDArray[np.float32], key: SampleKey, window: Window | None = None
    ) -> npt.NDArray[Any]:
        size = (image.shape[0] // scale, image.shape[1] // scale)
        if dtype == "uint8":
            return word.levels(image, key, window, size)
        made = word.apply(image, key, window, size)
        require_numbers(made, word.label)
        return made

    return render


def storage_dtype(word: Word, clean_dtype: str = "float32") -> np.dtype[Any]:
    """uint8 where a word ends on the 8-bit grid (`... >> clip >> quantize`, `... >> jpeg(q)`); else float32.

    So nothing is clipped or rounded but by the expression, and nothing is lost by storing.
    """
    keeps_the_grid = len(word.closing) == len(word.sequence) and clean_dtype == "uint8"
    return np.dtype(np.uint8 if word.eight_bit or keeps_the_grid else np.float32)


def output_scale(word: Word) -> int:
    """How many times smaller the word's result is than its input (1 for all but downsampling words).

    Only a global distortion can change the size; it is tried on squares of two sizes, with several keys.

    Raises:
        DilkitError: the scale is no whole number, or not always the same.
    """
    if word.locality.halo is not None:
        return 1
    found: dict[tuple[int, int, int], float] = {}
    for side in (96, 192):
        for replicate in range(_TRIALS):
            made = word.apply(np.zeros((side, side, 3), np.float32), SampleKey(0, b"probe", replicate))
            found[side, *made.shape[:2]] = side / made.shape[0] if made.shape[0] == made.shape[1] else 0
    scale = next(iter(found.values()))
    if scale < 1 or scale % 1 or {*found.values()} != {scale}:
        raise UsageError(
            "the result has a size that no whole number of clean pixels maps to",
            where=word,
            found=", ".join(f"{h} x {w} from {side} x {side}" for side, h, w in list(found)[:4]),
            expected="always the same size, or always 1/2, 1/3, 1/4, ... of it",
            remedy="resize(1, of='clean') at its end brings the size of the clean image back",
        )
    return int(scale)


def check_tiling(tile: int, stride: int) -> None:
    """Raises UsageError where the two make no sense; `tile = 0` means whole images."""
    if tile < 0:
        raise UsageError(
            "negative tile size", where="tile", found=tile, expected="pixels, or 0 for whole images"
        )
    if tile and not 1 <= stride <= tile:
        raise UsageError(
            "the stride would skip pixels" if stride > tile else "the stride must be positive",
            where="stride",
            found=stride,
            expected=f"1 .. {tile}, the tile size",
        )


def positions(length: int, tile: int, stride: int) -> range | list[int]:
    """Where tiles start along one side; the last one is moved back to end at the border."""
    last = length - tile
    starts = range(0, last + 1, stride)
    return starts if starts[-1] == last else [*starts, last]


def boxes(height: int, width: int, tile: int, stride: int, *, keep_small: bool = True) -> list[Window]:
    """The tiles of one image, row by row.

    An image smaller than a tile on either side is kept whole, or yields nothing if not `keep_small`.
    """
    if tile == 0:
        return [Window(0, 0, height, width)]
    if height < tile or width < tile:
        return [Window(0, 0, height, width)] if keep_small else []
    return [
        Window(y, x, tile, tile)
        for y in positions(height, tile, stride)
        for x in positions(width, tile, stride)
    ]


Storage = Literal["stored", "virtual"]
Coupling = Literal["independent", "common"]
Small = Literal["keep", "skip"]

STORAGES: tuple[Storage, ...] = ("stored", "virtual")
COUPLINGS: tuple[Coupling, ...] = ("independent", "common")
SMALLS: tuple[Small, ...] = ("keep", "skip")


@dataclass(frozen=True)
class Settings:
    """Everything that shapes the dataset besides its images and words."""

    tile: int = 256
    stride: int = 256
    small: Small = "keep"
    alpha: Literal["refuse", "black", "grey", "white"] = "refuse"
    seed: int = 0
    storage: Storage = "stored"
    coupling: Coupling = "independent"
    validation: float = 0.0


class Shard(NamedTuple):
    """Part k (1 .. n) of n of a plan."""

    k: int
    n: int
    plan: str


@dataclass(frozen=True)
class View:
    """One confounder as it is stored."""

    label: str
    expression: str
    hash: str
    canonical: str
    dtype: str
    scale: int

    @classmethod
    def of(cls, word: Word, clean_dtype: str) -> View:
        return cls(
            label=word.label,
            expression=str(word),
            hash=word.hash,
            canonical=json.dumps(word.canonical(), sort_keys=True, separators=(",", ":")),
            dtype=storage_dtype(word, clean_dtype).name,
            scale=output_scale(word),
        )


@dataclass(frozen=True)
class Plan:
    """The items of a dataset (tiles or whole images) and its confounders.

    Attributes:
        images: those that give at least one item.
        image: for each item, the position of its image in `images`.
        box: for each item, y, x, h, w in its image, (N, 4) int32.
        skipped: names of images too small for a tile, where these are skipped.
        shard: which of how many parts of a larger plan this is, and that plan's identity.
        ragged: whether that plan's items differ in size.
        deep: names of images with more than 8 bits a channel.
    """

    settings: Settings
    confounders: ConfounderSet
    views: tuple[View, ...]
    images: tuple[CleanImage, ...]
    image: npt.NDArray[np.int32]
    box: npt.NDArray[np.int32]
    clean_dtype: str
    skipped: tuple[str, ...] = ()
    shard: Shard | None = None
    ragged: bool = False
    deep: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.image)

    @cached_property
    def uniform(self) -> bool:
        """All items have one size."""
        return not self.ragged and bool((self.box[:, 2:] == self.box[0, 2:]).all())

    @cached_property
    def parts(self) -> list[tuple[int, int]]:
        """Runs of items handed out as one piece of work, cut between images where possible."""
        area = np.cumsum(self.box[:, 2].astype(np.int64) * self.box[:, 3])
        parts: list[tuple[int, int]] = []
        first, begun = 0, 0
        last_of_image = np.append(self.image[1:] != self.image[:-1], True)
        for i in np.flatnonzero(last_of_image | (np.arange(len(self)) % _PART == _PART - 1)):
            if area[i] - begun >= _PART_PIXELS or i == len(self) - 1:
                parts.append((first, int(i) + 1))
                first, begun = int(i) + 1, int(area[i])
        return parts

    def window(self, item: int) -> Window:
        return Window(*(int(v) for v in self.box[item]))

    def items_of(self, image: int) -> range:
        """The items cut from an image."""
        return range(*np.searchsorted(self.image, [image, image + 1]).tolist())

    def load(self, image: int) -> Pixels:
        """The pixels of an image, in the dataset's type; UnreadableImage also where the file changed."""
        source, items = self.images[image], self.items_of(image)
        pixels = source.load(self.settings.alpha)
        boxes = self.box[items.start : items.stop]
        needed = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        if (pixels.shape[:2] < needed).any() or (pixels.dtype != np.uint8 and self.clean_dtype == "uint8"):
            raise UnreadableImage("the file changed while it was being read", where=source.name)
        return as_float(pixels) if self.clean_dtype == "float32" else pixels

    def offsets(self, scale: int = 1) -> npt.NDArray[np.int64]:
        """Where each item begins, in pixels; one more than there are items, the last being the total."""
        area = (self.box[:, 2] // scale).astype(np.int64) * (self.box[:, 3] // scale)
        return np.concatenate([[0], np.cumsum(area)])

    def nbytes(self) -> dict[str, int]:
        """Bytes of pixels: `clean`, and each label (0 where it is virtual)."""
        sizes = {"clean": int(self.offsets()[-1]) * 3 * np.dtype(self.clean_dtype).itemsize}
        for view in self.views:
            stored = self.settings.storage == "stored"
            sizes[view.label] = int(self.offsets(view.scale)[-1]) * 3 * np.dtype(view.dtype).itemsize * stored
        return sizes

    @cached_property
    def split(self) -> npt.NDArray[np.bytes_]:
        """`train` or `validation`, decided by image and not by tile, from the image's name alone."""
        threshold = int(self.settings.validation * 2**32)
        marks = [
            int.from_bytes(blake2b(i.name.encode(), digest_size=4).digest()) < threshold for i in self.images
        ]
        return np.where(np.array(marks, bool), b"validation", b"train").astype("S10")[self.image]

    @cached_property
    def identity(self) -> str:
        """What must be equal for a run to continue another's work."""
        digest = blake2b(digest_size=16)
        digest.update(
            json.dumps(
                [vars(self.settings), self.confounders.hash, *self.confounders.names, self.clean_dtype]
            ).encode()
        )
        digest.update("\0".join(image.name for image in self.images).encode())
        digest.update(self.image.tobytes() + self.box.tobytes())
        return digest.hexdigest()

    @cached_property
    def stamp(self) -> str:
        """The identity, the division of work, and what is known of the source files on this machine."""
        digest = blake2b(f"{__version__} {self.identity} {self.parts}".encode(), digest_size=16)
        digest.update("\0".join(f"{image.stamp} {image.licence}" for image in self.images).encode())
        return digest.hexdigest()

    def without(self, names: set[str]) -> Plan:
        """The plan with these images left out; a shard's types stay those of the whole."""
        kept = self._keep([i for i, image in enumerate(self.images) if image.name not in names])
        return kept if self.shard else kept._typed()

    def part_of(self, k: int, n: int) -> Plan:
        """The k-th (1 .. n) of n parts with equally many images."""
        count = len(self.images)
        kept = self._keep(list(range(count * (k - 1) // n, count * k // n)))
        return replace(kept, shard=Shard(k, n, self.identity), ragged=not self.uniform)

    def _typed(self) -> Plan:
        deep = any(image.name in self.deep for image in self.images)
        dtype = "float32" if deep else "uint8"
        if dtype == self.clean_dtype:
            return self
        views = tuple(View.of(word, dtype) for word in self.confounders)
        return replace(self, clean_dtype=dtype, views=views)

    def _keep(self, kept: list[int]) -> Plan:
        rows = np.isin(self.image, kept)
        renumber = np.full(len(self.images), -1, np.int32)
        renumber[kept] = np.arange(len(kept), dtype=np.int32)
        return replace(
            self,
            images=tuple(self.images[i] for i in kept),
            image=renumber[self.image[rows]],
            box=self.box[rows],
        )


_PART = 64
_PART_PIXELS = 64 * 128 * 128


def make_plan(
    surveyed: Sequence[tuple[CleanImage, Header]], confounders: ConfounderSet, settings: Settings
) -> Plan:
    """Lay out tiles; raises UsageError where a tile cannot be downsampled by a word's factor."""
    views = tuple(View.of(word, "uint8") for word in confounders)
    images: list[CleanImage] = []
    skipped: list[str] = []
    rows: list[tuple[int, Window]] = []
    for image, header in surveyed:
        cut = boxes(
            header.height, header.width, settings.tile, settings.stride, keep_small=settings.small == "keep"
        )
        if not cut:
            skipped.append(image.name)
            continue
        check_divisible(image.name, ((box.h, box.w) for box in cut), views)
        rows += [(len(images), box) for box in cut]
        images.append(image)
    return Plan(
        settings=settings,
        confounders=confounders,
        views=views,
        images=tuple(images),
        image=np.array([i for i, _ in rows], np.int32),
        box=np.array([box for _, box in rows], np.int32).reshape(-1, 4),
        clean_dtype="uint8",
        skipped=tuple(skipped),
        deep=frozenset(image.name for image, header in surveyed if not header.eight_bit),
    )._typed()


def check_divisible(where: object, sizes: Iterable[tuple[int, int]], views: tuple[View, ...]) -> None:
    """Raises UsageError where items of these sizes cannot be made smaller by a view's factor."""
    found = sorted(set(sizes))
    for view in views:
        for h, w in found:
            if h % view.scale or w % view.scale:
                raise UsageError(
                    f"{view.label} makes images {view.scale} times smaller, which these sides do not allow",
                    where=where,
                    found=f"{h} x {w}",
                    expected=f"multiples of {view.scale}",
                    remedy="choose a tile that is a multiple of it and skip smaller images (--small skip)",
                )


def settings_json(settings: Settings) -> str:
    return json.dumps(vars(settings), sort_keys=True)


def as_settings(**given: Any) -> Settings:
    """Checked settings; raises UsageError."""
    from dilkit.confounders.images import ALPHAS

    settings = Settings(**given)
    check_tiling(settings.tile, settings.stride)
    for name, choices in (
        ("small", SMALLS),
        ("alpha", ALPHAS),
        ("storage", STORAGES),
        ("coupling", COUPLINGS),
    ):
        if getattr(settings, name) not in choices:
            raise UsageError(
                f"unknown {name}", where=name, found=getattr(settings, name), expected=" or ".join(choices)
            )
    if not 0 <= settings.seed < 2**63:
        raise UsageError(
            "the seed is out of range", where="seed", found=settings.seed, expected="0 .. 2**63 - 1"
        )
    if not 0 <= settings.validation < 1:
        raise UsageError(
            "not a share", where="validation", found=settings.validation, expected="0 .. below 1"
        )
    return settings
