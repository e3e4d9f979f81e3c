"""How much memory passes hold, counted, and how much there is."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch
from torch import Tensor, nn


def saved_activations(net: nn.Module, run: Callable[[], object]) -> int:
    """Call `run` and say how many bytes of activations autograd held at the worst moment.

    A storage counts once; tensors shaped like a parameter of the net are not counted.
    """
    counter = Counter(net)
    with counter.hooks():
        run()
    return counter.peak


class Counter:
    """Counts the bytes that autograd saves inside `hooks()`, for as long as it keeps them.

    Attributes:
        peak: the most that was held of what is not shaped like a parameter.
    """

    def __init__(self, net: nn.Module) -> None:
        self._shapes = {p.shape for p in net.parameters()}
        self._counts: dict[tuple[int, bool], int] = {}
        self._held = [0, 0]
        self.peak = 0

    def hooks(self) -> torch.autograd.graph.saved_tensors_hooks:
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Entry(self, tensor), lambda entry: entry.tensor
        )

    def now(self) -> int:
        """Bytes held now, of any shape."""
        return sum(self._held)

    def add(self, tensor: Tensor, sign: int) -> None:
        if tensor._is_zerotensor():  # known to be zero: it has no memory
            return
        storage, like_weight = tensor.untyped_storage(), tensor.shape in self._shapes
        key = (storage.data_ptr(), like_weight)
        count = self._counts.pop(key, 0) + sign
        if count:
            self._counts[key] = count
        if (count, sign) in ((1, 1), (0, -1)):
            self._held[like_weight] += sign * storage.nbytes()
            self.peak = max(self.peak, self._held[False])


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
