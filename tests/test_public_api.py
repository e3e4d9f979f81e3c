"""What is public is on `dilkit` itself; `dilkit.register` finds the registry of what it is given."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import dilkit
from dilkit.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


@pytest.mark.parametrize("name", dilkit.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name: str) -> None:
    value = getattr(dilkit, name)
    assert name in dir(dilkit)
    assert isinstance(value, str) or (callable(value) and value.__doc__)


def test_what_is_not_public_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        dilkit.nothing  # noqa: B018


def test_rooms_that_are_also_functions_stay_so_whatever_was_imported_first() -> None:
    for room in ("meta", "report"):
        assert getattr(dilkit, room) is importlib.import_module(f"dilkit.{room}")
        assert callable(getattr(dilkit, room))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_readme_and_the_tutorials_import_from_dilkit_alone(page: Path) -> None:
    deep = re.findall(r"^\s*(?:from (dilkit\.\S+) import|import (dilkit\.\S+))", page.read_text(), re.M)
    allowed = {"dilkit.distortions", "dilkit.meta"}  # every distortion is a name of its room
    assert not {name for pair in deep for name in pair if name} - allowed


@pytest.mark.parametrize("kind", dilkit.REGISTRIES)
def test_every_kind_of_plug_in_has_its_registry(kind: str) -> None:
    module, _, name = dilkit.REGISTRIES[kind].partition(":")
    registry = getattr(importlib.import_module(module), name)
    assert callable(registry.add) and callable(registry.get)


def test_a_thing_of_no_known_kind_is_refused_with_what_to_say() -> None:
    with pytest.raises(UsageError, match=r"(?s)cannot be told.*kind="):
        dilkit.register(object())
    with pytest.raises(UsageError, match="did you mean: metric"):
        dilkit.register(object(), kind="metrik")
