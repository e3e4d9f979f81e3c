"""Virtual updates of any module, differentiated exactly, from one step's activations at a time.

    @dilkit.meta
    class Net(nn.Module): ...

    net.meta.grad(loss, batches, steps=4)

The module object itself is callable: `dilkit.meta(Net)`, `dilkit.meta(net)`, `dilkit.meta(factory)`. It needs
torch alone, which is imported when it is first used.
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
    "Adam": "dilkit.meta.inner",
    "Groups": "dilkit.meta.inner",
    "ImplicitGradient": "dilkit.meta.implicit",
    "Learned": "dilkit.meta.inner",
    "Meta": "dilkit.meta.api",
    "MetaGradient": "dilkit.meta.api",
    "PerStep": "dilkit.meta.inner",
    "Sgd": "dilkit.meta.inner",
    "StepwiseBatchNorm": "dilkit.meta.batch_norm",
    "TorchOptimizer": "dilkit.meta.inner",
    "Transformed": "dilkit.meta.inner",
    "criterion": "dilkit.meta.arguments",
    "inner_step": "dilkit.meta.setting",
    "optimizer": "dilkit.meta.inner",
    "stepwise": "dilkit.meta.batch_norm",
}
"""Public name -> the module that defines it."""
_OF_A_NET = ("at", "grad", "implicit", "step", "tasks", "theta")

__all__ = ["of", *_PUBLIC]


def of(net: nn.Module) -> Meta:
    """The virtual updates of a module, decorated or not."""
    from dilkit.meta.api import Meta

    return Meta(net)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    hint = f"; it is dilkit.meta.of(net).{name}" if name in _OF_A_NET else ""
    raise AttributeError(f"module 'dilkit.meta' has no attribute {name!r}{hint}")


class _CallableModule(ModuleType):
    def __call__(self, target: Any) -> Any:
        from dilkit.meta.api import decorate

        return decorate(target)


sys.modules[__name__].__class__ = _CallableModule
