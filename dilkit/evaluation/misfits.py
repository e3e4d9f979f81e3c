"""Nets whose outputs have not the size of the clean image: a scale that is not that of the test."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from dilkit.errors import UsageError

Misfit = tuple[tuple[int, ...], tuple[int, ...]]
"""The shapes of an output and of its clean image, where they differ."""


def refuse_misfits(rows: pd.DataFrame, misfits: Mapping[str, Misfit]) -> None:
    """Refuse a net that fits nowhere.

    Args:
        rows: those of all nets.
        misfits: by net, the first misfit that was found.

    Raises:
        UsageError: no output of a net had the size of its clean image.
    """
    for label, (found, expected) in misfits.items():
        if rows.loc[rows["net"] == label, "psnr"].isna().all():
            raise UsageError(
                "no output of the net has the size of its clean image, so there is nothing to measure",
                where=label,
                found="x".join(map(str, found)),
                expected="x".join(map(str, expected)),
                remedy="a net for super-resolution needs inputs as small as it enlarges them, such as"
                " downsample(4); a net that keeps the size needs distortions that keep it",
            )
