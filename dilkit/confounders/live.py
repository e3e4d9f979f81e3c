"""Train straight from images and an expression: a virtual dataset without a file."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from dilkit import __version__
from dilkit.confounders.build import plan_for
from dilkit.confounders.format import Array, Head, StoredView
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
        sources, distort, settings: as `dilkit.confounders.build.augment` takes them.

    Raises:
        UsageError: no image, or an expression that cannot be parsed.
        DilkitError: an image that cannot be read.
    """

    def __init__(self, sources: Sequence[str], distort: Any, **settings: Any) -> None:
        self._given = (tuple(sources), str(confounder_set(distort)), settings)
        super().__init__(self._given[0][0])
        self._kept: OrderedDict[int, list[Array]] = OrderedDict()
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
    def head(self) -> Head:
        made, settings = self.plan, self.plan.settings
        views = tuple(StoredView(v.label, v.expression, v.hash, v.scale, v.dtype) for v in made.views)
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
        return Head(attrs, views, index, {})

    def word(self, label: str) -> Word:
        return self.plan.confounders[label]

    def key(self, item: int) -> SampleKey:
        settings = self.plan.settings
        if item not in self._hashes:
            self._hashes[item] = pixel_hash(self._item(item))
        return SampleKey(settings.seed, self._hashes[item], 0, settings.coupling)

    def _cut(self, name: str, item: int, scale: int, window: Window | None, expected: bool) -> Array:
        whole = self._item(item)
        if window is None:
            return whole
        y, x, h, w = window
        return whole[y : y + h, x : x + w]

    def _expect(self, name: str, item: int, scale: int, window: Window | None) -> None:
        """Images are decoded when they are looked at."""

    def _item(self, item: int) -> Array:
        image = int(self.plan.image[item])
        if image not in self._kept:
            self._keep(image)
        self._kept.move_to_end(image)
        return self._kept[image][item - self._first[image]]

    @cached_property
    def _first(self) -> list[int]:
        return [int(i) for i in np.searchsorted(self.plan.image, np.arange(len(self.plan.images)))]

    def _keep(self, image: int) -> None:
        pixels = self.plan.load(image)
        boxes = [self.plan.window(item) for item in self.plan.items_of(image)]
        self._kept[image] = [np.ascontiguousarray(pixels[y : y + h, x : x + w]) for y, x, h, w in boxes]
        self._bytes += sum(tile.nbytes for tile in self._kept[image])
        while self._bytes > CACHE and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= sum(tile.nbytes for tile in dropped)


def _again(sources: tuple[str, ...], distort: str, settings: dict[str, Any]) -> LiveStore:
    return LiveStore(sources, distort, **settings)
