"""Does an index of a net foretell its unseen PSNR once its seen PSNR is taken into account?

The table has a row per net, such as `Invariance.nets` beside the means of `Invariance.layers`, over the nets
of a study.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from dilkit.errors import UsageError

Floats = npt.NDArray[np.float64]


def partial_correlations(
    table: pd.DataFrame,
    indices: Sequence[str],
    *,
    outcome: str = "unseen_psnr",
    given: Sequence[str] = ("seen_psnr",),
    groups: str | None = None,
    ranks: bool = True,
    level: float = 0.95,
) -> pd.DataFrame:
    """The correlation of each index with the outcome that is left when `given` (and the group) explain what
    they can.

    Both are regressed on an intercept, the columns of `given` and the groups; r is the correlation of the
    residuals, tested by Student's t on n - 2 - k degrees of freedom, k the number of explaining columns, with
    an interval by Fisher's z. P values of all indices are corrected together by Holm's method, which holds
    the chance of any false finding at any dependence (Holm, Scandinavian Journal of Statistics, 1979).

    Args:
        table: a row per net; nets with a missing value of an index are left out for that index.
        indices: the columns to test.
        given: columns that are partialled out.
        groups: a column that names groups (task, architecture) whose means are partialled out too.
        ranks: correlate ranks (Spearman's), so that one net far out does not decide.
        level: of the interval.

    Returns:
        A row per index: `index`, `n`, `r`, `low`, `high`, `p`, `p_holm`, and `r_plain` without anything
        partialled out; the smallest p first.

    Raises:
        UsageError: no such column, or fewer than five nets more than there are explaining columns.
    """
    for column in [*indices, outcome, *given, *([groups] if groups else [])]:
        if column not in table:
            raise UsageError("no such column", found=column, expected=", ".join(map(str, table.columns)))
    lines = []
    for index in indices:
        part = table[[index, outcome, *given, *([groups] if groups else [])]].dropna()
        numbers = part[[index, outcome, *given]].to_numpy(float)
        values = stats.rankdata(numbers, axis=0) if ranks else numbers
        explained = [np.ones(len(part)), *values[:, 2:].T]
        if groups:
            names = list(dict.fromkeys(part[groups]))
            explained += [(part[groups] == name).to_numpy(float) for name in names[1:]]
        design = np.stack(explained, 1)
        free = len(part) - 1 - design.shape[1]
        if free < 4:
            raise UsageError(
                "there are too few nets",
                where=index,
                found=len(part),
                expected=f"at least {design.shape[1] + 5}",
            )
        r = _correlation(_residual(values[:, 0], design), _residual(values[:, 1], design))
        t = r * np.sqrt(free / max(1e-300, 1 - r * r))
        z, width = np.arctanh(np.clip(r, -1 + 1e-15, 1 - 1e-15)), stats.norm.ppf((1 + level) / 2)
        half = width / np.sqrt(free - 1)
        lines.append(
            {
                "index": index,
                "n": len(part),
                "r": r,
                "low": float(np.tanh(z - half)),
                "high": float(np.tanh(z + half)),
                "p": float(2 * stats.t.sf(abs(t), free)),
                "r_plain": _correlation(values[:, 0], values[:, 1]),
            }
        )
    found = pd.DataFrame(lines).sort_values("p", ignore_index=True)
    return found.assign(p_holm=holm(found["p"].to_numpy(float)))


def holm(p: Floats) -> Floats:
    """Holm's corrected p values, in the order given."""
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1.0, steps)
    return corrected


def _residual(y: Floats, design: Floats) -> Floats:
    return y - design @ np.linalg.lstsq(design, y, rcond=None)[0]


def _correlation(a: Floats, b: Floats) -> float:
    a, b = a - a.mean(), b - b.mean()
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / norms if norms > 1e-12 else 0.0
