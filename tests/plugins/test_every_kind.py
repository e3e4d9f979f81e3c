"""A third party adds one thing of every kind without touching dilkit, and works with them in the program."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from dilkit.cli.base import move_shared_first

import dilkit

PLUGIN = Path(__file__).with_name("everything.py")
NAMES = {
    "distortion": "dimmed",
    "objective": "last_only",
    "loss": "cubed",
    "model": "one_conv",
    "metric": "worst_pixel",
    "protocol": "dim-room",
    "sink": "lines",
}
RECIPE = """
passes: 6
data: {store: store.h5, batch: 2, crop: 16}
model: {name: one_conv, width: 4}
objective: {name: last_only}
loss: cubed
optim: {name: adam, lr: 0.001}
log: {every: 1, to: [lines]}
hardware: {device: cpu, threads: 1}
"""


def dilkit_run(folder: Path, *words: str, plugin: bool = True, code: int = 0) -> str:
    """What the real program prints."""
    environment = {k: v for k, v in os.environ.items() if k != "DILKIT_PLUGINS"}
    environment |= {"DILKIT_DATA": str(folder), "OMP_NUM_THREADS": "1"}
    words = (*words, *(["--plugin", str(PLUGIN)] if plugin else []))
    run = subprocess.run(
        [sys.executable, "-m", "dilkit", *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert run.returncode == code, run.stderr
    return run.stdout if code == 0 else run.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset under the plug-in's distortion, a test set, and a recipe of the plug-in's parts."""
    folder = tmp_path_factory.mktemp("plugins")
    (folder / "Room").mkdir()
    coarse = np.random.default_rng(0).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "Room" / "a.png"), coarse.repeat(8, 0).repeat(8, 1))
    dilkit_run(
        folder,
        "augment",
        "deadleaves:3@32",
        "-d",
        "dimmed[0.2, 0.5]",
        "--tile",
        "32",
        "-j",
        "2",
        "-o",
        "store.h5",
    )
    (folder / "mine.yaml").write_text(RECIPE)
    return folder


def test_one_of_each_kind_trains_and_evaluates(folder: Path) -> None:
    dilkit_run(folder, "train", "mine.yaml", "--out", "run")
    assert [json.loads(line)["step"] for line in (folder / "run" / "lines.jsonl").open()] == [
        1,
        2,
        3,
        4,
        5,
        6,
    ]
    net = "run/checkpoints/last.safetensors"
    printed = dilkit_run(
        folder,
        "eval",
        net,
        "--protocol",
        "dim-room",
        "--metric",
        "worst_pixel",
        "--device",
        "cpu",
        "--json",
        "-",
    )
    row = json.loads(printed)["rows"][0]
    assert row["distortion"] == "dimmed(0.2)" and row["worst_pixel"] > 0


def test_arms_of_the_plug_in_are_compared(folder: Path) -> None:
    printed = dilkit_run(
        folder, "compare", "mine.yaml", "--arms", "last_only,erm", "--seeds", "1", "--protocol", "dim-room",
        "--device", "cpu", "--out", "compared",
    )  # fmt: skip
    assert "last_only" in printed and "erm" in printed


def test_a_recipe_may_name_its_plug_ins(folder: Path) -> None:
    (folder / "own.yaml").write_text(f"plugins: ['{PLUGIN}']\n{RECIPE}")
    dilkit_run(folder, "train", "own.yaml", "--dry-run", plugin=False)


def test_a_checkpoint_never_loads_the_plug_in_that_its_recipe_names(folder: Path) -> None:
    dilkit_run(folder, "train", "own.yaml", "--out", "own", plugin=False)
    said = dilkit_run(
        folder,
        "eval",
        "own/checkpoints/last.safetensors",
        "--data",
        "Room",
        "-d",
        "awgn(5)",
        plugin=False,
        code=2,
    )
    assert "one_conv" in said


def test_what_the_plug_in_adds_keeps_its_contract(folder: Path) -> None:
    """Seven checks by the real program, in one process."""
    lines = [f"check {kind} {name}" for kind, name in NAMES.items()]
    script = (
        "import sys\n"
        "from dilkit.cli import main\n"
        f"for line in {lines!r}:\n"
        f"    sys.argv = ['dilkit', *line.split(), '--plugin', {str(PLUGIN)!r}]\n"
        "    try: main()\n"
        "    except SystemExit as ended: assert not ended.code, line\n"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines() == [
        f"the {kind} {name} keeps its contract" for kind, name in NAMES.items()
    ]


def test_without_the_plug_in_its_names_are_unknown(folder: Path) -> None:
    said = dilkit_run(
        folder, "augment", "deadleaves:1@32", "-d", "dimmed(0.2)", "-o", "x.h5", plugin=False, code=2
    )
    assert "unknown distortion 'dimmed'" in said


@pytest.mark.parametrize("kind", [k for k in dilkit.REGISTRIES if k != "exporter"])
def test_each_kind_is_added_by_the_plug_in(kind: str) -> None:
    assert kind in NAMES


def test_a_plug_in_file_that_fails_is_named(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import dilkit\nraise RuntimeError('no licence')\n")
    said = dilkit_run(folder, "ls", "models", "--plugin", str(broken), plugin=False, code=2)
    assert "broken.py" in said and "no licence" in said and "Traceback" not in said
    assert "there is no such plug-in" in dilkit_run(
        folder, "--plugin", "gone.py", "ls", "models", plugin=False, code=2
    )


def test_a_plug_in_may_be_named_anywhere_on_the_line() -> None:
    words = ["eval", "net", "--plugin", "a.py", "--data", "x", "--plugin=b.py", "-q", "--", "--plugin"]
    assert move_shared_first(words) == [
        "--plugin", "a.py", "--plugin=b.py", "-q", "eval", "net", "--data", "x", "--", "--plugin",
    ]  # fmt: skip
