"""Several processes on this machine: what torchrun does for one node, with errors a person can read."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO

from dilkit.errors import DilkitError, UsageError

GRACE = 20.0
"""Seconds the other processes have to end by themselves once one has died."""
_SETTLE = 10.0
"""Seconds after the first failure: it makes the others fail too, and may not be the first to end."""
_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""What gloo and NCCL say in a process that has lost another."""


def launch(arguments: Sequence[str], procs: int, *, stop: Callable[[], bool] = lambda: False) -> int:
    """Run `dilkit ARGUMENTS` in `procs` processes that find each other by torch's environment variables.

    The first process keeps this one's streams; what the others say is kept, and shown if one of them dies.

    Args:
        stop: asked all the time; once true, all processes are told to save and end (SIGTERM).

    Returns:
        The exit code of the first process, all having ended; 2 where it has refused its recipe, and said why.

    Raises:
        DilkitError: a process died; the others have been ended. A UsageError where it was a refusal.
    """
    cores = max(1, (os.cpu_count() or 1) // procs)
    shared = {
        "OMP_NUM_THREADS": str(cores),
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(procs),
        "DILKIT_PROCS": str(procs),
    }
    command = [sys.executable, "-c", "from dilkit.cli import main; main()", *arguments]
    children: list[subprocess.Popen[bytes]] = []
    said: list[IO[bytes] | None] = []
    try:
        for rank in range(procs):
            stderr = tempfile.TemporaryFile() if rank else None  # noqa: SIM115
            env = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            stdout = subprocess.DEVNULL if rank else None
            children.append(subprocess.Popen(command, env=env, stdout=stdout, stderr=stderr))
            said.append(stderr)
        return _watch(children, said, stop)
    finally:
        end(children)


def end(children: Sequence[subprocess.Popen[bytes]], grace: float = GRACE) -> None:
    """Ask all that still run to end, and kill what has not ended after a while."""
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + grace
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _watch(
    children: Sequence[subprocess.Popen[bytes]], said: Sequence[IO[bytes] | None], stop: Callable[[], bool]
) -> int:
    told = False
    while any(child.poll() is None for child in children) and not _failed(children):
        if stop() and not told:
            told = True
            for child in children:
                child.send_signal(signal.SIGTERM)
        time.sleep(0.05)
    if not _failed(children):
        return int(children[0].returncode)
    deadline = time.monotonic() + _SETTLE
    for child in children:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(max(0.0, deadline - time.monotonic()))
    failed = _failed(children)  # those that are ended from here on have not failed by themselves
    end(children)
    if children[0].returncode == UsageError.exit_code:
        return UsageError.exit_code
    # of those that failed, one that does not merely say that it lost another; the first's words are shown
    own = [r for r in failed if r and not any(lost in _words(said[r]) for lost in _LOST)]
    raise _death(children, said, (own or failed)[0])


def _failed(children: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [r for r, child in enumerate(children) if child.poll() not in (None, 0, 143)]


def _words(stream: IO[bytes] | None) -> str:
    if stream is None:
        return ""
    stream.seek(0)
    return stream.read().decode(errors="replace").strip()


def _death(
    children: Sequence[subprocess.Popen[bytes]], said: Sequence[IO[bytes] | None], rank: int
) -> DilkitError:
    code = children[rank].returncode
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    tail = "\n".join(_words(said[rank]).splitlines()[-15:])
    if code == UsageError.exit_code:
        return UsageError(f"process {rank} of {len(children)} refused to start", found=tail or None)
    return DilkitError(
        f"process {rank} of {len(children)} {how}; the others have been ended",
        found=tail or None,
        remedy="resume with --resume; what is said above or here is the cause",
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
