"""One training run: from a composed recipe to a folder with checkpoints, metrics and all that made them;
and going on with it, to the bit by the recipe that made it, or by another where that is allowed."""

from __future__ import annotations

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from dilkit.checkpoint import (
    EMA,
    Folder,
    Provenance,
    load_weights,
    net_tensors,
    read,
    write_atomically,
    write_text,
)
from dilkit.confounders.episodes import Episode, episodes
from dilkit.distortions import ConfounderSet
from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.meta.guards import NonFinite
from dilkit.recipe import Composed, Recipe, compose, differences, resolved, validate
from dilkit.training.accelerator import Accelerator, peak_memory
from dilkit.training.assemble import Assembled, assemble
from dilkit.training.loop import Meter, Trainee, fit
from dilkit.training.records import Metrics, write_header
from dilkit.training.sinks import find_sinks
from dilkit.training.swad import Swad

if TYPE_CHECKING:
    from dilkit.training.validation import Validation

Log = Callable[[Mapping[str, Any]], None]
"""Called with each row of the metrics; after the first step, and every half second, with a row of the step
in hand; with `{"step": N, "validated": (done, total)}` and `{"step": N, "pictures": {label: path}}`; and with
`{"note": text}` for what a person should know."""
LIVE_EVERY = 0.5
"""Seconds between rows that are shown and not written."""

_FIRST = {".writable", ".run.json.tmp"}
"""What a run that was killed at its very start can leave without its `run.json`."""
_OWN = {"recipe.yaml", "recipe.raw.yaml", "run.json", "metrics.jsonl", "metrics.csv", *_FIRST}
_OWN_FOLDERS = {"pictures", "tensorboard", "wandb", "mlruns", "mlflow.db"}
"""What a run writes before its first checkpoint."""


@dataclass(frozen=True)
class RunResult:
    """Where a run ended. `loss` is the mean over the last logged interval.

    Attributes:
        stopped: it was asked to stop before its budget was spent.
    """

    out: Path
    checkpoint: Path
    step: int
    passes: int
    loss: float
    seconds: float
    stopped: bool = False


def train(
    what: Composed | Sequence[str],
    out: Path | str,
    *,
    resume: bool = False,
    allow_changes: bool = False,
    trust_code: bool = False,
    command: Sequence[str] = (),
    log: Log = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
) -> RunResult:
    """Train what a recipe says into the folder `out`.

    Args:
        what: a composed recipe, or the words that compose one.
        out: the run's folder; must be new or empty, or hold a run that saved nothing, unless `resume`.
        resume: go on from the newest whole checkpoint in `out`.
        allow_changes: resume although the recipe has changed: the weights, moments and counters go on, the
            rates and the schedule are those of the new recipe.
        trust_code: call what the recipe's `package.module:name` names even where it is not a class of a net
            or of a sink.
        command: the command line to note in the run's records.
        log: see `Log`.
        stop: asked after every step; once true, the run saves a checkpoint and returns.

    Raises:
        UsageError: a wrong recipe, a store that cannot be read, an output that cannot be written, nothing to
            resume.
        DilkitError: the run failed.
    """
    composed = what if isinstance(what, Composed) else compose(what)
    out, recipe = Path(out), composed.recipe
    sinks = find_sinks(recipe.log.to, trust_code=trust_code)
    made = assemble(recipe, trust_code=trust_code)
    accelerator, trainee = made.accelerator, made.trainee
    if accelerator.first:
        claim_output(out, resume=resume)
    accelerator.wait()
    validation = None
    if recipe.validation is not None and accelerator.first:
        from dilkit.training.validation import Validation

        validation = Validation.of(recipe, made.store, made.labels)
    folder = Folder(out / "checkpoints", recipe.checkpoint.keep, recipe.checkpoint.archive)
    if accelerator.rank > 0:
        torch.manual_seed(recipe.seed + accelerator.rank)
    past = made.past
    if resume:
        past = past | resume_from(folder, trainee, composed, accelerator, allow_changes, log)
    metrics = None
    if accelerator.first:
        write_header(out, composed, command)
        metrics = Metrics(out, [make(out) for make in sinks], resume_at=trainee.step)
    run = Callbacks(recipe, made, folder, metrics, validation, past, log, stop)
    try:
        run.fit()
    finally:
        if metrics is not None:
            metrics.close()
    accelerator.wait()
    accelerator.leave()
    made.store.close()
    return RunResult(
        out,
        folder.path / "last.safetensors",
        trainee.step,
        trainee.passes,
        run.last.get("loss", math.nan),
        trainee.seconds,
        stopped=not run.done(trainee),
    )


