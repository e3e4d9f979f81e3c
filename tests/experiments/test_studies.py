"""Studies: described in YAML, checked whole before the first run, priced, cut to the hours there are."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dilkit.errors import DilkitError, UsageError
from dilkit.experiments.executors import run_units
from dilkit.experiments.studies import load_study, plan_study, price_study, run_study, shipped_studies
from dilkit.recipe import Composed

TINY = """
description: tiny
folders: {leaves: "deadleaves:4@48"}
tiers:
  - name: first
    recipe: &recipe
      - dncnn
      - data.sources=['{leaves}']
      - data.distort=awgn[5, 10]
      - data.tile=48
      - data.crop=16
      - data.batch=1
      - model.depth=2
      - model.width=4
      - model.norm=none
      - hardware.device=cpu
      - hardware.threads=1
      - passes=4
    arms: [erm, dil_sf]
    seeds: 2
    test: {data: ["deadleaves:2@32"], distort: "awgn[5, 50]"}
  - name: second
    recipe: *recipe
    arms: [erm, vrex]
    seeds: 3
    test: {data: ["deadleaves:2@32"], distort: "speckle(0.02)"}
"""


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def test_the_tiers_are_run_in_order_and_once(tiny: str, tmp_path: Path) -> None:
    said: list[str] = []
    found = run_study(load_study(tiny), tmp_path / "out", device="cpu", tell=said.append)
    assert list(found) == ["first", "second"]
    rows = pd.read_csv(tmp_path / "out" / "rows.csv")
    assert rows.groupby("tier")["train_seed"].nunique().to_dict() == {"first": 2, "second": 3}
    assert set(pd.read_csv(tmp_path / "out" / "scores.csv")["tier"]) == {"first", "second"}
    assert (tmp_path / "out" / "first" / "table.md").is_file()
    assert sum(line.startswith("training") for line in said) == 2 * 2 + 2 * 3
    said.clear()
    run_study(load_study(tiny), tmp_path / "out", device="cpu", tell=said.append)
    assert not any(line.startswith("training") for line in said)


def test_what_does_not_fit_is_cut_alike_for_all_arms_or_left_out(tiny: str, tmp_path: Path) -> None:
    said: list[str] = []

    def an_hour(composed: Composed) -> tuple[float, int]:
        return (36000.0 if "objective.name=vrex" in composed.words else 3600.0), 0

    study = load_study(tiny)
    found = run_study(study, tmp_path, max_hours=3, device="cpu", tell=said.append, seconds=an_hour)
    assert list(found) == ["first"]
    assert found["first"].cost["seeds"].tolist() == [1, 1]  # two hours; a second seed would take four
    assert any("tier second does not fit" in line for line in said)
    found = run_study(study, tmp_path, max_hours=3, device="cpu", seconds=an_hour)
    assert found["first"].cost["seeds"].tolist() == [2, 2]  # what is done is not priced again
    with pytest.raises(UsageError, match="not even one"):
        run_study(study, tmp_path / "c", max_hours=1, seconds=an_hour)


def test_a_study_that_was_stopped_is_reported_without_training(tiny: str, tmp_path: Path) -> None:
    study = load_study(tiny)
    with pytest.raises(DilkitError, match="nothing to report"):
        run_study(study, tmp_path, max_hours=0)
    first = plan_study(study, tmp_path)["first"]
    run_units([first.candidates["erm"][0].run.training()])
    said: list[str] = []
    found = run_study(study, tmp_path, max_hours=0, device="cpu", tell=said.append)
    assert list(found) == ["first"]
    assert set(pd.read_csv(tmp_path / "rows.csv")["arm"]) == {"erm"}
    assert not any(line.startswith("training") for line in said)


def test_the_rows_of_every_sweep_are_kept(tiny: str, tmp_path: Path) -> None:
    path = tmp_path / "swept.yaml"
    path.write_text(
        TINY.replace("arms: [erm, vrex]", "arms: [erm]\n    trials: 3\n    select: ['deadleaves:2@24']")
    )
    run_study(load_study(str(path)), tmp_path / "out", device="cpu")
    sweep = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert sweep.groupby(["tier", "arm", "trial"]).size().to_dict() == {
        ("second", "erm", f"trial-{k}"): 4 for k in range(3)
    }


def test_a_mistake_in_the_last_tier_costs_no_training(tiny: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TINY.replace("[erm, vrex]", "[erm, vrx]"))
    with pytest.raises(UsageError, match="did you mean: vrex"):
        run_study(load_study(str(wrong)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("name: second", "name: first", "two tiers"),
        ("seeds: 3", "seeds: 0", r"tiers\.1\.seeds"),
        ("arms: [erm, vrex]", "arms: []", "arms"),
        ("rule", "rule", None),
    ],
)
def test_wrong_studies_are_refused(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(TINY.replace(old, new))
    if message is None:
        load_study(str(path))
        return
    with pytest.raises(UsageError, match=message):
        load_study(str(path))


def test_unknown_names_are_answered(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: ladder"):
        load_study("lader")
    with pytest.raises(UsageError, match="did you mean: second"):
        plan_study(load_study(tiny), tmp_path, tiers=["secnd"])
    with pytest.raises(UsageError, match="the images 'train'"):
        plan_study(load_study("ladder"), tmp_path, data=tmp_path)


def test_every_shipped_study_can_be_planned_and_priced(tmp_path: Path, shared_data: Path) -> None:
    assert set(shipped_studies()) == {"ladder", "paper-size", "small", "smoke"}
    for name in shipped_studies():
        plans = plan_study(load_study(name), tmp_path / name, data=shared_data)
        table = price_study(plans, lambda composed: (60.0, 10))
        assert (table["passes"] > 0).all()
        assert table.groupby("tier")["runs"].nunique().max() == 1  # as many runs for every arm
