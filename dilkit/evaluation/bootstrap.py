"""Scores with intervals: resampling images, and training seeds where there are several.

All arms share the images (and the seeds) of a resample, so the interval of a difference is paired.
Percentile intervals; Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 15.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from dilkit.errors import UsageError, nearest
from dilkit.evaluation.rows import by_distortion

Floats = npt.NDArray[np.float64]
WORST_SHARE = 0.1


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one arm on one set.

    Attributes:
        psnr: (seeds, images, distortions), means over draws.
        labels: of the distortions.
        masks: which distortions are seen, reached, of an unseen degree or type, or `distorted` at all.
    """

    psnr: Floats
    labels: tuple[str, ...]
    masks: Mapping[str, npt.NDArray[np.bool_]]

    def take(self, seeds: npt.NDArray[np.intp], images: npt.NDArray[np.intp]) -> Block:
        return Block(self.psnr[seeds % len(self.psnr)][:, images], self.labels, self.masks)


Score = Callable[[Block], float]
"""A number from the rows; NaN where it is not defined for them."""


def _over(kind: str) -> Score:
    def mean(block: Block) -> float:
        chosen = block.masks[kind]
        return float(block.psnr[..., chosen].mean()) if chosen.any() else math.nan

    return mean


def _worst_cell(block: Block) -> float:
    chosen = block.masks["distorted"]
    return float(block.psnr[..., chosen].mean(axis=(0, 1)).min()) if chosen.any() else math.nan


def _worst_tenth(block: Block) -> float:
    values = block.psnr[..., block.masks["distorted"]].ravel()
    count = max(1, round(WORST_SHARE * values.size))
    return float(np.partition(values, count - 1)[:count].mean()) if values.size else math.nan


SCORES: dict[str, Score] = {
    "seen": _over("seen"),
    "reached": _over("reached"),
    "unseen degree": _over("degree"),
    "unseen type": _over("type"),
    "worst cell": _worst_cell,
    "worst 10 %": _worst_tenth,
    "clean input": _over("clean input"),
}
"""All in dB, higher is better; means weigh distortions alike. `unseen degree`: all degrees not trained
on; `reached`: those of them that a symmetry of the net reaches. `worst cell`: the lowest mean PSNR of a
distortion. `worst 10 %`: the mean over the worst tenth of all images under all distortions. `clean input`:
what is left of a clean image (do no harm)."""


GAPS = {
    "worst-case gap": "distorted",
    "worst gap, unseen degree": "degree",
    "worst gap, unseen type": "type",
    "mean gap": "distorted",
}
"""What is said of the gap to the best of several arms, and over which distortions; in dB, lower is better."""


