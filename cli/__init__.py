"""The command line: `dilkit.cli:main` is the program. Each command is a thin call of the public API."""

from __future__ import annotations

import atexit
import gc
import signal


def main() -> None:
    """Run the program; Ctrl-C while it is still loading ends it as at any other time."""
    interrupts: list[int] = []

    def interrupt(number: int, *_: object) -> None:
        interrupts.append(number)  # a library that is being loaded may turn the exception into one of its own
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    gc.set_threshold(100_000)  # the libraries make a million objects that stay: do not look at them again and
    atexit.register(gc.freeze)  # again, nor at the end; that is half a second of a short command
    try:
        from .app import main as run
    except BaseException as error:
        if interrupts or isinstance(error, KeyboardInterrupt):
            raise SystemExit(130) from None
        raise
    run(interrupts)
