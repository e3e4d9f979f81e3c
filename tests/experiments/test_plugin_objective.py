"""An objective of a third party is compared like any other, in other processes too."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dilkit.errors import UsageError
from dilkit.experiments.compare import compare
from dilkit.experiments.runs import TestPlan
from dilkit.objectives import OBJECTIVES
from dilkit.objectives.conformance import check_objective
from dilkit.recipe import compose
from dilkit.registry import load_plugin

PLUGIN = '''
import dilkit
from dilkit.objectives import Objective, ObjectiveConfig


class Worst(Objective):
    """The direction is the gradient of the distortion whose turn it is, times `strength`."""

    name = "test-turns"
    search = {"objective.strength": "uniform(0.5, 2)"}

    class Config(ObjectiveConfig):
        """One distortion a step, in their order."""

        strength: float = 1.0

    def gradients(self, net, episode):
        label = episode.labels[episode.step % len(episode.labels)]
        made = self.mean_gradient(net, {label: episode.batch(label)}, episode.step)
        for g in made.grads.values():
            g *= self.config.strength
        return made

    def passes(self, n):
        return 1


dilkit.register(Worst)
'''
WORDS = [
    "dncnn", "data.sources=['deadleaves:4@48']", "data.distort=awgn[5, 10]", "data.tile=48", "data.crop=16",
    "data.batch=1", "model.depth=2", "model.width=4", "model.norm=none", "hardware.device=cpu",
    "hardware.threads=1", "passes=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("plugin") / "turns.py"
    path.write_text(PLUGIN)
    module = load_plugin(path)
    yield path
    del OBJECTIVES._entries["test-turns"], sys.modules[module.__name__]


def test_it_keeps_the_contract_and_its_settings_are_checked(plugin: Path) -> None:
    check_objective("test-turns", strength=2.0)
    made = compose([*WORDS, "objective=test-turns", "objective.strength=1.5"]).recipe
    assert (made.objective.name, made.objective.strength) == ("test-turns", 1.5)
    with pytest.raises(UsageError, match=r"(?s)objective\.strenght.*did you mean: objective\.strength"):
        compose([*WORDS, "objective=test-turns", "objective.strenght=1.5"])
    with pytest.raises(UsageError, match=r"objective\.strength: wrong value"):
        compose([*WORDS, "objective=test-turns", "objective.strength=strong"])


def test_it_is_compared_in_worker_processes(
    plugin: Path, tmp_path: Path, coarse_pictures: Callable[[str, int, int], Path]
) -> None:
    test = TestPlan(str(coarse_pictures("ab", 4, 4)), "awgn[5, 50]")
    found = compare(
        WORDS, ["erm", "test-turns+sam"], tmp_path, test, seeds=1, trials=2, select="deadleaves:2@32",
        on="local:2", device="cpu",
    )  # fmt: skip
    assert set(found.scores["arm"]) == {"erm", "test-turns+sam"}
    assert len(found.chosen["test-turns+sam"]) == 2
