"""Look into a dataset, or a plan for one: its cost, what is in it, how strong it is, whether it is whole."""

from __future__ import annotations

import json
import math
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image, ImageDraw, ImageFont

from dilkit.confounders.build import ONE_THREAD, PartWriter, distort, ingest
from dilkit.confounders.format import Array, Damaged, StoredView, create, pixels_of, regions
from dilkit.confounders.images import FileImage, UnreadableImage
from dilkit.confounders.plan import Plan
from dilkit.confounders.store import Store
from dilkit.distortions import SampleKey, as_float, pixel_hash
from dilkit.errors import DilkitError, UsageError, reason
from dilkit.metrics import psnr, ssim

_MEASURED, _TILES = 12, 3
"""Images that are measured, and tiles of each."""
_WRITE_RATE = 400e6
"""Bytes per second that a modest disk takes."""
_FIXED = 0.2
"""Seconds that every run needs: laying the file out, its checksum, the last flush."""


@dataclass(frozen=True)
class Estimate:
    """Sizes in bytes, times in seconds.

    Attributes:
        nbytes: `clean` and each label.
        seconds: with the given number of workers; the disk's rate is assumed to be 400 MB/s.
        free: what the disk of the output has left.
    """

    images: int
    items: int
    nbytes: dict[str, int]
    seconds: float
    free: int

    @property
    def total(self) -> int:
        return sum(self.nbytes.values())


def estimate(plan: Plan, out: Path, workers: int) -> Estimate:
    """Read and distort a few images, small and large ones, and multiply by their number.

    Raises:
        DilkitError: none of the images that were tried can be read.
    """
    ends = np.flatnonzero(np.append(plan.image[1:] != plan.image[:-1], True))
    areas = (plan.box[ends, :2] + plan.box[ends, 2:]).astype(np.int64).prod(axis=1)
    spread = np.unique(np.linspace(0, len(ends) - 1, _MEASURED).round().astype(int))
    tried = np.sort(np.argsort(areas, kind="stable")[spread])  # small and large ones have their share
    with ONE_THREAD, tempfile.TemporaryDirectory() as folder:
        times = [found for image in tried.tolist() if (found := _seconds(plan, image, Path(folder) / "x.h5"))]
    if not times:
        raise DilkitError("none of the images that were tried can be read", where=plan.images[tried[0]].name)
    reading = float(np.mean([read for read, _, _ in times]))
    making = sum(made * items for _, made, items in times) / sum(items for _, _, items in times)
    nbytes = plan.nbytes()
    work = (reading * len(plan.images) + making * len(plan)) / workers
    return Estimate(
        images=len(plan.images),
        items=len(plan),
        nbytes=nbytes,
        seconds=_FIXED + max(work, sum(nbytes.values()) / _WRITE_RATE),
        free=shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free,
    )


