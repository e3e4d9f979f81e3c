"""The runs of a comparison, and what is asked of them before any is trained: a mistake costs no training."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from dilkit.distortions import ConfounderSet, Word, confounder_set, pixel_hash
from dilkit.distortions.novelty import novelty
from dilkit.errors import UsageError
from dilkit.evaluation.testsets import Data, find_images
from dilkit.experiments.arms import Arm

if TYPE_CHECKING:
    from dilkit.recipe import Recipe


@dataclass(frozen=True)
class Run:
    """One training run of an arm."""

    arm: Arm
    lr: float
    seed: int
    out: Path
    words: tuple[str, ...]

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / "last.safetensors"

    @property
    def done(self) -> Path:
        """Written when the run has ended."""
        return self.out / "done.json"


def training_set(recipe: Recipe) -> ConfounderSet:
    """The distortions a recipe trains on, from its expression or its store."""
    if recipe.data.distort is not None:
        whole = confounder_set(recipe.data.distort)
    else:
        from dilkit.training.assemble import open_store

        store = open_store(recipe)
        whole = ConfounderSet.of(word for word in store.confounders if word.label in store.labels)
    labels = recipe.data.labels or whole.labels
    if strange := [label for label in labels if label not in whole.labels]:
        raise UsageError(
            "the recipe trains on no such distortion",
            where="data.labels",
            found=", ".join(strange),
            expected=", ".join(whole.labels),
        )
    return ConfounderSet.of(word for word in whole if word.label in labels)


def plan_runs(
    recipe: Sequence[str], arm: Arm, rates: Sequence[float], shared: Recipe, out: Path
) -> list[Run]:
    """The runs of an arm with the first seed, one per learning rate, found fit to be trained."""
    from dilkit.recipe import compose

    with _about(arm):
        runs = [run_of(recipe, arm, lr, shared.seed, out) for lr in rates]
        for run in runs:
            _check_budget(compose(run.words).recipe, shared.passes)
            is_done(run)
    return runs


def run_of(recipe: Sequence[str], arm: Arm, lr: float, seed: int, out: Path) -> Run:
    """A run of an arm; an inner rate that equals the outer one moves with it."""
    from dilkit.recipe import compose

    words = (*recipe, *arm.words)
    base = compose(words).recipe
    inner = getattr(base.objective, "inner", None)
    rates = [f"optim.lr={lr!r}"]
    if inner is not None and math.isclose(inner.lr, base.optim.lr):
        rates.append(f"objective.inner.lr={lr!r}")
    folder = out / arm.name / f"lr-{lr:g}" / f"seed-{seed}"
    return Run(arm, lr, seed, folder, (*words, *rates, f"seed={seed}"))


def is_done(run: Run) -> bool:
    """Whether a run has ended.

    Raises:
        UsageError: what is there is a run of another recipe.
    """
    if not run.done.is_file():
        return False
    if json.loads(run.done.read_text(encoding="utf-8"))["words"] != list(run.words):
        raise UsageError(
            "this folder holds a run of another recipe", where=run.out, remedy="compare into another --out"
        )
    return True


@contextmanager
def _about(arm: Arm) -> Iterator[None]:
    """Put the arm's name before what a mistake is about."""
    try:
        yield
    except UsageError as error:
        where = f"arm {arm.name}" if error.where is None else f"arm {arm.name}, {error.where}"
        raise UsageError(
            error.message,
            where=where,
            found=error.found,
            expected=error.expected,
            nearest=error.nearest,
            remedy=error.remedy,
        ) from None


def _check_budget(recipe: Recipe, passes: int | None) -> None:
    """Whether a recipe can be trained, for at least one step and as many passes as the others.

    Raises:
        UsageError: another budget, one of less than a step, or distortions that cannot be trained on.
    """
    from dilkit.objectives import make_objective
    from dilkit.recipe import refuse_leaks
    from dilkit.training.assemble import Budget, make_loss

    if recipe.passes != passes:
        raise UsageError(
            "arms are compared at equal passes, and this one has another budget",
            found=_budget(recipe),
            expected=f"passes={passes}, as all arms have",
            remedy="leave the budget out of the arm, and give passes=N for all of them",
        )
    words = training_set(recipe)
    refuse_leaks(recipe, words)
    settings = recipe.objective.model_dump(exclude={"name"})
    loss = make_loss(recipe.loss, torch.device("cpu"), recipe.hardware)
    objective = make_objective(recipe.objective.name, loss=loss, **settings)
    Budget.of(recipe, objective.passes(len(words)), 1)


def check_selection(select: Data, test: Data) -> None:
    """Refuse to choose a learning rate on images of the test.

    Raises:
        UsageError: an image is in both, pixel by pixel.
    """
    tested = {pixel_hash(image.read()) for image in find_images(test)}
    both = [image.name for image in find_images(select) if pixel_hash(image.read()) in tested]
    if both:
        raise UsageError(
            "the learning rate would be chosen on images of the test",
            where="select",
            found=", ".join(both[:5]) + (" ..." if len(both) > 5 else ""),
            expected="images that are not tested on",
            remedy="give --select other images than --data",
        )


def own_specialists(arms: Sequence[Arm], trained: ConfounderSet, tested: ConfounderSet) -> dict[str, str]:
    """By label of a test distortion, the specialist that was trained on it, as `novelty` has it.

    Of several, the one that was trained on nothing else. A test distortion without one is left out.
    """
    words = {word.label: word for word in trained}
    members = [(arm.name, words[arm.member]) for arm in arms if arm.member]
    found: dict[str, str] = {}
    for test in tested:
        own = [(name, word) for name, word in members if _covers(word, test)]
        alone = [(name, word) for name, word in own if _covers(test, word)]
        if own:
            found[test.label] = (alone or own)[-1][0]
    return found


def _covers(trained: Word, test: Word) -> bool:
    return novelty(test, ConfounderSet.of([trained])) == "seen"


def _budget(recipe: Recipe) -> str:
    given = {key: getattr(recipe, key) for key in ("passes", "steps", "epochs", "hours")}
    return ", ".join(f"{key}={value}" for key, value in given.items() if value is not None)
