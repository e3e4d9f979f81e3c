"""Scores and intervals, on rows whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import collapse_degrees, scores
from dilkit.evaluation.tables import gap_tables

NOVELTY = {5: "seen", 10: "seen", 50: "degree"}


def rows(gain: dict[str, float], images: int = 20, seeds: int = 1, spread: float = 0.0) -> pd.DataFrame:
    """PSNR = 40 - degree / 2 + the image's own difficulty + gain + noise; each tenth image is 10 dB worse."""
    random = np.random.default_rng(0)
    made = []
    for seed in range(seeds):
        for image in range(images):
            for degree in (5, 10, 50):
                base = 40 - degree / 2 - 10 * (image % 10 == 0)
                for arm, more in gain.items():
                    made.append(
                        {
                            "net": arm, "run": seed, "set": "S", "image": f"{image}", "draw": 0,
                            "distortion": f"awgn({degree})", "type": "awgn", "degree": float(degree),
                            "novelty": NOVELTY[degree], "seen": degree < 50, "input_psnr": 36 - degree / 2,
                            "input_ssim": 0.5, "ssim": 0.9,
                            "psnr": base + more + seed * 0.1 + random.normal(0, spread),
                        }
                    )  # fmt: skip
    return pd.DataFrame(made)


def value(table: pd.DataFrame, arm: str, score: str, column: str = "value") -> float:
    (found,) = table.query("arm == @arm and score == @score")[column]
    return float(found)


def test_scores_are_what_they_say() -> None:
    table = scores(rows({"erm": 0, "dil": 1}), baseline="erm", specialists={"awgn(5)": "dil"}, resamples=50)
    assert value(table, "erm", "seen") == pytest.approx(40 - 3.75 - 1)
    assert value(table, "erm", "unseen degree") == pytest.approx(40 - 25 - 1)
    assert value(table, "erm", "worst cell") == pytest.approx(40 - 25 - 1)
    # 6 of 60 rows: the two hard images under awgn(50), then four of the next worst, those of 15
    assert value(table, "erm", "worst 10 %") == pytest.approx((2 * 5 + 4 * 15) / 6)
    assert value(table, "erm", "worst-case gap") == pytest.approx(1)
    assert value(table, "dil", "worst-case gap") == pytest.approx(0)
    assert not len(table.query("score == 'unseen type' or score == 'clean input'"))


def test_the_gap_is_to_the_best_of_the_nets_that_are_named() -> None:
    made = rows({"a": 0, "b": 1, "c": 2})
    made.loc[(made["net"] == "a") & (made["degree"] == 50), "psnr"] += 5
    table = scores(made, gap_to=["a", "b"], resamples=50)
    assert value(table, "a", "worst-case gap") == pytest.approx(1)
    assert value(table, "b", "worst-case gap") == value(table, "b", "worst gap, unseen degree")
    assert value(table, "b", "worst-case gap") == pytest.approx(4)
    assert value(table, "c", "worst-case gap") == pytest.approx(3)
    assert value(table, "c", "mean gap") == pytest.approx((3 - 1 - 1) / 3)
    assert not len(table.query("score == 'worst gap, unseen type'"))
    said = next(gap_tables(made, ["a", "b"]))
    assert "the best of a, b under each distortion" in said[0] and said[2][1][-1] == "awgn(50) (a)"
    with pytest.raises(UsageError, match="no arm"):
        scores(made, gap_to=["d"])


def test_a_difference_in_every_resample_has_the_least_p_value() -> None:
    table = scores(rows({"erm": 0, "dil": 1}), baseline="erm", resamples=99)
    assert value(table, "dil", "seen", "p") == pytest.approx(2 / 100)
    assert math.isnan(value(table, "erm", "seen", "p"))
    same = scores(rows({"erm": 0, "dil": 0}), baseline="erm", resamples=99)
    assert value(same, "dil", "seen", "p") == 1


def test_pairing_takes_the_images_own_difficulty_out_of_the_difference() -> None:
    table = scores(rows({"erm": 0, "dil": 1}, spread=0.1), baseline="erm", resamples=300)
    low, high = (value(table, "dil", "seen", f"difference_{end}") for end in ("low", "high"))
    assert low < 1 < high
    assert high - low < 0.2  # while the images differ by 10 dB
    assert value(table, "dil", "seen", "high") - value(table, "dil", "seen", "low") > 1
    assert (
        value(table, "erm", "seen", "difference_low") == value(table, "erm", "seen", "difference_high") == 0
    )


def test_intervals_cover_as_often_as_they_say() -> None:
    random, hits = np.random.default_rng(1), 0
    for trial in range(60):
        made = rows({"a": 0.0}, images=30)
        own = pd.Series(random.normal(0, 1, 30), index=[f"{i}" for i in range(30)])
        made["psnr"] = 30 + made["image"].map(own)
        table = scores(made, resamples=200, seed=trial)
        hits += value(table, "a", "seen", "low") <= 30 <= value(table, "a", "seen", "high")
    assert 51 <= hits <= 60


def test_training_seeds_widen_the_interval() -> None:
    made = rows({"a": 0.0}, seeds=4)
    made["psnr"] = 30.0 + made["run"]
    whole = scores(made.assign(image=made["image"] + "/" + made["run"].astype(str)), resamples=200)
    by_seed = scores(made, seeds="run", resamples=200)
    assert value(by_seed, "a", "seen") == value(whole, "a", "seen") == 31.5
    width = [value(t, "a", "seen", "high") - value(t, "a", "seen", "low") for t in (whole, by_seed)]
    assert width[1] > 2 * width[0]


def test_the_same_rows_give_the_same_table() -> None:
    made = rows({"erm": 0, "dil": 1}, spread=1)
    pd.testing.assert_frame_equal(scores(made, resamples=20), scores(made, resamples=20))


def test_collapse_is_where_the_output_stays_worse_than_the_input() -> None:
    made = rows({"a": 0.0})
    assert collapse_degrees(made)["collapse"].isna().all()
    made.loc[made["degree"] >= 10, "psnr"] = 0
    assert collapse_degrees(made)["collapse"].tolist() == [10]
    made.loc[made["degree"] == 50, "psnr"] = 99  # good at the strongest: no collapse
    assert collapse_degrees(made)["collapse"].isna().all()


def test_incomplete_or_unknown_arms_are_refused() -> None:
    made = rows({"erm": 0, "dil": 1})
    with pytest.raises(UsageError, match="did you mean: erm"):
        scores(made, baseline="emr")
    with pytest.raises(UsageError, match=r"not in the rows(.|\n)*awgn\(7\)"):
        scores(made, specialists={"awgn(7)": "dil"})
    with pytest.raises(UsageError, match="lacks rows"):
        scores(made.drop(index=3))
    with pytest.raises(UsageError, match="different images"):
        scores(made[(made["net"] != "dil") | (made["image"] != "3")])
    with pytest.raises(UsageError, match="no such column"):
        scores(made, seeds="nuR")
