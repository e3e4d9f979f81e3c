"""`dilkit compare`: mistakes are said before anything is trained, leaks are told, and no rows are lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import pandas as pd
import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.confounders.build import augment
from dilkit.distortions import confounder_set
from dilkit.errors import UsageError
from dilkit.experiments import compare as module
from dilkit.experiments.arms import parse_arms
from dilkit.experiments.compare import Comparison, TestPlan, compare
from dilkit.experiments.runs import own_specialists

RECIPE = """
passes: 4
data: {store: STORE, batch: 1, crop: 16}
model: {name: dncnn, depth: 2, width: 4, norm: none}
optim: {name: adam, lr: 0.001}
hardware: {device: cpu, threads: 1}
"""


@pytest.fixture(scope="module")
def pictures(coarse_pictures: Callable[[str, int, int], Path]) -> Path:
    return coarse_pictures("ab", 6, 6)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    """Trained on the very pictures of the test."""
    folder = tmp_path_factory.mktemp("recipe")
    augment([str(pictures)], "awgn[5, 10] >> clip", folder / "store.h5", tile=48, stride=48)
    path = folder / "tiny.yaml"
    path.write_text(RECIPE.replace("STORE", str(folder / "store.h5")))
    return path


def run(recipe: Path, pictures: Path, out: Path, arms: list[str], *words: str, **more: object) -> Comparison:
    test = TestPlan(str(pictures), "awgn[5, 50]")
    return compare([str(recipe), *words], arms, out, test, device="cpu", seeds=1, **more)


def test_specialists_meet_the_test_where_it_is_seen(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = run(recipe, pictures, tmp_path, ["erm", "specialist"], tell=said.append)
    gap = found.scores.query("arm == 'erm' and score == 'worst-case gap'")["value"].item()
    means = found.rows.groupby(["arm", "distortion"])["psnr"].mean()
    own = "specialist[awgn(5)>>clip]"
    assert gap == pytest.approx(means[own, "awgn(5)"] - means["erm", "awgn(5)"])
    assert [line for line in said if "no part in the worst-case gap" in line] == [
        "specialist[awgn(10)>>clip]: no test distortion is its own, so it has no part in the worst-case gap"
    ]


def test_the_specialist_of_one_degree_comes_before_that_of_a_range() -> None:
    trained = confounder_set("awgn(10) >> clip | awgn(uniform(5, 20)) >> clip")
    arms = parse_arms(["specialist"], trained, confounder_set("awgn[10, 15, 50]"))
    own = own_specialists(arms, trained, confounder_set("awgn[10, 15, 50]"))
    one, many = (arm.name for arm in arms)
    assert own == {"awgn(10)": one, "awgn(15)": many}


def test_rows_and_costs_outlive_a_scoring_that_fails(
    recipe: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(module, "scores", fail)
    with pytest.raises(RuntimeError):
        run(recipe, pictures, tmp_path, ["erm"])
    assert len(pd.read_csv(tmp_path / "rows.csv")) == 4
    assert pd.read_csv(tmp_path / "cost.csv")["passes"].tolist() == [4]


@pytest.mark.parametrize(
    ("arms", "words", "more", "message"),
    [
        (["erm", "wide: passes=99"], [], {}, r"arm wide: .*equal passes(.|\n)*passes=99(.|\n)*passes=4"),
        (["erm", "x: passes=null steps=3"], [], {}, r"arm x: .*equal passes(.|\n)*steps=3"),
        (["erm", "x: steps=3"], [], {}, r"arm x: (.|\n)*steps=3(.|\n)*passes=4"),
        (["erm", "dil_pf"], ["passes=2"], {}, r"arm dil_pf, passes: the budget is less than one step"),
        (["erm", "x: modle.depth=3"], [], {}, r"arm x, (.|\n)*did you mean: model"),
        (["erm", "x: data.labels=['awgn(7)']"], [], {}, r"arm x, (.|\n)*awgn\(7\)"),
        (["erm"], [], {"baseline": "emr"}, r"baseline: there is no arm 'emr'(.|\n)*did you mean: erm"),
    ],
)
def test_mistakes_are_found_before_training(
    recipe: Path, pictures: Path, tmp_path: Path, arms: list[str], words: list[str], more: dict, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(recipe, pictures, tmp_path / "out", arms, *words, **more)
    assert not (tmp_path / "out").exists()


def test_the_learning_rate_is_not_chosen_on_the_test(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    other = tmp_path / "Other"
    other.mkdir()
    cv2.imwrite(str(other / "copy.bmp"), cv2.imread(str(pictures / "b.png")))
    with pytest.raises(UsageError, match=r"images of the test(.|\n)*copy\.bmp"):
        run(recipe, pictures, tmp_path / "out", ["erm"], sweep=[1e-3, 1e-4], select=str(other))
    assert not (tmp_path / "out").exists()


def test_a_leak_is_said_beside_the_scores(recipe: Path, pictures: Path, tmp_path: Path) -> None:
    args = [
        "compare", str(recipe), "--arms", "erm", "--seeds", "1", "--device", "cpu",
        "--data", str(pictures), "--distort", "awgn(50)", "--out", str(tmp_path),
    ]  # fmt: skip
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    leak = "LEAK: erm has seen 2 of the test images in training or selection: a.png, b.png"
    assert leak in result.stdout.splitlines()
    assert leak in (tmp_path / "table.md").read_text().splitlines()
