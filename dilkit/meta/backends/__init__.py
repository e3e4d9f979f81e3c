"""Engines with one behaviour: ours, and adapters over the real libraries for what each can do."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from torch import nn

from dilkit.errors import UsageError, nearest
from dilkit.meta.inner import Inner, State
from dilkit.meta.trajectory import Order, Term, Trajectory

Backend = Literal["native", "higher", "learn2learn"]
_ENGINES = {
    "native": ("dilkit.meta.adjoint", "Engine"),
    "higher": ("dilkit.meta.backends.higher", "HigherEngine"),
    "learn2learn": ("dilkit.meta.backends.learn2learn", "Learn2LearnEngine"),
}


class AnyEngine(Protocol):
    def run(
        self,
        steps: Sequence[Sequence[Term]],
        outer: Mapping[int, Sequence[Term]],
        *,
        order: Order = "exact",
        state: State | None = None,
    ) -> Trajectory: ...

    def settle(self, trajectories: Sequence[Trajectory]) -> None: ...


def engine_for(backend: str, net: nn.Module, optimizer: Inner, **options: Any) -> AnyEngine:
    """The engine of that name; the library behind it is imported here, not before.

    Raises:
        UsageError: an unknown name, a library that is not installed, or a request it cannot serve (the
            message names the backend that can).
    """
    if backend not in _ENGINES:
        raise UsageError(
            f"unknown backend {backend!r}", expected=", ".join(_ENGINES), nearest=nearest(backend, _ENGINES)
        )
    module, cls = _ENGINES[backend]
    made: AnyEngine = getattr(importlib.import_module(module), cls)(net, optimizer, **options)
    return made
