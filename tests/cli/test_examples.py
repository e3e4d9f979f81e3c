"""Every command has examples in its `--help`, and each of them is a command line that parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from dilkit.cli.app import app
from dilkit.cli.base import EVERYWHERE, PANELS, move_shared_first

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found = {}
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found |= commands(command, (*above, name))
        else:
            found[(*above, name)] = command
    return found


COMMANDS = commands()
EXAMPLES = [
    pytest.param(path, example, id=f"{' '.join(path)}-{k}")
    for path, command in COMMANDS.items()
    for k, example in enumerate(re.findall(r"`(dilkit [^`]+)`", command.epilog or ""))
]


TOP = Path(__file__).resolve().parents[2]
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", *sorted((TOP / "docs" / "how-to").glob("*.md"))]
SHOWN = [
    pytest.param(line.partition("  #")[0], id=f"{page.stem}-{k}")
    for page in PAGES
    for k, line in enumerate(
        re.findall(r"^dilkit .*$", page.read_text(encoding="utf-8").replace("\\\n", ""), re.M)
    )
]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_line_of_a_page_parses(line: str) -> None:
    test_an_example_parses((), line)


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_an_example_parses(path: tuple[str, ...], example: str) -> None:
    _, *words = shlex.split(example)
    words = move_shared_first(words)
    while words[0] in EVERYWHERE:
        del words[: 1 + EVERYWHERE[words[0]]]
    command, name = ROOT, ""
    while words and hasattr(command, "commands") and words[0] in command.commands:
        name = words.pop(0)
        command = command.commands[name]
    context = command.make_context(name, words)
    own = (
        name in ("augment", "build", "eval") and "--plugin" not in example
    )  # whose distortions are not known
    for expression in (context.params.get("distort") or []) if own else []:
        from dilkit.distortions import parse

        parse(expression)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_there_is_an_example(path: tuple[str, ...]) -> None:
    assert any(param.values[0] == path for param in EXAMPLES)


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_option_says_what_it_does(path: tuple[str, ...]) -> None:
    mute = [p.name for p in COMMANDS[path].params if p.param_type_name == "option" and not p.help]
    assert not mute


def test_commands_come_in_the_order_of_the_work_under_four_headings() -> None:
    shown = [name for name in ROOT.list_commands(None) if not ROOT.commands[name].hidden]
    order = [name for names in PANELS.values() for name in names]
    assert shown == [name for name in order if name in shown]
    assert list(PANELS) == ["Data", "Train", "Measure", "Use"]
    assert {ROOT.commands[name].rich_help_panel for name in shown} == set(PANELS)


@pytest.mark.parametrize("command", ["augment", "eval"])
def test_many_options_are_grouped(command: str) -> None:
    panels = {getattr(p, "rich_help_panel", None) for p in ROOT.commands[command].params} - {None}
    assert len(panels) >= 4
