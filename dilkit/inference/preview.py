"""What a net did to an image, for the eye: before and after beside each other."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from dilkit.inference.image_files import read_picture

_GAP = 8
_LINE = 22
"""Pixels of the line of text above the panels."""


def before_and_after(before: Path, after: Path, side: int = 640) -> npt.NDArray[np.uint8]:
    """The middle of both images at their own pixels, beside each other: (h, w, 3) uint8 RGB.

    Args:
        before, after: image files; where the second is larger (super-resolution), the first is enlarged.
        side: the most pixels of a panel's side.

    Raises:
        UnreadableImage: one of them cannot be read.
    """
    new, old = _pixels(after), _pixels(before)
    if old.shape != new.shape:
        wide = cv2.resize(old, new.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        old = np.asarray(wide, np.float32)
    h, w = (min(side, n) for n in new.shape[:2])
    y, x = (new.shape[0] - h) // 2, (new.shape[1] - w) // 2
    sheet = np.full((h + _LINE, 2 * w + _GAP, 3), 255, np.uint8)
    for left, name, image in ((0, "before", old), (w + _GAP, "after", new)):
        sheet[_LINE:, left : left + w] = np.rint(255 * image[y : y + h, x : x + w])
        cv2.putText(
            sheet, name, (left + 2, _LINE - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA
        )
    return sheet


def write_preview(path: Path, before: Path, after: Path) -> Path:
    """`before_and_after` as a PNG file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(".png", before_and_after(before, after)[..., ::-1])
    assert written
    path.write_bytes(data.tobytes())
    return path


def _pixels(path: Path) -> npt.NDArray[np.float32]:
    return np.clip(read_picture(path).part(slice(None), slice(None)), 0, 1)
