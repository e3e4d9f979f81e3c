"""What a dataset will hold, decided before a pixel is read: items, confounders, types, sizes, splits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import blake2b
from typing import Any, Literal, NamedTuple, get_args
from zlib import crc32

import numpy as np
import numpy.typing as npt

from dilkit._version import __version__
from dilkit.confounders.images import (
    Alpha,
    CleanImage,
    Failure,
    ImageHeader,
    PairedImage,
    Pixels,
    UnreadableImage,
)
from dilkit.distortions import ConfounderSet, Law, Primitive, SampleKey, Word, as_float
from dilkit.distortions.randomness import Window
from dilkit.distortions.render import require_numbers
from dilkit.errors import UsageError

Render = Callable[[npt.NDArray[np.float32], SampleKey, Window | None], npt.NDArray[Any]]
"""(whole clean image, its key, the part that is wanted) -> the view as it is stored, uint8 or float32."""

REAL = "pairs"
"""The kind of the words that stand for real degraded images: `pairs('NAME')`."""


def renderer(word: Word, dtype: str, scale: int = 1) -> Render:
    """How a word's view is made in the type it is stored in (`storage_dtype`, `output_scale`).

    The function returned raises DilkitError where a distortion made values that are not finite, or a view of
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

    Raises:
        UsageError: the scale is not a whole number, or not the same for all that the word can draw.
    """
    if word.locality.halo is not None:
        return 1
    found: dict[tuple[int, int, int], float] = {}
    for side in _PROBED:
        sizes = {word.output_size(side, side)}
        for replicate in range(_TRIALS):  # of a plug-in that does not say what size it gives
            key = SampleKey(0, b"probe", replicate)
            sizes.add(word.apply(np.zeros((side, side, 3), np.float32), key).shape[:2])
        found |= {(side, h, w): side / h if h == w else 0.0 for h, w in sizes}
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


_PROBED, _TRIALS = (96, 192), 4
"""Sides of the squares that a word is tried on, and with how many keys."""


def is_random(word: Word) -> bool:
    """Whether two draws of it can differ."""
    return any(not isinstance(step, Primitive) for step in word.sequence) or any(
        step.kind.random or any(isinstance(value, Law) for value in step.params.values())
        for step in word.steps
    )


def real_name(word: Word) -> str | None:
    """The name of the pair set that a word stands for; None where it is made from clean images."""
    first = word.sequence[0] if len(word.sequence) == 1 else None
    if isinstance(first, Primitive) and first.name == REAL:
        return str(first.params["name"])
    return None


# -- Tiles -------------------------------------------------------------------------------------------------


def tile_starts(length: int, tile: int, stride: int) -> list[int]:
    """Where tiles start along one side; the last one is moved back to end at the border."""
    last = length - tile
    starts = [*range(0, last + 1, stride)]
    return starts if starts[-1] == last else [*starts, last]


def boxes(height: int, width: int, tile: int, stride: int, *, keep_small: bool = True) -> list[Window]:
    """The tiles of one image, row by row: every pixel that a full tile can reach is in one, none is invented.

    An image smaller than a tile on either side is kept whole, or yields nothing if not `keep_small`.
    """
    if tile == 0:
        return [Window(0, 0, height, width)]
    if height < tile or width < tile:
        return [Window(0, 0, height, width)] if keep_small else []
    return [
        Window(y, x, tile, tile)
        for y in tile_starts(height, tile, stride)
        for x in tile_starts(width, tile, stride)
    ]


def item_offsets(
    h: npt.NDArray[Any], w: npt.NDArray[Any], scale: int = 1, present: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.int64]:
    """Where each item begins in an array, in pixels; one more than there are items, the last being the total.

    Args:
        h, w: sides of the clean items, (N,).
        scale: how many times smaller the array's items are.
        present: which items the array has.
    """
    area = (h // scale).astype(np.int64) * (w // scale)
    return np.concatenate([[0], np.cumsum(area if present is None else area * present)])


# -- Settings ----------------------------------------------------------------------------------------------

Storage = Literal["stored", "virtual"]
Coupling = Literal["independent", "common"]
Small = Literal["keep", "skip"]

MOST_DRAWS = 1000


@dataclass(frozen=True)
class Settings:
    """Everything that shapes the dataset besides its images and words.

    Attributes:
        tile, stride: in pixels; `tile = 0` takes whole images.
        small: images smaller than a tile are kept whole, or skipped.
        alpha: what is done with transparent images.
        seed: the root of all randomness.
        storage: `virtual` keeps clean images and the recipe; views are made when they are read.
        coupling: `common` gives all degrees of one distortion the same random field.
        validation: share of the images marked `validation`.
        crop_multiple: the sides of items are cut to multiples of it, at the right and the bottom.
        draws: how many draws of each random word are stored.
    """

    tile: int = 256
    stride: int = 256
    small: Small = "keep"
    alpha: Alpha = "refuse"
    seed: int = 0
    storage: Storage = "stored"
    coupling: Coupling = "independent"
    validation: float = 0.0
    crop_multiple: int = 1
    draws: int = 1

    def table(self) -> dict[str, Any]:
        """JSON-able; the last two only where they are not 1, so that other files stay what they were."""
        later = ("crop_multiple", "draws")
        return {name: value for name, value in vars(self).items() if name not in later or value != 1}


def settings_of(text: str) -> Settings:
    """The settings that a file was made with; raises ValueError where they are none."""
    given = json.loads(text)
    if not isinstance(given, dict) or not {*given} <= {field.name for field in fields(Settings)}:
        raise ValueError("unknown settings")
    try:
        return as_settings(**given)
    except (UsageError, TypeError) as error:
        raise ValueError(f"settings out of range: {error}") from None


def as_settings(**given: Any) -> Settings:
    """Checked settings; raises UsageError."""
    settings = Settings(**given)
    tile, stride, multiple = settings.tile, settings.stride, settings.crop_multiple
    for name, law in (("small", Small), ("alpha", Alpha), ("storage", Storage), ("coupling", Coupling)):
        if (chosen := getattr(settings, name)) not in get_args(law):
            raise UsageError(f"unknown {name}", where=name, found=chosen, expected=" or ".join(get_args(law)))
    for sound, message, where, found, expected in (
        (tile >= 0, "negative tile size", "tile", tile, "pixels, or 0 for whole images"),
        (
            not tile or stride >= 1,
            "the stride must be positive",
            "stride",
            stride,
            f"1 .. {tile}, the tile size",
        ),
        (
            not tile or stride <= tile,
            "the stride would skip pixels",
            "stride",
            stride,
            f"1 .. {tile}, the tile size",
        ),
        (0 <= settings.seed < 2**63, "the seed is out of range", "seed", settings.seed, "0 .. 2**63 - 1"),
        (0 <= settings.validation < 1, "not a share", "validation", settings.validation, "0 .. below 1"),
        (
            1 <= multiple <= 1024 and tile % multiple == 0,
            "the multiple does not divide the tile",
            "--crop-multiple",
            multiple,
            f"a divisor of {tile}" if tile else "1 .. 1024",
        ),
        (
            1 <= settings.draws <= MOST_DRAWS,
            "impossible number of draws",
            "--draws",
            settings.draws,
            f"1 .. {MOST_DRAWS}",
        ),
    ):
        if not sound:
            raise UsageError(message, where=where, found=found, expected=expected)
    if settings.draws > 1 and settings.storage == "virtual":
        raise UsageError(
            "a virtual dataset is drawn afresh whenever it is read",
            where="--draws",
            remedy="leave --draws out; training takes another draw every epoch",
        )
    return settings


# -- The plan ----------------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """Part k (1 .. n) of n of a plan."""

    k: int
    n: int
    plan: str


@dataclass(frozen=True)
class PlannedView:
    """One confounder as it is stored.

    Attributes:
        real: its pixels come from files.
        random: two draws of it can differ.
    """

    label: str
    expression: str
    hash: str
    canonical: str
    dtype: str
    scale: int
    real: bool = False
    random: bool = False

    @classmethod
    def of(cls, word: Word, clean_dtype: str, scales: dict[str, int] | None = None) -> PlannedView:
        """
        Args:
            scales: of the pair sets, by name.
        """
        name = real_name(word)
        return cls(
            label=word.label if name is None else name,
            expression=str(word),
            hash=word.hash,
            canonical=json.dumps(word.canonical(), sort_keys=True, separators=(",", ":")),
            dtype=storage_dtype(word, clean_dtype).name if name is None else clean_dtype,
            scale=output_scale(word) if name is None else (scales or {}).get(name, 1),
            real=name is not None,
            random=name is None and is_random(word),
        )


PART_ITEMS = 64
PART_PIXELS = 64 * 128 * 128
"""What is handed out as one piece of work has at most so many items, and about so many pixels."""


@dataclass(frozen=True)
class Plan:
    """The items of a dataset (tiles or whole images) and its confounders.

    Attributes:
        images: those that give at least one item.
        image: for each item, the position of its image in `images`.
        box: for each item, y, x, h, w in its image, (N, 4) int32.
        skipped: names of images too small for a tile, where these are skipped.
        left_out: images that could not be used, and why.
        shard: which of how many parts of a larger plan this is, and that plan's identity.
        ragged: whether that plan's items differ in size.
        deep: names of images with more than 8 bits a channel.
    """

    settings: Settings
    confounders: ConfounderSet
    views: tuple[PlannedView, ...]
    images: tuple[CleanImage, ...]
    image: npt.NDArray[np.int32]
    box: npt.NDArray[np.int32]
    clean_dtype: str
    skipped: tuple[str, ...] = ()
    left_out: tuple[Failure, ...] = ()
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
        for i in np.flatnonzero(last_of_image | (np.arange(len(self)) % PART_ITEMS == PART_ITEMS - 1)):
            if area[i] - begun >= PART_PIXELS or i == len(self) - 1:
                parts.append((first, int(i) + 1))
                first, begun = int(i) + 1, int(area[i])
        return parts

    def window(self, item: int) -> Window:
        return Window(*(int(v) for v in self.box[item]))

    def items_of(self, image: int) -> range:
        """The items cut from an image."""
        return range(*np.searchsorted(self.image, [image, image + 1]).tolist())

    def stored(self, view: PlannedView) -> bool:
        """Whether the view's pixels go into the file."""
        return view.real or self.settings.storage == "stored"

    def draws(self, view: PlannedView) -> int:
        """How many draws of the view are stored, or would be were it not virtual."""
        return self.settings.draws if view.random else 1

    def present(self, view: PlannedView) -> npt.NDArray[np.bool_]:
        """Which items have the view, (N,)."""
        if not view.real:
            return np.ones(len(self), bool)
        has = [isinstance(image, PairedImage) and view.label in image.degraded for image in self.images]
        return np.array(has, bool)[self.image]

    def largest(self, scale: int = 1) -> tuple[int, int]:
        """The greatest height and width of an item, at a view's scale."""
        h, w = (self.box[:, 2:] // scale).max(axis=0).tolist()
        return h, w

    def load(self, image: int) -> Pixels:
        """The pixels of an image, in the dataset's type; UnreadableImage also where the file changed."""
        source, items = self.images[image], self.items_of(image)
        pixels = source.load(self.settings.alpha)
        boxes = self.box[items.start : items.stop]
        needed = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        if (pixels.shape[:2] < needed).any() or (pixels.dtype != np.uint8 and self.clean_dtype == "uint8"):
            raise UnreadableImage("the file changed while it was being read", where=source.name)
        return as_float(pixels) if self.clean_dtype == "float32" else pixels

    def load_real(self, image: int, view: PlannedView) -> Pixels | None:
        """The degraded counterpart of an image, in the view's type; None where it has none.

        Raises:
            UnreadableImage: it cannot be read, or has another size than its header said.
        """
        source = self.images[image]
        if not isinstance(source, PairedImage) or view.label not in source.degraded:
            return None
        file = source.degraded[view.label]
        pixels = file.load(self.settings.alpha)
        items = self.items_of(image)
        boxes = self.box[items.start : items.stop] // view.scale
        if (pixels.shape[:2] < (boxes[:, :2] + boxes[:, 2:]).max(axis=0)).any() or (
            pixels.dtype != np.uint8 and view.dtype == "uint8"
        ):
            raise UnreadableImage("the file changed while it was being read", where=file.name)
        return as_float(pixels) if view.dtype == "float32" else pixels

    def offsets(self, view: PlannedView | None = None) -> npt.NDArray[np.int64]:
        """Where each clean item, or its view, begins, in pixels; the last is the total."""
        h, w = self.box[:, 2], self.box[:, 3]
        if view is None:
            return item_offsets(h, w)
        return item_offsets(h, w, view.scale, self.present(view) if view.real else None)

    def nbytes(self) -> dict[str, int]:
        """Bytes of pixels: `clean`, and each label with all its draws (0 where it is virtual)."""
        sizes = {"clean": int(self.offsets()[-1]) * 3 * np.dtype(self.clean_dtype).itemsize}
        for view in self.views:
            pixels = int(self.offsets(view)[-1]) * self.draws(view) * self.stored(view)
            sizes[view.label] = pixels * 3 * np.dtype(view.dtype).itemsize
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
                [self.settings.table(), self.confounders.hash, *self.confounders.names, self.clean_dtype]
            ).encode()
        )
        digest.update("\0".join(image.name for image in self.images).encode())
        digest.update(self.image.tobytes() + self.box.tobytes())
        for view in self.views:
            if view.real:
                digest.update(
                    f"{view.label} {view.scale} {view.dtype}".encode() + self.present(view).tobytes()
                )
        return digest.hexdigest()

    @cached_property
    def stamp(self) -> str:
        """The identity, the division of work, and what is known of the source files on this machine."""
        digest = blake2b(f"{__version__} {self.identity} {self.parts}".encode(), digest_size=16)
        digest.update("\0".join(f"{image.stamp} {image.licence}" for image in self.images).encode())
        return digest.hexdigest()

    @cached_property
    def stamps(self) -> list[int]:
        """By image, 32 bits of what is known of its file, to name the one that was changed."""
        return [crc32(image.stamp.encode()) for image in self.images]

    def without(self, failures: Sequence[Failure]) -> Plan:
        """The plan with these images left out; a shard's types stay those of the whole."""
        names = {failure.name for failure in failures}
        kept = self._keep([i for i, image in enumerate(self.images) if image.name not in names])
        kept = replace(kept, left_out=(*self.left_out, *failures))
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
        scales = {view.label: view.scale for view in self.views if view.real}
        views = tuple(PlannedView.of(word, dtype, scales) for word in self.confounders)
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


