"""A run's folder: what may be started in it, what may be resumed, and what a full disk leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dilkit.checkpoint import load
from dilkit.errors import DilkitError, UsageError
from dilkit.training import train


def test_a_run_that_saved_nothing_does_not_block_its_folder(tiny: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"

    def interrupt(row: dict) -> None:
        raise DilkitError("interrupted")

    with pytest.raises(DilkitError, match="interrupted"):
        train([*tiny, "log.every=1"], out, log=interrupt)
    assert (out / "run.json").is_file()
    assert train([*tiny, "steps=2"], out).step == 2
    with pytest.raises(UsageError, match="not empty"):
        train([*tiny, "steps=2"], out)


@pytest.mark.parametrize(
    "left", [".run.json.tmp", ".writable", "run.json|checkpoints/.step-00000003.safetensors.tmp"]
)
def test_a_run_killed_before_its_first_checkpoint_does_not_block_its_folder(
    tiny: list[str], tmp_path: Path, left: str
) -> None:
    (tmp_path / "checkpoints").mkdir()
    for name in left.split("|"):
        (tmp_path / name).write_text("{}")
    assert train([*tiny, "steps=2"], tmp_path).step == 2


def test_files_of_ones_own_block_a_folder_and_stay(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        train([*tiny, "steps=2"], tmp_path)
    assert (tmp_path / "recipe.yaml").read_text() == "mine"


def test_resuming_a_mistyped_folder_is_refused(tiny: list[str], tmp_path: Path) -> None:
    train([*tiny, "steps=2"], tmp_path / "denoise")
    with pytest.raises(UsageError, match="no run to resume") as caught:
        train([*tiny, "steps=2"], tmp_path / "denoize", resume=True)
    assert caught.value.nearest == str(tmp_path / "denoise")
    assert not (tmp_path / "denoize").exists()


def test_files_of_a_run_have_the_mode_of_the_umask(tiny: list[str], tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        train([*tiny, "steps=2"], tmp_path / "run")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from dilkit.cli import main
import dilkit.training.loop as loop
descend, steps = loop.descend, []

def limited(*args):
    steps.append(1)
    if len(steps) == 6:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    return descend(*args)

loop.descend = limited
sys.argv = ["dilkit", "train", *sys.argv[1:]]
main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits on the size of files")
def test_a_disk_that_cannot_be_written_is_said_in_one_line(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "checkpoint.every=4", "log.every=4", "--out", str(tmp_path / "run")]
    done = subprocess.run([sys.executable, "-c", FULL, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr and "the checkpoint of step 4 is saved" in done.stderr
    assert "--resume" in done.stderr and "Traceback" not in done.stderr
    assert load(tmp_path / "run/checkpoints/last.safetensors").metadata["step"] == 4
    assert not list((tmp_path / "run").rglob(".*.tmp"))


NET = """
import torch
from torch import nn

class Fussy(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 3, 3, padding=1)

    def forward(self, y):
        if y.shape[-1] % 8 or y.shape[-2] % 8:
            raise ValueError("not a multiple of 8")
        return super().forward(y)
"""


def test_the_multiple_a_net_needs_is_found_and_recorded(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fussy_net.py").write_text(NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [*tiny, "model=fussy_net:Fussy", "steps=1"]
    with pytest.raises(UsageError, match="does not take the crop") as caught:
        train([*words, "data.crop=20"], tmp_path / "run")
    assert caught.value.where == "data.crop" and caught.value.expected == "a multiple of 8"
    done = train([*words, "data.crop=16"], tmp_path / "run")
    loaded = load(done.checkpoint, trust_code=True)
    assert loaded.metadata["multiple"] == loaded.net.multiple == 8


def test_gradients_of_several_episodes_make_one_step(tiny: list[str], tmp_path: Path) -> None:
    done = train([*tiny, "steps=2", "optim.accumulate=3"], tmp_path / "run")
    assert (done.step, done.passes) == (2, 12)
    whole = load(done.checkpoint).net.state_dict()
    train([*tiny, "steps=1", "optim.accumulate=3"], tmp_path / "part")
    train([*tiny, "steps=2", "optim.accumulate=3"], tmp_path / "part", resume=True, allow_changes=True)
    part = load(tmp_path / "part/checkpoints/last.safetensors").net.state_dict()
    assert all((part[name] - whole[name]).abs().max() < 1e-3 for name in whole)


def test_validation_that_no_longer_improves_ends_the_run(
    tiny: list[str], tiny_store: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()

    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(
        images / "0.png"
    )
    words = [
        *tiny,
        f"validate.images=[{images}]",
        "validate.every=1",
        "validate.patience=2",
        "optim.lr=1e-12",
    ]
    done = train([*words, "steps=12"], tmp_path / "run")
    assert done.step < 12 and not done.stopped


@pytest.mark.parametrize(
    "words",
    [
        ["optim.name=NAdam", "optim.args={betas: [0.5, 0.9]}"],
        ["optim={name: lion, lr: 1e-4, betas: [0.9, 0.99], weight_decay: 0.01}"],
        ["optim={name: muon, lr: 1e-3}"],
        ["optim={name: sgd, rates: {'body.0.*': 0.1}}"],
        ["optim.schedule={name: torch, of: OneCycleLR, args: {max_lr: 1e-3}}"],
        ["optim.schedule={name: torch, of: ExponentialLR, args: {gamma: 0.9}}"],
        ["loss=l1 + 0.1*fft"],
    ],
)
def test_torchs_optimisers_and_schedules_go_by_name(
    words: list[str], tiny: list[str], tmp_path: Path
) -> None:
    assert train([*tiny, "steps=2", *words], tmp_path / "run").step == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.name=NAdamm"], "NAdam"),
        (["optim.name=NAdam", "optim.args={beta: 1}"], "optim.args"),
        (["optim.rates={nothing: 0.1}"], "optim.rates"),
        (["freeze=[nothing]"], "freeze"),
        (["freeze=['*']"], "left to train"),
        (["optim.schedule={name: torch, of: Nope}"], "optim.schedule.of"),
    ],
)
def test_names_that_nothing_has_are_refused(
    words: list[str], said: str, tiny: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        train([*tiny, "steps=2", *words], tmp_path / "run")
    assert said in str(caught.value)
