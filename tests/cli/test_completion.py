"""What a shell completes: recipes and their keys, distortion names, run folders and nets, kinds."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.recipe import keys


def completed(line: str) -> list[str]:
    """What bash is given for the last word of a command line."""
    words = shlex.split(line) + [""] * line.endswith(" ")
    asked = {
        "_DILKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": shlex.join(words) if words[-1] else f"{shlex.join(words[:-1])} ",
        "COMP_CWORD": str(len(words) - 1),
    }
    found = CliRunner().invoke(app, [], prog_name="dilkit", env=asked)
    assert found.exit_code == 0, found.output
    return found.stdout.splitlines()


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run, a folder of runs, and a lone checkpoint."""
    monkeypatch.chdir(tmp_path)
    for run in ("runs/erm", "runs/compared/dil-s0"):
        (tmp_path / run / "checkpoints").mkdir(parents=True)
    (tmp_path / "best.safetensors").touch()
    (tmp_path / "photo.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("dilkit tra", ["train"]),
        ("dilkit data ins", ["inspect"]),
        ("dilkit train denoise-gaussian-s", ["denoise-gaussian-small"]),
        ("dilkit train demo dil_s", ["dil_sf", "dil_ss"]),
        ("dilkit train demo hardware.dev", ["hardware.device="]),
        ("dilkit compare demo optim.weight", ["optim.weight_decay="]),
        ("dilkit recipes show demo data.sto", ["data.store="]),
        ("dilkit augment photos -d awg", ["awgn"]),
        ("dilkit eval --distort 'clean | gaussian_b'", ["gaussian_blur"]),
        ("dilkit invariance -d bsrg", ["bsrgan"]),
        ("dilkit ls pres", ["presets"]),
        ("dilkit check obj", ["objective"]),
        ("dilkit restore zoo:deno", ["zoo:denoise"]),
        ("dilkit augment a -d b --storage vir", ["virtual"]),
    ],
)
def test_a_word_is_completed(line: str, found: list[str]) -> None:
    assert [word.rpartition(" ")[2] for word in completed(line)] == found


@pytest.mark.parametrize(
    "command", ["eval", "report", "restore", "export", "card", "runs show", "invariance"]
)
def test_runs_and_checkpoints_are_completed_wherever_a_net_is_taken(command: str, runs: Path) -> None:
    assert "runs/erm" in completed(f"dilkit {command} runs/e")
    found = completed(f"dilkit {command} runs/")
    assert {"runs/erm", "runs/compared/"} <= set(found)
    assert "best.safetensors" in completed(f"dilkit {command} be")
    assert "photo.png" not in completed(f"dilkit {command} ph")


def test_every_key_of_a_recipe_is_completed() -> None:
    assert {"steps", "data.store", "optim.lr", "hardware.precision"} <= set(keys())
    assert {f"{key}=" for key in keys()} <= set(completed("dilkit train "))
