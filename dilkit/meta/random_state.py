"""The random state a forward pass may draw from, taken and put back so that a pass can be replayed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """torch on the CPU and on the accelerators in use, `random`, and NumPy's global generator."""

    cpu: Tensor
    cuda: dict[int, Tensor]
    python: Any
    numpy: Any


def capture(devices: frozenset[int] = frozenset()) -> RandomState:
    """The state now; `devices` are the CUDA devices in use."""
    return RandomState(
        torch.get_rng_state(),
        {d: torch.cuda.get_rng_state(d) for d in devices},
        random.getstate(),
        np.random.get_state(),  # noqa: NPY002
    )


def restore(state: RandomState) -> None:
    torch.set_rng_state(state.cpu)
    for device, value in state.cuda.items():
        torch.cuda.set_rng_state(value, device)
    random.setstate(state.python)
    np.random.set_state(state.numpy)  # noqa: NPY002


@contextmanager
def replayed(state: RandomState) -> Iterator[None]:
    """Inside, the draws of `state` again; afterwards, as if nothing had been drawn."""
    now = capture(frozenset(state.cuda))
    restore(state)
    try:
        yield
    finally:
        restore(now)
