"""A run that is killed and resumed ends where an uninterrupted one does.

Moments are of processor time, which a busy machine does not stretch.
"""

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


def train_in_a_child(words: list[str], out: Path, moment: float = 0.0) -> int:
    """The exit code of a process that trains, forked from this one so that torch is loaded already; it is
    killed after so many seconds of its own processor time, wherever it is then (0: not at all)."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        signal.setitimer(signal.ITIMER_PROF, moment)
        train(words, out, resume=(out / "run.json").is_file())
        code = 0
    finally:
        os._exit(code)


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
@pytest.mark.parametrize("objective", ["erm", "dil_sf", "dil_ss", "lookahead"])
def test_ten_kills_leave_no_trace(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "steps=120", "checkpoint.every=3", "optim.schedule.warmup=20"]
    train([*words, "steps=21"], tmp_path / "warm")  # so that what is imported once is not measured below
    began = time.process_time()
    train(words, tmp_path / "whole")
    duration = time.process_time() - began
    dice = random.Random(objective)
    codes = [
        train_in_a_child(words, tmp_path / "killed", dice.uniform(0.001, 0.12) * duration)
        for _ in range(KILLS)
    ]
    assert codes.count(-signal.SIGPROF) >= KILLS // 2, "the run must mostly be killed before it ends"
    assert train_in_a_child(words, tmp_path / "killed") == 0
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
        while not (run / "metrics.jsonl").exists() and child.poll() is None:
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=600)
    assert child.returncode == 143, said
    assert "--resume" in said
    assert str(run) in said
    assert (run / "checkpoints/last.safetensors").exists()
