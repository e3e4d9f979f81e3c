"""A NaN or an infinity stops the step that made it, with the name of what made it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dilkit.errors import DilkitError


class NonFinite(DilkitError):
    """A loss or a gradient is NaN or infinite."""


def size(tensors: Iterable[Tensor]) -> Tensor:
    """The sum of absolute values: a scalar that is finite if, and hardly ever unless, all elements are."""
    tensors = list(tensors)
    if not tensors:
        return torch.zeros(())
    return torch.stack(torch._foreach_norm(tensors, 1)).sum()


def require_finite(scalars: Mapping[str, Tensor], *, where: str | None = None) -> None:
    """Check every scalar in one synchronisation with the device.

    Args:
        scalars: what to check, in order of making, under names like "the loss of awgn(5)".
        where: the step, for the message.

    Raises:
        NonFinite: naming the first scalar that is NaN or infinite.
    """
    if bool(torch.stack([s.detach() for s in scalars.values()]).isfinite().all()):
        return
    name, value = next((n, float(s)) for n, s in scalars.items() if not math.isfinite(float(s)))
    raise NonFinite(
        f"{name} is not finite",
        where=where,
        found=value,
        remedy="lower the learning rates, or look at what this batch holds",
    )
