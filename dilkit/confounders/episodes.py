"""What training sees of a dataset: episodes, one batch per confounder, and plain pairs.

The one file of this room that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from dilkit.confounders.orbit import BITS, UNMOVED, Correlation, Element, Orbit
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError
from dilkit.models.noise_map import with_map

Pairing = Literal["paired", "independent"]

Batch = tuple[Tensor, Tensor]
"""(distorted (B, 3, h, w), clean (B, 3, H, W)), float32; h, w differ from H, W in super-resolution only."""


@dataclass(frozen=True)
class Episode:
    """One batch per confounder.

    Attributes:
        views: distorted images by confounder label, each (B, 3, h, w) float32.
        targets: clean images by label, each (B, 3, H, W) float32. With `pairing: paired` they are one
            and the same tensor (the counterfactual of section 3.2); with `independent` each label has its
            own.
        step: the outer step, 0-based; objectives derive their shuffles from it, never from global state.
    """

    views: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    step: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.views)

    @property
    def clean(self) -> Tensor:
        """The shared clean batch of a paired episode."""
        first, *rest = self.targets.values()
        if any(t is not first for t in rest):
            raise UsageError("an independent episode has no single clean batch; use `targets`")
        return first

    def batch(self, label: str) -> Batch:
        return self.views[label], self.targets[label]

    def batches(self) -> dict[str, Batch]:
        return {label: self.batch(label) for label in self.labels}


class Pick(NamedTuple):
    """One crop: the item, the window in its clean pixels, which of the 8 symmetries of the square, what
    moves it, and which draw of random views: the epoch's number (a stored view has so many draws and
    begins again)."""

    item: int
    window: Window
    symmetry: int
    element: Element = UNMOVED
    draw: int = 0


class Pool(NamedTuple):
    """Items that crops are taken from, with their sizes."""

    items: npt.NDArray[np.int64]
    heights: npt.NDArray[Any]
    widths: npt.NDArray[Any]


class EpisodeSampler:
    """Random crops of a confounder dataset as episodes: a pure function of (seed, step, rank).

    Items come in an order that is shuffled afresh every epoch, so each is met once before any is met twice.
    Views that are made when they are read are drawn afresh every epoch, too.

    Args:
        store: the dataset.
        batch: crops per confounder, on each rank.
        crop: side of the square crops, in clean pixels.
        pairing: `paired` shows the same crops under every confounder (section 3.2 of the paper), of items
            that have them all; `independent` draws other images for each, as the authors' script does, and
            as real pairs need whose clean images differ.
        symmetry: flip and rotate each crop by one of the 8 symmetries of the square.
        rank, world: this process and how many there are; together they see what one process with the whole
            batch would see.
        labels: the confounders to use, in this order; all by default.
        split: the items to draw from; None takes all.
        orbit: move crops along symmetries of their distortion, one orbit of each group. With `paired` pairing
            all confounders share the element, whose reach is then that of the farthest. `contrast` and `gain`
            need views that are made as they are read.
        correlate: make the noise of crops correlated (which is no symmetry).
        maps: by label, a degree that views are given as a further channel (see `dilkit.models.noise_map`).

    Raises:
        UsageError: an unknown label or split, an item smaller than the crop, or no item with all confounders.
    """

    def __init__(
        self,
        store: Store,
        *,
        batch: int,
        crop: int,
        pairing: Pairing = "paired",
        symmetry: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        labels: Sequence[str] | None = None,
        split: str | None = "train",
        orbit: Sequence[Orbit] = (),
        correlate: Correlation | None = None,
        maps: Mapping[str, float] | None = None,
    ) -> None:
        self.store = store
        self.maps = maps
        self.batch = batch
        self.crop = crop
        self.pairing = pairing
        self.symmetry = symmetry
        self.seed = seed
        self.rank = rank
        self.world = world
        self.labels = tuple(labels) if labels is not None else store.labels
        self.split = split
        self.orbit, self.correlate = tuple(orbit), correlate
        self._check()
        self._spans = self._find_spans()
        items = store.items(split)
        keys = ("",) if pairing == "paired" else self.labels
        self.pools = {key: self._pool(items, self.labels if pairing == "paired" else (key,)) for key in keys}
        self._scales = {label: store.scale(label) for label in self.labels}
        self.unit = int(np.lcm.reduce([1, *self._scales.values()]))
        if crop % self.unit:
            raise UsageError(
                "the crop does not divide", where="crop", found=crop, expected=f"a multiple of {self.unit}"
            )
        self._remember()

    def _remember(self) -> None:
        """Start what is kept between calls: it is not pickled."""
        self._ahead = -1
        kept = lru_cache(maxsize=2 * (1 + len(self.labels)))
        self._order, self._picks = kept(self._shuffled), kept(self._drawn)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_order", "_picks")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._remember()

    def __len__(self) -> int:
        """Steps in an epoch."""
        most = max(len(pool.items) for pool in self.pools.values())
        return -(-most // (self.batch * self.world))

    def episode(self, step: int) -> Episode:
        """The episode of an outer step, float32 in the range that is stored (noise may leave [0, 1])."""
        if self._ahead != step:
            self._expect(step)
        if self.pairing == "paired":
            clean, *parts = stacked(self.parts(pick, self.labels) for pick in self.picks(step))
            made = Episode(
                dict(zip(self.labels, parts, strict=True)), dict.fromkeys(self.labels, clean), step
            )
        else:
            views, targets = {}, {}
            for label in self.labels:
                crops = (self.parts(pick, (label,)) for pick in self.picks(step, label))
                targets[label], views[label] = stacked(crops)
            made = Episode(views, targets, step)
        self._expect(step + 1)
        self._ahead = step + 1
        if self.maps is None:
            return made
        return replace(made, views={label: with_map(x, self.maps[label]) for label, x in made.views.items()})

    def _expect(self, step: int) -> None:
        """Have the crops of a step fetched while others are read, or trained on."""
        for key in self.pools:
            for pick in self.picks(step, key):
                self.store.expect(pick.item, (key,) if key else self.labels, pick.window, draw=pick.draw)

    def parts(self, pick: Pick, labels: Sequence[str]) -> list[npt.NDArray[Any]]:
        """The clean crop and its views, (h, w, 3), turned and moved, after `Store.expect`."""
        item, (y, x, h, w) = pick.item, pick.window
        if pick.element.s != 1:
            image = pick.element.contracted(self.store.clean_for(item, labels, pick.window))
            views = [self.store.make(image, item, label, pick.window, pick.draw) for label in labels]
            found = [image[y : y + h, x : x + w], *views]
        else:
            found = [self.store.clean(item, pick.window, expected=True)]
            if self.unit == 1:
                found += self.store.views(item, labels, pick.window, draw=pick.draw, expected=True)
            for label in labels if self.unit > 1 else ():
                window = Window(*(side // self._scales[label] for side in pick.window))
                found.append(self.store.view(item, label, window, draw=pick.draw, expected=True))
        if pick.element != UNMOVED:
            found = [pick.element.after(part, self.crop) for part in found]
        return [turned(part, pick.symmetry) for part in found] if pick.symmetry else found

    def picks(self, step: int, label: str = "") -> Sequence[Pick]:
        """The crops of a step; `label` is empty when all confounders share them."""
        return self._picks(step, label)

    def _drawn(self, step: int, label: str) -> tuple[Pick, ...]:
        first = (step * self.world + self.rank) * self.batch
        whole = self.batch * self.world
        bits = _bits(3 * whole, "crop", self.seed, label, step, 0).reshape(3, whole)
        bits = bits[:, self.rank * self.batch : (self.rank + 1) * self.batch]
        moves = self._moves(label, step, whole)
        picks, pool = [], self.pools[label]
        for row in range(self.batch):
            epoch, place = divmod(first + row, len(pool.items))
            at = self._order(label, epoch)[place]
            side = moves[row].side(self.crop) if moves else self.crop
            y = _below(bits[0, row], (int(pool.heights[at]) - side) // self.unit + 1) * self.unit
            x = _below(bits[1, row], (int(pool.widths[at]) - side) // self.unit + 1) * self.unit
            turn = _below(bits[2, row], 8) if self.symmetry else 0
            window = Window(y, x, side, side)
            element = moves[row] if moves else UNMOVED
            picks.append(Pick(int(pool.items[at]), window, turn, element, epoch))
        return tuple(picks)

    def _moves(self, label: str, step: int, whole: int) -> list[Element]:
        """What moves the crops of a step; empty where nothing does."""
        if not self.orbit and self.correlate is None:
            return []
        rows = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        made = [UNMOVED] * self.batch
        for place, orbit in enumerate(self.orbit):
            key = ("orbit", self.seed, label, step, *((place,) if place else ()))
            bits = _bits(3 * whole, *key).reshape(3, whole)[:, rows]
            span = self._spans[place][label]
            made = [m.then(orbit.element(span, column)) for m, column in zip(made, bits.T, strict=True)]
        if self.correlate is not None:
            bits = _bits(BITS * whole, "correlate", self.seed, label, step).reshape(BITS, whole)[:, rows]
            made = [m.then(self.correlate.element(column)) for m, column in zip(made, bits.T, strict=True)]
        return made

    def _shuffled(self, label: str, epoch: int) -> npt.NDArray[np.intp]:
        return np.argsort(
            _bits(len(self.pools[label].items), "order", self.seed, label, epoch), kind="stable"
        )

    def _check(self) -> None:
        for name in ("batch", "crop", "world"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be positive", where=name, found=getattr(self, name))
        if self.pairing not in ("paired", "independent"):
            raise UsageError("unknown pairing", found=self.pairing, expected="paired or independent")

    def _find_spans(self) -> list[dict[str, float]]:
        """How far each orbit reaches from each confounder; "" stands for all of them."""
        groups = [orbit.group for orbit in self.orbit]
        if not groups and self.correlate is None:
            return []
        if len(set(groups)) < len(groups):
            raise UsageError("an orbit is given twice", where="data.orbit", found=", ".join(groups))
        if any(self.store.scale(label) != 1 for label in self.labels):
            raise UsageError("an orbit needs views of the size of the image", where="data.orbit")
        if {"contrast", "gain"} & set(groups) and not self.store.virtual:
            raise UsageError(
                "the orbits of contrast and gain act before the distortion, which this dataset has stored",
                where="data.orbit",
                found=self.store.path,
                remedy="train from images (data.sources), or make the dataset with --storage virtual",
            )
        words = {label: self.store.word(label) for label in self.labels}
        return [orbit.spans(words) for orbit in self.orbit]

    def _pool(self, items: npt.NDArray[np.int64], labels: Sequence[str]) -> Pool:
        for label in labels:
            if not self.store.has(label).all():
                items = items[self.store.has(label)[items]]
        if not len(items):
            alone = len(labels) == 1
            raise UsageError(
                f"no item has {labels[0]}" if alone else "no item has all the confounders",
                where=self.store.path,
                found=f"split {self.split}, confounders {', '.join(labels)}",
                remedy="choose another split"
                if alone
                else "real pairs of different images need data.pairing=independent",
            )
        heights, widths = self.store.index["h"][items], self.store.index["w"][items]
        spans = zip(self.orbit, self._spans, strict=True)
        least = max((orbit.largest(self.crop, span) for orbit, span in spans), default=self.crop)
        small = np.flatnonzero((heights < least) | (widths < least))
        if len(small):
            name = self.store.index["source"][items[small[0]]].decode()
            raise UsageError(
                f"{len(small)} of {len(items)} items are smaller than the crop"
                + (f" of {self.crop} with its orbit of boxes" if least > self.crop else ""),
                where=self.store.path,
                found=f"{name} is {heights[small[0]]} x {widths[small[0]]}",
                expected=f"at least {least} x {least}",
                remedy="choose a smaller crop, or make the dataset with --small skip",
            )
        return Pool(items, heights, widths)


def episodes(sampler: EpisodeSampler, start: int, stop: int, *, workers: int = 0) -> Iterator[Episode]:
    """The episodes of steps start .. stop - 1, in order.

    Args:
        workers: processes that prepare them ahead; 0 prepares each when it is asked for, which costs about a
            millisecond and is best where the processor also trains.
    """
    if workers == 0:
        return (sampler.episode(step) for step in range(start, stop))
    loader: DataLoader[Any] = DataLoader(
        _Steps(sampler), batch_size=None, sampler=range(start, stop), num_workers=workers, prefetch_factor=4
    )
    paired = sampler.pairing == "paired"
    return (
        Episode(views, dict.fromkeys(views, targets[""]) if paired else targets, step)
        for views, targets, step in loader
    )


class _Steps(Dataset[Any]):
    def __init__(self, sampler: EpisodeSampler) -> None:
        self.sampler = sampler

    def __getitem__(self, step: int) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        episode = self.sampler.episode(step)
        if self.sampler.pairing == "paired":  # one tensor crosses to the parent, not one per label
            return dict(episode.views), {"": episode.clean}, step
        return dict(episode.views), dict(episode.targets), step


def turned(part: npt.NDArray[Any], symmetry: int) -> npt.NDArray[Any]:
    """An (h, w, 3) crop under one of the 8 symmetries of the square; not copied."""
    if symmetry & 4:
        part = part.swapaxes(0, 1)
    if symmetry & 1:
        part = part[::-1]
    return part[:, ::-1] if symmetry & 2 else part


def stacked(rows: Iterable[Sequence[npt.NDArray[Any]]]) -> list[Tensor]:
    """For each place in the rows, its (h, w, 3) crops as one (B, 3, h, w) float32 tensor; uint8 k becomes
    k / 255.

    Raises:
        ValueError: the crops in one place differ in size.
    """
    batches = []
    for parts in zip(*rows, strict=True):
        h, w, _ = parts[0].shape
        batch = np.empty((len(parts), 3, h, w), np.float32)
        for out, part in zip(batch, parts, strict=True):
            if part.dtype == np.uint8:
                np.divide(part.transpose(2, 0, 1), np.float32(255), out=out, dtype=np.float32)
            elif part.shape != (h, w, 3):
                raise ValueError("crops of several sizes")
            else:
                out[...] = part.transpose(2, 0, 1)
        batches.append(torch.from_numpy(batch))
    return batches


def _bits(count: int, *key: object) -> npt.NDArray[np.uint64]:
    """Random 64-bit words that depend on the key alone (raw PCG64, which NumPy keeps stable)."""
    digest = blake2b("\0".join(map(str, key)).encode(), digest_size=16, person=b"dilkit-episodes").digest()
    return np.random.PCG64(int.from_bytes(digest)).random_raw(count)


def _below(word: np.uint64, n: int) -> int:
    return int(word) * n >> 64


class PairDataset(Dataset[Any]):
    """The pairs of a store for anybody's training loop: a map-style dataset of torch.

    An element is (degraded, clean), float32 tensors (3, h, w) and (3, H, W) in the range that is stored;
    there is one for every item and every confounder that it has, one confounder after another. With
    `views=True` there is one for every item that has them all: (degraded by label, clean). Random crops,
    turns and draws of random confounders come from torch's generator, which a DataLoader seeds for each of
    its workers; without a crop an element is the whole item, its first draw.

    It may be pickled, and every worker opens the file for itself. A DataLoader asks for a batch at a time,
    and then all its crops are fetched from the disk at once.

    Args:
        store: a dataset, its path, or a live store.
        labels: the confounders to use; all by default.
        crop: side of random square crops in clean pixels, turned and mirrored at random; None for whole
            items.
        transform: called with (degraded, clean), or (degraded by label, clean); its result is the element.
        views: all confounders of an item in one element.
        split: the items to use; None takes all.

    Raises:
        UsageError: an unknown label or split, an item smaller than the crop, or none with all confounders.
    """

    def __init__(
        self,
        store: Store | str | Path,
        *,
        labels: Sequence[str] | None = None,
        crop: int | None = None,
        transform: Callable[[Any, Tensor], Any] | None = None,
        views: bool = False,
        split: str | None = "train",
    ) -> None:
        self.store = store if isinstance(store, Store) else Store(store)
        self.transform = transform
        self.views = views
        names = self.store.labels if labels is None else tuple(labels)
        whole = int(np.lcm.reduce([1, *(self.store.scale(label) for label in names)]))
        self._sampler = EpisodeSampler(
            self.store, batch=1, crop=crop or whole, labels=labels, split=split,
            pairing="paired" if views else "independent",
        )  # fmt: skip
        self.labels, self.crop = self._sampler.labels, crop
        self._elements = [
            (item, which, *self.store.size(item))
            for which, pool in enumerate(self._sampler.pools.values())
            for item in pool.items.tolist()
        ]
        self._single = [(label,) for label in self.labels]
        self._alike = crop is not None and len({self.store.scale(label) for label in self.labels}) == 1

    def __len__(self) -> int:
        return len(self._elements)

    def label(self, index: int) -> str:
        """The confounder of an element; empty where an element has them all."""
        return "" if self.views else self.labels[self._elements[index][1]]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> Sequence[Any]:
        """Several elements; a DataLoader calls it with the indices of a batch."""
        numbers = torch.randint(0, 1 << 30, (len(indices), 4)).tolist() if self.crop is not None else indices
        picks = [self._pick(index, drawn) for index, drawn in zip(indices, numbers, strict=True)]
        for labels, pick in picks:
            self.store.expect(pick.item, labels, pick.window, draw=pick.draw)
        rows = [self._sampler.parts(pick, labels) for labels, pick in picks]
        made: Sequence[Any]
        if self._alike or len({tuple(part.shape for part in row) for row in rows}) == 1:
            made = _Batch(self, stacked(rows))
        else:
            made = [_Batch(self, stacked([row]))[0] for row in rows]
        return made if self.transform is None else [self.transform(*element) for element in made]

    def _element(self, parts: Sequence[Tensor]) -> tuple[Any, Tensor]:
        clean, *views = parts
        return dict(zip(self.labels, views, strict=True)) if self.views else views[0], clean

    @staticmethod
    def collate(elements: Sequence[Any]) -> Any:
        """What torch's default_collate gives, without its copy: for
        `DataLoader(data, batch_size=8, collate_fn=data.collate)`."""
        return elements.whole() if isinstance(elements, _Batch) else default_collate(list(elements))

    def _pick(self, index: int, drawn: Any) -> tuple[tuple[str, ...], Pick]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"element {index} of {len(self)}")
        item, which, height, width = self._elements[index]
        labels = self.labels if self.views else self._single[which]
        if self.crop is None:
            return labels, Pick(item, Window(0, 0, height, width), 0)
        unit, (y, x, turn, draw) = self._sampler.unit, drawn
        y = y % ((height - self.crop) // unit + 1) * unit
        x = x % ((width - self.crop) // unit + 1) * unit
        return labels, Pick(item, Window(y, x, self.crop, self.crop), turn % 8, draw=draw)


class _Batch(Sequence[Any]):
    """The elements of a batch, made when they are asked for: `PairDataset.collate` wants them whole."""

    def __init__(self, data: PairDataset, parts: list[Tensor]) -> None:
        self._data, self._parts = data, parts

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, row: Any) -> Any:
        return self._data._element([part[row] for part in self._parts])

    def whole(self) -> list[Any]:
        return list(self._data._element(self._parts))
