"""Engines with one behaviour: ours, and adapters over the real libraries for what each can do."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from dilkit.meta.guards import one_of
from dilkit.meta.inner import State
from dilkit.meta.setting import Setting
from dilkit.meta.trajectory import Order, Term, Trajectory

Backend = Literal["native", "unrolled", "higher", "learn2learn"]
_ENGINES = {
    "native": ("dilkit.meta.backends.native", "Engine"),
    "unrolled": ("dilkit.meta.backends.unrolled", "Unrolled"),
    "higher": ("dilkit.meta.backends.higher", "Higher"),
    "learn2learn": ("dilkit.meta.backends.learn2learn", "Learn2Learn"),
}


class AnyEngine(Protocol):
    """What all engines do (see `dilkit.meta.backends.native.Engine`)."""

    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory: ...


def engine_for(backend: str, setting: Setting) -> AnyEngine:
    """The engine of that name; the library behind it is imported here, not before.

    Raises:
        UsageError: an unknown name, a library that is not installed, or a request it cannot serve (the
            message names the backend that can).
    """
    one_of("backend", backend, list(_ENGINES))
    module, cls = _ENGINES[backend]
    made: AnyEngine = getattr(importlib.import_module(module), cls)(setting)
    return made
