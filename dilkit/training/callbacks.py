"""What happens after a step: rows, validation, checkpoints, the end; and what a failed step leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from safetensors.torch import save_file

from dilkit.checkpoint import Folder, write_atomically, write_text
from dilkit.confounders.episodes import Episode
from dilkit.meta.guards import NonFinite
from dilkit.recipe import Recipe, resolved
from dilkit.training.assemble import Budget
from dilkit.training.engine import Engine, peak_memory
from dilkit.training.loop import Meter, Trainee
from dilkit.training.records import Metrics

if TYPE_CHECKING:
    from dilkit.training.validation import Validation

Tell = Callable[[Mapping[str, Any]], None]


@dataclass
class Keeper:
    """The recipe's policy, as the two hooks of the loop."""

    recipe: Recipe
    engine: Engine
    budget: Budget
    folder: Folder
    metrics: Metrics | None
    validation: Validation | None
    notes: Mapping[str, Any]
    tell: Tell
    stop: Callable[[], bool]
    last: dict[str, Any] = field(default_factory=dict)
    skipped: int = 0

    def after(self, trainee: Trainee, meter: Meter) -> bool:
        """Log, validate and save when it is time; whether to stop."""
        done = self.engine.agree(self.budget.spent(trainee) or self.stop())
        due = done or trainee.step % self.recipe.log.every == 0
        measured = self._validate(trainee, done)
        if due or measured:
            self.last = self._row(trainee, meter) | measured
            if self.metrics is not None:
                self.metrics.add(self.last)
                self.tell({**self.last, "steps": self.budget.steps, **peak_memory(self.engine.device)})
        if done or trainee.step % self.recipe.checkpoint.every == 0:
            self._save(trainee)
        return done

    def failed(self, trainee: Trainee, episode: Episode, error: NonFinite) -> None:
        """Keep what made a NaN; raise, or skip the step. All processes come here alike, because gradients are
        reduced before they are checked."""
        name = f"nonfinite-step-{episode.step}-rank-{self.engine.rank}"
        bundle = self.folder.path.parent / name
        if self.skipped < 3 or self.recipe.nonfinite == "stop":
            self._bundle(bundle.with_suffix(".safetensors"), trainee, episode, error)
        self.skipped += 1
        self.tell({"note": f"{error.message} at step {episode.step}; what made it is kept in {bundle}.*"})
        if self.recipe.nonfinite == "stop":
            raise error

    def _bundle(self, path: Any, trainee: Trainee, episode: Episode, error: NonFinite) -> None:
        tensors = {f"net/{k}": t for k, t in trainee.net.state_dict().items()}
        for label in episode.labels:
            tensors[f"view/{label}"], tensors[f"target/{label}"] = episode.batch(label)
        own = {k: t.detach().cpu().contiguous().clone() for k, t in tensors.items()}
        write_atomically(path, lambda p: save_file(own, p))
        story = {"error": str(error), "step": episode.step, "labels": episode.labels}
        write_text(
            path.with_suffix(".json"), json.dumps({**story, "recipe": resolved(self.recipe)}, indent=2) + "\n"
        )

    def _validate(self, trainee: Trainee, done: bool) -> dict[str, float]:
        plan = self.recipe.validation
        if plan is None or not (done or trainee.step % plan.every == 0):
            return {}
        if self.validation is None:
            return {}
        row = self.validation.measure(trainee.shown, self.engine.device, self.engine.dtype)
        if trainee.best is None or row["val/select"] > trainee.best:
            trainee.best = row["val/select"]
            self.folder.save_best(
                trainee.net, trainee.average, self.recipe, {**self._notes(trainee), "select": plan.select}
            )
        return row

    def _save(self, trainee: Trainee) -> None:
        if self.engine.first:
            state = trainee.state_dict()
            self.folder.save(trainee.net, trainee.average, self.recipe, self._notes(trainee), state)

    def _notes(self, trainee: Trainee) -> dict[str, Any]:
        return {**self.notes, "step": trainee.step, "passes": trainee.passes}

    def _row(self, trainee: Trainee, meter: Meter) -> dict[str, Any]:
        return {
            "step": trainee.step,
            "passes": trainee.passes,
            "seconds": round(trainee.seconds, 3),
            "passes_per_s": round(trainee.passes / max(trainee.seconds, 1e-9), 3),
            "lr": trainee.optimizer.param_groups[0]["lr"],
            **self.engine.mean(meter.read()),
        }
