"""Partial correlations against their formula, and what they find where the truth is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dilkit.errors import UsageError
from dilkit.experiments.partial_correlation import holm, partial_correlations


def nets(n: int = 60, seed: int = 0) -> pd.DataFrame:
    """`follows` goes with seen PSNR alone; `foretells` has a share in unseen PSNR of its own."""
    random = np.random.default_rng(seed)
    seen, own = random.normal(size=(2, n))
    follows = seen + 0.3 * random.normal(size=n)
    unseen = seen + 0.8 * own + 0.3 * random.normal(size=n)
    noise = random.normal(size=n)
    return pd.DataFrame(
        {"seen_psnr": seen, "unseen_psnr": unseen, "follows": follows, "foretells": own, "noise": noise}
    )


def test_it_is_the_textbook_formula_for_one_variable_given() -> None:
    table = nets()
    found = partial_correlations(table, ["follows"], ranks=False).iloc[0]
    r = np.corrcoef(table[["follows", "unseen_psnr", "seen_psnr"]].T)
    xy, xz, yz = r[0, 1], r[0, 2], r[1, 2]
    wanted = (xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))
    assert found["r"] == pytest.approx(wanted, rel=1e-10)
    assert found["r_plain"] == pytest.approx(xy, rel=1e-10)
    free = len(table) - 3
    t = wanted * np.sqrt(free / (1 - wanted**2))
    assert found["p"] == pytest.approx(2 * stats.t.sf(abs(t), free), rel=1e-9)
    assert found["low"] < wanted < found["high"]


def test_ranks_are_spearman_s() -> None:
    table = nets()
    found = partial_correlations(table, ["follows"], given=()).iloc[0]
    wanted = stats.spearmanr(table["follows"], table["unseen_psnr"])
    assert (found["r"], found["p"]) == pytest.approx((wanted.statistic, wanted.pvalue), rel=1e-6)


def test_what_only_follows_seen_psnr_is_not_said_to_foretell() -> None:
    found = partial_correlations(nets(seed=2), ["follows", "foretells", "noise"]).set_index("index")
    assert found.loc["foretells", "p_holm"] < 1e-6
    assert found.loc["follows", "r_plain"] > 0.4
    assert found.loc["follows", "p_holm"] > 0.05 < found.loc["noise", "p_holm"]


def test_with_twenty_useless_indices_hardly_one_study_in_twenty_finds_any() -> None:
    false = 0
    for seed in range(40):
        random = np.random.default_rng(1000 + seed)
        table = nets(45, seed).assign(**{f"x{k}": random.normal(size=45) for k in range(20)})
        found = partial_correlations(table, [f"x{k}" for k in range(20)])
        false += bool((found["p_holm"] < 0.05).any())
    assert false <= 6  # at most 5 % each: more than 6 of 40 has a chance below 1 %


def test_means_of_groups_are_partialled_out() -> None:
    random = np.random.default_rng(3)
    task = np.repeat(["noise", "blur", "rain"], 20)
    shift = np.repeat([0.0, 5.0, 10.0], 20)
    table = pd.DataFrame(
        {
            "task": task,
            "seen_psnr": random.normal(size=60),
            "index": shift + random.normal(size=60),
            "unseen_psnr": shift + random.normal(size=60),
        }
    )
    assert partial_correlations(table, ["index"]).iloc[0]["p"] < 1e-6
    assert partial_correlations(table, ["index"], groups="task", ranks=False).iloc[0]["p"] > 0.01


def test_holm_is_its_definition() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    assert holm(p) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert holm(np.array([0.6, 0.7])) == pytest.approx([1.0, 1.0])


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(UsageError, match="no such column"):
        partial_correlations(nets(), ["cka"])
    with pytest.raises(UsageError, match="too few nets"):
        partial_correlations(nets(5), ["noise"])