def _seconds(plan: Plan, image: int, scratch: Path) -> tuple[float, float, int] | None:
    """To read an image, to make and write one of its items, and how many it has; None where it is damaged."""
    items = plan.items_of(image)
    chosen = items[:: -(-len(items) // _TILES)]
    part = replace(
        plan,
        images=(plan.images[image],),
        image=np.zeros(len(chosen), np.int32),
        box=plan.box[chosen.start : chosen.stop : chosen.step],
    )
    create(scratch, part)
    with h5py.File(scratch, "r", locking=False) as file:
        writer = PartWriter(scratch, part, regions(file)).open()
    try:
        times = []
        for _ in range(2):  # what is done first pays for much that is done once
            writer.forget()
            began = time.perf_counter()
            if ingest(writer, 0):
                return None
            read = time.perf_counter()
            if plan.settings.storage == "stored":
                distort(writer, 0)
            times.append((read - began, (time.perf_counter() - read) / len(chosen)))
        return (*np.min(times, axis=0).tolist(), len(items))
    finally:
        writer.close()


GAIN = 4
"""Residuals are shown as grey + GAIN * (distorted - clean)."""

_CELL, _GAP, _TEXT = 160, 6, 30
_FORMATS = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Row:
    """One clean item, float32 in [0, 1], and its views by label."""

    name: str
    clean: npt.NDArray[Any]
    views: dict[str, npt.NDArray[Any]]


def spare_sources(plan: Plan, path: Path) -> None:
    """Raises UsageError where a preview would take the place of a photograph."""
    files = (image.path for image in plan.images if isinstance(image, FileImage))
    if path.exists() and any(file.exists() and path.samefile(file) for file in files):
        raise UsageError("the preview is one of the sources", where=path, remedy="choose another name")


def rows_of_plan(plan: Plan, count: int = 4) -> list[Row]:
    """The middle items of evenly spaced images, distorted on the spot."""
    rows = []
    for image in _spread(len(plan.images), count):
        items = plan.items_of(image)
        y, x, h, w = plan.window(items[len(items) // 2])
        source = plan.images[image]
        try:
            pixels = np.ascontiguousarray(source.load(plan.settings.alpha)[y : y + h, x : x + w])
        except UnreadableImage:
            continue
        key = SampleKey(plan.settings.seed, pixel_hash(pixels), 0, plan.settings.coupling)
        clean = as_float(pixels)
        views = {}
        for view, word in zip(plan.views, plan.confounders, strict=True):
            if view.real:
                real, s = plan.load_real(image, view), view.scale
                if real is not None:
                    views[view.label] = as_float(real[y // s : (y + h) // s, x // s : (x + w) // s])
            else:
                views[view.label] = word.apply(clean, key)
        rows.append(Row(source.name, clean, views))
    if not rows:
        raise DilkitError("none of the chosen images can be read", where=plan.images[0].name)
    return rows


def rows_of_store(store: Store, count: int = 4) -> list[Row]:
    """Evenly spaced items of a dataset."""
    return [
        Row(
            store.index["source"][item].decode(),
            as_float(store.clean(item)),
            {label: as_float(store.view(item, label)) for label in store.labels if store.has(label)[item]},
        )
        for item in _spread(len(store), count)
    ]


def draw(rows: Sequence[Row], path: str | Path) -> None:
    """Write the contact sheet; raises UsageError for a name that is no picture."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError("a preview is a picture", where=path, expected=" or ".join(_FORMATS))
    labels = list(dict.fromkeys(label for row in rows for label in row.views))
    step = _CELL + _GAP
    sheet = Image.new("RGB", (step * (1 + len(labels)) + _GAP, _TEXT + len(rows) * 2 * step + _GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for column, label in enumerate(["clean", *labels]):
        pen.multiline_text((_GAP + column * step, 2), _folded(label, pen, font), "black", font, spacing=1)
    for number, row in enumerate(rows):
        top = _TEXT + number * 2 * step
        _paste(sheet, row.clean, _GAP, top)
        caption = f"{row.name}\n\nbelow each: grey +\n{GAIN} x (distorted - clean)"
        pen.multiline_text((_GAP, top + step), _folded(caption, pen, font, lines=9), "black", font, spacing=2)
        for column, label in enumerate(labels, 1):
            if (view := row.views.get(label)) is None:  # of other images than this one
                continue
            left = _GAP + column * step
            _paste(sheet, view, left, top)
            if view.shape == row.clean.shape:
                _paste(sheet, 0.5 + GAIN * (view - row.clean), left, top + step)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise DilkitError(
            f"cannot write the preview: {reason(error)}", where=path,
            found=f"{sheet.width} x {sheet.height} pixels",
            remedy=None if path.suffix.lower() == ".png" else "a .png may be wider",
        ) from None  # fmt: skip


def _spread(length: int, count: int) -> list[int]:
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(int)).tolist()


def _paste(sheet: Image.Image, pixels: npt.NDArray[Any], left: int, top: int) -> None:
    """The middle of an image, pixel for pixel."""
    h, w = pixels.shape[:2]
    y, x = max(0, (h - _CELL) // 2), max(0, (w - _CELL) // 2)
    cut = np.clip(pixels[y : y + _CELL, x : x + _CELL], 0, 1)
    sheet.paste(Image.fromarray(np.rint(cut * 255).astype(np.uint8)), (left, top))


def _folded(text: str, pen: ImageDraw.ImageDraw, font: Any, lines: int = 2) -> str:
    """The text broken to the width of a cell; what does not fit in `lines` ends in dots."""
    folded = [""]
    for letter in text:
        if letter == "\n":
            folded.append("")
        elif pen.textlength(folded[-1] + letter, font) > _CELL:
            folded.append(letter)
        else:
            folded[-1] += letter
    if len(folded) > lines:
        folded = [*folded[: lines - 1], folded[lines - 1][:-2] + "..."]
    return "\n".join(folded)


_SSIM_WINDOW = 11


def statistics(store: Store, samples: int = 32) -> dict[str, dict[str, Any]]:
    """By label, over evenly spaced items.

    Returns:
        `psnr` (dB) and `ssim`, means over items of the 8-bit comparison with clean; `bias` and `std` of
        distorted minus clean, `mean`, `low` and `high` of the distorted values, all on the 0..255 scale;
        `outside`, the share of values outside [0, 1]. What cannot be said is None: a comparison of images
        of different sizes, the PSNR of identical ones.
    """
    found: dict[str, dict[str, Any]] = {}
    for label in store.labels:
        there = np.flatnonzero(store.has(label))
        items = there[np.linspace(0, len(there) - 1, min(samples, len(there))).astype(int)].tolist()
        rows = [_measure(as_float(store.clean(i)), as_float(store.view(i, label))) for i in items]
        found[label] = {name: _combine(name, [row[name] for row in rows]) for name in rows[0]}
    return found


def _measure(clean: np.ndarray, view: np.ndarray) -> dict[str, float | None]:
    alike = clean.shape == view.shape
    large = alike and min(clean.shape[:2]) >= _SSIM_WINDOW
    error = (view.astype(np.float64) - clean) * 255 if alike else None
    return {
        "psnr": psnr(view, clean) if alike else None,
        "ssim": ssim(view, clean) if large else None,
        "bias": float(error.mean()) if error is not None else None,
        "std": float(error.std()) if error is not None else None,
        "mean": float(view.mean()) * 255,
        "low": float(view.min()) * 255,
        "high": float(view.max()) * 255,
        "outside": float(((view < 0) | (view > 1)).mean()),
    }


def _combine(name: str, values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    if name in ("low", "high"):
        return (min if name == "low" else max)(known)
    if name == "std":
        return math.sqrt(math.fsum(v * v for v in known) / len(known))
    mean = math.fsum(known) / len(known)
    return mean if math.isfinite(mean) else None


def summarize(path: str | Path) -> dict[str, Any]:
    """How a dataset was made and what is in it, JSON-able."""
    store = Store(path)
    attrs, index = store.attrs, store.index
    files = [Store(shard).header.regions for shard in store.header.shards] or [store.header.regions]
    sizes = Counter(f"{h}x{w}" for h, w in zip(index["h"].tolist(), index["w"].tolist(), strict=True))

    def nbytes(name: str) -> int:
        return sum(regions[name].nbytes for regions in files if name in regions)

    views = [
        {
            **vars(view),
            "items": int(store.has(view.label).sum()),
            "bytes": sum(nbytes(pixels_of(view.label, draw)) for draw in range(view.draws)),
        }
        for view in store.header.views
    ]
    return {
        "file": str(path),
        "bytes": Path(path).stat().st_size,
        **{name: attrs[name] for name in ("layout", "expression", "hash", "seed", "coupling", "storage")},
        **{name: attrs[name] for name in ("policy", "licence", "shard")},
        "settings": json.loads(attrs["settings"]),
        "versions": json.loads(attrs["versions"]),
        "clean": {"dtype": store.clean(0).dtype.name, "bytes": nbytes("clean")},
        "shards": [shard.name for shard in store.header.shards],
        "items": {
            "count": len(store),
            "images": len(set(index["image"].tolist())),
            "left_out": len(store.left_out()),
            "sizes": dict(sizes.most_common()),
            "splits": dict(Counter(index["split"].astype(str).tolist())),
        },
        "confounders": views,
    }


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
        files = [Store(shard) for shard in store.header.shards] or [store]
    except Damaged as damage:  # which of the items are sound is not known then
        return Verdict(0, 0, (damage.message,))
    faults: list[str] = []
    done = 0
    for file in files:
        digests = {view.label: file.digests(view.label) for view in file.header.views if view.stored}
        asked = 0
        for item in range(len(file)):
            while asked < min(item + _AHEAD, len(file)):
                file.expect(asked, [label for label in digests if file.has(label)[asked]])
                asked += 1
            faults += _digests(file, item, digests)
            done += 1
            progress(done, len(store))
    views = [view for view in store.header.views if not view.real]  # real pairs cannot be made again
    everything = range(len(store) * len(views))
    chosen = random.Random(seed).sample(everything, min(samples, len(everything)))
    for number in chosen:
        item, view = divmod(number, len(views))
        faults += _remake(store, item, views[view], number % views[view].draws)
    return Verdict(len(store), len(chosen), tuple(dict.fromkeys(faults)))


def _digests(store: Store, item: int, digests: Mapping[str, Array]) -> Iterator[str]:
    if xxhash.xxh3_64_intdigest(store.clean(item).data) != store.index["digest"][item]:
        yield f"{_name(store, item)}: the clean pixels were changed"
    for label, expected in digests.items():
        if not store.has(label)[item]:
            continue
        drawn = [
            xxhash.xxh3_64_intdigest(store.view(item, label, draw=k).data) for k in range(expected[item].size)
        ]
        if drawn != np.atleast_1d(expected[item]).tolist():
            yield f"{_name(store, item)}: the pixels of {label} were changed"


def _remake(store: Store, item: int, view: StoredView, draw: int) -> Iterator[str]:
    clean = store.clean(item)
    if pixel_hash(clean) != store.index["pixel_hash"][item].tobytes():
        yield f"{_name(store, item)}: the pixel hash does not belong to the clean pixels"
        return
    try:
        again = store.make(as_float(clean), item, view.label, draw=draw)
    except DilkitError as error:
        yield str(error)
        return
    if not np.array_equal(again, store.view(item, view.label, draw=draw)):
        yield f"{_name(store, item)}: {view.label} made again is not what is stored"


def _name(store: Store, item: int) -> str:
    source = store.index["source"][item].decode(errors="replace")
    y, x = int(store.index["y"][item]), int(store.index["x"][item])
    return f"{store.path.name}: item {item} ({source} at {y}, {x})"
