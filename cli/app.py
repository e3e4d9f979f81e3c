"""All commands together, and the one place that turns errors into exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from dilkit.errors import DilkitError

from .base import Terminated, app

COMMANDS = "augment check compare data doctor eval export invariance ls recipes report restore runs train"
"""The files of this folder that add a command, or several, to `app`."""

for _name in COMMANDS.split():
    importlib.import_module(f".{_name}", __package__)


def main(interrupts: Sequence[int] = ()) -> None:
    """Run the program; `interrupts` has the SIGINTs met so far.

    Exits with 0 done, 1 failed at run time, 2 wrong usage or configuration, 130 interrupted, 143 terminated.
    """
    try:
        app(sys.argv[1:])
    except (KeyboardInterrupt, SystemExit) as ended:  # Typer turns an interrupt into exit code 130
        if isinstance(ended, SystemExit) and ended.code != 130:
            raise
        print("dilkit: terminated" if Terminated.seen else "dilkit: interrupted", file=sys.stderr)
        sys.exit(143 if Terminated.seen else 130)
    except Exception as error:  # noqa: BLE001 - the last stop before a person
        if interrupts:
            print("dilkit: interrupted", file=sys.stderr)
            sys.exit(130)
        if os.environ.get("DILKIT_DEBUG"):
            traceback.print_exc()
        if isinstance(error, DilkitError):
            print(f"dilkit: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        print(f"dilkit: unexpected {type(error).__name__}: {error}", file=sys.stderr)
        print("  to do:    see where with --debug (dilkit --debug ...), and report it", file=sys.stderr)
        sys.exit(1)
