"""The one result of an evaluation: a row per net, image, distortion and draw. All else follows from rows.

From rows to means. Nothing here runs a net; every number can be made again from a file of rows.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dilkit.errors import UsageError

COLUMNS: dict[str, str] = {
    "net": "str",
    "set": "str",
    "image": "str",
    "pixels": "str",  # hash of the clean image
    "height": "int64",
    "width": "int64",
    "distortion": "str",  # label of the word
    "type": "str",
    "degree": "float64",  # NaN where there is no one number
    "draw": "int64",
    "novelty": "str",  # seen, reached, degree, type, clean, unknown
    "seen": "boolean",  # NA where it is not known what the net was trained on
    "leak": "boolean",  # whether the image was in training; NA where that is not known
    "psnr": "float64",
    "ssim": "float64",
    "input_psnr": "float64",
    "input_ssim": "float64",
}
KEY = ("net", "set", "image", "distortion", "draw")
"""What tells rows apart."""

SETTINGS = "settings"
"""Key of `DataFrame.attrs` under which the settings of an evaluation are kept."""


def frame(rows: list[dict[str, Any]], settings: Mapping[str, Any]) -> pd.DataFrame:
    """Rows as a frame with every column in its type, and the settings in its attributes."""
    made = pd.DataFrame(rows, columns=[*COLUMNS, *_extra(rows)]).astype(COLUMNS)
    made.attrs[SETTINGS] = dict(settings)
    return made


def write_rows(rows: pd.DataFrame, path: str | Path) -> None:
    """To CSV, Parquet or JSON, by the ending of `path`; JSON and Parquet keep the settings as well.

    Raises:
        UsageError: another ending.
    """
    path = Path(path)
    writer = {".csv": _write_csv, ".parquet": _write_parquet, ".json": _write_json}.get(path.suffix.lower())
    if writer is None:
        raise UsageError("not a format for rows", where=path, expected=".csv, .parquet or .json")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # two schedulers may end at the same time
    writer(rows, partial)
    partial.replace(path)


def read_rows(path: str | Path) -> pd.DataFrame:
    """What `write_rows` wrote.

    Raises:
        UsageError: no such file, or it does not hold rows.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError("no such file of rows", where=path)
    try:
        made = _read(path)
        if missing := [name for name in COLUMNS if name not in made]:
            raise ValueError(f"no column {missing[0]!r}")
        attrs = made.attrs
        made = made.astype(COLUMNS)
    except (ValueError, OSError) as error:
        raise UsageError(
            "the file does not hold evaluation rows",
            where=path,
            found=str(error).splitlines()[0],
            expected="what `dilkit eval` wrote by --csv, --parquet or --json",
        ) from None
    made.attrs = attrs
    return made


def _read(path: Path) -> pd.DataFrame:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return pd.read_parquet(path)
    if suffix != ".json":
        return pd.read_csv(path, keep_default_na=True, dtype={"pixels": "str"})
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
        raise ValueError(f"{type(held).__name__} at the top")
    made = pd.DataFrame(held.get("rows", []))
    made.attrs[SETTINGS] = held.get(SETTINGS, {})
    return made


def as_json(rows: pd.DataFrame) -> dict[str, Any]:
    """Settings, means and rows, JSON-able."""
    settings, means = rows.attrs.get(SETTINGS, {}), by_distortion(rows)
    held = {SETTINGS: settings, "means": means.to_dict("records"), "rows": rows.to_dict("records")}
    return {key: plain(value) for key, value in held.items()}


def plain(value: Any) -> Any:
    """JSON-able, strictly: NaN and NA become null, infinities the strings "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if value is None or value is pd.NA:
        return None
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _extra(rows: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name not in COLUMNS))


def _write_csv(rows: pd.DataFrame, path: Path) -> None:
    rows.to_csv(path, index=False, lineterminator="\n")


def _write_parquet(rows: pd.DataFrame, path: Path) -> None:
    try:
        rows.to_parquet(path, index=False)
    except ImportError:
        raise UsageError(
            "writing Parquet needs pyarrow",
            where=path,
            remedy='install dilkit with the extra "parquet", or write .csv',
        ) from None


def _write_json(rows: pd.DataFrame, path: Path) -> None:
    path.write_text(json.dumps(as_json(rows), indent=1, allow_nan=False) + "\n", encoding="utf-8")


CELL = ["net", "set", "distortion"]
_FIRST = ["type", "degree", "novelty", "seen"]


def by_distortion(rows: pd.DataFrame) -> pd.DataFrame:
    """Per net, set and distortion: means over images and draws, `gain` = psnr - input_psnr, and `images`.

    The mean PSNR is the mean of per-image values (not the PSNR of the mean error).
    """
    groups = rows.groupby(CELL, sort=False, dropna=False)
    values = metrics_of(rows)
    means = groups[[*values, *(f"input_{name}" for name in values)]].mean()
    means["gain"] = means["psnr"] - means["input_psnr"]
    means["images"] = groups["image"].nunique()
    means["draws"] = groups["draw"].nunique()
    return groups[_FIRST].first().join(means).reset_index()


def metrics_of(rows: pd.DataFrame) -> list[str]:
    """Names of the metrics in the rows: psnr, ssim, and those that were asked for."""
    return [name for name in rows.columns if f"input_{name}" in rows.columns]


def by_novelty(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean PSNR by net over seen distortions, unseen degrees, those of them that a symmetry of the net
    reaches, and unseen types (distortions weigh alike)."""
    means = by_distortion(rows)
    found: dict[str, dict[str, float]] = {}
    for name, kinds in (
        ("seen", ("seen",)),
        ("unseen degrees", ("degree", "reached")),
        ("unseen degrees that are reached", ("reached",)),
        ("unseen types", ("type",)),
    ):
        part = means[means["novelty"].isin(kinds)]
        if len(part):
            found[name] = {str(net): float(v) for net, v in part.groupby("net")["psnr"].mean().items()}
    return found
