"""Make a confounder dataset: plan, read the clean images in, distort them, seal."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from dilkit.confounders.crew import Crew, Task
from dilkit.confounders.draft import Compared, Draft, completed
from dilkit.confounders.duplicates import hashes_of, refuse_duplicates
from dilkit.confounders.plan import Plan, as_settings, make_plan
from dilkit.confounders.sources import Failure, expand, survey
from dilkit.confounders.work import Desk, distort, ingest
from dilkit.distortions import ConfounderSet, Word, confounder_set
from dilkit.errors import DilkitError, UsageError, reason

Progress = Callable[[str, int, int], None]
"""(phase, items done, items in all)"""


@dataclass(frozen=True)
class Built:
    """What `augment` made.

    Attributes:
        images: how many clean images went in.
        items: tiles (or whole images), each with a view per confounder.
        failures: images left out, and why.
        skipped: names of images smaller than a tile, where these are skipped.
        resumed: whether it went on from an interrupted run.
    """

    path: Path
    images: int
    items: int
    labels: tuple[str, ...]
    nbytes: int
    failures: tuple[Failure, ...]
    skipped: tuple[str, ...]
    resumed: bool
    seconds: float


def augment(
    sources: str | Path | Iterable[str | Path],
    distort: str | Word | ConfounderSet | Sequence[Any],
    out: str | Path,
    *,
    tile: int = 256,
    stride: int | None = None,
    small: Literal["keep", "skip"] = "keep",
    alpha: Literal["refuse", "black", "grey", "white"] = "refuse",
    seed: int = 0,
    storage: Literal["stored", "virtual"] = "stored",
    coupling: Literal["independent", "common"] = "independent",
    validation: float = 0.0,
    licence: str = "",
    limit: int | None = None,
    shard: tuple[int, int] | None = None,
    exclude: Sequence[str | Path] = (),
    allow_duplicates: bool = False,
    workers: int = 1,
    overwrite: bool = False,
    restart: bool = False,
    progress: Progress | None = None,
    checkpoint_every: float = 0.2,
) -> Built:
    """Make a paired confounder dataset: every clean tile under every distortion, in one HDF5 file.

    The same bytes come out for any number of workers and after any interruption. An interrupted call is
    continued by repeating it.

    Args:
        sources: folders, globs, files, `samples:train|test`, `deadleaves:N` (see `sources.expand`).
        distort: a confounder set, or anything `confounder_set` takes.
        out: the HDF5 file to make.
        tile, stride: in pixels; `tile=0` takes whole images; the stride is the tile where it is not given.
            The last tile of a row or column ends at the border.
        small: images smaller than a tile are kept whole, or skipped and counted.
        alpha: refuse transparent images, or lay them on a plain background.
        seed: the root of all randomness.
        storage: `virtual` keeps the clean images and the recipe; views are made when they are read.
        coupling: `common` gives all degrees of one distortion the same random field.
        validation: share of the images (not tiles) marked `validation` instead of `train`.
        licence: of source files, recorded with each.
        limit: take only the first so many images.
        shard: (k, n) makes the k-th of n parts alone, for `merge`; `out` is the file of this part.
        exclude: sources (a test set) that no image may look like.
        allow_duplicates: accept images that look like each other.
        overwrite: replace `out`, when the new file is complete.
        restart: forget an unfinished run.
        progress: called with (phase, done, total).
        checkpoint_every: seconds between journal entries.

    Raises:
        UsageError: a wrong setting, or `out` exists.
        DilkitError: no image could be read, the disk is full, or a worker died.
    """
    began = time.monotonic()
    out = Path(out)
    plan, failures = plan_for(
        sources,
        distort,
        tile=tile,
        stride=tile if stride is None else stride,
        small=small,
        alpha=alpha,
        seed=seed,
        storage=storage,
        coupling=coupling,
        validation=validation,
        licence=licence,
        limit=limit,
    )
    require_images(plan, failures, plan.skipped)
    if shard is not None:
        plan = part_of(plan, *shard)
    compared: Compared = [*map(str, exclude), allow_duplicates]
    left_out = completed(Path(os.path.realpath(out)), plan, compared)
    if left_out is not None:
        kept = plan.without({failure.name for failure in left_out})
        return _built(out, kept, [*failures, *left_out], plan.skipped, True, began)
    out = check_target(out, overwrite)
    excluded = hashes_of(exclude, plan.settings.alpha) if exclude else {}
    try:
        with Draft(out, plan, restart=restart, every=checkpoint_every) as draft:
            _fill(draft, workers, progress, excluded, allow_duplicates)
            failures += draft.failures
            require_images(draft.plan, failures, plan.skipped)
            draft.seal(compared)
    except OSError as error:
        raise DilkitError(
            f"writing failed: {reason(error)}",
            where=out,
            remedy="make room, then repeat the command: it goes on from what is written",
        ) from error
    return _built(out, draft.plan, failures, plan.skipped, draft.resumed, began)


def _built(
    path: Path, plan: Plan, failures: list[Failure], skipped: tuple[str, ...], resumed: bool, began: float
) -> Built:
    return Built(
        path=path,
        images=len(plan.images),
        items=len(plan),
        labels=tuple(view.label for view in plan.views),
        nbytes=path.stat().st_size,
        failures=tuple(failures),
        skipped=skipped,
        resumed=resumed,
        seconds=time.monotonic() - began,
    )


def plan_for(
    sources: str | Path | Iterable[str | Path],
    distort: str | Word | ConfounderSet | Sequence[Any],
    *,
    licence: str = "",
    limit: int | None = None,
    **settings: Any,
) -> tuple[Plan, list[Failure]]:
    """What `augment` would make, and the images whose headers cannot be read."""
    confounders = confounder_set(distort)
    if not len(confounders):
        raise UsageError("there is no distortion in the set", found=confounders, expected="at least one")
    if limit is not None and limit < 1:
        raise UsageError("the limit must be positive", where="limit", found=limit)
    chosen = as_settings(**settings)
    given = [sources] if isinstance(sources, (str, Path)) else sources
    surveyed, failures = survey(expand(given, seed=chosen.seed, licence=licence, limit=limit))
    return make_plan(surveyed, confounders, chosen), failures


def part_of(plan: Plan, k: int, n: int) -> Plan:
    """The k-th of n shards; a UsageError where it does not exist or one would be empty."""
    if not 1 <= k <= n:
        raise UsageError("no such shard", where="shard", found=f"{k}/{n}", expected="k/n with 1 <= k <= n")
    if n > len(plan.images):
        raise UsageError(
            f"{len(plan.images)} images do not fill {n} shards",
            where="shard",
            found=f"{k}/{n}: some would be empty",
            expected=f"at most {len(plan.images)}",
        )
    return plan.part_of(k, n)


def check_target(out: Path, overwrite: bool) -> Path:
    """The file to write, that which a link points to; a UsageError where it exists, or cannot be made."""
    out = Path(os.path.realpath(out)) if out.is_symlink() else out
    if out.is_dir():
        raise UsageError("the output is a folder", where=out, expected="a file name such as train.h5")
    if out.exists() and not overwrite:
        raise UsageError(
            "the output exists already", where=out, remedy="choose another name or give --overwrite"
        )
    if out.exists() and not _is_hdf5(out):
        raise UsageError("the output exists, and is no dataset", where=out, remedy="choose another name")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write there: {reason(error)}", where=out, remedy="choose another --out"
        ) from None
    return out


def _is_hdf5(path: Path) -> bool:
    """So that nobody's picture or device is taken for an earlier dataset; an empty file is nobody's."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(8) in (b"", b"\x89HDF\r\n\x1a\n")


