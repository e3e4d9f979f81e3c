"""The Typer app, the one place that turns errors into exit codes, and what every command shares."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Annotated

import typer

from dilkit import __version__
from dilkit.errors import DilkitError

app = typer.Typer(
    name="dilkit",
    help="Distortion-Invariant Learning for image restoration.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: list[str] = [
    "recipes",
    "train",
    "eval",
    "ls",
    "restore",
    "compare",
    "report",
    "export",
    "invariance",
    "augment",
    "inspect",
    "check",
]
"""One module of this package each; a module registers its commands on `app` when imported."""


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
) -> None:
    if quiet:
        os.environ["DILKIT_QUIET"] = "1"
    if debug:
        os.environ["DILKIT_DEBUG"] = "1"


for _name in _COMMANDS:
    importlib.import_module(f".{_name}", __package__)


def _flags_first(words: list[str]) -> list[str]:
    """What holds for every command may be said anywhere: `dilkit verify train.h5 -q`."""
    end = words.index("--") if "--" in words else len(words)
    flags = [word for word in words[:end] if word in ("-q", "--quiet", "--debug")]
    return [*flags, *(word for word in words[:end] if word not in flags), *words[end:]]


def main() -> None:
    """Run the program; exit 0 done, 1 failed at run time, 2 wrong usage or configuration, 130 interrupted."""
    try:
        app(_flags_first(sys.argv[1:]))
    except DilkitError as error:
        if os.environ.get("DILKIT_DEBUG"):
            traceback.print_exc()
        print(f"dilkit: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("dilkit: interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:  # noqa: BLE001 - the last stop before a person
        if os.environ.get("DILKIT_DEBUG"):
            traceback.print_exc()
        print(f"dilkit: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print("  to do:    see where with --debug (dilkit --debug ...), and report it", file=sys.stderr)
        sys.exit(1)
