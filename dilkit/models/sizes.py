"""Which image sizes a net takes: found by trying it, because a net need not say."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MULTIPLES = (2, 4, 8, 16, 32, 64, 128)


def scale_between(given: Tensor, restored: object) -> int | None:
    """By what whole number the output is larger than the input; None where it is no image of such a size."""
    if not isinstance(restored, Tensor) or restored.ndim != 4 or restored.shape[:2] != given.shape[:2]:
        return None
    scale = restored.shape[-1] // given.shape[-1]
    same = restored.shape[-2:] == (given.shape[-2] * scale, given.shape[-1] * scale)
    return scale if scale >= 1 and same else None


@torch.inference_mode()
def find_multiple(net: nn.Module, device: str | torch.device = "cpu") -> int | None:
    """The least m among 1, 2, 4 .. 128 such that the net takes sides that are odd multiples of m, and returns
    them or a whole multiple of them; None where none will do. The net is run once or twice per candidate."""
    for m in (1, *MULTIPLES):
        least = -(-48 // m) | 1
        x = torch.full((1, 3, m * least, m * (least + 2)), 0.5, device=device)
        try:
            found = net(x)
        except Exception:  # noqa: BLE001  (a net may raise anything about a size it does not take)
            continue
        if scale_between(x, found) is not None:
            return m
    return None


@torch.inference_mode()
def takes(net: nn.Module, side: int) -> bool:
    """Whether the net takes a square of this side, and returns one of a whole multiple of it."""
    x = torch.full((1, 3, side, side), 0.5)
    try:
        return scale_between(x, net(x)) is not None
    except Exception:  # noqa: BLE001  (a net may raise anything about a size it does not take)
        return False
