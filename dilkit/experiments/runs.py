"""The runs of a comparison: each a recipe composed once, a folder, and the work done in it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from dilkit.checkpoint import write_text
from dilkit.distortions import ConfounderSet, Word, confounder_set
from dilkit.distortions.novelty import novelty
from dilkit.errors import UsageError
from dilkit.evaluation.grid import evaluate
from dilkit.evaluation.rows import SETTINGS, read_rows, write_rows
from dilkit.evaluation.testsets import Data
from dilkit.experiments.arms import Arm
from dilkit.experiments.executors import Report, Unit
from dilkit.inference.nets import Net, open_nets
from dilkit.objectives import OBJECTIVES, make_objective
from dilkit.recipe import Composed, refuse_leaks

if TYPE_CHECKING:
    from dilkit.recipe import Recipe

Weights = Literal["last", "best"]


@dataclass(frozen=True)
class TestPlan:
    """What every net is measured on, the same for all (see `evaluate`)."""

    __test__ = False

    data: Data
    distort: str
    clip: bool = True
    quantize: bool = False
    seed: int = 0
    channel: str = "rgb"
    border: int = 0

    def rows(
        self, nets: Any, distort: str | None = None, data: Data | None = None, **more: Any
    ) -> pd.DataFrame:
        """The rows of nets on this test, or on other distortions or images measured in the same way."""
        settings = {name: value for name, value in vars(self).items() if name not in ("data", "distort")}
        return evaluate(
            nets, self.data if data is None else data, distort or self.distort, **settings, **more
        )


@dataclass(frozen=True)
class Run:
    """One training run of an arm.

    Attributes:
        label: of its settings among those tried: `lr-0.001`, `trial-3`.
        lr: its outer learning rate.
        settings: what was set beside the arm's own words.
        composed: the recipe, complete.
    """

    arm: Arm
    label: str
    lr: float
    settings: Mapping[str, Any]
    seed: int
    out: Path
    composed: Composed
    weights: Weights = "last"

    @property
    def name(self) -> str:
        return f"{self.arm.name}/{self.label}/seed-{self.seed}"

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoints" / f"{self.weights}.safetensors"

    @property
    def done(self) -> Path:
        """Written when the run has ended."""
        return self.out / "done.json"

    def unit(self, task: str, done: Path, work: Any) -> Unit:
        """A unit of work on this run; its claim lies beside the run's folder."""
        name = self.name if task == "train" else f"{self.name} {task}"
        return Unit(name, self.out.parent / f".{self.out.name}-{task}", done, work)

    def training(self) -> Unit:
        return self.unit("train", self.done, Training(self))


def open_run(run: Run) -> tuple[Net, ...]:
    """The net that a run has trained; one of the user's own is built because the run's recipe named it."""
    own = (run.composed.recipe.model.name,)
    return open_nets({run.arm.name: str(run.checkpoint)}, trust_code=own)


@dataclass(frozen=True)
class Training:
    """Train a run, or go on with it, and write that it is done."""

    run: Run

    def __call__(self, report: Report) -> None:
        from dilkit.training import train

        run = self.run
        started = (run.out / "run.json").is_file()
        report({"note": f"{'going on with' if started else 'training'} {story(run)}"})
        words = run.composed.words
        result = train(run.composed, run.out, resume=started, command=["dilkit", "train", *words], log=report)
        record = {
            "words": list(words),
            "passes": result.passes,
            "seconds": result.seconds,
            "step": result.step,
        }
        write_text(run.done, json.dumps(record) + "\n")


@dataclass(frozen=True)
class Measuring:
    """Measure the net of a run and write its rows.

    Attributes:
        path: of the rows.
        distort, data: what it is measured on, where not on the test's own.
    """

    run: Run
    test: TestPlan
    path: Path
    distort: str | None = None
    data: Data | None = None
    device: str = "auto"

    def unit(self) -> Unit:
        """Rows of another test, or of other weights, are done again."""
        if self.path.is_file():
            (net,) = open_run(self.run)
            if read_rows(self.path).attrs[SETTINGS].get("compared") != self.wanted(net):
                self.path.unlink()
        return self.run.unit(f"measure-{self.path.stem}", self.path, self)

    def wanted(self, net: Net) -> dict[str, Any]:
        """What the rows must be of."""
        plan = {k: v for k, v in asdict(self.test).items() if k != "data"}
        return {**plan, "distort": self.distort or self.test.distort, "weights": net.fingerprint}

    def __call__(self, report: Report) -> None:
        report({"note": f"measuring {story(self.run)}"})
        (net,) = open_run(self.run)
        rows = self.test.rows(
            [net], self.distort, self.data, device=self.device, journal=self.path.with_suffix(".part")
        )
        rows.attrs[SETTINGS]["compared"] = self.wanted(net)
        write_rows(rows, self.path)

    def rows(self) -> pd.DataFrame:
        """What was measured, with the arm, its learning rate and its training seed."""
        run = self.run
        return read_rows(self.path).assign(arm=run.arm.name, lr=run.lr, train_seed=run.seed)


def story(run: Run) -> str:
    settings = f"lr {run.lr:g}" if run.label.startswith("lr-") else run.label
    return f"{run.arm.name}, {settings}, seed {run.seed}"


def run_of(
    base: Composed,
    arm: Arm,
    out: Path,
    *,
    seed: int,
    label: str,
    settings: Mapping[str, Any],
    weights: Weights = "last",
) -> Run:
    """A run of an arm, from the recipe composed with the arm's words.

    Args:
        label: of its settings (see `Run`).
        settings: the keys of the recipe that are set beside the arm's own words.

    Raises:
        UsageError: what is there is a run of another recipe.
    """
    composed = base.plus(*(f"{key}={value!r}" for key, value in settings.items()), f"seed={seed}")
    lr = composed.recipe.optim.lr
    if label.startswith("lr-"):
        lr = settings[OBJECTIVES.get(base.recipe.objective.name).rate]
    folder = out / arm.name / label / f"seed-{seed}"
    made = Run(arm, label, lr, dict(settings), seed, folder, composed, weights)
    if made.done.is_file():
        words = json.loads(made.done.read_text(encoding="utf-8"))["words"]
        if words != list(composed.words):
            raise UsageError(
                "this folder holds a run of another recipe", where=folder, remedy="compare into another --out"
            )
    return made


def at_rate(recipe: Recipe, lr: float) -> dict[str, float]:
    """The keys that a swept learning rate sets: the objective's own (`Objective.rate`), and the inner rate
    where it equals the outer one."""
    key = OBJECTIVES.get(recipe.objective.name).rate
    inner = getattr(recipe.objective, "inner", None)
    together = key == "optim.lr" and inner is not None and math.isclose(inner.lr, recipe.optim.lr)
    return {key: lr, **({"objective.inner.lr": lr} if together else {})}


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


@contextmanager
def about(arm: Arm) -> Iterator[None]:
    """Put the arm's name before what a mistake is about."""
    try:
        yield
    except UsageError as error:
        error.where = f"arm {arm.name}" if error.where is None else f"arm {arm.name}, {error.where}"
        raise


def check_budget(recipe: Recipe, passes: int | None) -> None:
    """Whether a recipe can be trained, for at least one step and as many passes as the others.

    Raises:
        UsageError: another budget, one of less than a step, or distortions that cannot be trained on.
    """
    import torch

    from dilkit.training.assemble import Budget
    from dilkit.training.precision import make_loss

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
    Budget.of(recipe, objective.passes(len(words)) * recipe.optim.accumulate, 1)


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
