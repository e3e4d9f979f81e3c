"""How much memory passes hold, counted, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class SavedBytes:
    """The most bytes held at once by saved tensors: activations, and what is shaped like a parameter."""

    activations: int
    weights: int


def measure(net: nn.Module, run: Callable[[], object]) -> SavedBytes:
    """Call `run` and say what was held at the worst moment; a storage counts once."""
    counter = Counter(net)
    with counter.hooks():
        run()
    return counter.peak()


class Counter:
    """Counts the bytes that autograd saves inside `hooks()`, for as long as it keeps them."""

    def __init__(self, net: nn.Module) -> None:
        self._shapes = {p.shape for p in net.parameters()}
        self._counts: dict[tuple[int, bool], int] = {}
        self._now = [0, 0]
        self._peak = [0, 0]

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Entry(self, tensor), lambda entry: entry.tensor
        )

    def peak(self) -> SavedBytes:
        return SavedBytes(*self._peak)

    def now(self) -> int:
        """Bytes held now."""
        return sum(self._now)

    def add(self, tensor: Tensor, sign: int) -> None:
        if tensor._is_zerotensor():  # known to be zero: it has no memory
            return
        storage, like_weight = tensor.untyped_storage(), tensor.shape in self._shapes
        key = (storage.data_ptr(), like_weight)
        count = self._counts.pop(key, 0) + sign
        if count:
            self._counts[key] = count
        if (count, sign) in ((1, 1), (0, -1)):
            self._now[like_weight] += sign * storage.nbytes()
            self._peak[like_weight] = max(self._peak[like_weight], self._now[like_weight])


class _Entry:
    def __init__(self, counter: Counter, tensor: Tensor) -> None:
        self.counter, self.tensor = counter, tensor
        counter.add(tensor, 1)

    def __del__(self) -> None:
        self.counter.add(self.tensor, -1)


def available(device: torch.device) -> int:
    """Bytes free on the device; of the CPU, what the system would give without swapping (Linux), or half of
    the memory there is.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
            found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        except (AttributeError, ValueError, OSError):
            return 2**31
