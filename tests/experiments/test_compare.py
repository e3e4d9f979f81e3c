"""`dilkit compare`: arms at equal passes, resumable, selected apart from the test."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.checkpoint import load
from dilkit.confounders.build import augment
from dilkit.distortions import confounder_set
from dilkit.errors import UsageError
from dilkit.experiments.arms import MODIFIERS, parse_arms
from dilkit.experiments.compare import Comparison, TestPlan, compare
from dilkit.recipe import compose

RECIPE = """
passes: 8
data: {store: STORE, batch: 2, crop: 16}
model: {name: dncnn, depth: 3, width: 4, norm: none}
objectives:
  dil_sf: {inner: {name: adam, lr: 0.001}}
optim: {name: adam, lr: 0.001}
checkpoint: {every: 1}
log: {every: 1}
hardware: {device: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    store = folder / "store.h5"
    augment(["deadleaves:4@48"], "awgn[5, 10]", store, tile=48, stride=48)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("STORE", str(store)))
    return path


@pytest.fixture(scope="module")
def pictures(coarse_pictures: Callable[[str, int, int], Path]) -> Path:
    return coarse_pictures("abc", 4, 5)


def run(
    recipe: Path, pictures: Path, out: Path, arms: list[str], **more: object
) -> tuple[Comparison, list[str]]:
    said: list[str] = []
    test = TestPlan(str(pictures), "awgn[5, 10, 50]")
    found = compare([str(recipe)], arms, out, test, device="cpu", tell=said.append, **more)
    return found, said


