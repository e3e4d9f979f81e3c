"""Which device torch computes on: one rule for training, restoring and measuring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dilkit.errors import UsageError

if TYPE_CHECKING:
    import torch


def pick_device(name: str = "auto", *, local_rank: int = 0, where: str = "device") -> torch.device:
    """The device of that name.

    Args:
        name: `auto` (a CUDA GPU where there is one, else Apple's GPU, else the CPU), or as torch names one:
            `cpu`, `cuda`, `cuda:1`, `mps`.
        local_rank: the number of this process on its machine; `cuda` is the GPU of that number.
        where: the option or key that asked for it, for the error.

    Raises:
        UsageError: torch does not know the device, or it is not there.
    """
    import torch

    if name == "auto":
        name = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else name
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(
            "no such device", where=where, found=name, expected="auto, cpu, cuda, cuda:N or mps"
        ) from error
    remedy = f"{where}=auto takes what there is" if "." in where else "auto takes what there is"
    if device.type == "cuda":
        if not torch.cuda.is_available():
            why = "" if torch.version.cuda else "; this build of torch is for the CPU only"
            raise UsageError(f"no CUDA device here{why}", where=where, found=name, remedy=remedy)
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise UsageError(
                "no such CUDA device",
                where=where,
                found=str(device),
                expected=f"one of {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(device)
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise UsageError("no MPS device here", where=where, found=name, remedy=remedy)
    elif device.type != "cpu":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            raise UsageError(
                "the device cannot be used", where=where, found=name, expected=str(error).splitlines()[0]
            ) from None
    return device
