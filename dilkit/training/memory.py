"""How much memory the run has taken at most."""

from __future__ import annotations

import sys

import torch


def peak_memory(device: torch.device) -> dict[str, int]:
    """`memory`: the peak in bytes of the device's allocations, or of the process on the CPU."""
    if device.type == "cuda":
        return {"memory": torch.cuda.max_memory_allocated(device)}
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"memory": peak if sys.platform == "darwin" else peak * 1024}
