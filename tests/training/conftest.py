from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dilkit.confounders.build import augment

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six smooth random images of 32x32 under two noises."""
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    for k in range(6):
        image = Image.fromarray(random.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        image.resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    augment([str(folder)], "awgn[5, 15] >> clip", folder / "tiny.h5", tile=32, stride=32)
    return folder / "tiny.h5"


@pytest.fixture
def tiny(tiny_store: Path) -> list[str]:
    """The words of a recipe that trains in a second."""
    return [
        "demo",
        f"data.store={tiny_store}",
        "data.crop=16",
        "data.batch=2",
        "model.depth=3",
        "model.width=4",
        "steps=12",
        "checkpoint.every=4",
        "log.every=3",
    ]
