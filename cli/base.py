"""The Typer app before it has any command: its order, its groups, and the options that hold everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from dilkit._version import __version__
from dilkit.registry import PLUGINS, load_plugin

PANELS = {
    "Data": ["augment", "data", "inspect", "verify"],
    "Train": ["recipes", "train", "runs", "check"],
    "Measure": ["eval", "compare", "study", "report", "invariance"],
    "Use": ["restore", "export", "card", "ls", "doctor"],
}
"""Headings of the help, in the order of the work, and the commands under them."""

EVERYWHERE = {"-q": 0, "--quiet": 0, "--debug": 0, "--plugin": 1}
"""Options that hold for every command and may stand anywhere on the line, with the number of their values."""


def move_shared_first(words: list[str]) -> list[str]:
    """`dilkit verify train.h5 -q` as `dilkit -q verify train.h5`; nothing after `--` is touched."""
    first: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words) and words[at] != "--":
        name = words[at].partition("=")[0] if words[at].startswith("--") else words[at]
        taken = 1 + (EVERYWHERE.get(name, 0) if words[at] == name else 0)
        (first if name in EVERYWHERE else rest).extend(words[at : at + taken])
        at += taken
    return [*first, *rest, *words[at:]]


class Program(TyperGroup):
    """The root: its options may stand anywhere on the line; commands come in the order of PANELS."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, move_shared_first(args))

    def list_commands(self, ctx: Any) -> list[str]:
        order = [name for names in PANELS.values() for name in names]
        return sorted(self.commands, key=lambda name: order.index(name) if name in order else len(order))


SETTINGS = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="dilkit",
    cls=Program,
    help="Distortion-Invariant Learning for image restoration.",
    epilog="Start with `dilkit augment photos/ -d 'awgn[5, 20] >> clip' -o train.h5`, then "
    "`dilkit train denoise-gaussian-small data.store=train.h5`. `dilkit COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings=SETTINGS,
)


def group(name: str, help: str) -> typer.Typer:
    """A group of commands under the app."""
    made = typer.Typer(
        name=name, help=help, no_args_is_help=True, rich_markup_mode="markdown", context_settings=SETTINGS
    )
    app.add_typer(made, rich_help_panel=panel(name))
    return made


def examples(lines: str) -> str:
    """An end of a command's help: command lines to copy, one a line."""
    return "Examples:\n\n" + "\n\n".join(f"`{line}`" for line in lines.strip().splitlines())


def panel(name: str) -> str | None:
    """The heading that a command stands under."""
    return next((title for title, names in PANELS.items() if name in names), None)


def _version(value: bool) -> None:
    if value:
        print(f"dilkit {__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Only errors on stderr.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.py",
            help="Run a file of your own that calls `dilkit.register`; again for more.",
        ),
    ] = None,
) -> None:
    if quiet:
        os.environ["DILKIT_QUIET"] = "1"
    if debug:
        os.environ["DILKIT_DEBUG"] = "1"
    for path in plugin or ():
        load_plugin(path)
        named = [*os.environ.get(PLUGINS, "").split(os.pathsep), str(path.expanduser().resolve())]
        os.environ[PLUGINS] = os.pathsep.join(filter(None, named))


class Terminated(KeyboardInterrupt):
    """Stopped by SIGTERM."""

    seen = False


def terminate(*_: object) -> None:
    """A handler of SIGTERM, as job schedulers send it: stops like Ctrl-C, but the program exits with 143."""
    Terminated.seen = True
    raise Terminated
