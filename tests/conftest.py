"""Fixtures every room uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.pop("DILKIT_PLUGINS", None)

# The same examples each time, however busy the machine is; `HYPOTHESIS_PROFILE=search` looks for new ones.
settings.register_profile(
    "dilkit", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dilkit"))

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with train/BSD400, test/CBSD68 and test/Set5; the images are not ours to ship."""
    folder = Path(os.environ.get("DILKIT_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no image folder: set DILKIT_DATA to one holding train/BSD400, test/CBSD68, test/Set5")
    return folder


@pytest.fixture(scope="session")
def coarse_pictures(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int, int], Path]:
    """A folder of PNG files of coarse random squares, named by the letters, so many squares high and wide."""

    def make(names: str, high: int, wide: int) -> Path:
        import cv2
        import numpy as np

        folder = tmp_path_factory.mktemp("Pictures")
        random = np.random.default_rng(0)
        for name in names:
            coarse = random.integers(0, 256, (high, wide, 3)).astype(np.uint8)
            cv2.imwrite(str(folder / f"{name}.png"), coarse.repeat(8, 0).repeat(8, 1))
        return folder

    return make


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> None:
    """Tests run side by side; each keeps to one core."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
