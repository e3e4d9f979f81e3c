"""The command itself: its examples, its messages, its exit codes."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
from dilkit.cli import progress as drawing
from dilkit.cli.app import app, main
from dilkit.cli.progress import TrainProgress, clock, describe, size

from dilkit.recipe import compose, shipped

ROW = {
    "step": 50,
    "steps": 200,
    "loss": 0.0312,
    "lr": 1e-3,
    "passes": 200,
    "seconds": 10.0,
    "passes_per_s": 20.0,
    "left": 30.0,
    "val/seen": 31.234,
    "memory": 412_000_000,
}


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["dilkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def epilogs() -> list[str]:
    commands = [*app.registered_commands]
    for group in app.registered_groups:
        commands += group.typer_instance.registered_commands
    return [c.epilog or "" for c in commands if c.callback and c.callback.__module__ in OURS]


OURS = ("dilkit.cli.train", "dilkit.cli.recipes")


def test_the_examples_in_the_help_compose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("extends: demo\n")
    examples = [e for text in epilogs() for e in re.findall(r"`dilkit (.+?)`", text)]
    assert len(examples) >= 8
    for example in examples:
        _, *words = shlex.split(example)
        known = [w for w in words if "=" in w or w in shipped() or w == "mine.yaml"]
        if known and not known[0].count("="):
            compose(known[:1] + [w for w in known[1:] if "=" in w])


MISTAKES = [
    (["denoise-gausian"], "did you mean: denoise-gaussian?"),
    (["demo", "optim.lrr=1"], "did you mean: optim.lr?"),
    (["demo", "optim.lr=quick"], "expected: "),
    (["demo", "model.depth=0"], "greater than or equal to 2"),
    (["demo", "data.store=none.h5"], "none.h5"),
    (["demo", "synthetic", "hardware.device=cuda:99"], "CUDA device"),
    (["demo", "synthetic", "data.distort=awng(5)"], "did you mean: awgn?"),
    (["demo", "synthetic", "data.sources=[nowhere]"], "nowhere"),
    (["demo", "synthetic", "data.crop=9999"], "smaller than the crop"),
]


@pytest.mark.parametrize(("words", "said"), MISTAKES)
def test_a_mistake_exits_2_with_what_to_do(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", *words, "--out", "run") == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.startswith("dilkit: ")
    assert not captured.out


def test_a_run_prints_its_checkpoint_and_nothing_else_on_stdout(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "train", *tiny, "--out", str(tmp_path / "run")) == 0
    captured = capsys.readouterr()
    assert captured.out == f"{tmp_path / 'run/checkpoints/last.safetensors'}\n"
    assert "step 12/12" in captured.err
    assert run(monkeypatch, "train", *tiny, "--out", str(tmp_path / "run")) == 2
    assert run(monkeypatch, "train", *tiny, "--out", str(tmp_path / "run"), "--resume") == 0


def test_a_dry_run_prints_what_the_whole_would_take(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "train", *tiny, "--dry-run") == 0
    out = capsys.readouterr().out
    for name in ("parameters", "batch awgn(5)>>clip", "memory", "a step", "the budget", "disk"):
        assert re.search(rf"^{re.escape(name)} +\S", out, re.M), name
    assert not list(tmp_path.iterdir())


def test_what_is_shown_of_a_row() -> None:
    shown = describe(ROW)
    assert shown["step"] == "50/200"
    assert shown["seen"] == "31.23 dB"
    assert shown["left"] == "0:30"
    assert shown["memory"] == "412 MB"
    assert clock(3 * 86400 + 3723) == "3 d 1:02:03"
    assert [size(n) for n in (12, 3456, 7.8e9)] == ["12 B", "3 kB", "7.8 GB"]


def test_plain_lines_are_rare_and_keep_the_last_validation(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(drawing.time, "monotonic", lambda: now[0])
    monkeypatch.delenv("DILKIT_QUIET", raising=False)
    plain = {k: v for k, v in ROW.items() if not k.startswith("val/")}
    with TrainProgress() as progress:
        progress(ROW)
        for step in range(51, 60):
            progress({**plain, "step": step})
        now[0] += 6
        progress({**plain, "step": 60})
        progress({**plain, "step": 200})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["50/200", "60/200", "200/200"]
    assert all("seen 31.23 dB" in line for line in lines)


def test_quiet_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("DILKIT_QUIET", "1")
    with TrainProgress() as progress:
        progress(ROW)
        progress({"note": "passing over a damaged checkpoint"})
    assert capsys.readouterr().err == "dilkit: passing over a damaged checkpoint\n"


def test_a_misspelt_kind_of_list_has_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "ls", "distortons") == 2
    said = capsys.readouterr().err
    assert "did you mean: distortions?" in said
    assert "Value error" not in said
    assert run(monkeypatch, "ls", "distortions") == 0
