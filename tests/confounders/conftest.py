"""Small pictures on disk, and a small dataset of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from dilkit.confounders.build import augment
from dilkit.confounders.images import dead_leaves
from dilkit.confounders.store import Store


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Four 48 x 40 PNG files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(dead_leaves(7, i, 64)[:48, :40]).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Six tiles of 32 x 32 under four distortions, stored."""
    out = tmp_path_factory.mktemp("store") / "s.h5"
    words = "awgn[5, 25] | awgn(15) >> clip >> quantize | gaussian_blur(1)"
    augment("deadleaves:6@32", words, out, tile=32, stride=32, seed=3)
    return Store(out)
