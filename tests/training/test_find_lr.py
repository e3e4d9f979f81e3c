"""The range test of learning rates suggests one that trains."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dilkit.cli.app import main

from dilkit.recipe import compose
from dilkit.training.find_lr import find_lr


def test_rates_rise_until_the_loss_has_left_its_range(tiny: list[str]) -> None:
    found = find_lr(compose([*tiny, "optim.name=sgd"]), low=1e-4, high=1e6, steps=60)
    ratios = [b / a for a, b in zip(found.rates, found.rates[1:], strict=False)]
    assert found.rates[0] == pytest.approx(1e-4)
    assert ratios == pytest.approx([1e10 ** (1 / 59)] * len(ratios))
    assert len(found.rates) < 60, "a rate of 1e6 does not train"
    assert len(found.rates) == len(found.losses) == len(found.smoothed)
    least = found.rates[found.smoothed.index(min(found.smoothed))]
    assert found.suggested == pytest.approx(least / 10)


def test_the_command_prints_the_setting_and_draws_the_figure(
    tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dilkit", "train", *tiny, "--find-lr", "--plot", "rates.png"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    said = capsys.readouterr()
    key, _, value = said.out.strip().partition("=")
    assert key == "optim.lr" and 1e-8 < float(value) < 1
    assert "a tenth of the rate" in said.err
    assert (tmp_path / "rates.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"rates.png"}
