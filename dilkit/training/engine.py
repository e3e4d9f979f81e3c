"""Where the work happens: device, precision and processes, and what crosses between them.

How much memory the run has taken at most.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from statistics import fmean

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dilkit.confounders.episodes import Episode
from dilkit.errors import UsageError
from dilkit.recipe.schema import Hardware

_PATIENCE = timedelta(minutes=10)
"""How long a process waits for the others, such as for the first's validation."""


@dataclass(frozen=True)
class Engine:
    """One of `world` processes and its device."""

    device: torch.device
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None
    """Of the processes on the CPU, so that agreeing on something waits for no GPU."""

    @classmethod
    def of(cls, hardware: Hardware) -> Engine:
        """Choose the device, set torch's threads, and join the other processes where the environment
        (RANK, WORLD_SIZE, as torchrun sets them) says there are others.

        Raises:
            UsageError: a device this machine has not.
        """
        if hardware.threads is not None:
            torch.set_num_threads(hardware.threads)
        world = int(os.environ.get("WORLD_SIZE", "1"))
        device = pick_device(hardware.device, int(os.environ.get("LOCAL_RANK", "0")))
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
        net = net.to(self.device, self.dtype)
        return net.to(memory_format=torch.channels_last) if self.channels_last else net  # type: ignore[call-overload]

    def move(self, episode: Episode) -> Episode:
        """The episode on the device; batches that are one tensor stay one tensor."""
        moved: dict[int, Tensor] = {}
        layout = torch.channels_last if self.channels_last else torch.preserve_format

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


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is a GPU, or the CPU; each process of a machine takes the GPU of its own number."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UsageError("no CUDA device here", where="hardware.device", found=name, remedy=_AUTO)
        if device.index is None:
            device = torch.device("cuda", local_rank)
        if device.index >= torch.cuda.device_count():
            raise UsageError(
                "no such CUDA device",
                where="hardware.device",
                found=str(device),
                expected=f"one of {torch.cuda.device_count()}",
            )
        torch.cuda.set_device(device)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("no MPS device here", where="hardware.device", found=name, remedy=_AUTO)
    return device


_AUTO = "hardware.device=auto"


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
