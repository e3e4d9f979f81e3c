"""Is a dataset what it was when it was made, and what it says it is?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from dilkit.confounders.head import Array, StoredView
from dilkit.confounders.seal import Damaged
from dilkit.confounders.store import Store
from dilkit.distortions import as_float, pixel_hash
from dilkit.errors import DilkitError

_AHEAD = 8
"""Items that are asked for before they are read."""


@dataclass(frozen=True)
class Verdict:
    """What was checked, and every fault found, each named."""

    items: int
    remade: int
    faults: tuple[str, ...]

    @property
    def sound(self) -> bool:
        return not self.faults


def verify(
    path: str | Path,
    *,
    samples: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Verdict:
    """Check every digest, and make random views again from the clean pixels.

    Args:
        samples: how many views to make again.
        seed: of their choice.
        progress: called with (items checked, items in all).

    Raises:
        UsageError: the file is foreign, of another layout, unfinished, cut short, or a shard is missing.
    """
    store = Store(path)
    try:
        files = [Store(shard) for shard in store.head.shards] or [store]
    except Damaged as damage:  # which of the items are sound is not known then
        return Verdict(0, 0, (damage.message,))
    faults: list[str] = []
    done = 0
    for file in files:
        digests = {} if file.virtual else {label: file.digests(label) for label in file.labels}
        asked = 0
        for item in range(len(file)):
            while asked < min(item + _AHEAD, len(file)):
                file.expect(asked, list(digests))
                asked += 1
            faults += _digests(file, item, digests)
            done += 1
            progress(done, len(store))
    views = store.head.views
    everything = range(len(store) * len(views))
    chosen = random.Random(seed).sample(everything, min(samples, len(everything)))
    for item, view in (divmod(number, len(views)) for number in chosen):
        faults += _remake(store, item, views[view])
    return Verdict(len(store), len(chosen), tuple(dict.fromkeys(faults)))


def _digests(store: Store, item: int, digests: Mapping[str, Array]) -> Iterator[str]:
    if xxhash.xxh3_64_intdigest(store.clean(item).data) != store.index["digest"][item]:
        yield f"{_name(store, item)}: the clean pixels were changed"
    for label, expected in digests.items():
        if xxhash.xxh3_64_intdigest(store.view(item, label).data) != expected[item]:
            yield f"{_name(store, item)}: the pixels of {label} were changed"


def _remake(store: Store, item: int, view: StoredView) -> Iterator[str]:
    clean = store.clean(item)
    if pixel_hash(clean) != store.index["pixel_hash"][item].tobytes():
        yield f"{_name(store, item)}: the pixel hash does not belong to the clean pixels"
        return
    try:
        again = store.make(as_float(clean), item, view.label)
    except DilkitError as error:
        yield str(error)
        return
    if not np.array_equal(again, store.view(item, view.label)):
        yield f"{_name(store, item)}: {view.label} made again is not what is stored"


def _name(store: Store, item: int) -> str:
    source = store.index["source"][item].decode(errors="replace")
    y, x = int(store.index["y"][item]), int(store.index["x"][item])
    return f"{store.path.name}: item {item} ({source} at {y}, {x})"