def _fill(
    draft: Draft, workers: int, progress: Progress | None, excluded: dict[str, int], allow: bool
) -> None:
    while len(draft.plan):
        with Crew(Desk(draft.path, draft.plan, draft.regions), workers) as crew:
            failures = _phase(draft, "read", ingest, crew, progress)
            if not failures:
                if excluded or not allow:
                    _compare(draft, excluded, allow)
                if draft.plan.settings.storage == "stored":
                    _phase(draft, "distort", distort, crew, progress)
                return
        draft.leave_out(failures)


def _compare(draft: Draft, excluded: dict[str, int], allow: bool) -> None:
    images, first = np.unique(draft.plan.image, return_index=True)
    seen = draft.regions["index/perceptual_hash"].map(draft.path)[first]
    names = [draft.plan.images[i].name for i in images]
    refuse_duplicates(names, seen.tolist(), excluded, allow=allow, again=" and give --restart")


def _phase(draft: Draft, phase: str, task: Task, crew: Crew, progress: Progress | None) -> list[Failure]:
    parts = draft.plan.parts
    todo = [k for k in range(len(parts)) if (phase, k) not in draft.done]
    done = len(draft.plan) - sum(parts[k][1] - parts[k][0] for k in todo)
    failures: dict[str, Failure] = {}
    report = progress or (lambda phase, done, total: None)
    report(phase, done, len(draft.plan))
    for part, failed in crew.do(task, todo):
        failures |= {failure.name: failure for failure in failed}
        if not failures:
            draft.record((phase, part))
        done += parts[part][1] - parts[part][0]
        report(phase, done, len(draft.plan))
    draft.flush()
    return [failures[name] for name in sorted(failures)]


def require_images(plan: Plan, failures: Sequence[Failure], skipped: Sequence[str]) -> None:
    """Raises DilkitError where nothing is left, saying why."""
    if len(plan):
        return
    lines = [f"{failure.name}: {failure.reason}" for failure in failures[:10]]
    lines += [f"{name}: smaller than a tile" for name in skipped[: 10 - len(lines)]]
    more = len(failures) + len(skipped) - len(lines)
    raise DilkitError(
        "no image could be used",
        found="\n            ".join(lines + ([f"and {more} more"] if more > 0 else [])),
        remedy="check the sources; --small keep takes images smaller than a tile" if skipped else None,
    )
