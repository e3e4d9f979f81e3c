"""Mistakes that people who know other trainers make: each is told what the thing is and what was meant."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from dilkit.cli.app import main

import dilkit
from dilkit.checkpoint import save_weights
from dilkit.models import build
from dilkit.recipe import compose

TINY = ["demo", "model.depth=2", "model.width=4", "model.norm=none"]


def said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The message on stderr of a command that must exit with 2 and print nothing on stdout."""
    monkeypatch.setattr(sys, "argv", ["dilkit", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err
    assert not captured.out and captured.err.startswith("dilkit: ")
    return captured.err


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, a photograph, and a run folder with a checkpoint."""
    folder = tmp_path_factory.mktemp("work")
    dilkit.augment(["deadleaves:2@32"], "awgn(5)", folder / "data.h5", tile=32, stride=32)
    image = np.random.default_rng(0).integers(0, 255, (24, 24, 3)).astype(np.uint8)
    cv2.imwrite(str(folder / "photo.png"), image)
    cv2.imwrite(str(folder / "photo2.png"), image)
    (folder / "run").mkdir()
    (folder / "run" / "run.json").write_text("{}")
    checkpoints = folder / "runs" / "erm" / "checkpoints"
    checkpoints.mkdir(parents=True)
    recipe = compose([*TINY, f"data.store={folder / 'data.h5'}", "hardware.device=cpu"]).recipe
    net = build("dncnn", depth=2, width=4, norm="none")
    save_weights(
        checkpoints / "last.safetensors",
        net,
        None,
        recipe,
        {"confounders": "awgn(5)", "labels": ["awgn(5)"], "step": 1},
    )
    return folder


@pytest.fixture
def here(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    return work


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (["--device", "cuda"], "hardware.device=cuda"),
        (["--device=cpu"], "hardware.device=cpu"),
        (["--lr", "1e-3"], "optim.lr=1e-3"),
        (["--seed", "3"], "seed=3"),
        (["--batch-size", "16"], "data.batch=16"),
        (["--epochs", "2"], "epochs=2"),
        (["--lr"], "optim.lr=VALUE"),
    ],
)
def test_an_option_that_is_a_key_of_the_recipe(
    words: list[str], key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert key in said(monkeypatch, capsys, "train", "demo", *words)


def test_a_key_without_its_equals_sign(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "data.store=bsd.h5" in said(monkeypatch, capsys, "train", "demo", "data.store", "bsd.h5")


@pytest.mark.parametrize(
    ("words", "key"), [(["--plot", "a.png"], "--find-lr"), (["--plot", "a.jpg"], ".png")]
)
def test_a_figure_that_nothing_would_draw(
    words: list[str], key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert key in said(monkeypatch, capsys, "train", "demo", *words)


def test_an_argument_of_a_foreign_net(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = said(monkeypatch, capsys, "train", "demo", "model.name=mynet:MyNet", "model.width=6")
    assert "model.args.width" in found


def test_a_device_that_is_not_there(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    message = said(monkeypatch, capsys, "train", *TINY, "data.store=data.h5", "hardware.device=cuda")
    assert "CUDA" in message and "hardware.device=auto" in message
    message = said(
        monkeypatch, capsys, "eval", "runs/erm", "--data", "photo.png", "-d", "awgn(5)", "--device", "cuda"
    )
    assert "CUDA" in message and "auto" in message


@pytest.mark.parametrize(
    ("words", "is_what", "meant"),
    [
        (["eval", "data.h5", "--data", "photo.png", "-d", "awgn(5)"], "dataset", ""),
        (["restore", "photo.png", "runs/erm", "--out", "x"], "image", "dilkit restore"),
        (["eval", "runs/erm", "--data", "photo.png", "photo2.png", "-d", "awgn(5)"], "image", "quote"),
        (["check", "photo.png"], "image", "checkpoint"),
        (["train", "data.h5"], "recipe", "data.store=data.h5"),
        (["train", "net.safetensors"], "recipe", "init=net.safetensors"),
        (["train", *TINY, "--out", "x"], "no such dataset", "data.store="),
        (
            ["compare", "demo", "-d", "awgn(5)", "--data", "photo.png", "--arms", "erm", "--out", "run"],
            "run",
            "give another",
        ),
        (["check", "distorton", "awgn"], "distorton", "did you mean: distortion?"),
        (["card", "runs/erm", "--rows", "photo.png"], "photo.png", "dilkit eval"),
        (["study", "run", "nowhere.yaml", "--out", "x"], "nowhere.yaml", "no such file"),
    ],
    ids=[
        "a dataset for a net",
        "the image before the net",
        "an unquoted glob",
        "an image to check",
        "a dataset for a recipe",
        "a net for a recipe",
        "no dataset",
        "a run for a comparison",
        "an unknown kind",
        "an image for rows",
        "a study that is not there",
    ],
)
def test_a_file_of_another_kind(
    words: list[str],
    is_what: str,
    meant: str,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = said(monkeypatch, capsys, *words)
    assert is_what in message and meant in message


def test_a_run_folder_stands_for_its_checkpoint(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["dilkit", "eval", "runs/erm", "--data", "photo.png", "-d", "awgn(5)", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["dilkit", "check", "runs/erm", "--no-costs", "--size", "16"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err
    words = ["dilkit", "train", *TINY, "data.store=data.h5", "data.crop=16", "init=runs/erm", "--dry-run"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None), capsys.readouterr().err


@pytest.mark.parametrize(("text", "meant"), [("AWGN(5)", "awgn"), ("awgn[5..50]", "awgn[5:50")])
def test_an_expression_as_other_programs_write_it(
    text: str, meant: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert meant in said(monkeypatch, capsys, "augment", "deadleaves:1@32", "-d", text, "-o", "x.h5")


def test_an_error_names_a_path_once(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = said(monkeypatch, capsys, "restore", "runs/erm", "nowhere.png", "--out", "restored")
    assert message.count("nowhere.png") == 1


def test_a_set_is_looked_for_in_the_data_folder(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test" / "MySet").mkdir(parents=True)
    (tmp_path / "test" / "MySet" / "a.png").write_bytes((here / "photo.png").read_bytes())
    monkeypatch.setenv("DILKIT_DATA", str(tmp_path))
    words = ["dilkit", "eval", "--data", "MySet", "-d", "awgn(5)", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        main()
    captured = capsys.readouterr()
    assert ended.value.code in (0, None), captured.err
    assert "MySet (1 image" in captured.out


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.8])
def test_an_interrupt_in_the_first_second_leaves_no_traceback(delay: float, tmp_path: Path) -> None:
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dilkit.cli import main; print(flush=True)\n"
        "sys.argv = ['dilkit', 'train', 'demo', 'synthetic', '--out', 'r']; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=600)
    assert process.returncode in (130, 0) and "Traceback" not in err, err
