"""SWAD (Cha et al., NeurIPS 2021, Algorithm 1): dense averaging over a window that validation finds."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

CONVERGE, TOLERANCE, RATIO = 3, 6, 0.3
"""N_s, N_e and r of the released code."""
_WINDOW = ("_steps", "_running", "_waiting", "_window", "_segments", "_threshold", "_closed")
"""What a run needs to go on, beside the weights of `module`."""


class Swad(AveragedModel):
    """An average of weights over a window of segments.

    A segment is what lies between two validations; its weights are the mean over all its steps. The window
    opens with segment k where the validation loss of k is the least of the `CONVERGE` from k on; it takes in
    segment after segment until the least loss of the next `TOLERANCE` exceeds the mean of those `CONVERGE` by
    the share `RATIO`. `module` is the mean over the window so far; before it opens, the newest segment.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, use_buffers=True)
        self._steps = 0
        self._running: list[Tensor] = []
        self._waiting: deque[tuple[float, list[Tensor]]] = deque()
        self._window: list[Tensor] = []
        self._segments = 0
        self._threshold: float | None = None
        self._closed = False

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in the weights after a step."""
        self.n_averaged += 1
        self._steps += 1
        self._running = _mean(self._running, _tensors(model), self._steps)

    def validated(self, loss: float) -> None:
        """End a segment with the validation loss of the weights that stand at its end (lower is better)."""
        if self._closed or not self._steps:
            return
        self._waiting.append((loss, self._running))
        self._steps, self._running = 0, []
        losses = [each for each, _ in self._waiting]
        if self._threshold is None:
            if len(losses) == CONVERGE and min(losses) == losses[0]:
                self._threshold = (1 + RATIO) * sum(losses) / len(losses)
                self._take()  # the segment that the window opens with
            elif len(losses) == CONVERGE:
                self._waiting.popleft()
        elif len(losses) >= TOLERANCE:
            if min(losses) > self._threshold:
                self._closed = True
                self._waiting.clear()
            else:
                self._take()
        self._publish()

    def _take(self) -> None:
        """The oldest segment that waits becomes part of the window."""
        self._segments += 1
        self._window = _mean(self._window, self._waiting.popleft()[1], self._segments)

    def _publish(self) -> None:
        """The mean of the window, and of the segments that wait, as far as the run would end here."""
        if self._threshold is None:
            found = self._waiting[-1][1]
        else:
            found, count, left = self._window, self._segments, list(self._waiting)
            while left and min(loss for loss, _ in left) <= self._threshold:
                count += 1
                found = _mean(found, left.pop(0)[1], count)
        for own, value in zip(_tensors(self.module), found, strict=True):
            own.copy_(value)

    def window(self) -> dict[str, Any]:
        """What a run needs to go on, beside the weights of `module`."""
        return {**{name: getattr(self, name) for name in _WINDOW}, "_waiting": list(self._waiting)}

    def load_window(self, state: dict[str, Any]) -> None:
        """Take over what `window` gave."""
        for name in _WINDOW:
            setattr(self, name, state[name])
        self._waiting = deque(state["_waiting"])


def _tensors(net: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in (*net.parameters(), *net.buffers())]


def _mean(mean: list[Tensor], new: list[Tensor], count: int) -> list[Tensor]:
    """The mean of `count` values, from that of all but the last; integers are the last."""
    if count == 1:
        return [x.clone() for x in new]
    return [
        a.lerp(b.to(a.dtype), 1 / count) if a.is_floating_point() else b.clone()
        for a, b in zip(mean, new, strict=True)
    ]
