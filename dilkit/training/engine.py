"""Where the work happens: the device, its precision, and how episodes get there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from dilkit.confounders.episodes import Episode
from dilkit.errors import UsageError
from dilkit.recipe.schema import Hardware


@dataclass(frozen=True)
class Engine:
    device: torch.device

    @classmethod
    def of(cls, hardware: Hardware) -> Engine:
        """Choose the device and set the number of threads of torch.

        Raises:
            UsageError: a device this machine has not.
        """
        if hardware.threads is not None:
            torch.set_num_threads(hardware.threads)
        return cls(pick_device(hardware.device))

    def move(self, episode: Episode) -> Episode:
        """The episode on the device; batches that are one tensor stay one tensor."""
        if self.device.type == "cpu":
            return episode
        moved: dict[int, Tensor] = {}

        def put(tensor: Tensor) -> Tensor:
            return moved.setdefault(id(tensor), tensor.to(self.device, non_blocking=True))

        return replace(
            episode,
            views={k: put(t) for k, t in episode.views.items()},
            targets={k: put(t) for k, t in episode.targets.items()},
        )

    def place(self, net: nn.Module) -> nn.Module:
        return net.to(self.device)


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU, or the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "no CUDA device here", where="hardware.device", found=name, remedy="hardware.device=auto"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError(
            "no MPS device here", where="hardware.device", found=name, remedy="hardware.device=auto"
        )
    return device
