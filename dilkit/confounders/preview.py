"""A contact sheet: images down, confounders across, with what each changed below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from dilkit.confounders.plan import Plan
from dilkit.confounders.reading import UnreadableImage
from dilkit.confounders.sources import FileImage
from dilkit.confounders.store import Store
from dilkit.distortions import SampleKey, as_float, pixel_hash
from dilkit.errors import DilkitError, UsageError

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
