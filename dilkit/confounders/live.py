"""Train straight from images and an expression: a virtual dataset without a file."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dilkit._version import __version__
from dilkit.confounders.build import plan_for
from dilkit.confounders.duplicates import SeenImages, perceptual_hash
from dilkit.confounders.format import Array, Header, StoredView
from dilkit.confounders.plan import Plan
from dilkit.confounders.store import Store
from dilkit.distortions import SampleKey, Word, confounder_set, pixel_hash
from dilkit.distortions.randomness import Window
from dilkit.errors import DilkitError, UsageError

CACHE = 2 << 30
"""Bytes of decoded clean items that each process keeps."""


class LiveStore(Store):
    """What `augment(..., storage="virtual")` would write, bit for bit, made as it is read.

    Args:
        sources, distort, settings: as `dilkit.confounders.build.augment` takes them, `pairs` among them.

    Raises:
        UsageError: no image, or an expression that cannot be parsed.
        DilkitError: an image that cannot be read.
    """

    def __init__(self, sources: Sequence[str], distort: Any, **settings: Any) -> None:
        self._given = (tuple(sources), str(confounder_set(distort)), settings)
        super().__init__(self._given[0][0] if sources else "pairs")
        self._kept: OrderedDict[tuple[int, str], list[Array]] = OrderedDict()
        self._hashes: dict[int, bytes] = {}
        self._bytes = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, self._given

    def __repr__(self) -> str:
        return f"LiveStore{self._given}"

    def close(self) -> None:
        """Forget the decoded images."""
        self._kept.clear()
        self._bytes = 0

    @cached_property
    def plan(self) -> Plan:
        sources, distort, settings = self._given
        made, failures = plan_for(sources, distort, storage="virtual", **settings)
        if failures:
            first = failures[0]
            raise DilkitError(
                f"{len(failures)} of the images cannot be read", where=first.name, found=first.reason
            )
        if not len(made):
            raise UsageError("the sources hold no image", where=", ".join(sources))
        return made

    @cached_property
    def header(self) -> Header:
        made, settings = self.plan, self.plan.settings
        views = tuple(
            StoredView(v.label, v.expression, v.hash, v.scale, v.dtype, stored=v.real, real=v.real)
            for v in made.views
        )
        present = {view.label: made.present(view) for view in made.views if not made.present(view).all()}
        names = np.array([image.name.encode() for image in made.images])
        index = {
            "image": made.image,
            "source": names[made.image],
            "split": made.split,
            **{name: made.box[:, k] for k, name in enumerate("yxhw")},
        }
        attrs = {
            "seed": settings.seed,
            "coupling": settings.coupling,
            "storage": "virtual",
            "versions": json.dumps({"dilkit": __version__}),
        }
        return Header(attrs, views, index, {}, present=present)

    def word(self, label: str) -> Word:
        return self._words[self._stored_view(label).expression]

    @cached_property
    def _words(self) -> dict[str, Word]:
        return {str(word): word for word in self.plan.confounders}

    def key(self, item: int, draw: int = 0) -> SampleKey:
        settings = self.plan.settings
        if item not in self._hashes:
            self._hashes[item] = pixel_hash(self._item(item))
        return SampleKey(settings.seed, self._hashes[item], draw, settings.coupling)

    def seen_images(self, split: str | None = None) -> SeenImages:
        """The images of a split, or all, by what they look like; each is decoded once."""
        images = np.unique(self.plan.image[self.items(split)]).tolist()
        return SeenImages([perceptual_hash(self.plan.load(image)) for image in images])

    def _cut(self, name: str, item: int, scale: int, window: Window | None, expected: bool) -> Array:
        whole = self._item(item, name.partition("/")[2])
        if window is None:
            return whole
        y, x, h, w = window
        return whole[y : y + h, x : x + w]

    def _expect(self, name: str, item: int, scale: int, window: Window | None) -> None:
        """Images are decoded when they are looked at."""

    def _item(self, item: int, label: str = "") -> Array:
        """The clean item, or its real view."""
        held = int(self.plan.image[item]), label
        if held not in self._kept:
            self._keep(*held)
        self._kept.move_to_end(held)
        return self._kept[held][item - self._first[held[0]]]

    @cached_property
    def _first(self) -> list[int]:
        return [int(i) for i in np.searchsorted(self.plan.image, np.arange(len(self.plan.images)))]

    def _keep(self, image: int, label: str) -> None:
        view = next((view for view in self.plan.views if view.label == label), None)
        pixels = self.plan.load(image) if view is None else self.plan.load_real(image, view)
        scale = view.scale if view is not None else 1
        if pixels is None:
            raise UsageError("the item has no such view", where=self.plan.images[image].name, found=label)
        windows = [self.plan.window(item) for item in self.plan.items_of(image)]
        boxes = [(y // scale, x // scale, h // scale, w // scale) for y, x, h, w in windows]
        self._kept[image, label] = [
            np.ascontiguousarray(pixels[y : y + h, x : x + w]) for y, x, h, w in boxes
        ]
        self._bytes += sum(tile.nbytes for tile in self._kept[image, label])
        while self._bytes > CACHE and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= sum(tile.nbytes for tile in dropped)


def _again(sources: tuple[str, ...], distort: str, settings: dict[str, Any]) -> LiveStore:
    return LiveStore(sources, distort, **settings)
