"""Look into a dataset, or a plan for one: its cost, what is in it, how strong it is, whether it is whole."""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from PIL import Image, ImageDraw, ImageFont

from dilkit.confounders.build import ONE_THREAD
from dilkit.confounders.duplicates import perceptual_hash
from dilkit.confounders.format import Array, Damaged, StoredView
from dilkit.confounders.images import CleanImage, FileImage, Pixels, UnreadableImage
from dilkit.confounders.plan import Plan, renderer
from dilkit.confounders.store import Store
from dilkit.distortions import SampleKey, as_float, pixel_hash
from dilkit.errors import DilkitError, UsageError
from dilkit.metrics import psnr, ssim

_TRIED, _MEASURED = 20, 4
"""Images that are tried, and of those that can be read, measured."""

_WRITE_RATE = 400e6
"""Bytes per second that a modest disk takes."""


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
    """Read a few images, distort a tile of each, and multiply by pixels.

    Raises:
        DilkitError: none of the images that were tried can be read.
    """
    with ONE_THREAD:
        reading, making = _seconds_per_pixel(plan)
    last = np.flatnonzero(np.append(plan.image[1:] != plan.image[:-1], True))
    extents = (plan.box[last, :2] + plan.box[last, 2:]).astype(np.int64)  # the last tile ends at the border
    pixels = plan.box[:, 2:].astype(np.int64).prod(axis=1).sum()
    nbytes = plan.nbytes()
    work = float(reading * extents.prod(axis=1).sum() + making * pixels) / workers
    folder = next(p for p in out.absolute().parents if p.exists())
    return Estimate(
        images=len(plan.images),
        items=len(plan),
        nbytes=nbytes,
        seconds=max(work, sum(nbytes.values()) / _WRITE_RATE),
        free=shutil.disk_usage(folder).free,
    )


def _seconds_per_pixel(plan: Plan) -> tuple[float, float]:
    """Of reading images, and of making the items cut from them, measured on some of the images."""
    count, area, read, tile_area, made = len(plan.images), 0, 0.0, 0, 0.0
    tried = random.Random(0).sample(range(count), min(_TRIED, count))
    measured = 0
    for image in tried:
        source = plan.images[image]
        try:
            pixels = source.load(plan.settings.alpha)
        except UnreadableImage:
            continue
        read += _time(partial(_read, plan, source))
        area += pixels.shape[0] * pixels.shape[1]
        y, x, h, w = plan.window(plan.items_of(image).start)
        tile = np.ascontiguousarray(pixels[y : y + h, x : x + w])
        made += _time(partial(_items, plan, tile))
        tile_area += tile.shape[0] * tile.shape[1]
        measured += 1
        if measured == _MEASURED:
            break
    if not measured:
        raise DilkitError("none of the images that were tried can be read", where=plan.images[tried[0]].name)
    return read / area, made / tile_area


def _read(plan: Plan, source: CleanImage) -> None:
    perceptual_hash(source.load(plan.settings.alpha))


def _items(plan: Plan, tile: Pixels) -> None:
    """The work on one item, but for writing."""
    key = SampleKey(plan.settings.seed, pixel_hash(tile), 0, plan.settings.coupling)
    xxhash.xxh3_64_intdigest(tile.data)
    if plan.settings.storage == "virtual":
        return
    image = as_float(tile)
    for view, word in zip(plan.views, plan.confounders, strict=True):
        made = renderer(word, view.dtype, view.scale)(image, key, None)
        xxhash.xxh3_64_intdigest(np.ascontiguousarray(made).data)


def _time(work: Callable[[], object]) -> float:
    """The shorter of two trials: what is done first pays for much that is done once."""
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


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
        views = {word.label: word.apply(clean, key) for word in plan.confounders}
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
            {label: as_float(store.view(item, label)) for label in store.labels},
        )
        for item in _spread(len(store), count)
    ]


def draw(rows: Sequence[Row], path: str | Path) -> None:
    """Write the contact sheet; raises UsageError for a name that is no picture."""
    path = Path(path)
    if path.suffix.lower() not in _FORMATS:
        raise UsageError("a preview is a picture", where=path, expected=" or ".join(_FORMATS))
    labels = list(rows[0].views)
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
        for column, view in enumerate(row.views.values(), 1):
            left = _GAP + column * step
            _paste(sheet, view, left, top)
            if view.shape == row.clean.shape:
                _paste(sheet, 0.5 + GAIN * (view - row.clean), left, top + step)
    try:
        sheet.save(path)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise DilkitError(
            f"cannot write the preview: {why}", where=path,
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
    items = np.unique(np.linspace(0, len(store) - 1, min(samples, len(store))).astype(int)).tolist()
    found: dict[str, dict[str, Any]] = {}
    for label in store.labels:
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

    views = [{**vars(view), "bytes": nbytes(f"distorted/{view.label}")} for view in store.header.views]
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
        digests = {} if file.virtual else {label: file.digests(label) for label in file.labels}
        asked = 0
        for item in range(len(file)):
            while asked < min(item + _AHEAD, len(file)):
                file.expect(asked, list(digests))
                asked += 1
            faults += _digests(file, item, digests)
            done += 1
            progress(done, len(store))
    views = store.header.views
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
