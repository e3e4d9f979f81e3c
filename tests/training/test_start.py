"""A run starts at once, and tells its wrong settings before it loads torch."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from dilkit.recipe import compose
from dilkit.training.dry_run import dry_run

MAIN = ["-c", "from dilkit.cli import main; main()", "train"]


def imported(stderr: str) -> set[str]:
    return set(re.findall(r"^import time: .*\| +(\S+)$", stderr, re.M))


def test_a_run_imports_nothing_it_does_not_use(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "steps=1", "--out", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *MAIN, *words], capture_output=True, text=True, check=True
    )
    loaded = imported(done.stderr)
    assert "torch" in loaded
    unused = {
        "albumentations",
        "skimage",
        "scipy",
        "pandas",
        "matplotlib",
        "torchvision",
        "higher",
        "learn2learn",
    }
    assert not unused & loaded
    assert (
        not {"dilkit.evaluation.grid", "dilkit.report", "torch.utils.tensorboard", "dilkit.models.swinir"}
        & loaded
    )


def test_a_wrong_recipe_is_refused_without_loading_torch(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *MAIN, "demo", "optim.lrr=1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "did you mean: optim.lr?" in done.stderr
    assert not {"torch", "h5py", "cv2", "albumentations"} & imported(done.stderr)


def test_a_dry_run_measures_and_writes_nothing(tiny: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = dry_run(compose([*tiny, "objective=dil_sf", "steps=1000"]))
    assert found.shapes == {"awgn(5)>>clip": (2, 3, 16, 16), "awgn(15)>>clip": (2, 3, 16, 16)}
    assert found.clean == (2, 3, 16, 16)
    assert found.parameters == 3 * 4 * 9 + 4 + 4 * 4 * 9 + 4 + 4 * 3 * 9 + 3
    assert (found.steps, found.passes) == (1000, 2)
    assert found.total == 1000 * found.seconds > 0
    assert found.disk > 3 * 4 * found.parameters
    assert found.memory > 0
    assert not list(tmp_path.iterdir())