def scores(
    rows: pd.DataFrame,
    *,
    baseline: str | None = None,
    specialists: Mapping[str, str] | None = None,
    gap_to: Sequence[str] = (),
    by: str = "net",
    seeds: str | None = None,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every score of every arm, with its interval and that of its paired difference to a baseline.

    Args:
        rows: what `evaluate` returns; each arm has all images under all distortions.
        baseline: the arm that differences are taken to (`seen` minus that of ERM is the seen cost).
        specialists: by distortion label of the rows, the arm trained for it; adds `worst-case gap`,
            `max_d PSNR_specialist(d) - PSNR(d)` (lower is better).
        gap_to: or arms of which the best under each distortion takes the specialist's place; adds the worst
            gap over all, over unseen degrees and over unseen types, and the mean gap. No such arm need be
            near what a specialist would reach: name them where you quote the gap.
        by: the column that names arms.
        seeds: the column that names training seeds, resampled too; without it each arm is one seed.
        resamples, level, seed: of the bootstrap.

    Returns:
        Columns arm, set, score, value, low, high; with a baseline also difference, difference_low,
        difference_high, and p: twice the share of resamples in which the difference has the other sign.

    Raises:
        UsageError: no such arm or column, or an arm that lacks some image or distortion.
    """
    for column in filter(None, (by, seeds)):
        if column not in rows:
            raise UsageError("no such column", found=column, nearest=nearest(column, rows.columns))
    arms = [str(arm) for arm in dict.fromkeys(rows[by])]
    for arm in [*((specialists or {}).values()), *gap_to, *([baseline] if baseline else [])]:
        check_arm(arm, arms)
    labels = [str(label) for label in dict.fromkeys(rows["distortion"])]
    for label in specialists or {}:
        if label not in labels:
            raise UsageError(
                "a specialist's distortion is not in the rows", found=label, expected=", ".join(labels)
            )
    found = []
    for name, part in rows.groupby("set", sort=False):
        blocks = {arm: _block(part[part[by] == arm], seeds, arm) for arm in arms}
        random = np.random.default_rng(seed)
        lines = _of_set(blocks, baseline, specialists or {}, gap_to, resamples, level, random)
        found += [{"set": name, **line} for line in lines]
    columns = ["arm", "set", "score", "value", "low", "high"]
    more = ["difference", "difference_low", "difference_high", "p"] if baseline else []
    return pd.DataFrame(found, columns=[*columns, *more])


def check_arm(arm: str, arms: Sequence[str], where: str | None = None) -> None:
    """Raises UsageError where there is no such arm."""
    if arm not in arms:
        raise UsageError(
            f"there is no arm {arm!r}", where=where, expected=", ".join(arms), nearest=nearest(arm, arms)
        )


def collapse_degrees(rows: pd.DataFrame) -> pd.DataFrame:
    """Per net, set and type: the weakest degree from which on, up to the strongest one tested, the output
    is worse than the input; NaN where there is none.

    Degrees are ordered by how far the input is from the clean image, so that a low JPEG quality is strong.
    """
    means = by_distortion(rows.dropna(subset=["degree"]))
    found = []
    for (net, name, kind), part in means.groupby(["net", "set", "type"], sort=False):
        collapsed = math.nan
        strongest_first = part.sort_values("input_psnr")
        for degree, gain in strongest_first[["degree", "gain"]].to_numpy(float):
            if gain >= 0:
                break
            collapsed = float(degree)
        found.append({"net": net, "set": name, "type": kind, "collapse": collapsed})
    return pd.DataFrame(found, columns=["net", "set", "type", "collapse"])


def degree_bands(
    rows: pd.DataFrame,
    seeds: str | None = None,
    *,
    value: str = "psnr",
    resamples: int = 1000,
    level: float = 0.95,
) -> tuple[Floats, Floats]:
    """The interval of the mean of a column at each degree, in ascending order of degrees: (low, high).

    Args:
        rows: of one arm on one set, under distortions of one type.
        seeds: the column that names training seeds, resampled too.
    """
    named = rows.assign(_seed=rows[seeds] if seeds else 0)
    cells = named.pivot_table(values=value, index="image", columns=["degree", "_seed"], sort=True)
    degrees = len(cells.columns.unique(0))
    cube = cells.to_numpy(float).reshape(len(cells), degrees, -1)  # images, degrees, seeds
    random = np.random.default_rng(0)
    images = random.integers(len(cube), size=(resamples, len(cube)))
    drawn = random.integers(cube.shape[2], size=(resamples, cube.shape[2]))
    means = np.stack([cube[i][:, :, s].mean(axis=(0, 2)) for i, s in zip(images, drawn, strict=True)])
    low, high = np.percentile(means, [(1 - level) / 2 * 100, (1 + level) / 2 * 100], axis=0)
    return low, high


def _of_set(
    blocks: Mapping[str, Block],
    baseline: str | None,
    specialists: Mapping[str, str],
    gap_to: Sequence[str],
    resamples: int,
    level: float,
    random: np.random.Generator,
) -> list[dict[str, object]]:
    shapes = {block.psnr.shape[1] for block in blocks.values()}
    if len(shapes) > 1:
        raise UsageError("the arms were measured on different images, so they cannot be compared")
    images = shapes.pop()
    most = max(len(block.psnr) for block in blocks.values())
    whole = _values(blocks, specialists, gap_to)
    drawn = [
        _values({arm: b.take(s, i) for arm, b in blocks.items()}, specialists, gap_to)
        for s, i in (
            (random.integers(most, size=most), random.integers(images, size=images)) for _ in range(resamples)
        )
    ]
    tails = [(1 - level) / 2 * 100, (1 + level) / 2 * 100]
    lines: list[dict[str, object]] = []
    for (arm, score), value in whole.items():
        if np.isnan(value):
            continue
        line: dict[str, object] = {"arm": arm, "score": score, "value": value}
        line["low"], line["high"] = _percentiles([d[arm, score] for d in drawn], tails)
        if baseline:
            line["difference"] = value - whole[baseline, score]
            differences = [d[arm, score] - d[baseline, score] for d in drawn]
            line["difference_low"], line["difference_high"] = _percentiles(differences, tails)
            line["p"] = math.nan if arm == baseline else _p_value(differences)
        lines.append(line)
    return lines


def _values(
    blocks: Mapping[str, Block], specialists: Mapping[str, str], gap_to: Sequence[str]
) -> dict[tuple[str, str], float]:
    found = {(arm, name): score(block) for arm, block in blocks.items() for name, score in SCORES.items()}
    if not specialists and not gap_to:
        return found
    means = {arm: dict(zip(b.labels, b.psnr.mean(axis=(0, 1)), strict=True)) for arm, b in blocks.items()}
    for arm, block in blocks.items():
        if specialists:
            own = [means[specialist][d] - means[arm][d] for d, specialist in specialists.items()]
            found[arm, "worst-case gap"] = float(max(own))
        if gap_to:
            best = [max(means[each].get(d, -math.inf) for each in gap_to) for d in block.labels]
            gap = np.array(best) - [means[arm][d] for d in block.labels]
            for name, kind in GAPS.items():
                over = gap[block.masks[kind]]
                if len(over):
                    found[arm, name] = float(over.mean() if name == "mean gap" else over.max())
    return found


def _percentiles(values: list[float], tails: list[float]) -> tuple[float, float]:
    finite = np.asarray(values)[np.isfinite(values)]
    if not len(finite):
        return math.nan, math.nan
    low, high = np.percentile(finite, tails)
    return float(low), float(high)


def _p_value(differences: list[float]) -> float:
    """Twice the share of resamples on the smaller side of nought, one added to both counts; at most 1."""
    finite = np.asarray(differences)[np.isfinite(differences)]
    fewer = min(int((finite <= 0).sum()), int((finite >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(finite) + 1))


def _block(rows: pd.DataFrame, seeds: str | None, arm: str) -> Block:
    seed = rows[seeds] if seeds else pd.Series(0, index=rows.index)
    keyed = rows.assign(_seed=seed)
    index = [keyed["_seed"], keyed["image"], keyed["distortion"]]
    means = keyed.groupby(["_seed", "image", "distortion"], sort=False)["psnr"].mean()
    axes = [list(dict.fromkeys(values)) for values in index]
    axes[0], axes[1] = sorted(axes[0]), sorted(axes[1])
    full = means.reindex(pd.MultiIndex.from_product(axes))
    if full.isna().any():
        raise UsageError(f"arm {arm!r} lacks rows: some image has no value under some distortion")
    cells = keyed.groupby("distortion", sort=False)[["type", "novelty"]].first().loc[axes[2]]
    distorted = (cells["type"] != "clean").to_numpy(bool)
    masks = {
        kind: (cells["novelty"] == kind).to_numpy(bool) & distorted for kind in ("seen", "degree", "type")
    }
    reached = (cells["novelty"] == "reached").to_numpy(bool) & distorted
    masks["degree"] |= reached
    masks |= {"reached": reached, "distorted": distorted, "clean input": ~distorted}
    return Block(full.to_numpy(float).reshape(tuple(map(len, axes))), tuple(map(str, axes[2])), masks)
