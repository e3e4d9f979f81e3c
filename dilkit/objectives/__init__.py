"""Objectives: an episode in, gradients by parameter name out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dilkit.errors import UsageError, nearest
from dilkit.objectives.config import ObjectiveConfig

if TYPE_CHECKING:
    from dilkit.meta.first_order import Reduce
    from dilkit.objectives.base import Loss, Objective

_CLASSES = {
    "erm": ("erm", "Erm"),
    "erm_pure": ("erm", "ErmPure"),
    "dil_sf": ("dil", "DilSf"),
    "dil_pf": ("dil", "DilPf"),
    "dil_ss": ("dil", "DilSs"),
    "dil_ps": ("dil", "DilPs"),
    "lookahead": ("controls", "Lookahead"),
}
"""Name -> its module and class."""

NAMES: tuple[str, ...] = tuple(_CLASSES)


def build(name: str, *, loss: Loss, seed: int = 0, reduce: Reduce | None = None, **config: Any) -> Objective:
    """An objective by name.

    Args:
        name: one of `NAMES`.
        loss: loss(module, (distorted, clean)) -> scalar; it opens its own autocast, if any.
        seed: of the orders drawn at each step (with the step's number; the same on all processes).
        reduce: averages a list of tensors over the processes, in place. The gradients returned are then
            already averaged, and so are those of every virtual step.
        config: the fields of the objective's class in `dilkit.objectives.config`.

    Raises:
        UsageError: an unknown name or field, or a value out of range.
    """
    if name not in _CLASSES:
        raise UsageError(
            f"unknown objective {name!r}", expected=", ".join(NAMES), nearest=nearest(name, NAMES)
        )
    adapter: TypeAdapter[Any] = TypeAdapter(ObjectiveConfig)
    try:
        checked = adapter.validate_python({"name": name, **config})
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"][1:])
        raise UsageError(first["msg"], where=f"objective {name}, {path}", found=first["input"]) from error
    module, attribute = _CLASSES[name]
    cls = getattr(importlib.import_module(f"dilkit.objectives.{module}"), attribute)
    made: Objective = cls(checked, loss, seed=seed, reduce=reduce)
    return made
