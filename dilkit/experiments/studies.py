"""Studies: several comparisons that answer one question, described in YAML, priced before they start.

A study is a ladder of tiers, run in order: each is a comparison (a recipe, arms, a test), so that whoever has
six hours gets the first rungs, and whoever has a cluster all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.evaluation.rows import write_rows
from dilkit.experiments.compare import (
    Comparison,
    ComparisonPlan,
    Say,
    Seconds,
    Watch,
    fitted,
    plan_comparison,
    price,
    run_comparison,
)
from dilkit.experiments.executors import workers_of
from dilkit.experiments.runs import TestPlan, Weights
from dilkit.experiments.selection import Rule
from dilkit.recipe.layers import read_layer, read_layer_file


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TierTest(_Part):
    """What every net of a tier is measured on."""

    data: list[str]
    distort: str
    clip: bool = True
    quantize: bool = False
    channel: str = "rgb"
    border: int = Field(default=0, ge=0)


class Tier(_Part):
    """One comparison; `{train}`, `{test}` and the like in its texts are the folders of the study."""

    name: str = Field(pattern=r"^[\w.-]+$")
    about: str = ""
    recipe: list[str]
    arms: list[str] = Field(min_length=1)
    test: TierTest
    seeds: int = Field(default=3, ge=1)
    sweep: list[float] = []
    trials: int = Field(default=0, ge=0)
    rule: Rule = "seen"
    select: list[str] | None = None
    held_out: str | None = None
    baseline: str | None = None
    weights: Weights = "last"


class Study(_Part):
    """A question and the tiers that answer it.

    Attributes:
        folders: the sources of images by name, relative to the folder of data; a source that is no path
            (`deadleaves:8@64`) stands as it is.
    """

    description: str = ""
    folders: dict[str, str] = {}
    tiers: list[Tier] = Field(min_length=1)


def _shipped() -> dict[str, Traversable]:
    room = files("dilkit.recipes").joinpath("studies")
    found = sorted(room.iterdir(), key=lambda file: file.name)
    return {f.name.removesuffix(".yaml"): f for f in found if f.name.endswith(".yaml")}


def shipped_studies() -> dict[str, str]:
    """Name -> description of the studies that come with dilkit."""
    return {name: load_study(name).description for name in _shipped()}


def load_study(name: str) -> Study:
    """A study by name, or from a YAML file.

    Raises:
        UsageError: there is none of that name, or it does not say what a study must.
    """
    if name.endswith((".yaml", ".yml")):
        tree = read_layer_file(Path(name)).tree
    else:
        known = _shipped()
        if name not in known:
            raise UsageError(
                f"no study is called {name!r}",
                expected=", ".join(known),
                nearest=nearest(name, known),
                remedy="your own file ends in .yaml",
            )
        tree = read_layer(known[name].read_text(encoding="utf-8"), f"{name}.yaml").tree
    try:
        study = Study.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UsageError(first["msg"], where=f"study {name}, {where}", found=first["input"]) from None
    names = [tier.name for tier in study.tiers]
    if len(set(names)) < len(names):
        raise UsageError("two tiers have one name", where=f"study {name}", found=", ".join(names))
    return study


def plan_study(
    study: Study, out: str | Path, data: str | Path | None = None, tiers: Sequence[str] = ()
) -> dict[str, ComparisonPlan]:
    """By name of the tier, what it will run; found fit to be run.

    Args:
        out: the folder of the study, with one for each tier.
        data: the folder that the study's folders of images are in.
        tiers: of these alone; all by default.

    Raises:
        UsageError: no such tier, a folder of images that is not there, or what a comparison refuses.
    """
    return {
        tier.name: plan_comparison(**_arguments(study, tier, Path(out), data))
        for tier in chosen_tiers(study, tiers)
    }


def chosen_tiers(study: Study, names: Sequence[str]) -> list[Tier]:
    """The tiers of these names, in the order of the study; all where none is named."""
    known = [tier.name for tier in study.tiers]
    for name in names:
        if name not in known:
            raise UsageError(
                f"the study has no tier {name!r}", expected=", ".join(known), nearest=nearest(name, known)
            )
    return [tier for tier in study.tiers if not names or tier.name in names]


def price_study(plans: dict[str, ComparisonPlan], seconds: Seconds | None = None) -> pd.DataFrame:
    """What a study takes: a row per tier and arm (see `price`)."""
    parts = [price(plan, seconds).assign(tier=name) for name, plan in plans.items()]
    whole = pd.concat(parts, ignore_index=True)
    return whole[["tier", *(column for column in whole if column != "tier")]]


def run_study(
    study: Study,
    out: str | Path,
    *,
    data: str | Path | None = None,
    tiers: Sequence[str] = (),
    on: str | Executor = "local:1",
    max_hours: float | None = None,
    device: str = "auto",
    tell: Say = lambda line: None,
    watch: Watch = lambda table: None,
    seconds: Seconds | None = None,
) -> dict[str, Comparison]:
    """Run the tiers of a study in order; what is done is not done again.

    OUT/TIER is the folder of a comparison; OUT/rows.csv, OUT/sweep.csv and OUT/scores.csv hold all tiers,
    with a column `tier`, and are written anew after each.

    Args:
        data, tiers: see `plan_study`.
        max_hours: wall-clock hours there are, by the clock. A tier that does not fit into what is left is
            run with fewer training seeds, the same for all arms; where not one fits, nothing more is trained.
            No run is begun when they are over. What earlier calls have left is measured and compared in any
            case; with 0 that is all.
        on, device, tell, watch: as `compare` takes them.
        seconds: as `price` takes it.

    Raises:
        UsageError: as `plan_study`; or where the first tier does not fit.
        DilkitError: there is nothing to report of any tier.
    """
    began = time.monotonic()
    plans = plan_study(study, out, data, tiers)  # every mistake of every tier, before the first is trained
    found: dict[str, Comparison] = {}
    ends = None if max_hours is None else began + 3600 * max_hours
    for name, plan in plans.items():
        if max_hours and ends is not None:
            left = max(0.0, (ends - time.monotonic()) / 3600)
            try:
                plan = fitted(plan, left, workers_of(on), tell, seconds)
            except UsageError:
                if not found:
                    raise
                tell(f"tier {name} does not fit into the {left:.2g} hours that are left; nothing is trained")
                ends = began
        tell(f"tier {name}: {', '.join(plan.texts)}")
        try:
            found[name] = run_comparison(plan, on=on, until=ends, device=device, tell=tell, watch=watch)
        except DilkitError as error:
            tell(f"tier {name} is missing: {error}")
            continue
        _write(found, Path(out))
    if not found:
        raise DilkitError("there is nothing to report of any tier", where=out)
    return found


def _write(found: dict[str, Comparison], out: Path) -> None:
    def whole(part: Callable[[Comparison], pd.DataFrame]) -> pd.DataFrame:
        parts = {name: part(result) for name, result in found.items()}
        return pd.concat([table.assign(tier=name) for name, table in parts.items()], ignore_index=True)

    write_rows(whole(lambda result: result.rows), out / "rows.csv")
    whole(lambda result: result.scores).to_csv(out / "scores.csv", index=False)
    if any(len(result.sweep) for result in found.values()):
        write_rows(whole(lambda result: result.sweep), out / "sweep.csv")


def _arguments(study: Study, tier: Tier, out: Path, data: str | Path | None) -> dict[str, Any]:
    """What `plan_comparison` takes for a tier."""
    folders = {name: _source(name, source, data) for name, source in study.folders.items()}

    def filled(text: str) -> str:
        for name, folder in folders.items():
            text = text.replace(f"{{{name}}}", folder)
        return text

    test = TestPlan(
        [filled(source) for source in tier.test.data],
        tier.test.distort,
        tier.test.clip,
        tier.test.quantize,
        channel=tier.test.channel,
        border=tier.test.border,
    )
    return {
        "recipe": [filled(word) for word in tier.recipe],
        "arms": [filled(arm) for arm in tier.arms],
        "out": out / tier.name,
        "test": test,
        "seeds": tier.seeds,
        "sweep": tier.sweep,
        "trials": tier.trials,
        "rule": tier.rule,
        "select": None if tier.select is None else [filled(source) for source in tier.select],
        "held_out": tier.held_out,
        "baseline": tier.baseline,
        "weights": tier.weights,
    }


def _source(name: str, source: str, data: str | Path | None) -> str:
    if ":" in source or Path(source).is_absolute():
        return source
    path = Path(data or ".").expanduser() / source
    if not path.exists():
        raise UsageError(
            f"the study needs the images {name!r}",
            where="--data",
            found=path,
            expected=f"a folder that holds {source}",
        )
    return str(path)
