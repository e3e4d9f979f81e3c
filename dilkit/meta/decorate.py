"""`dilkit.meta(...)`: one descriptor on a class, and nothing else changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, overload

from torch import nn

from dilkit.errors import UsageError
from dilkit.meta.view import Meta

C = TypeVar("C", bound=type[nn.Module])
N = TypeVar("N", bound=nn.Module)
P = ParamSpec("P")


class MetaDescriptor:
    """`Net.meta`; on an instance, its `Meta`.

    A parameter, buffer or submodule that the instance calls `meta` keeps that name: use `dilkit.meta.of`.
    """

    def __get__(self, instance: nn.Module | None, owner: type | None = None) -> Any:
        if instance is None:
            return self
        for own in (instance._modules, instance._parameters, instance._buffers):
            if "meta" in own:
                return own["meta"]
        return Meta(instance)


@overload
def decorate(target: C) -> C: ...
@overload
def decorate(target: N) -> N: ...
@overload
def decorate(target: Callable[P, N]) -> Callable[P, N]: ...
def decorate(target: Any) -> Any:
    """Give a module class, a module, or what a function builds, its `.meta`.

    A class is returned as itself, with one more attribute; an instance as itself (its class gets the
    attribute, since one of its own would not survive pickling); a factory is wrapped.

    Raises:
        UsageError: the class already means something else by `meta`.
    """
    if isinstance(target, type) and issubclass(target, nn.Module):
        _install(target)
        return target
    if isinstance(target, nn.Module):
        _install(type(target))
        return target
    if callable(target) and not isinstance(target, type):

        @functools.wraps(target)
        def build(*args: Any, **kwargs: Any) -> Any:
            made = target(*args, **kwargs)
            if not isinstance(made, nn.Module):
                raise UsageError(
                    f"{getattr(target, '__name__', 'the factory')} did not build a module",
                    found=type(made).__name__,
                )
            return decorate(made)

        return build
    raise UsageError(
        "dilkit.meta takes a module class, a module, or a function that builds one",
        found=target.__name__ if isinstance(target, type) else type(target).__name__,
    )


def _install(cls: type[nn.Module]) -> None:
    present = getattr(cls, "meta", None)
    if isinstance(present, MetaDescriptor):
        return
    if present is not None:
        raise UsageError(
            f"{cls.__name__} already has an attribute `meta`", remedy="use dilkit.meta.of(net) instead"
        )
    cls.meta = MetaDescriptor()  # type: ignore[attr-defined]
