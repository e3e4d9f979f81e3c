"""Distortions of third parties: found by the entry-point group `dilkit.distortions` when first needed.

In the plug-in's pyproject.toml:

    [project.entry-points."dilkit.distortions"]
    vhs = "vhs_noise:KINDS"

where `KINDS` is a `PrimitiveKind`, several of them, or a module that calls `dilkit.register` itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TYPE_CHECKING

from dilkit.errors import DilkitError

if TYPE_CHECKING:
    from dilkit.distortions.primitive import PrimitiveKind

GROUP = "dilkit.distortions"


def load(add: Callable[[PrimitiveKind], PrimitiveKind]) -> None:
    """Add the kinds of every installed plug-in; a broken one is named."""
    for point in entry_points(group=GROUP):
        try:
            for kind in _kinds(point):
                add(kind)
        except Exception as error:
            package = point.dist.name if point.dist else "unknown"
            raise DilkitError(
                f"the plug-in {point.name!r} cannot be loaded: {error}",
                where=f"package {package}",
                found=point.value,
                remedy="repair or uninstall that package",
            ) from error


def _kinds(point: EntryPoint) -> Iterable[PrimitiveKind]:
    from dilkit.distortions.primitive import PrimitiveKind

    found = point.load()
    if isinstance(found, ModuleType):
        return ()
    if isinstance(found, PrimitiveKind):
        return (found,)
    kinds = tuple(found)
    if not all(isinstance(kind, PrimitiveKind) for kind in kinds):
        raise TypeError("it holds something that is no PrimitiveKind")
    return kinds
