"""Running a net on images of any size: batches, padding to the multiple a net needs, and overlapping tiles.

A tile is read with a halo on every side, whose output is thrown away, and its neighbours share a feather zone
in which one fades into the other. On a net that looks no farther than the halo, tiled equals untiled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError
from dilkit.models.custom import find_multiple, scale_between

Array = npt.NDArray[np.float32]
"""(H, W, 3) RGB float32 in [0, 1], or a part of one."""
LARGE = 6_000_000
"""Pixels above which an image is restored in tiles if nothing is said."""
Read = Callable[[slice, slice], Array]
"""(rows, columns) -> that part of the input, (h, w, C) float32."""
Run = Callable[[Array], Array]
"""Restore a part: (h, w, C) -> (s h, s w, C) for a whole scale s."""


@dataclass(frozen=True)
class Tiling:
    """`tile` pixels are read at a time, of which `halo` on every side are context only; `feather` are shared
    by two neighbours. All are multiples of `multiple`, so that a net with strides sees the grid it would see
    on the whole image."""

    tile: int = 512
    halo: int = 32
    feather: int = 16

    def __post_init__(self) -> None:
        if min(self.tile, self.feather) < 1 or self.halo < 0 or self.step < self.feather:
            raise UsageError(
                "the tiles are too small for their halo and feather",
                found=f"tile {self.tile}, halo {self.halo}, feather {self.feather}",
                expected="tile - 2 halo - feather of at least feather",
            )

    @property
    def step(self) -> int:
        return self.tile - 2 * self.halo - self.feather

    def aligned(self, multiple: int) -> Tiling:
        """The same, rounded up to multiples of `multiple`."""

        def up(value: int) -> int:
            return -(-value // multiple) * multiple

        return Tiling(up(self.tile), up(self.halo), up(self.feather))

    def segments(self, length: int) -> list[Segment]:
        """The pieces that cover a line of `length` pixels."""
        count = max(1, -(-(length - self.feather) // self.step))
        made = []
        for k in range(count):
            low = k * self.step
            high = length if k == count - 1 else low + self.step + self.feather
            fade_in, fade_out = (self.feather if k else 0), (self.feather if k < count - 1 else 0)
            made.append(
                Segment(max(0, low - self.halo), min(length, high + self.halo), low, high, fade_in, fade_out)
            )
        return made


@dataclass(frozen=True)
class Segment:
    """Read first .. last, keep low .. high, with ramps of `fade_in` and `fade_out` pixels at its ends."""

    first: int
    last: int
    low: int
    high: int
    fade_in: int
    fade_out: int

    def weights(self, scale: int) -> Array:
        """One inside; the ramps of two neighbours add up to one."""

        def ramp(n: int) -> Array:
            return ((np.arange(n, dtype=np.float32) + 0.5) / n).astype(np.float32)

        made = np.ones((self.high - self.low) * scale, np.float32)
        if n := self.fade_in * scale:
            made[:n] = ramp(n)
        if n := self.fade_out * scale:
            made[-n:] = 1 - ramp(n)
        return made

    def keep(self, scale: int) -> slice:
        return slice((self.low - self.first) * scale, (self.high - self.first) * scale)


def restore_tiled(
    read: Read, run: Run, shape: tuple[int, int], tiling: Tiling = Tiling()
) -> Iterator[tuple[int, Array]]:
    """Restore an image of `shape` (H, W) piece by piece.

    Yields:
        (first row, rows (n, s W, C) float32), finished bands of the output from top to bottom; no more than a
        band of tiles is held at a time.
    """
    rows, columns = tiling.segments(shape[0]), tiling.segments(shape[1])
    carried: Array | None = None
    for i, row in enumerate(rows):
        band, scale = _band(read, run, row, columns, shape[1])
        if carried is not None:
            band[: len(carried)] += carried
        end = (rows[i + 1].low - row.low) * scale if i + 1 < len(rows) else len(band)
        carried = band[end:].copy()
        yield row.low * scale, band[:end]


def _band(read: Read, run: Run, row: Segment, columns: list[Segment], width: int) -> tuple[Array, int]:
    band: Array | None = None
    scale = 1
    for column in columns:
        part = read(slice(row.first, row.last), slice(column.first, column.last))
        restored = run(part)
        scale = restored.shape[0] // part.shape[0]
        if band is None:
            band = np.zeros(((row.high - row.low) * scale, width * scale, restored.shape[2]), np.float32)
        kept = restored[row.keep(scale), column.keep(scale)]
        weights = row.weights(scale)[:, None, None] * column.weights(scale)[None, :, None]
        band[:, column.low * scale : column.high * scale] += kept * weights
    assert band is not None
    return band, scale


def to_tensor(images: list[Array], device: str | torch.device = "cpu") -> Tensor:
    """(B, 3, H, W) from images of one shape."""
    stacked = images[0][None] if len(images) == 1 else np.stack(images)
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).contiguous()


def to_images(batch: Tensor) -> list[Array]:
    """The inverse of `to_tensor`."""
    return list(batch.float().permute(0, 2, 3, 1).contiguous().cpu().numpy())


_needed: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
"""By net, the multiple that was found by trial."""


def multiple_of(net: nn.Module) -> int:
    """What the sides of a net's input are padded to: its own `multiple`, or what a failure brought to light;
    1 where it takes any size so far."""
    return int(getattr(net, "multiple", 0)) or _needed.get(net, 1)


@torch.inference_mode()
def restore_batch(net: nn.Module, batch: Tensor) -> Tensor:
    """One forward pass over (B, 3, H, W) in [0, 1] -> (B, 3, s H, s W) for a whole scale s.

    Sides are padded by reflection to multiples of `net.multiple`, where the net has such an attribute. Where
    it has none and fails, or returns another size, the multiple is found by trial and kept for this net.

    Raises:
        DilkitError: the net failed, or did not return RGB images.
    """
    h, w = batch.shape[-2:]
    padded = pad_to_multiple(batch, multiple_of(net))
    failure: Exception | None = None
    try:
        restored = net(padded)
    except Exception as error:  # noqa: BLE001  (any net may raise anything of its own)
        failure, restored = error, None
    scale = scale_between(padded, restored)
    fits = scale is not None or isinstance(failure, MemoryError | torch.OutOfMemoryError)
    if not fits and not hasattr(net, "multiple") and net not in _needed:
        found = find_multiple(net, batch.device)
        if found is not None and found > 1:
            _needed[net] = found
            return restore_batch(net, batch)
    if failure is not None:
        raise DilkitError(
            "the net failed on this input",
            found=f"shape {tuple(batch.shape)}: {_first_line(failure)}",
        ) from failure
    if not isinstance(restored, Tensor) or restored.ndim != 4 or restored.shape[:2] != batch.shape[:2]:
        what = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise DilkitError("the net did not return RGB images", found=what, expected=tuple(batch.shape))
    whole = scale or max(1, restored.shape[-1] // padded.shape[-1])
    return restored[..., : h * whole, : w * whole]


def _first_line(error: Exception) -> str:
    text = str(error).partition("\n")[0]
    return text if isinstance(error, RuntimeError) else f"{type(error).__name__}: {text}"


def pad_to_multiple(batch: Tensor, multiple: int) -> Tensor:
    """Reflect (or, on images too small for that, repeat) the right and bottom edges."""
    h, w = batch.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if not (down or right):
        return batch
    mode = "reflect" if down < h and right < w else "replicate"
    return nn.functional.pad(batch, (0, right, 0, down), mode=mode)


def restore_image(
    net: nn.Module, image: Array, device: str | torch.device = "cpu", tiling: Tiling | None = None
) -> Array:
    """One image, (H, W, 3) -> (s H, s W, 3); in tiles where `tiling` is given."""

    def run(part: Array) -> Array:
        return to_images(restore_batch(net, to_tensor([part], device)))[0]

    if tiling is None:
        return run(image)
    tiling = tiling.aligned(multiple_of(net))
    bands = restore_tiled(lambda y, x: image[y, x], run, image.shape[:2], tiling)
    return np.concatenate([band for _, band in bands])
