"""Where the work happens: device, precision, memory layout and processes; what crosses between the processes,
and how much memory the run has taken at most."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dilkit.confounders.episodes import Episode
from dilkit.devices import pick_device
from dilkit.recipe.schema import Hardware

_PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others, such as for the first's validation."""


@dataclass
class Accelerator:
    """One of `world` processes and its device."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool | Literal["auto"] = "auto"
    """`auto` until a net is placed: on for nets of convolutions, off for those with attention."""
    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None
    """Of the processes on the CPU, so that agreeing on something waits for no GPU."""

    @classmethod
    def of(cls, hardware: Hardware) -> Accelerator:
        """Choose the device, set torch's threads, and join the other processes where the environment
        (RANK, WORLD_SIZE, as torchrun sets them) says there are others.

        Raises:
            UsageError: a device that this machine lacks.
        """
        if hardware.threads is not None:
            torch.set_num_threads(hardware.threads)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        device = pick_device(hardware.device, local_rank=local, where="hardware.device")
        if world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
        rank = dist.get_rank() if world > 1 else 0
        control = dist.new_group(backend="gloo", timeout=_PATIENCE) if world > 1 else None
        dtype = torch.float64 if hardware.precision == "fp64" else torch.float32
        return cls(device, dtype, hardware.channels_last, rank, world, control)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def place(self, net: nn.Module) -> nn.Module:
        """The net on the device, in the memory layout that suits it, which batches then have too."""
        if self.channels_last == "auto":
            kinds = {type(module) for module in net.modules()}
            self.channels_last = nn.Conv2d in kinds and nn.Linear not in kinds and self.device.type != "mps"
        net = net.to(self.device, self.dtype)
        return net.to(memory_format=torch.channels_last) if self.channels_last else net  # type: ignore[call-overload]

    def move(self, episode: Episode) -> Episode:
        """The episode on the device; batches that are one tensor stay one tensor."""
        moved: dict[int, Tensor] = {}
        layout = torch.channels_last if self.channels_last is True else torch.preserve_format

        def put(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                if self.device.type == "cuda":
                    tensor_ = tensor if tensor.is_pinned() else tensor.pin_memory()
                    moved[id(tensor)] = tensor_.to(
                        self.device, self.dtype, non_blocking=True, memory_format=layout
                    )
                else:
                    moved[id(tensor)] = tensor.to(self.device, self.dtype, memory_format=layout)
            return moved[id(tensor)]

        return replace(
            episode,
            views={k: put(t) for k, t in episode.views.items()},
            targets={k: put(t) for k, t in episode.targets.items()},
        )

    def reduce(self, tensors: list[Tensor]) -> None:
        """Average tensors over the processes, in place, in one flat all-reduce."""
        if self.world == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.world
        parts = flat.split([t.numel() for t in tensors])
        torch._foreach_copy_(tensors, [p.view_as(t) for p, t in zip(parts, tensors, strict=True)])

    def mean(self, row: Mapping[str, float]) -> dict[str, float]:
        """The mean of a row of numbers over the processes that have them."""
        if self.world == 1:
            return dict(row)
        rows: list[dict[str, float]] = [{} for _ in range(self.world)]
        dist.all_gather_object(rows, dict(row), group=self.control)
        names = dict.fromkeys(name for each in rows for name in each)
        return {n: fmean(each[n] for each in rows if n in each) for n in names}

    def agree(self, flag: bool) -> bool:
        """Whether any process says so: all of them stop, or none."""
        if self.world == 1:
            return flag
        raised = torch.tensor([flag], dtype=torch.int32)
        dist.all_reduce(raised, group=self.control)
        return bool(raised)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            dist.barrier(group=self.control)

    def leave(self) -> None:
        if self.world > 1 and dist.is_initialized():
            dist.destroy_process_group()


def peak_memory(device: torch.device) -> dict[str, int]:
    """`memory`: the peak in bytes of the device's allocations, or of the process on the CPU.

    A dataset's pages, which the system takes back at need, are left out where they can be told apart (Linux).
    """
    if device.type == "cuda":
        return {"memory": torch.cuda.max_memory_allocated(device)}
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory": peak if sys.platform == "darwin" else peak * 1024 - _mapped_files()}


def _mapped_files() -> int:
    """Bytes of mapped files that lie in memory."""
    status = Path("/proc/self/status")
    found = re.search(r"^RssFile:\s*(\d+) kB$", status.read_text(), re.MULTILINE) if status.exists() else None
    return int(found[1]) * 1024 if found else 0
