"""The generated pages of the documentation site name everything that is public."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer
from dilkit.cli.app import app

import dilkit
from dilkit.recipe import keys

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def build() -> Any:
    """docs/build.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_glossary_is_in_order_and_short() -> None:
    terms = re.findall(r"^\| (?!term )([\w, -]+) \|", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert terms == sorted(terms, key=str.lower) and len(terms) <= 30


def test_every_public_name_has_its_entry(build: Any) -> None:
    page = build.api()
    assert not [
        name for name in set(dilkit.__all__) - {"__version__"} if f"heading: dilkit.{name}," not in page
    ]


def test_every_visible_command_has_its_entry_and_examples(build: Any) -> None:
    page = build.commands()
    for path, _ in build.walk(typer.main.get_command(app), ()):
        assert f"## dilkit {' '.join(path)}\n" in page
    assert len(re.findall(r"`dilkit [^`]+`", page)) > 40


def test_every_key_of_a_recipe_is_listed_and_says_what_it_means(build: Any) -> None:
    page = build.recipe_reference()
    mute = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|  \|$", page, re.M)
    assert set(mute) <= {"name"}, sorted(set(mute))
    for key in keys():
        if key.split(".")[0] not in ("extends", "objectives"):
            assert f"| `{key.rpartition('.')[2]}` |" in page, key


def test_the_cells_of_a_tutorials_notebook_are_its_blocks(build: Any) -> None:
    """The blocks themselves are run in tests/tutorials."""
    for page in (ROOT / "docs" / "tutorials").glob("*.md"):
        blocks = re.findall(r"^```python\n(.*?)\n```$", page.read_text(), re.S | re.M)
        cells = json.loads(build.notebook(page.read_text()))["cells"]
        assert [c["source"] for c in cells if c["cell_type"] == "code"] == blocks and len(blocks) > 3


def test_a_tutorial_becomes_a_notebook_of_its_cells(build: Any) -> None:
    cells = json.loads(build.notebook("# Title\n\n```python\nx = 1\n```\n\nMore.\n"))["cells"]
    assert [(cell["cell_type"], cell["source"]) for cell in cells] == [
        ("markdown", "# Title"), ("code", "x = 1"), ("markdown", "More."),
    ]  # fmt: skip
