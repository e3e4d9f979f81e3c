"""Running a net on images of any size."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dilkit.errors import DilkitError

Picture = npt.NDArray[np.float32]
"""(H, W, 3) RGB float32."""


def pick_device(name: str = "auto") -> str:
    """`auto`: a GPU where there is one."""
    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def to_tensor(images: list[Picture], device: str | torch.device = "cpu") -> Tensor:
    """(B, 3, H, W) from images of one shape."""
    stacked = images[0][None] if len(images) == 1 else np.stack(images)
    return torch.from_numpy(stacked).to(device).permute(0, 3, 1, 2).contiguous()


def to_images(batch: Tensor) -> list[Picture]:
    """The inverse of `to_tensor`."""
    return list(batch.float().permute(0, 2, 3, 1).contiguous().cpu().numpy())


@torch.inference_mode()
def restore_batch(net: nn.Module, batch: Tensor) -> Tensor:
    """One forward pass; an image whose sides do not suit the net is an error that names its size."""
    try:
        restored = net(batch)
    except RuntimeError as error:
        raise DilkitError(
            "the net failed on this input", found=f"shape {tuple(batch.shape)}: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(restored, Tensor) or restored.shape[:2] != batch.shape[:2]:
        found = tuple(restored.shape) if isinstance(restored, Tensor) else type(restored).__name__
        raise DilkitError(
            "the net did not return a batch of RGB images", found=found, expected=tuple(batch.shape)
        )
    return restored
