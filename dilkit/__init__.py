"""dilkit: Distortion-Invariant Learning for image restoration.

What a user types is here: `dilkit.augment`, `dilkit.train`, `dilkit.evaluate` and the rest of `__all__`, each
of them what a command does, on plain objects. Names are imported when first used, so that `import dilkit` is
cheap and `import dilkit.meta` needs torch alone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from dilkit._version import __version__

if TYPE_CHECKING:
    from dilkit import meta as meta
    from dilkit import report as report
    from dilkit.checkpoint import load as load
    from dilkit.cli.progress import TrainProgress as TrainProgress  # type: ignore[import-not-found]
    from dilkit.confounders.build import augment as augment
    from dilkit.confounders.episodes import EpisodeSampler as EpisodeSampler
    from dilkit.confounders.episodes import PairDataset as PairDataset
    from dilkit.confounders.images import Pairs as Pairs
    from dilkit.confounders.images import dead_leaves as dead_leaves
    from dilkit.confounders.inspect import summarize as summarize
    from dilkit.confounders.inspect import verify as verify
    from dilkit.confounders.interchange import export_store as export_store
    from dilkit.confounders.store import Store as Store
    from dilkit.distortions import confounder_set as confounder_set
    from dilkit.distortions import distort_image as distort_image
    from dilkit.distortions import parse as parse
    from dilkit.errors import DilkitError as DilkitError
    from dilkit.errors import UsageError as UsageError
    from dilkit.evaluation.grid import evaluate as evaluate
    from dilkit.evaluation.invariance import invariance as invariance
    from dilkit.evaluation.rows import by_distortion as by_distortion
    from dilkit.evaluation.rows import read_rows as read_rows
    from dilkit.experiments.compare import compare as compare
    from dilkit.experiments.runs import TestPlan as TestPlan
    from dilkit.inference.export import export as export
    from dilkit.inference.restore import restore as restore
    from dilkit.metrics import psnr as psnr
    from dilkit.metrics import ssim as ssim
    from dilkit.recipe.compose import compose as compose
    from dilkit.training.run import train as train


_PUBLIC = {
    "DilkitError": "dilkit.errors",
    "EpisodeSampler": "dilkit.confounders.episodes",
    "PairDataset": "dilkit.confounders.episodes",
    "Pairs": "dilkit.confounders.images",
    "Store": "dilkit.confounders.store",
    "TestPlan": "dilkit.experiments.runs",
    "TrainProgress": "dilkit.cli.progress",
    "UsageError": "dilkit.errors",
    "augment": "dilkit.confounders.build",
    "by_distortion": "dilkit.evaluation.rows",
    "compare": "dilkit.experiments.compare",
    "compose": "dilkit.recipe.compose",
    "confounder_set": "dilkit.distortions",
    "dead_leaves": "dilkit.confounders.images",
    "distort_image": "dilkit.distortions",
    "evaluate": "dilkit.evaluation.grid",
    "export": "dilkit.inference.export",
    "export_store": "dilkit.confounders.interchange",
    "invariance": "dilkit.evaluation.invariance",
    "load": "dilkit.checkpoint",
    "parse": "dilkit.distortions",
    "psnr": "dilkit.metrics",
    "read_rows": "dilkit.evaluation.rows",
    "restore": "dilkit.inference.restore",
    "ssim": "dilkit.metrics",
    "summarize": "dilkit.confounders.inspect",
    "train": "dilkit.training.run",
    "verify": "dilkit.confounders.inspect",
}
"""Public name -> the module that defines it."""

_CALLABLE_ROOMS = ("meta", "report")
"""Rooms that are called like functions: `dilkit.meta(net)`, `dilkit.report(runs, out)`."""

REGISTRIES = {
    "distortion": "dilkit.distortions:REGISTRY",
    "protocol": "dilkit.evaluation.protocols:PROTOCOLS",
    "metric": "dilkit.evaluation.extra_metrics:METRICS",
    "objective": "dilkit.objectives:OBJECTIVES",
    "model": "dilkit.models:MODELS",
    "sink": "dilkit.training.sinks:SINKS",
    "loss": "dilkit.losses:LOSSES",
    "exporter": "dilkit.inference.export:EXPORTERS",
}
"""Kind of plug-in -> where its registry lives, in the order in which `register` asks: light ones first."""

__all__ = ["__version__", "meta", "register", "report", *_PUBLIC]

T = TypeVar("T")


def _registry(kind: str) -> Any:
    """The registry of a kind of plug-in, one of `REGISTRIES`.

    Raises:
        UsageError: there is no such kind.
    """
    if kind not in REGISTRIES:
        from dilkit.errors import UsageError, nearest

        raise UsageError(
            f"there is no kind of plug-in called {kind!r}",
            expected=", ".join(REGISTRIES),
            nearest=nearest(kind, REGISTRIES),
        )
    module, _, name = REGISTRIES[kind].partition(":")
    return getattr(importlib.import_module(module), name)


@overload
def register(value: T, *, kind: str | None = None, name: str | None = None) -> T: ...
@overload
def register(value: None = None, *, kind: str | None = None, name: str | None = None) -> Callable[[T], T]: ...
def register(value: Any = None, *, kind: str | None = None, name: str | None = None) -> Any:
    """Add something of your own: a distortion, objective, loss, model, metric, protocol, sink or exporter.

    Also a decorator: `@dilkit.register` on a class, `@dilkit.register(kind="loss")` on a function.

    Args:
        value: the thing; its kind is told from its type where that is unambiguous.
        kind: one of `dilkit.REGISTRIES`. A plain function needs it: it could be a loss or a metric.
        name: what it is called in recipes and on the command line; its own `name` or `__name__` by default.

    Returns:
        The thing itself, or a decorator if there is none yet.

    Raises:
        UsageError: the kind cannot be told, the name is taken, or the contract of the kind is not kept.
    """
    if value is None:
        return lambda thing: register(thing, kind=kind, name=name)
    if kind is None:
        kind = next((known for known in REGISTRIES if _registry(known).recognises(value)), None)
    if kind is None:
        from dilkit.errors import UsageError

        raise UsageError(
            "what this is to be used as cannot be told",
            found=repr(value),
            expected=f"kind= one of {', '.join(REGISTRIES)}",
            remedy='for example: dilkit.register(my_loss, kind="loss")',
        )
    _registry(kind).add(value, name)
    return value


def __getattr__(name: str) -> Any:
    if name in _CALLABLE_ROOMS:
        return importlib.import_module(f"dilkit.{name}")
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'dilkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_CALLABLE_ROOMS, *_PUBLIC})
