"""Every objective keeps the contract, and `check_objective` finds those that do not."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dilkit.errors import UsageError
from dilkit.objectives import OBJECTIVES, make_objective
from dilkit.objectives.base import Objective
from dilkit.objectives.conformance import check_objective
from dilkit.objectives.erm import Erm

SGD = {"inner": {"name": "sgd", "lr": 0.1}}


@pytest.fixture
def own_objectives(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    monkeypatch.setattr(OBJECTIVES, "_entries", dict(OBJECTIVES._entries))


@pytest.mark.parametrize("name", tuple(OBJECTIVES))
def test_every_objective_keeps_the_contract(name: str) -> None:
    check_objective(name)
    check_objective(name, sam=0.05)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("dil_sf", SGD), ("dil_ss", {**SGD, "trajectory": "chain", "outer": "others"}), ("dil_ps", {"keep": 1}),
     ("dil_pf", {"steps": 2, "buffers": "isolate"}), ("mldg", {"order": "first"}), ("fish", SGD),
     ("vrex", {"after": 100}), ("fishr", {"after": 100})],
)  # fmt: skip
def test_their_settings_keep_it_too(name: str, settings: dict[str, Any]) -> None:
    check_objective(name, **settings)


class Base(Erm):
    class Config(Erm.Config):
        """Wrong on purpose."""


class MovesTheta(Base):
    name = "moves-theta"

    def gradients(self, net: Any, episode: Any) -> Any:
        with torch.no_grad():
            next(net.parameters()).add_(1e-9)
        return super().gradients(net, episode)


class Understates(Base):
    name = "understates"

    def passes(self, n: int) -> int:
        return 1


class Overstates(Base):
    name = "overstates"

    def passes(self, n: int) -> int:
        return 10 * n


class Draws(Base):
    name = "draws"

    def gradients(self, net: Any, episode: Any) -> Any:
        made = super().gradients(net, episode)
        for g in made.grads.values():
            g *= torch.rand(())
        return made


class Forgets(Base):
    name = "forgets"
    seen = 0

    def gradients(self, net: Any, episode: Any) -> Any:
        self.seen += 1
        made = super().gradients(net, episode)
        for g in made.grads.values():
            g *= self.seen
        return made


class Alone(Base):
    name = "alone"

    def gradients(self, net: Any, episode: Any) -> Any:
        self.reduce = None
        return self.mean_gradient(net, episode.batches(), episode.step)


class LeavesOut(Base):
    name = "leaves-out"

    def gradients(self, net: Any, episode: Any) -> Any:
        made = super().gradients(net, episode)
        made.grads.pop("3.unused")
        return made


class Careless(Base):
    name = "careless"

    def gradients(self, net: Any, episode: Any) -> Any:
        return self.mean_gradient(net, episode.batches(), -1)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (MovesTheta, "changes the net"),
        (Understates, "promises other passes"),
        (Overstates, "promises other passes"),
        (Draws, "global generator"),
        (Forgets, "go on alike"),
        (Alone, "average over the processes"),
        (LeavesOut, "every trainable parameter"),
        (Careless, "name the step"),
    ],
)
def test_a_breach_is_found(cls: type[Objective], message: str, own_objectives: None) -> None:
    OBJECTIVES.add(cls, origin="a test")
    with pytest.raises(UsageError, match=message):
        check_objective(cls.name)


def test_what_is_no_objective_is_not_registered(own_objectives: None) -> None:
    class NoGradients(Objective):
        name = "no-gradients"

    class NoSettings(Base):
        name = "no-settings"
        Config = dict  # type: ignore[assignment,misc]

    for thing, message in (
        (NoGradients, "lacks gradients"),
        (NoSettings, "no ObjectiveConfig"),
        (dict, "no subclass"),
    ):
        with pytest.raises(UsageError, match=message):
            OBJECTIVES.add(thing, "wrong", origin="a test")  # type: ignore[arg-type]
    assert "wrong" not in OBJECTIVES.loaded


def test_an_objective_of_a_third_party_is_built_and_validated(own_objectives: None) -> None:
    class Mine(Base):
        name = "mine"

        class Config(Erm.Config):
            """Mine."""

            strength: float = 1.0

    OBJECTIVES.add(Mine, origin="a test")
    check_objective("mine", strength=2.0)
    with pytest.raises(UsageError, match="did you mean: strength"):
        make_objective("mine", loss=lambda n, b: b[0].mean(), strenght=2.0)


def test_the_table_of_the_documentation_states_what_the_classes_do() -> None:
    import re
    from pathlib import Path

    text = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    found = re.findall(r"^\| `(\w+)` \|.*\|$", text, re.MULTILINE)
    assert set(OBJECTIVES) <= set(found)
    rows = re.findall(
        r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([^|]+) \| ([\d.]+) \| (\w+) \|[^|]*\|$", text, re.MULTILINE
    )
    assert len(rows) == 13
    for name, passes, activations, copies in rows:
        cls = OBJECTIVES.get(name)
        objective = make_objective(name, loss=lambda n, b: n(b[0]).mean())
        for n in (2, 4, 7):
            formula = re.sub(r"(\d)([n(])", r"\1 * \2", passes.split(";")[0])
            assert objective.passes(n) == eval(formula, {"n": n}), name  # noqa: S307
        assert cls.activations == float(activations), name
        assert str(cls.copies) == copies or float(cls.copies) == float(copies), name
