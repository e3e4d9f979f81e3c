"""How much memory the run has taken at most."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch


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
