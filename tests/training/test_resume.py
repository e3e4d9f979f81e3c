"""Resuming with a changed recipe trains what it announces."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from dilkit.cli.app import main
from safetensors.torch import load_file

from dilkit.errors import UsageError
from dilkit.training import train


def rates(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["lr"] for row in rows]


def go_on(words: list[str], run: Path) -> list[str]:
    """Resume with changes; the notes that were told."""
    said: list[str] = []
    train(words, run, resume=True, allow_changes=True, log=lambda row: said.append(row.get("note", "")))
    return [note for note in said if note and not note.startswith("resuming with a changed recipe")]


@pytest.mark.parametrize(
    "schedule",
    ["cosine", "{name: cosine, warmup: 3}", "{name: cosine, warmup: 6}", "{name: step, every: 3}"],
)
def test_the_schedule_of_the_new_budget_goes_on_where_the_old_one_ended(
    schedule: str, tiny: list[str], tmp_path: Path
) -> None:
    words = [*tiny, f"optim.schedule={schedule}", "log.every=1"]
    train([*words, "steps=8"], tmp_path / "whole")
    train([*words, "steps=4"], tmp_path / "run")
    before = rates(tmp_path / "run")
    assert go_on([*words, "steps=8"], tmp_path / "run") == []
    assert rates(tmp_path / "run") == [*before, *rates(tmp_path / "whole")[4:]]


def test_a_new_rate_is_trained_at(tiny: list[str], tmp_path: Path) -> None:
    words = [*tiny, "optim.schedule=constant", "log.every=1", "optim.lr=1e-3"]
    train([*words, "steps=4"], tmp_path / "run")
    go_on([*words, "steps=6", "optim.lr=1e-5", "optim.betas=[0.5, 0.9]"], tmp_path / "run")
    assert rates(tmp_path / "run") == [1e-3] * 4 + [1e-5] * 2
    state = torch.load(tmp_path / "run/checkpoints/step-00000006.state", weights_only=True)
    (group,) = state["optimizer"]["param_groups"]
    assert tuple(group["betas"]) == (0.5, 0.9)
    assert float(state["optimizer"]["state"][0]["step"]) == 6, "the moments went on"


@pytest.mark.parametrize("objective", ["erm", "dil_sf"])
@pytest.mark.parametrize("schedule", ["cosine", "{name: cosine, warmup: 2}"])
def test_a_change_that_does_not_touch_training_changes_no_bit(
    objective: str, schedule: str, tiny: list[str], tmp_path: Path
) -> None:
    words = [*tiny, f"objective={objective}", f"optim.schedule={schedule}", "steps=8"]
    train(words, tmp_path / "whole")
    train(words, tmp_path / "run")
    for left in (tmp_path / "run/checkpoints").glob("step-00000008.*"):
        left.unlink()
    assert go_on([*words, "log.every=2"], tmp_path / "run") == []
    a, b = (load_file(tmp_path / name / "checkpoints/last.safetensors") for name in ("whole", "run"))
    assert all(torch.equal(a[name], b[name]) for name in a)


AFRESH = [
    (["objective=erm"], ["objective=dil_sf"], ["erm became dil_sf with adam"]),
    (["objective=dil_sf"], ["objective=erm"], ["dil_sf with adam became erm"]),
    (["objective=dil_sf"], ["objective={name: dil_sf, inner: sgd}"], ["became dil_sf with sgd"]),
    (["objective={name: dil_sf, inner: sgd}"], ["objective=dil_sf"], ["became dil_sf with adam"]),
    (["objective=erm"], ["objective=dil_ps"], []),
    (["optim=sgd"], ["optim=adam"], ["sgd became adam"]),
    (["optim=adam"], ["optim={name: sgd, momentum: 0.9}"], ["adam became sgd"]),
    (["optim=adam"], ["optim=adamw"], []),
    (["optim=sgd"], ["optim={name: sgd, momentum: 0.9}"], []),
]


@pytest.mark.parametrize(("old", "new", "notes"), AFRESH)
def test_a_state_that_cannot_go_on_starts_afresh_and_says_so(
    old: list[str], new: list[str], notes: list[str], tiny: list[str], tmp_path: Path
) -> None:
    train([*tiny, *old, "steps=2"], tmp_path / "run")
    said = go_on([*tiny, *new, "steps=4"], tmp_path / "run")
    assert len(said) == len(notes)
    assert all(note in line and "afresh" in line for note, line in zip(notes, said, strict=True))


@pytest.mark.parametrize(("change", "afresh"), [("every=1", False), ("select=held_out", True)])
def test_the_best_of_another_measure_is_not_the_best(
    change: str, afresh: bool, tiny: list[str], tiny_store: Path, tmp_path: Path
) -> None:
    """What is held out is so much harder that nothing would be better than the best on what is seen."""
    images = f"validate.images=[{tiny_store.parent}/*.png]"
    words = [*tiny, images, "validate.every=2", "validate.held_out=awgn(90)"]
    train([*words, "steps=2"], tmp_path / "run")
    said = go_on([*words, f"validate.{change}", "steps=4"], tmp_path / "run")
    assert [("chosen afresh" in note) for note in said] == [True] * afresh
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    measured = {row["step"]: row["val/select"] for row in rows if "val/select" in row}
    state = torch.load(tmp_path / "run/checkpoints/step-00000004.state", weights_only=True)
    assert state["best"] == max(value for step, value in measured.items() if step > 2 or not afresh)


def test_it_is_said_on_stderr(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train([*tiny, "steps=2"], tmp_path / "run")
    words = [*tiny, "steps=3", "objective.name=dil_sf", "--out", str(tmp_path / "run")]
    monkeypatch.setattr(sys, "argv", ["dilkit", "train", *words, "--resume", "--allow-changes"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr().err
    assert "the objective's own state starts afresh: erm became dil_sf with adam" in said
    assert "lr_scheduler" not in said


def test_a_refused_start_does_not_block_the_corrected_one(tiny: list[str], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot import 'nowhere'"):
        train([*tiny, "steps=2", "log.to=[nowhere:Sink]"], tmp_path / "run")
    assert train([*tiny, "steps=2"], tmp_path / "run").step == 2
    with pytest.raises(UsageError, match="not empty"):
        train([*tiny, "steps=2"], tmp_path / "run")
