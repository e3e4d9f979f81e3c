"""Running a net on images of any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError, UsageError
from dilkit.evaluation.tiles import Tiling, restore_tiled

Picture = npt.NDArray[np.float32]
"""(H, W, 3) RGB float32."""

LARGE = 6_000_000
"""Pixels above which an image is restored in tiles if nothing is said."""


def pick_device(name: str = "auto") -> str:
    """`auto`: a GPU where there is one.

    Raises:
        UsageError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError("the device cannot be used", where=name, found=str(error).splitlines()[0]) from None
    return name


def to_tensor(images: list[Picture], device: str | torch.device = "cpu") -> Tensor:
    """(B, 3, H, W) from images of one shape."""
    stacked = images[0][None] if len(images) == 1 else np.stack(images)
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).contiguous()


def to_images(batch: Tensor) -> list[Picture]:
    """The inverse of `to_tensor`."""
    return list(batch.float().permute(0, 2, 3, 1).contiguous().cpu().numpy())


@torch.inference_mode()
def restore_batch(net: nn.Module, batch: Tensor) -> Tensor:
    """One forward pass over (B, 3, H, W) in [0, 1].

    Sides are padded by reflection to multiples of `net.multiple`, where the net has such an attribute.

    Raises:
        DilkitError: the net failed, or did not return RGB images.
    """
    h, w = batch.shape[-2:]
    padded = pad_to_multiple(batch, getattr(net, "multiple", 1))
    try:
        restored = net(padded)
    except RuntimeError as error:
        raise DilkitError(
            "the net failed on this input", found=f"shape {tuple(batch.shape)}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(restored, Tensor) or restored.ndim != 4 or restored.shape[:2] != batch.shape[:2]:
        found = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise DilkitError("the net did not return RGB images", found=found, expected=tuple(batch.shape))
    scale = restored.shape[-1] // padded.shape[-1]
    return restored[..., : h * scale, : w * scale]


def pad_to_multiple(batch: Tensor, multiple: int) -> Tensor:
    """Reflect (or, on images too small for that, repeat) the right and bottom edges."""
    h, w = batch.shape[-2:]
    down, right = -h % multiple, -w % multiple
    if not (down or right):
        return batch
    mode = "reflect" if down < h and right < w else "replicate"
    return nn.functional.pad(batch, (0, right, 0, down), mode=mode)


def restore_image(
    net: nn.Module, image: Picture, device: str | torch.device = "cpu", tiling: Tiling | None = None
) -> Picture:
    """One image, (H, W, 3) -> (s H, s W, 3); in tiles where `tiling` is given."""

    def run(part: Picture) -> Picture:
        return to_images(restore_batch(net, to_tensor([part], device)))[0]

    if tiling is None:
        return run(image)
    tiling = tiling.aligned(getattr(net, "multiple", 1))
    bands = restore_tiled(lambda y, x: image[y, x], run, image.shape[:2], tiling)
    return np.concatenate([band for _, band in bands])
