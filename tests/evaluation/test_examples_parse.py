"""Every example in every `--help` is a command line that parses."""

from __future__ import annotations

import re
import shlex
from typing import Any

import pytest
import typer
from dilkit.cli.app import app

ROOT: Any = typer.main.get_command(app)


def commands(group: Any = ROOT, above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    found = {}
    for name, command in group.commands.items():
        found[(*above, name)] = command
        if hasattr(command, "commands"):
            found |= commands(command, (*above, name))
    return found


EXAMPLES = [
    pytest.param(path, example, id=f"{' '.join(path)}-{k}")
    for path, command in commands().items()
    for k, example in enumerate(re.findall(r"`(dilkit [^`]+)`", command.epilog or ""))
]
MINE = ("eval", "ls", "compare", "report", "restore", "export", "invariance")


@pytest.mark.parametrize(("path", "example"), EXAMPLES)
def test_an_example_parses(path: tuple[str, ...], example: str) -> None:
    words = shlex.split(example)[1:]
    command = ROOT
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command = command.commands[words.pop(0)]
    command.make_context(path[-1], words)


@pytest.mark.parametrize("name", MINE)
def test_there_are_examples(name: str) -> None:
    assert any(param.values[0] == (name,) for param in EXAMPLES)
