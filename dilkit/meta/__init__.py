"""Virtual updates of any module, differentiated exactly in flat memory.

    @dilkit.meta
    class Net(nn.Module): ...

    net.meta.grad(loss, batches, trajectory="star")

The module object itself is callable: `dilkit.meta(Net)`, `dilkit.meta(net)`, `dilkit.meta(factory)`. torch is
imported when it is first used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from dilkit.meta.api import Meta

_PUBLIC = {
    "Meta": "dilkit.meta.api",
    "MetaGradient": "dilkit.meta.api",
    "Sgd": "dilkit.meta.inner",
    "Learned": "dilkit.meta.inner",
    "TorchOptimizer": "dilkit.meta.inner",
    "Adam": "dilkit.meta.inner",
    "optimizer": "dilkit.meta.inner",
}
"""Public name -> the module that defines it."""

__all__ = ["Adam", "Learned", "Meta", "MetaGradient", "Sgd", "TorchOptimizer", "of", "optimizer"]


def of(net: nn.Module) -> Meta:
    """The virtual worlds of a module, decorated or not."""
    from dilkit.meta.api import Meta

    return Meta(net)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'dilkit.meta' has no attribute {name!r}")


class _CallableModule(ModuleType):
    def __call__(self, target: Any) -> Any:
        from dilkit.meta.api import decorate

        return decorate(target)


sys.modules[__name__].__class__ = _CallableModule
