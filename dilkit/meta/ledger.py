"""Counts what backward passes hold: A (activations) and P (parameters) in docs/method.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Held:
    """The most bytes held at once by saved tensors: activations, and what is shaped like a parameter."""

    activations: int
    weights: int


def measure(net: nn.Module, run: Callable[[], object]) -> Held:
    """Call `run` and say what was held at the worst moment; a storage counts once."""
    ledger = _Ledger({p.shape for p in net.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(ledger.pack, lambda entry: entry.tensor):
        run()
    return Held(*ledger.peak)


class _Ledger:
    def __init__(self, shapes: set[torch.Size]) -> None:
        self._shapes = shapes
        self._counts: dict[tuple[int, bool], int] = {}
        self._now = [0, 0]
        self.peak = [0, 0]

    def pack(self, tensor: Tensor) -> _Entry:
        return _Entry(self, tensor)

    def add(self, tensor: Tensor, sign: int) -> None:
        if tensor._is_zerotensor():  # a tangent known to be zero: it has no memory
            return
        storage, like_weight = tensor.untyped_storage(), tensor.shape in self._shapes
        key = (storage.data_ptr(), like_weight)
        count = self._counts.pop(key, 0) + sign
        if count:
            self._counts[key] = count
        if (count, sign) in ((1, 1), (0, -1)):
            self._now[like_weight] += sign * storage.nbytes()
            self.peak[like_weight] = max(self.peak[like_weight], self._now[like_weight])


class _Entry:
    def __init__(self, ledger: _Ledger, tensor: Tensor) -> None:
        self.ledger, self.tensor = ledger, tensor
        ledger.add(tensor, 1)

    def __del__(self) -> None:
        self.ledger.add(self.tensor, -1)