def make_plan(
    surveyed: Sequence[tuple[CleanImage, ImageHeader]],
    confounders: ConfounderSet,
    settings: Settings,
    scales: dict[str, int] | None = None,
    left_out: Sequence[Failure] = (),
) -> Plan:
    """Lay out tiles; raises UsageError where a tile cannot be downsampled by a word's factor.

    Args:
        scales: of the pair sets, by name.
    """
    views = tuple(PlannedView.of(word, "uint8", scales) for word in confounders)
    labels = [view.label for view in views]
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise UsageError("two confounders have one name", found=twice, remedy="give one another name")
    images: list[CleanImage] = []
    skipped: list[str] = []
    rows: list[tuple[int, Window]] = []
    m = settings.crop_multiple
    for image, header in surveyed:
        height, width = header.height // m * m, header.width // m * m
        cut = boxes(height, width, settings.tile, settings.stride, keep_small=settings.small == "keep")
        if not cut or not height * width:
            skipped.append(image.name)
            continue
        require_divisible(image.name, ((box.h, box.w) for box in cut), views)
        rows += [(len(images), box) for box in cut]
        images.append(image)
    for h, w in sorted({(box.h, box.w) for _, box in rows}):
        for word in confounders:  # too large or too much work is refused before the first image
            if real_name(word) is None:
                word.extent(h, w)
    return Plan(
        settings=settings,
        confounders=confounders,
        views=views,
        images=tuple(images),
        image=np.array([i for i, _ in rows], np.int32),
        box=np.array([box for _, box in rows], np.int32).reshape(-1, 4),
        clean_dtype="uint8",
        skipped=tuple(skipped),
        left_out=tuple(left_out),
        deep=frozenset(image.name for image, header in surveyed if header.bits > 8),
    )._typed()


def require_divisible(
    where: object, sizes: Iterable[tuple[int, int]], views: tuple[PlannedView, ...]
) -> None:
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
                    remedy=f"cut the sides (--crop-multiple {view.scale}), or choose a tile that is a "
                    "multiple of it and skip smaller images (--small skip)",
                )
