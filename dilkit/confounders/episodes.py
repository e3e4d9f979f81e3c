"""What training sees of a dataset: episodes, one batch per confounder, and plain pairs.

The one file of this room that imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils.collate import collate as collated
from torch.utils.data._utils.collate import default_collate_fn_map

from dilkit.confounders.orbit import BITS, Correlation, Element, Orbit
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window
from dilkit.errors import UsageError, nearest

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
    element: Element = Element()
    draw: int = 0


_UNMOVED = Element()


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
    ) -> None:
        self.store = store
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
        made = self._paired(step) if self.pairing == "paired" else self._independent(step)
        self._expect(step + 1)
        self._ahead = step + 1
        return made

    def _expect(self, step: int) -> None:
        """Have the crops of a step fetched while others are read, or trained on."""
        if self.pairing == "paired":
            for pick in self.picks(step):
                self.store.expect(pick.item, self.labels, pick.window, draw=pick.draw)
            return
        for label in self.labels:
            for pick in self.picks(step, label):
                self.store.expect(pick.item, [label], pick.window, draw=pick.draw)

    def _independent(self, step: int) -> Episode:
        views, targets = {}, {}
        for label in self.labels:
            picks = self.picks(step, label)
            clean, view = self._batch(1), self._batch(self._scales[label])
            for row, pick in enumerate(picks):
                if pick.element != _UNMOVED:
                    moved = self._moved(pick, [label])
                    _put(clean[row], moved[0], pick.symmetry)
                    _put(view[row], moved[1], pick.symmetry)
                    continue
                _put(clean[row], self.store.clean(pick.item, pick.window, expected=True), pick.symmetry)
                _put(view[row], self._view(pick, label), pick.symmetry)
            views[label], targets[label] = torch.from_numpy(view), torch.from_numpy(clean)
        return Episode(views, targets, step)

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
            element = moves[row] if moves else _UNMOVED
            picks.append(Pick(int(pool.items[at]), window, turn, element, epoch))
        return tuple(picks)

    def _moves(self, label: str, step: int, whole: int) -> list[Element]:
        """What moves the crops of a step; empty where nothing does."""
        if not self.orbit and self.correlate is None:
            return []
        rows = slice(self.rank * self.batch, (self.rank + 1) * self.batch)
        made = [_UNMOVED] * self.batch
        for place, orbit in enumerate(self.orbit):
            key = ("orbit", self.seed, label, step, *((place,) if place else ()))
            bits = _bits(3 * whole, *key).reshape(3, whole)[:, rows]
            span = self._spans[place][label]
            made = [m.then(orbit.element(span, column)) for m, column in zip(made, bits.T, strict=True)]
        if self.correlate is not None:
            bits = _bits(BITS * whole, "correlate", self.seed, label, step).reshape(BITS, whole)[:, rows]
            made = [m.then(self.correlate.element(column)) for m, column in zip(made, bits.T, strict=True)]
        return made

    def _paired(self, step: int) -> Episode:
        clean = self._batch(1)
        views = {label: self._batch(scale) for label, scale in self._scales.items()}
        same_size = self.unit == 1
        for row, pick in enumerate(self.picks(step)):
            if pick.element != _UNMOVED:
                moved = self._moved(pick, self.labels)
                _put(clean[row], moved[0], pick.symmetry)
                for label, part in zip(self.labels, moved[1:], strict=True):
                    _put(views[label][row], part, pick.symmetry)
                continue
            _put(clean[row], self.store.clean(pick.item, pick.window, expected=True), pick.symmetry)
            if same_size:
                parts = self.store.views(pick.item, self.labels, pick.window, draw=pick.draw, expected=True)
            else:
                parts = [self._view(pick, label) for label in self.labels]
            for label, part in zip(self.labels, parts, strict=True):
                _put(views[label][row], part, pick.symmetry)
        target = torch.from_numpy(clean)
        return Episode(
            {label: torch.from_numpy(view) for label, view in views.items()},
            dict.fromkeys(self.labels, target),
            step,
        )

    def _moved(self, pick: Pick, labels: Sequence[str]) -> list[npt.NDArray[Any]]:
        """The clean crop and its views, moved by the pick's element."""
        if pick.element.s == 1:
            parts = [self.store.clean(pick.item, pick.window, expected=True)]
            parts += [self._view(pick, label) for label in labels]
        else:
            y, x, h, w = pick.window
            image = pick.element.contracted(self.store.clean_for(pick.item, labels, pick.window))
            views = [self.store.make(image, pick.item, label, pick.window, pick.draw) for label in labels]
            parts = [image[y : y + h, x : x + w], *views]
        return [pick.element.after(part, self.crop) for part in parts]

    def _view(self, pick: Pick, label: str) -> npt.NDArray[Any]:
        scale = self._scales[label]
        window = Window(*(v // scale for v in pick.window))
        return self.store.view(pick.item, label, window, draw=pick.draw, expected=True)

    def _batch(self, scale: int) -> npt.NDArray[np.float32]:
        return np.empty((self.batch, 3, self.crop // scale, self.crop // scale), np.float32)

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
        for label in self.labels:
            if label not in self.store.labels:
                raise UsageError(
                    f"the dataset has no confounder {label!r}",
                    where=self.store.path,
                    expected=", ".join(self.store.labels),
                    nearest=nearest(label, self.store.labels),
                )

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


def _put(out: npt.NDArray[np.float32], part: npt.NDArray[Any], symmetry: int) -> None:
    """Write an (h, w, 3) crop, turned, as a (3, h, w) float32 one; uint8 k becomes k / 255."""
    if symmetry & 4:
        part = part.swapaxes(0, 1)
    if symmetry & 1:
        part = part[::-1]
    if symmetry & 2:
        part = part[:, ::-1]
    planes = part.transpose(2, 0, 1)
    if part.dtype == np.uint8:
        np.divide(planes, np.float32(255), out=out, dtype=np.float32)
    else:
        out[...] = planes


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
        pools = self._sampler.pools
        self._items = np.concatenate([pool.items for pool in pools.values()]).tolist()
        self._which = np.repeat(np.arange(len(pools)), [len(pool.items) for pool in pools.values()]).tolist()
        self._scale = {label: self.store.scale(label) for label in self.labels}
        self._scales = {*self._scale.values()}

    def __len__(self) -> int:
        return len(self._items)

    def label(self, index: int) -> str:
        """The confounder of an element; empty where an element has them all."""
        return "" if self.views else self.labels[self._which[index]]

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Several elements; a DataLoader calls it with the indices of a batch."""
        numbers = torch.randint(0, 1 << 30, (len(indices), 4)).tolist() if self.crop is not None else indices
        picks = [self._pick(index, drawn) for index, drawn in zip(indices, numbers, strict=True)]
        for labels, pick in picks:
            self.store.expect(pick.item, labels, pick.window, draw=pick.draw)
        cleans = self._places(len(picks), 1)
        degraded = (
            {scale: self._places(len(picks), scale) for scale in self._scales} if not self.views else {}
        )
        views = {label: self._places(len(picks), self._scale[label]) for label in self.labels if self.views}
        made = []
        for row, (labels, pick) in enumerate(picks):
            clean = _put_at(
                cleans, row, self.store.clean(pick.item, pick.window, expected=True), pick.symmetry
            )
            parts = zip(labels, self._parts(labels, pick), strict=True)
            if self.views:
                found: Any = {label: _put_at(views[label], row, part, pick.symmetry) for label, part in parts}
            else:
                ((label, part),) = parts
                found = _put_at(degraded[self._scale[label]], row, part, pick.symmetry)
            made.append((found, clean) if self.transform is None else self.transform(found, clean))
        return made

    @staticmethod
    def collate(elements: list[Any]) -> Any:
        """What torch's default_collate gives, without the copy where the elements are crops of one batch: for
        `DataLoader(data, batch_size=8, collate_fn=data.collate)`."""
        return collated(elements, collate_fn_map={**default_collate_fn_map, Tensor: _stack})

    def _pick(self, index: int, drawn: Any) -> tuple[tuple[str, ...], Pick]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"element {index} of {len(self)}")
        item = self._items[index]
        labels = self.labels if self.views else (self.labels[self._which[index]],)
        height, width = self.store.size(item)
        if self.crop is None:
            return labels, Pick(item, Window(0, 0, height, width), 0)
        unit, (y, x, turn, draw) = self._sampler.unit, drawn
        y = y % ((height - self.crop) // unit + 1) * unit
        x = x % ((width - self.crop) // unit + 1) * unit
        return labels, Pick(item, Window(y, x, self.crop, self.crop), turn % 8, draw=draw)

    def _parts(self, labels: Sequence[str], pick: Pick) -> list[npt.NDArray[Any]]:
        if self._sampler.unit == 1:
            return self.store.views(pick.item, labels, pick.window, draw=pick.draw, expected=True)
        windows = [Window(*(side // self._scale[label] for side in pick.window)) for label in labels]
        return [
            self.store.view(pick.item, label, window, draw=pick.draw, expected=True)
            for label, window in zip(labels, windows, strict=True)
        ]

    def _places(self, count: int, scale: int) -> Places:
        """Where the crops of a batch go; nowhere for whole items, which may differ in size."""
        if self.crop is None:
            return None
        batch = np.empty((count, 3, self.crop // scale, self.crop // scale), np.float32)
        return batch, torch.from_numpy(batch).unbind(0)


Places = tuple[npt.NDArray[np.float32], tuple[Tensor, ...]] | None
"""A batch and its elements."""


def _put_at(places: Places, row: int, part: npt.NDArray[Any], symmetry: int) -> Tensor:
    """A crop or an item, turned, as a (3, h, w) tensor in its place or of its own."""
    if places is None:
        out = np.empty((3, *part.shape[:2]), np.float32)
        _put(out, part, symmetry)
        return torch.from_numpy(out)
    _put(places[0][row], part, symmetry)
    return places[1][row]


def _stack(tensors: Sequence[Tensor], *, collate_fn_map: Any = None) -> Tensor:
    base = tensors[0]._base
    whole = base is not None and base.shape[1:] == tensors[0].shape and len(base) == len(tensors)
    if whole and all(t._base is base and t.storage_offset() == k * t.numel() for k, t in enumerate(tensors)):
        return base  # type: ignore[return-value]
    return torch.stack(list(tensors))
