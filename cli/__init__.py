"""The command line: `dilkit.cli:main` is the program. Each command is a thin call of the public API."""

from __future__ import annotations


def main() -> None:
    """Run the program; Ctrl-C while it is still loading ends it as at any other time."""
    try:
        from .app import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()