def claim_output(out: Path, *, resume: bool) -> None:
    """Make a run's folder, or refuse: there is something in it, it cannot be written, or there is no run in
    it to resume. What a run left that ended before its first checkpoint is cleared away.

    Raises:
        UsageError: one of these.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file, a run needs a folder", where=out)
    if resume:
        if not (out / "run.json").is_file() and not any(out.glob("checkpoints/*.safetensors")):
            siblings = [path.name for path in out.parent.glob("*/") if (path / "run.json").is_file()]
            close = nearest(out.name, siblings)
            raise UsageError(
                "there is no run to resume",
                where=out,
                nearest=str(out.parent / close) if close else None,
                remedy="leave --resume out to start one",
            )
        return
    files = [path for path in out.rglob("*") if path.is_symlink() or not path.is_dir()]
    own = all(
        path.name in _OWN
        or path.name.startswith("nonfinite-")
        or _OWN_FOLDERS & {*path.relative_to(out).parts[:1]}
        or (path.name.startswith(".") and path.suffix == ".tmp")
        for path in files
    )
    started = own and ((out / "run.json").is_file() or {path.name for path in files} <= _FIRST)
    if files and not started:
        raise UsageError(
            "the output folder is not empty",
            where=out,
            remedy="--resume goes on with the run in it; otherwise give another --out",
        )
    probe = out / ".writable"
    try:
        for path in files:
            path.unlink()
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"cannot write to the output folder: {error.strerror}", where=out) from None


def resume_from(
    folder: Folder,
    trainee: Trainee,
    composed: Composed,
    accelerator: Accelerator,
    allow_changes: bool,
    log: Log,
) -> Provenance:
    """Put a new trainee where the newest whole checkpoint of `folder` ended, if there is one; what its net
    had seen is returned.

    Raises:
        UsageError: the recipe has changed, and `allow_changes` is not given.
    """
    if folder.empty():
        log({"note": f"no checkpoint in {folder.path} yet: starting from the first step"})
        return Provenance()
    weights, state, complaints = folder.newest()
    for complaint in complaints:
        log({"note": f"passing over {complaint}"})
    tensors, meta = read(weights)
    old, new = resolved(validate(meta["recipe"], str(weights))), resolved(composed.recipe)
    changed = differences(old, new)
    if changed and not allow_changes:
        raise UsageError(
            "the recipe is not the one this run was started with",
            where=folder.path.parent,
            found="; ".join(changed),
            remedy="resume with the recipe in the run's folder, start another run, or give --allow-changes",
        )
    for change in changed:
        log({"note": f"resuming with a changed recipe: {change}"})
    load_weights(trainee.net, net_tensors(tensors), weights)
    if trainee.average is not None:
        load_weights(trainee.average.module, net_tensors(tensors, EMA) or net_tensors(tensors), weights)
    rng = torch.get_rng_state()
    if changed:
        for note in _go_on_by(trainee, state, old, new):
            log({"note": note})
    else:
        trainee.load_state_dict(state)
    if accelerator.rank > 0:
        torch.set_rng_state(rng)
    return Provenance.from_metadata(meta)


def _go_on_by(
    trainee: Trainee, state: Mapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any]
) -> Iterator[str]:
    """Take the counters and the moments from `state`; rates, other options and the schedule are those of the
    new recipe. Yields what could not be taken."""
    fresh = trainee.state_dict()
    optimizer = {**state["optimizer"], "param_groups": fresh["optimizer"]["param_groups"]}
    if _moments(old) != _moments(new):
        optimizer = fresh["optimizer"]
        yield f"the moments start afresh: {old['optim']['name']} became {new['optim']['name']}"
    objective, kinds = state["objective"], [_objective(recipe) for recipe in (old, new)]
    if kinds[0] != kinds[1]:
        if objective or fresh["objective"]:
            names = [" with ".join(filter(None, kind)) for kind in kinds]
            yield f"the objective's own state starts afresh: {names[0]} became {names[1]}"
        objective = fresh["objective"]
    best = state["best"]
    if best is not None and _measure(old) != _measure(new):
        best = None
        yield "the best checkpoint is chosen afresh: `validate` has changed"
    steps = state["schedule"]["last_epoch"]
    own = {"optimizer": optimizer, "objective": objective, "best": best, "schedule": fresh["schedule"]}
    own["averaged"] = state.get("averaged") or state["step"]  # a new average begins with these weights
    trainee.load_state_dict({**state, **own})
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(steps):
            trainee.schedule.step()


def _moments(recipe: Mapping[str, Any]) -> tuple[Any, ...]:
    """What an optimiser's state depends on: adam and adamw keep the same."""
    name = recipe["optim"]["name"]
    return "adam" if name == "adamw" else name, recipe["optim"].get("rates"), recipe.get("freeze")


