"""The memory of a run is what it takes, not the dataset that it reads."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dilkit.training.accelerator import peak_memory

SIZE = 64 << 20


def growth(file: Path) -> tuple[int, int]:
    """Of a new process: by mapping and reading a file, then by taking four times as much of its own."""
    start = peak_memory(torch.device("cpu"))["memory"]
    mapped = np.memmap(file, np.uint8, "r")
    assert not mapped[::512].any()
    between = peak_memory(torch.device("cpu"))["memory"]
    taken = np.ones(4 * SIZE, np.uint8)
    return between - start, peak_memory(torch.device("cpu"))["memory"] - between - int(taken[0])


@pytest.mark.skipif(sys.platform != "linux", reason="mapped pages can be told apart on Linux only")
def test_the_pages_of_a_mapped_file_are_not_counted(tmp_path: Path) -> None:
    np.zeros(SIZE, np.uint8).tofile(tmp_path / "data")
    found = []
    for _ in range(5):  # pages that the system takes back in the middle cannot be told apart
        with multiprocessing.get_context("fork").Pool(1) as pool:
            found.append(pool.apply(growth, (tmp_path / "data",)))
    assert min(mapped for mapped, _ in found) < SIZE // 4
    assert min(taken for _, taken in found) > 2 * SIZE
