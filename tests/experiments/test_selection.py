"""How settings are chosen: each rule looks at what it says, and every arm has as many trials."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from dilkit.confounders.build import augment
from dilkit.distortions import confounder_set
from dilkit.errors import DilkitError, UsageError
from dilkit.experiments.compare import Comparison, compare, fitted, plan_comparison, price
from dilkit.experiments.runs import TestPlan
from dilkit.experiments.selection import RULES, Selection, check_rule, draw_from, drawn, search_space
from dilkit.objectives import OBJECTIVES
from dilkit.recipe import compose

RECIPE = """
passes: 6
data: {store: STORE, batch: 1, crop: 16}
model: {name: dncnn, depth: 2, width: 4, norm: none}
optim: {name: adam, lr: 0.001}
checkpoint: {every: 1}
log: {every: 1}
hardware: {device: cpu, threads: 1}
"""
IMAGES = "deadleaves:2@32"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    augment(["deadleaves:4@48"], "awgn[5, 10, 15]", folder / "store.h5", tile=48, stride=48)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("STORE", str(folder / "store.h5")))
    return path


@pytest.fixture(scope="module")
def test(coarse_pictures: Callable[[str, int, int], Path]) -> TestPlan:
    return TestPlan(str(coarse_pictures("ab", 4, 4)), "awgn[5, 50]")


def run(recipe: Path, test: TestPlan, out: Path, arms: list[str], **more: object) -> Comparison:
    return compare([str(recipe)], arms, out, test, device="cpu", seeds=1, **more)


@pytest.mark.parametrize(
    ("rule", "more", "measured"),
    [
        ("seen", {"select": IMAGES}, {"awgn(5)", "awgn(10)", "awgn(15)"}),
        ("held_out", {"select": IMAGES, "held_out": "speckle(0.02)"}, {"speckle(0.02)"}),
        ("oracle", {}, {"awgn(5)", "awgn(50)"}),
    ],
)
def test_a_rule_measures_what_it_says(
    recipe: Path, test: TestPlan, tmp_path: Path, rule: str, more: dict, measured: set[str]
) -> None:
    found = run(recipe, test, tmp_path, ["erm", "groupdro"], trials=2, rule=rule, **more)
    assert set(found.sweep["distortion"]) == measured
    assert found.sweep.groupby(["arm", "trial"]).size().nunique() == 1
    for arm in ("erm", "groupdro"):
        means = found.sweep[found.sweep["arm"] == arm].groupby("trial")["psnr"].mean()
        assert found.chosen[arm] == pytest.approx({0.0: means["trial-0"], 1.0: means["trial-1"]})
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "sweep.csv")[["psnr"]], found.sweep[["psnr"]])
    settings = json.loads(found.sweep.query("arm == 'groupdro' and trial == 'trial-1'")["settings"].iloc[0])
    assert set(settings) == {"optim.lr", "objective.eta"}
    text = (tmp_path / "table.md").read_text()
    assert RULES[rule].split(":")[0] in text
    assert ("ORACLE" in text) == (rule == "oracle")


def test_leaving_one_distortion_out_trains_without_it_and_measures_it(
    recipe: Path, test: TestPlan, tmp_path: Path
) -> None:
    found = run(recipe, test, tmp_path, ["erm"], sweep=[1e-3, 1e-4], rule="leave_one_out", select=IMAGES)
    assert found.sweep.groupby(["trial", "distortion"]).size().tolist() == [2] * 6
    for k, label in enumerate(("awgn(5)", "awgn(10)", "awgn(15)")):
        for rate in ("0.001", "0.0001"):
            folder = tmp_path / "erm" / f"lr-{rate}" / f"seed-0-without-{k}"
            words = json.loads((folder / "done.json").read_text())["words"]
            assert label not in next(word for word in words if word.startswith("data.labels"))
            assert set(pd.DataFrame(json.loads((folder / "select-leave_one_out.json").read_text())["rows"])[
                "distortion"
            ]) == {label}  # fmt: skip
    trained_whole = sorted(path.parent.parent.name for path in tmp_path.glob("erm/lr-*/seed-0/done.json"))
    assert len(trained_whole) == 1  # only the chosen rate is trained on all distortions


@pytest.mark.parametrize(
    ("selection", "candidates", "message"),
    [
        (Selection("best"), 2, "unknown selection rule"),
        (Selection("last"), 2, "chooses nothing"),
        (Selection("seen"), 2, "needs images"),
        (Selection("held_out", IMAGES), 2, "a distortion to hold out"),
        (Selection("held_out", IMAGES, "awgn(5)"), 2, "is trained on"),
        (Selection("held_out", IMAGES, "awgn(50)"), 2, "is tested on"),
    ],
)
def test_rules_that_cannot_choose_are_refused(selection: Selection, candidates: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_rule(selection, candidates, confounder_set("awgn[5, 10]"), confounder_set("awgn(50)"))
    with pytest.raises(UsageError, match="none can be left out"):
        check_rule(
            Selection("leave_one_out", IMAGES), 2, confounder_set("awgn(5)"), confounder_set("awgn(50)")
        )


def test_trials_are_drawn_alike_for_shared_keys_and_the_first_is_the_recipe_s() -> None:
    erm, vrex = (search_space(OBJECTIVES.get(name), 1e-3, 4) for name in ("erm", "vrex"))
    assert drawn(erm, 0) == drawn(vrex, 0) == {}
    for trial in range(1, 30):
        assert drawn(erm, trial)["optim.lr"] == drawn(vrex, trial)["optim.lr"]
        assert 1e-4 <= drawn(vrex, trial)["optim.lr"] <= 1e-2
        assert 0.1 <= drawn(vrex, trial)["objective.beta"] <= 1e5
    assert len({drawn(erm, trial)["optim.lr"] for trial in range(1, 30)}) == 29
    assert drawn(erm, 3) != drawn(erm, 3, seed=1)
    assert search_space(OBJECTIVES.get("dil_sf"), 1e-3, 4)["optim.lr"] == "log(0.0001, 0.04)"


@pytest.mark.parametrize("name", tuple(OBJECTIVES))
def test_every_objective_s_ranges_can_be_drawn_and_validated(name: str) -> None:
    cls = OBJECTIVES.get(name)
    for trial in range(1, 8):
        settings: dict = {"name": name}
        for key, value in drawn(cls.search, trial).items():
            section, *path = key.split(".")
            if section == "objective":
                at = settings
                for part in path[:-1]:
                    at = at.setdefault(part, {"name": cls.Config.model_fields[part].default.name})
                at[path[-1]] = value
        cls.Config.model_validate(settings)


@pytest.mark.parametrize("text", ["log(0, 1)", "log(2, 1)", "normal(0, 1)", "uniform(1)", "choice()"])
def test_wrong_ranges_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not a range"):
        draw_from(text, 0.5)


def test_choices_keep_their_kind() -> None:
    assert draw_from("choice(2, 4, 8)", 0.5) == 4
    assert isinstance(draw_from("choice(2, 4, 8)", 0.5), int)
    assert draw_from("choice(0.05, 0.5)", 0.9) == 0.5
    assert draw_from("choice(exact, first)", 0.9) == "first"


def test_the_price_counts_every_run_and_hours_are_divided_among_workers(recipe: Path, test: TestPlan) -> None:
    plan = plan_comparison(
        [str(recipe)], ["erm", "dil_sf"], "nowhere", test, seeds=3, sweep=[1e-3, 1e-4], select=IMAGES
    )
    found = price(plan, lambda composed: (1800.0, 1000))
    assert found["runs"].tolist() == [4, 4]
    assert found["passes"].tolist() == [24, 24]
    assert found["hours"].tolist() == [2, 2]
    assert found["bytes"].tolist() == [4000, 4000]
    said: list[str] = []
    assert fitted(plan, 2.0, 2, said.append, lambda composed: (1800.0, 0)).seeds == 3
    assert not said
    assert fitted(plan, 3.0, 1, said.append, lambda composed: (1800.0, 0)).seeds == 2
    assert "2 of 3" in said[0]
    with pytest.raises(UsageError, match="not even one"):
        fitted(plan, 1.0, 1, seconds=lambda composed: (1800.0, 0))
    several = plan_comparison(
        [str(recipe)], ["erm"], "nowhere", test, seeds=2, sweep=[1e-3, 1e-4], select=IMAGES,
        rule="leave_one_out",
    )  # fmt: skip
    assert several.left_by_arm == {"erm": 2 * 3 + 1 + 1}
    assert not Path("nowhere").exists()


def test_a_run_that_fails_costs_its_arm_a_trial_or_a_seed_and_no_other_arm_anything(
    recipe: Path, test: TestPlan, tmp_path: Path
) -> None:
    said: list[str] = []
    arms = ["nan: objective.name=erm loss=l2 optim.name=sgd", "erm"]
    found = compare(
        [str(recipe), "passes=60"], arms, tmp_path, test, device="cpu", seeds=2, sweep=[1e-3, 1e30],
        select=IMAGES, tell=said.append,
    )  # fmt: skip
    assert "nan/lr-1e+30/seed-0" in found.missing
    assert found.chosen["nan"].keys() == {1e-3}
    assert found.cost["seeds"].tolist() == [2, 2]
    assert "nan/lr-1e+30/seed-0" in (tmp_path / "table.md").read_text()
    assert any(line.startswith("nan/lr-1e+30/seed-0 is missing") for line in said)
    lost = arms[0].replace("nan:", "lost:")
    found = compare([str(recipe), "passes=60", "optim.lr=1e30"], [lost, "good: optim.lr=0.001"],
                    tmp_path / "b", test, device="cpu", seeds=1)  # fmt: skip
    assert set(found.rows["arm"]) == {"good"}
    assert (found.scores["difference"] == 0).all()  # to the first arm that there is
    with pytest.raises(DilkitError, match="not one run"):
        compare([str(recipe), "passes=60", "optim.lr=1e30"], [lost], tmp_path / "c", test, seeds=1)


def test_with_no_time_left_what_is_done_is_compared(recipe: Path, test: TestPlan, tmp_path: Path) -> None:
    run(recipe, test, tmp_path, ["dil_sf"])
    plan = plan_comparison([str(recipe)], ["erm", "dil_sf"], tmp_path, test, seeds=2)
    assert plan.left_by_arm == {"erm": 2, "dil_sf": 1}
    found = compare([str(recipe)], ["erm", "dil_sf"], tmp_path, test, device="cpu", max_hours=0)
    assert set(found.rows["arm"]) == {"dil_sf"}
    assert set(found.missing.values()) == {"there was no time left for it"}
    assert len(found.missing) == 3
    assert len(list(tmp_path.glob("*/*/*/done.json"))) == 1


def test_fish_is_swept_by_its_inner_rate_with_its_own_outer_step(recipe: Path, test: TestPlan) -> None:
    plan = plan_comparison([str(recipe)], ["fish"], "nowhere", test, sweep=[1e-4], select=IMAGES)
    made = plan.candidates["fish"][0].run.composed.recipe
    assert (made.optim.name, made.optim.lr, made.objective.inner.lr) == ("sgd", 0.5, 1e-4)


def test_an_arm_that_names_its_rate_keeps_it_unless_rates_are_swept(recipe: Path, test: TestPlan) -> None:
    arms = ["erm", "fast: objective.name=dil_sf optim.lr=0.004"]
    plan = plan_comparison([str(recipe)], arms, "nowhere", test)
    assert [c.run.composed.recipe.optim.lr for cs in plan.candidates.values() for c in cs] == [1e-3, 4e-3]
    plan = plan_comparison([str(recipe)], arms, "nowhere", test, sweep=[1e-4], select=IMAGES)
    assert [c.run.composed.recipe.optim.lr for cs in plan.candidates.values() for c in cs] == [1e-4, 1e-4]


def test_two_workers_give_the_rows_of_one(recipe: Path, test: TestPlan, tmp_path: Path) -> None:
    one = run(recipe, test, tmp_path / "one", ["erm", "dil_sf"], sweep=[1e-3, 1e-4], select=IMAGES)
    two = run(
        recipe, test, tmp_path / "two", ["erm", "dil_sf"], sweep=[1e-3, 1e-4], select=IMAGES, on="local:2"
    )
    pd.testing.assert_frame_equal(one.rows, two.rows)
    assert one.chosen == two.chosen


def test_a_recipe_is_composed_once_and_passed_as_a_value(
    recipe: Path, test: TestPlan, tmp_path: Path
) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text(recipe.read_text())
    composed = compose([str(own)])
    own.unlink()  # no run, trial or worker asks for the file again
    found = compare(
        composed, ["erm", "dil_sf", "fish"], tmp_path / "out", test, device="cpu", seeds=2, trials=2,
        select=IMAGES, on="local:2",
    )  # fmt: skip
    assert found.cost["seeds"].tolist() == [2, 2, 2]