def test_arms_seeds_rows_scores_and_costs(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    found, said = run(recipe, pictures, tmp_path, ["erm", "dil_sf+equivariant"])
    assert found.rows.groupby(["arm", "train_seed"]).size().tolist() == [9] * 4
    assert found.cost["passes"].tolist() == [8, 8]
    assert found.cost["seeds"].tolist() == [2, 2]
    assert found.cost["parameters"].tolist() == [found.cost["parameters"][0]] * 2
    assert set(found.scores["score"]) == {"seen", "unseen degree", "worst cell", "worst 10 %"}
    erm = found.scores.query("arm == 'erm'")
    assert (erm["difference"] == 0).all()
    made = found.rows.query("arm == 'erm' and novelty == 'seen'")["psnr"].mean()
    assert erm.query("score == 'seen'")["value"].item() == pytest.approx(made)
    trained = [line for line in said if line.startswith("training")]
    assert [line[-6:] for line in trained] == [
        "seed 0",
        "seed 0",
        "seed 1",
        "seed 1",
    ]  # all arms, seed by seed

    again, said = run(recipe, pictures, tmp_path, ["erm", "dil_sf+equivariant"])
    assert said == []
    pd.testing.assert_frame_equal(again.rows, found.rows)
    text = (tmp_path / "table.md").read_text()
    assert "| dil_sf+equivariant |" in text and "none selected" in text

    (tmp_path / "erm" / "lr-0.001" / "seed-1" / "done.json").unlink()
    _, said = run(recipe, pictures, tmp_path, ["erm", "dil_sf+equivariant"])
    assert said == ["going on with erm, lr 0.001, seed 1"]


def test_another_test_is_measured_again_and_another_recipe_is_refused(
    recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    for distort in ("awgn(5)", "awgn(50)"):
        found = compare(
            [str(recipe)], ["erm"], tmp_path, TestPlan(str(pictures), distort), seeds=1, device="cpu"
        )
        assert set(found.rows["distortion"]) == {distort}
    with pytest.raises(UsageError, match="a run of another recipe"):
        run(recipe, pictures, tmp_path, ["erm: objective.name=erm model.width=6"], seeds=1)


def test_learning_rates_are_chosen_on_seen_distortions_of_other_images(
    recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    found, _ = run(
        recipe, pictures, tmp_path, ["dil_sf"], sweep=[1e-3, 1e-5], select="deadleaves:2@32", seeds=2
    )
    tried = found.chosen["dil_sf"]
    best = max(tried, key=lambda lr: tried[lr])
    assert set(tried) == {1e-3, 1e-5}
    assert found.cost["lr"].tolist() == [best]
    assert found.cost["runs"].tolist() == [3]
    other = json.loads((tmp_path / "dil_sf" / "lr-1e-05" / "seed-0" / "done.json").read_text())
    assert "objective.inner.lr=1e-05" in other["words"]
    assert "selected by highest mean PSNR" in (tmp_path / "table.md").read_text()


def test_specialists_give_the_worst_case_gap(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    found, _ = run(recipe, pictures, tmp_path, ["erm", "specialist"], seeds=1)
    assert set(found.scores["arm"]) == {"erm", "specialist[awgn(5)]", "specialist[awgn(10)]"}
    gap = found.scores.query("arm == 'erm' and score == 'worst-case gap'")["value"].item()
    means = found.rows.groupby(["arm", "distortion"])["psnr"].mean()
    labels = ("awgn(5)", "awgn(10)")
    assert gap == pytest.approx(max(means[f"specialist[{d}]", d] - means["erm", d] for d in labels))


def test_the_oracle_trains_on_the_distortions_of_the_test_too(
    recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    live = tmp_path / "live.yaml"
    made = f"{{store: {recipe.parent / 'store.h5'},"
    text = recipe.read_text().replace(
        made, "{sources: ['deadleaves:4@48'], distort: 'awgn[5, 10]', tile: 48,"
    )
    live.write_text(text.replace("passes: 8", "passes: 12"))
    found, _ = run(live, pictures, tmp_path / "out", ["erm", "oracle"], seeds=1)
    loaded = load(tmp_path / "out/oracle/lr-0.001/seed-0/checkpoints/last.safetensors")
    assert confounder_set(loaded.recipe.data.distort) == confounder_set("awgn[5, 10, 50]")
    assert (loaded.metadata["step"], loaded.metadata["passes"]) == (4, 12)
    assert set(found.rows.query("arm == 'oracle'")["novelty"]) == {"seen"}
    means = found.rows.groupby(["arm", "distortion"])["psnr"].mean()
    for arm in ("erm", "oracle"):  # one meaning of unseen for both: that of the recipe
        value = found.scores.query("arm == @arm and score == 'unseen degree'")["value"].item()
        assert value == pytest.approx(means[arm, "awgn(50)"])


def test_pure_batches_take_n_times_the_steps_at_equal_passes(
    recipe: Path, pictures: Path, tmp_path: Path
) -> None:
    found, _ = run(recipe, pictures, tmp_path, ["erm", "erm_pure"], seeds=1)
    assert found.cost["passes"].tolist() == [8, 8]
    done = [
        json.loads((tmp_path / arm / "lr-0.001/seed-0/done.json").read_text()) for arm in ("erm", "erm_pure")
    ]
    assert [each["step"] for each in done] == [4, 8]


def test_the_command_prints_the_table(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    args = [
        "compare", str(recipe), "--arms", "erm", "--seeds", "1",
        "--arm", "wide: objective.name=erm model.width=6",
        "--data", str(pictures), "--distort", "awgn(50)", "--out", str(tmp_path), "--device", "cpu",
        "--plot", str(tmp_path / "plot.png"),
    ]  # fmt: skip
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    assert "| wide |" in result.stdout
    assert all((tmp_path / name).stat().st_size for name in ("plot.png", "plot-scores.png"))
    assert (tmp_path / "wide" / "lr-0.001" / "seed-0" / "checkpoints" / "last.safetensors").is_file()


TRAINED, TESTED = confounder_set("awgn[5, 10]"), confounder_set("awgn(50)")


def test_arms_are_words() -> None:
    (arm,) = parse_arms(["dil_sf+equivariant+ema"], TRAINED, TESTED)
    assert arm.words == ("objective.name=dil_sf", "model.equivariant=true", "ema=0.999")
    special = parse_arms(["specialist+biasfree"], TRAINED, TESTED)
    assert [a.member for a in special] == ["awgn(5)", "awgn(10)"]
    (oracle,) = parse_arms(["oracle"], TRAINED, TESTED)
    assert any("awgn[5, 10, 50]" in word for word in oracle.words)


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        (["lokahead"], "did you mean: lookahead"),
        (["erm+equivarient"], "did you mean: equivariant"),
        (["erm", "erm"], "given twice"),
        ([], "no arm"),
        (["../up: erm"], "folder"),
    ],
)
def test_wrong_arms_are_named(arms: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_arms(arms, TRAINED, TESTED)


def test_unfair_comparisons_are_refused(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    test = TestPlan(str(pictures), "awgn(50)")
    with pytest.raises(UsageError, match="equal passes"):
        compare([str(recipe), "passes=null", "steps=2"], ["erm"], tmp_path, test)
    with pytest.raises(UsageError, match="images to choose"):
        compare([str(recipe)], ["erm"], tmp_path, test, sweep=[1e-3])
    with pytest.raises(UsageError, match="the store does not hold"):
        compare([str(recipe)], ["oracle"], tmp_path, test)


def test_every_modifier_trains_and_is_measured(tmp_path: Path) -> None:
    words = [
        "dncnn", "data.sources=['deadleaves:4@48']", "data.distort=awgn[5, 20]", "data.tile=48",
        "data.crop=16", "data.batch=1", "model.depth=3", "model.width=4", "model.norm=none",
        "hardware.device=cpu", "hardware.threads=1", "passes=4", "validate.every=1",
        "validate.images=['deadleaves:2@32']",
    ]  # fmt: skip
    arms = [f"erm+{name}" for name in MODIFIERS]
    test = TestPlan("deadleaves:2@40", "awgn[5, 50]")
    found = compare(words, arms, tmp_path, test, seeds=1, device="cpu")
    assert {name.partition("/")[0] for name in found.missing} == {"erm+scaleorbit"}  # noise has no such orbit
    assert "has no symmetry of scale" in next(iter(found.missing.values()))
    assert set(found.rows["arm"]) == set(arms) - {"erm+scaleorbit"}
    assert found.cost["passes"].tolist() == [4] * (len(arms) - 1)


def test_the_table_of_the_documentation_says_which_modifiers_combine(recipe: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    rows = re.findall(r"^\| `\+(\w+)` \|[^|]*\|[^|]*\|([^|]*)\|$", text, re.MULTILINE)
    refused = {name: set(re.findall(r"\+(\w+)", others)) for name, others in rows}
    assert set(refused) == set(MODIFIERS)
    shared = compose([str(recipe), "validate.every=2", "validate.images=['deadleaves:2@32']"])
    for a, b in combinations(MODIFIERS, 2):
        assert (b in refused[a]) == (a in refused[b])
        try:
            (arm,) = parse_arms([f"erm+{a}+{b}"], TRAINED, TESTED)
            shared.plus(*arm.words)
        except UsageError:
            assert b in refused[a], (a, b)
        else:
            assert b not in refused[a], (a, b)