def _objective(recipe: Mapping[str, Any]) -> tuple[str, str | None]:
    """What the state of an objective depends on: its name and that of its inner optimiser."""
    objective = recipe["objective"]
    return objective["name"], (objective.get("inner") or {}).get("name")


def _measure(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's value depends on."""
    return {k: v for k, v in recipe.get("validate", {}).items() if k not in ("every", "patience", "pictures")}


@dataclass
class Callbacks:
    """What happens after a step: rows, validation, checkpoints, the end; and what a failed step leaves
    behind."""

    recipe: Recipe
    made: Assembled
    folder: Folder
    metrics: Metrics | None
    validation: Validation | None
    past: Provenance
    log: Log
    stop: Callable[[], bool]
    last: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0
    saved: int | None = None
    shown: float = -math.inf
    """When a row was last logged."""

    def __post_init__(self) -> None:
        self.accelerator, self.budget = self.made.accelerator, self.made.budget

    def fit(self) -> None:
        """Train to the end of the budget, from where the trainee is."""
        trainee, group = self.made.trainee, self.recipe.optim.accumulate
        if self.done(trainee):
            return
        last = self.budget.steps * group if self.budget.steps else sys.maxsize
        feed = episodes(self.made.sampler, trainee.step * group, last, workers=self.recipe.data.workers)
        fit(
            trainee,
            iter(feed),
            self.accelerator,
            clip=self.recipe.optim.clip,
            after=self.after,
            failed=self.failed,
            accumulate=group,
            reduce=self.accelerator.reduce if self.recipe.hardware.sync == "outer" else None,
        )

    def done(self, trainee: Trainee) -> bool:
        """Whether the budget is spent, or validation has not improved for as long as the recipe allows."""
        plan = self.recipe.validation
        stale = plan is not None and plan.patience is not None and trainee.stale >= plan.patience
        return stale or self.budget.spent(trainee)

    def after(self, trainee: Trainee, meter: Meter) -> bool:
        """Log, validate and save when it is time; whether to stop.

        Raises:
            DilkitError: the disk is full, or cannot be written for another reason.
        """
        try:
            return self._after(trainee, meter)
        except OSError as error:
            saved = f"the checkpoint of step {self.saved}" if self.saved is not None else "no checkpoint"
            raise DilkitError(
                f"cannot write: {error.strerror or error}",
                where=error.filename or self.folder.path.parent,
                found=f"{saved} is saved, of {trainee.step} steps",
                remedy="make room, then go on with --resume",
            ) from error

    def _after(self, trainee: Trainee, meter: Meter) -> bool:
        done = self.accelerator.agree(self.done(trainee) or self.stop())
        due = done or trainee.step % self.recipe.log.every == 0
        measured = self._validate(trainee, done)
        if measured and not done:
            done = self.accelerator.agree(self.done(trainee)) if self._may_end_early else done
        if due or measured:
            self.last = self._row(trainee) | self.accelerator.mean(meter.read()) | measured
            if self.metrics is not None:
                self.metrics.add(self.last)
                self._show(trainee, self.last)
        elif self.metrics is not None and time.monotonic() - self.shown > LIVE_EVERY:
            self._show(trainee, self._row(trainee) | meter.means())
        if done or trainee.step % self.recipe.checkpoint.every == 0:
            self._save(trainee)
        return done

    def failed(self, trainee: Trainee, episode: Episode, error: NonFinite) -> None:
        """Keep what made a NaN; raise, or skip the step. All processes come here alike, because gradients are
        reduced before they are checked."""
        name = f"nonfinite-step-{episode.step}-rank-{self.accelerator.rank}"
        bundle = self.folder.path.parent / name
        if self.skipped < 3 or self.recipe.nonfinite == "stop":
            self._keep(bundle.with_suffix(".safetensors"), trainee, episode, error)
        self.skipped += 1
        self.log({"note": f"{error.message} at step {episode.step}; what made it is kept in {bundle}.*"})
        if self.recipe.nonfinite == "stop":
            raise error

    def _keep(self, path: Path, trainee: Trainee, episode: Episode, error: NonFinite) -> None:
        tensors = {f"net/{k}": t for k, t in trainee.net.state_dict().items()}
        for label in episode.labels:
            tensors[f"view/{label}"], tensors[f"target/{label}"] = episode.batch(label)
        own = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
        write_atomically(path, lambda p: save_file(own, p))
        story = {"error": str(error), "step": episode.step, "labels": episode.labels}
        text = json.dumps({**story, "recipe": resolved(self.recipe)}, indent=2)
        write_text(path.with_suffix(".json"), text + "\n")

    @property
    def _may_end_early(self) -> bool:
        return self.recipe.validation is not None and self.recipe.validation.patience is not None

    def _validate(self, trainee: Trainee, done: bool) -> dict[str, float]:
        plan = self.recipe.validation
        if plan is None or not (done or trainee.step % plan.every == 0):
            return {}
        if self.validation is None:
            return {"val": 0.0} if self._may_end_early else {}
        row, pictures = self.validation.measure(
            trainee.shown,
            self.accelerator.device,
            self.accelerator.dtype,
            lambda *counts: self.log({"step": trainee.step, "validated": counts}),
        )
        if plan.pictures and self.metrics is not None:
            keep = self.metrics.picture
            kept = {name: str(keep(trainee.step, name, image)) for name, image in pictures.items()}
            self.log({"step": trainee.step, "pictures": kept})
        if isinstance(trainee.average, Swad):
            trainee.average.validated(10 ** (-row["val/select"] / 10))
        trainee.stale += 1
        if trainee.best is None or row["val/select"] > trainee.best:
            trainee.best, trainee.stale = row["val/select"], 0
            notes = {**self._notes(trainee), "select": plan.select}
            average = None if trainee.shown is trainee.net else trainee.average
            self.folder.save_best(trainee.net, average, self.recipe, notes)
        return row

    def _save(self, trainee: Trainee) -> None:
        if self.accelerator.first:
            state = trainee.state_dict()
            self.folder.save(trainee.net, trainee.average, self.recipe, self._notes(trainee), state)
        self.saved = trainee.step

    @cached_property
    def _seen(self) -> Provenance:
        """What the net will have seen; images are looked at when the first checkpoint needs it."""
        store, labels = self.made.store, self.made.labels
        return self.past | Provenance(
            confounders=tuple(str(ConfounderSet.of([store.word(label)])) for label in labels),
            labels=labels,
            images=store.seen_images(self.recipe.data.split),
            selection=None if self.validation is None else self.validation.seen_images,
        )

    def _notes(self, trainee: Trainee) -> dict[str, Any]:
        return {
            **self._seen.to_metadata(),
            "multiple": getattr(trainee.net, "multiple", None),
            "step": trainee.step,
            "passes": trainee.passes,
        }

    def _row(self, trainee: Trainee) -> dict[str, Any]:
        return {
            "step": trainee.step,
            "passes": trainee.passes,
            "seconds": round(trainee.seconds, 3),
            "passes_per_s": round(trainee.passes / max(trainee.seconds, 1e-9), 3),
            "lr": trainee.optimizer.param_groups[0]["lr"],
        }

    def _show(self, trainee: Trainee, row: Mapping[str, Any]) -> None:
        self.shown = time.monotonic()
        more = {"steps": self.budget.steps, "left": max(0.0, self.budget.left(trainee))}
        self.log({**row, **more, **peak_memory(self.accelerator.device)})
