"""Fixtures every room uses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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


@pytest.fixture
def dask(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A Dask scheduler's address and two worker processes, as one would start them by hand; the workers find
    the modules beside the test."""
    distributed = pytest.importorskip("distributed")
    path = os.pathsep.join([str(request.path.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}
    note = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": env,
        "cwd": tmp_path,
    }
    started = [subprocess.Popen([*command, "--scheduler-file", str(note)], **quiet)]
    try:
        end = time.monotonic() + 600
        while not note.is_file():
            assert time.monotonic() < end, "the Dask scheduler did not start"
            time.sleep(0.02)
        address = json.loads(note.read_text())["address"]
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1"]
        worker += ["--no-nanny", "--no-dashboard"]
        workers = [subprocess.Popen(worker, **quiet) for _ in range(2)]
        started += workers
        with distributed.Client(address) as client:
            client.wait_for_workers(2, timeout=600)
        yield address.removeprefix("tcp:"), workers
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def _one_thread(request: pytest.FixtureRequest) -> None:
    """Tests run side by side; each keeps to one core."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
