"""Read a confounder dataset: any crop of any view, from any process."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from dilkit.confounders.duplicates import SeenImages
from dilkit.confounders.format import Array, Header, MappedFile, StoredView, cut, is_pixels, pieces, pixels_of
from dilkit.confounders.plan import Render, item_offsets, renderer
from dilkit.distortions import ConfounderSet, SampleKey, Word, as_float, parse
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError, UsageError, expanded, nearest


class Store:
    """A confounder dataset, opened when first used, in each process for itself.

    Pixels are handed out as they are stored (uint8 or float32) without a copy where possible; arrays are
    read-only. Values of a uint8 array are 255 times those in [0, 1].
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path).absolute()

    def __reduce__(self) -> tuple[Any, ...]:
        return Store, (self.path,)

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget the maps and the index; the next use opens the file again."""
        self.__dict__ = {"path": self.path}

    @cached_property
    def header(self) -> Header:
        return Header.read(self.path)

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Everything needed to make the file again: expression, seed, coupling, settings, versions, ..."""
        return self.header.attrs

    @property
    def index(self) -> Mapping[str, Array]:
        """By item: source, licence, split, image, y, x, h, w, offset, pixel_hash, perceptual_hash."""
        return self.header.index

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(view.label for view in self.header.views)

    @property
    def virtual(self) -> bool:
        """Views are made when they are read (but for real pairs, which lie in the file)."""
        return bool(self.attrs["storage"] == "virtual")

    def draws(self, label: str) -> int | None:
        """How many draws of a view there are: those that are stored; None where there is no end of them."""
        view = self._stored_view(label)
        return view.draws if view.stored else None

    def has(self, label: str) -> npt.NDArray[np.bool_]:
        """Which items have a view, (N,): all, but of real pairs."""
        self._stored_view(label)
        return self.header.present.get(label, np.ones(len(self), bool))

    def left_out(self) -> list[tuple[str, str]]:
        """Images that could not be used when the dataset was made, with the reason."""
        return [(str(name), str(why)) for name, why in json.loads(self.attrs.get("left_out", "[]"))]

    def seen_images(self, split: str | None = None) -> SeenImages:
        """The images of a split, or all, by what they look like."""
        return SeenImages(self.index["perceptual_hash"][self.items(split)])

    @cached_property
    def confounders(self) -> ConfounderSet:
        """The distortions, real pairs among them as `pairs('NAME')`; raises DilkitError where this version of
        dilkit makes other pixels of them."""
        return ConfounderSet.of(self.word(label) for label in self.labels)

    def __len__(self) -> int:
        return len(self.index["image"])

    def size(self, item: int) -> tuple[int, int]:
        """(H, W) of the clean item."""
        return int(self.index["h"][item]), int(self.index["w"][item])

    def scale(self, label: str) -> int:
        """How many times smaller the view is than the clean item."""
        return self._stored_view(label).scale

    def items(self, split: str | None = None) -> npt.NDArray[np.int64]:
        """Numbers of the items of a split, or of all."""
        if split is None:
            return np.arange(len(self))
        splits = self.index["split"].astype(str)
        found = np.flatnonzero(splits == split)
        if not len(found):
            names = sorted(set(splits))
            raise UsageError(
                f"the dataset has no items of split {split!r}",
                where=self.path,
                expected=" or ".join(names),
                nearest=nearest(split, names),
            )
        return found

    def clean(self, item: int, window: Window | None = None, *, expected: bool = False) -> Array:
        """The clean item, (h, w, 3), or a part of it; `expected` where `expect` was called before."""
        return self._cut("clean", item, 1, window, expected)

    def view(
        self,
        item: int,
        label: str,
        window: Window | None = None,
        *,
        draw: int = 0,
        expected: bool = False,
    ) -> Array:
        """The distorted item, (h, w, 3), or a part of it (in the view's own pixels).

        Args:
            draw: which of several draws of a random view: of those that are stored, their number taken
                modulo; of a virtual view, any.

        Raises:
            UsageError: the item has no such view.
        """
        stored = self._stored_view(label)
        if not stored.stored:
            return self.make(self.clean_for(item, [label], window, expected), item, label, window, draw)
        return self._cut(pixels_of(label, draw % stored.draws), item, stored.scale, window, expected)

    def views(
        self,
        item: int,
        labels: Sequence[str],
        window: Window | None = None,
        *,
        draw: int = 0,
        expected: bool = False,
    ) -> list[Array]:
        """Several views of one item; where they are virtual cheaper than one at a time. Scale 1 only."""
        made = [label for label in labels if not self._stored_view(label).stored]
        image = self.clean_for(item, made, window, expected) if made else None
        return [
            self.make(image, item, label, window, draw)
            if image is not None and label in made
            else self.view(item, label, window, draw=draw, expected=expected)
            for label in labels
        ]

    def expect(
        self, item: int, labels: Sequence[str], window: Window | None = None, *, draw: int = 0
    ) -> None:
        """Have the clean item and its views, or a part of them in clean pixels, fetched from the disk.

        Returns at once. Many crops that are asked for before the first is read cost a fraction of the wait.
        """
        made = [label for label in labels if not self._stored_view(label).stored]
        self._expect("clean", item, 1, self._seen(item, made, window) if made else window)
        for label in labels:
            view = self._stored_view(label)
            if view.stored:
                part = window and Window(*(side // view.scale for side in window))
                self._expect(pixels_of(label, draw % view.draws), item, view.scale, part)

    def word(self, label: str) -> Word:
        """The distortion behind a label."""
        words = self.__dict__.setdefault("_words", {})
        if label not in words:
            stored = self._stored_view(label)
            try:
                word = parse(stored.expression)
            except UsageError as error:
                raise DilkitError(
                    f"the distortion {label!r} cannot be made here: {error.message.splitlines()[0]}",
                    where=self.path,
                    remedy="install the plug-in that it comes from",
                ) from error
            if not isinstance(word, Word) or word.hash != stored.hash:
                raise DilkitError(
                    f"this version of dilkit makes other pixels of {label!r} than the one that made the file",
                    where=self.path,
                    found=f"made with {json.loads(self.attrs['versions'])['dilkit']}",
                    remedy="use that version, or make the dataset again",
                )
            words[label] = word
        return words[label]

    def key(self, item: int, draw: int = 0) -> SampleKey:
        """What the randomness of an item's views derives from."""
        return SampleKey(
            int(self.attrs["seed"]), self.index["pixel_hash"][item].tobytes(), draw, self.attrs["coupling"]
        )

    def make(self, image: Array, item: int, label: str, window: Window | None = None, draw: int = 0) -> Array:
        """A view made anew from the item's clean pixels as float32, in the type that is stored."""
        renders: dict[str, Render] = self.__dict__.setdefault("_renders", {})
        if label not in renders:
            stored = self._stored_view(label)
            renders[label] = renderer(self.word(label), stored.dtype, stored.scale)
        return renders[label](image, self.key(item, draw), window)

    def digests(self, label: str) -> Array:
        """xxh3-64 of the bytes of each item of a stored view, (N,) or (N, draws); 0 where it lacks the
        view."""
        return self.header.regions[f"digest/{label}"].map(self.path)

    def clean_for(
        self, item: int, labels: Sequence[str], window: Window | None, expected: bool = False
    ) -> Array:
        """The whole clean item as float32; for the views of a window, only what they look at is filled in."""
        seen = self._seen(item, labels, window)
        if seen is None:
            return as_float(self.clean(item, expected=expected))
        image = np.empty((*self.size(item), 3), np.float32)
        y, x, h, w = seen
        image[y : y + h, x : x + w] = as_float(self.clean(item, seen, expected=expected))
        return image

    def _seen(self, item: int, labels: Sequence[str], window: Window | None) -> Window | None:
        """The part of the clean item that a window's views look at; None is all of it."""
        halos = [self.word(label).locality.halo for label in labels]
        if window is None or None in halos:
            return None
        height, width = self._boxes[item]
        _require_inside(window, height, width)
        reach = max((halo for halo in halos if halo is not None), default=0)
        y, x = max(0, window.y - reach), max(0, window.x - reach)
        bottom, right = window.y + window.h + reach, window.x + window.w + reach
        return Window(y, x, min(bottom, height) - y, min(right, width) - x)

    def _stored_view(self, label: str) -> StoredView:
        try:
            return self._by_label[label]
        except KeyError:
            raise UsageError(
                f"the dataset has no confounder {label!r}",
                where=self.path,
                expected=", ".join(self._by_label),
                nearest=nearest(label, self._by_label),
            ) from None

    @cached_property
    def _by_label(self) -> dict[str, StoredView]:
        return {view.label: view for view in self.header.views}

    @cached_property
    def _shards(self) -> tuple[list[int], list[Store]]:
        """The first item of each shard of a merged dataset, and the shards."""
        stores = [Store(path) for path in self.header.shards]
        return np.cumsum([0, *(len(store) for store in stores)])[:-1].tolist(), stores

    def _cut(self, name: str, item: int, scale: int, window: Window | None, expected: bool) -> Array:
        if self.header.shards:
            store, item = self._shard(item)
            return store._cut(name, item, scale, window, expected)
        h, w = (side // scale for side in self._boxes[item])
        if window is not None:
            _require_inside(window, h, w)
        if not expected:
            self._expect(name, item, scale, window)
        start = self._start(name, item, scale) * 3
        values = self._arrays[name][start : start + h * w * 3]
        return cut(values, (h, w), self.header.regions[name].block or w, window)

    def _expect(self, name: str, item: int, scale: int, window: Window | None) -> None:
        """Have the column blocks of a window fetched."""
        if self.header.shards:
            store, item = self._shard(item)
            store._expect(name, item, scale, window)
            return
        h, w = (side // scale for side in self._boxes[item])
        region, pixel = self.header.regions[name], 3 * self._arrays[name].itemsize
        item_start = self._start(name, item, scale)
        for start, count in pieces((h, w), region.block or w, window):
            self._mapped.expect(region.offset + (item_start + start) * pixel, count * pixel)

    def _shard(self, item: int) -> tuple[Store, int]:
        """The shard of a merged dataset that holds an item, and the item's number there."""
        firsts, stores = self._shards
        at = bisect_right(firsts, item) - 1
        return stores[at], item - firsts[at]

    @cached_property
    def _boxes(self) -> list[tuple[int, int]]:
        return list(zip(self.index["h"].tolist(), self.index["w"].tolist(), strict=True))

    @cached_property
    def _mapped(self) -> MappedFile:
        return MappedFile(self.path)

    @cached_property
    def _arrays(self) -> dict[str, Array]:
        found = {name: region for name, region in self.header.regions.items() if is_pixels(name)}
        return {name: self._mapped.array(region) for name, region in found.items()}

    @cached_property
    def _starts(self) -> dict[str, tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_] | None]]:
        return {}

    def _start(self, name: str, item: int, scale: int) -> int:
        """Where an item begins in an array, in pixels."""
        if name not in self._starts:
            present = self.header.present.get(name.split("/", 2 if name.startswith("draws/") else 1)[-1])
            self._starts[name] = item_offsets(self.index["h"], self.index["w"], scale, present), present
        offsets, present = self._starts[name]
        if present is not None and not present[item]:
            raise UsageError(
                f"item {item} has no such view", where=self.path, found=name.rpartition("/")[2],
                remedy="see Store.has(label)",
            )  # fmt: skip
        return int(offsets[item])


def _require_inside(window: Window, height: int, width: int) -> None:
    y, x, h, w = window
    if not (y >= 0 and x >= 0 and 0 < h <= height - y and 0 < w <= width - x):
        raise UsageError(
            "the window leaves the item", found=str(window), expected=f"inside {height} x {width}"
        )
