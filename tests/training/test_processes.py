"""Several processes take the step that one process takes on the whole batch."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from dilkit.cli.app import main
from safetensors.torch import load_file

from dilkit.errors import DilkitError
from dilkit.training import train
from dilkit.training.launch import launch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def in_two_processes(work: Callable[[int], None]) -> list[int]:
    """Exit codes of two forked processes that find each other as under torchrun."""
    port = str(free_port())
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.environ |= {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": port,
                }
                work(rank)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


@pytest.mark.parametrize("objective", ["erm", "erm_pure", "dil_sf", "dil_pf", "dil_ss", "dil_ps"])
def test_two_processes_equal_one(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "hardware.precision=fp64", "steps=4", "data.batch=4"]
    train(words, tmp_path / "one")
    assert in_two_processes(lambda rank: train(words, tmp_path / "two") and None) == [0, 0]
    one, two = (load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        assert tensor.dtype == torch.float64
        assert torch.allclose(two[name], tensor, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("objective", ["erm", "dil_pf", "dil_ps"])
def test_distortions_spread_over_processes_equal_one(objective: str, tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, f"objective={objective}", "hardware.precision=fp64", "steps=3"]
    one = train(words, tmp_path / "one")
    spread = [*words, "data.spread=distortions"]
    assert in_two_processes(lambda rank: train(spread, tmp_path / "two") and None) == [0, 0]
    a, b = (load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(a[k], b[k], rtol=0, atol=1e-12) for k in a)
    last = json.loads((tmp_path / "two/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["passes"], last["loss"]) == (one.passes, pytest.approx(one.loss))
    assert {"loss/awgn(5)>>clip", "loss/awgn(15)>>clip"} <= last.keys()


def test_outer_sync_averages_the_directions_of_the_ranks(tiny: list[str], tmp_path: Path) -> None:
    """theta moves by SGD of rate 1 along the mean of what each rank would do alone."""
    base = [*tiny, "objective=dil_sf", "hardware.precision=fp64", "steps=1", "data.batch=4"]
    words = [*base, "optim.name=sgd", "optim.lr=1", "optim.schedule=constant"]
    outer = [*words, "hardware.sync=outer"]
    assert in_two_processes(lambda rank: train(outer, tmp_path / "outer") and None) == [0, 0]
    assert in_two_processes(lambda rank: train(words, tmp_path / "inner") and None) == [0, 0]
    a, b = (load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("outer", "inner"))
    assert any(not torch.allclose(a[k], b[k], rtol=0, atol=1e-9) for k in a)

    from dilkit.confounders.episodes import EpisodeSampler
    from dilkit.recipe import compose
    from dilkit.training.accelerator import Accelerator
    from dilkit.training.assemble import assemble

    recipe = compose(words).recipe
    moved = []
    for rank in range(2):
        made = assemble(recipe, accelerator=Accelerator(torch.device("cpu"), torch.float64))
        trainee = made.trainee
        start = {k: t.clone() for k, t in trainee.net.state_dict().items()}
        sampler = EpisodeSampler(made.store, batch=2, crop=16, seed=recipe.seed, rank=rank, world=2)
        episode = Accelerator(torch.device("cpu"), torch.float64).move(sampler.episode(0))
        moved.append(trainee.objective.gradients(trainee.net, episode).grads)
    for name, tensor in a.items():
        expected = start[name] - (moved[0][name] + moved[1][name]) / 2
        assert torch.allclose(tensor, expected, rtol=0, atol=1e-12)


def test_a_rank_that_dies_ends_the_others_with_its_own_error(tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(
        "import os, torch\n"
        "class Net(torch.nn.Conv2d):\n"
        "    def forward(self, y):\n"
        "        if os.environ['RANK'] == '1' and os.path.exists(os.environ['FUSE']):\n"
        "            open(os.environ['FUSE'] + '.died', 'w').close()\n"
        "            raise RuntimeError('the cosmic ray')\n"
        "        return super().forward(y)\n"
    )
    fuse = tmp_path / "run/metrics.jsonl"
    net = ["model=dying:Net", "model.args={in_channels: 3, out_channels: 3, kernel_size: 1}"]
    before = os.environ.copy()
    os.environ |= {"PYTHONPATH": str(tmp_path), "FUSE": str(fuse)}
    try:
        with pytest.raises(DilkitError, match=r"process 1 of 2 (ended with|killed by SIGABRT)") as caught:
            launch(["train", *tiny, *net, "steps=100000", "--out", str(tmp_path / "run")], 2)
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "the cosmic ray" in str(caught.value), "gloo may abort on the way out, but the words are there"
    assert Path(f"{fuse}.died").exists()
    assert fuse.exists(), "it died while training, not before"


def test_sigterm_reaches_all_processes_and_says_how_to_go_on(tiny: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    main = [sys.executable, "-c", "from dilkit.cli import main; main()", "train"]
    words = [*tiny, "steps=100000", "checkpoint.every=100000", "--out", str(run), "--procs", "2"]
    with subprocess.Popen([*main, *words], stderr=subprocess.PIPE, text=True) as child:
        while not (run / "metrics.jsonl").exists() and child.poll() is None:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=600)
    assert child.returncode == 143, said
    assert "--resume --procs 2" in said


@pytest.mark.parametrize(
    "words", [["data.batch=3"], ["data.spread=distortions", "data.labels=[a, b, c]", "data.batch=3"]]
)
def test_unequal_shares_are_refused_before_a_process_starts(
    words: list[str], tiny: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    monkeypatch.setattr(sys, "argv", ["dilkit", "train", *tiny, *words, "--procs", "2"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "cannot be shared equally" in said
    assert "a multiple of the 2 processes" in said


def test_what_all_processes_refuse_is_said_once_and_exits_2(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from dilkit.cli import main; main()", "train", "demo"]
    words = ["data.store=none.h5", "--out", str(tmp_path / "run"), "--procs", "2"]
    done = subprocess.run([*command, *words], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("none.h5") == 1
    assert "--resume" not in done.stderr


ENDS = [
    ("sleep 0.2; kill -ABRT $$", "sleep 0.6; echo my word >&2; exit 1", "process 1 of 2 ended with code 1"),
    ("kill -KILL $$", "echo Connection closed by peer >&2; exit 1", "process 0 of 2 killed by SIGKILL"),
    ("exec sleep 60", "kill -KILL $$", "process 1 of 2 killed by SIGKILL"),
]


@pytest.mark.parametrize(("first", "second", "told"), ENDS)
def test_the_process_that_is_told_of_is_the_one_that_failed(
    first: str, second: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "python"
    script.write_text(f"#!/bin/sh\nif [ $RANK = 0 ]; then {first}; else {second}; fi\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(DilkitError, match=told):
        launch([], 2)
