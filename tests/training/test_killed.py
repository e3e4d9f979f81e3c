"""A run that is killed and resumed ends where an uninterrupted one does."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dilkit.training import train

KILLS = 10


def train_in_a_child(words: list[str], out: Path) -> int:
    """The process that trains, forked from this one so that torch is loaded already."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        train(words, out, resume=(out / "run.json").is_file())
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("objective", ["erm", "dil_sf", "dil_ss", "lookahead"])
def test_ten_kills_leave_no_trace(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "steps=120", "checkpoint.every=3", "optim.schedule.warmup=20"]
    began = time.perf_counter()
    train(words, tmp_path / "whole")
    duration = time.perf_counter() - began
    dice = random.Random(objective)
    killed = 0
    for _ in range(KILLS):
        child = train_in_a_child(words, tmp_path / "killed")
        time.sleep(dice.uniform(0, 0.12 * duration))
        os.kill(child, signal.SIGKILL)
        killed += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert killed >= KILLS // 2, "the run must mostly be killed before it ends"
    last = train_in_a_child(words, tmp_path / "killed")
    assert os.waitstatus_to_exitcode(os.waitpid(last, 0)[1]) == 0
    whole, again = (
        load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("whole", "killed")
    )
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[k], again[k]) for k in whole)


def test_sigterm_saves_and_says_how_to_go_on(tiny: list[str], tmp_path: Path) -> None:
    from subprocess import PIPE, Popen

    run = tmp_path / "run"
    words = [*tiny, "steps=100000", "checkpoint.every=100000", "--out", str(run)]
    command = [sys.executable, "-c", "from dilkit.cli import main; main()", "train", *words]
    with Popen(
        command, stderr=PIPE, stdout=PIPE, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    ) as child:
        deadline = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=60)
    assert child.returncode == 143, said
    assert "--resume" in said
    assert str(run) in said
    assert (run / "checkpoints/last.safetensors").exists()
