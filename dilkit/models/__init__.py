"""Restoration nets: one file each, built by name or from any `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from dilkit.errors import UsageError, nearest
from dilkit.models.config import BUILTIN, AnyModel, Custom, ModelConfig

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BUILTIN", "build", "from_config"]


def build(name: str, **args: Any) -> nn.Module:
    """Build a model by its name.

    Args:
        name: one of `BUILTIN`, or `package.module:Class` with its arguments in `args={...}`.
        args: the fields of that model's config, and `equivariant`.

    Raises:
        UsageError: no such model, or an argument it does not take.
    """
    if ":" not in name and name not in BUILTIN:
        raise UsageError(
            f"unknown model {name!r}",
            expected=", ".join(sorted(BUILTIN)) + ", or package.module:Class",
            nearest=nearest(name, BUILTIN),
        )
    try:
        config: ModelConfig = TypeAdapter(AnyModel).validate_python({"name": name, **args})
    except ValidationError as error:
        first = error.errors()[0]
        key, fields = str(first["loc"][-1]), BUILTIN.get(name, Custom).model_fields
        raise UsageError(
            f"model {name}: {first['msg']}",
            where=f"model.{key}",
            found=first["input"],
            nearest=nearest(key, fields) if first["type"] == "extra_forbidden" else None,
        ) from None
    return from_config(config)


def from_config(config: ModelConfig) -> nn.Module:
    """Build the model a validated config describes."""
    from torch import nn

    if isinstance(config, Custom):
        make = import_object(config.name, "model.name")
        _check_arguments(make, config)
        net = make(**config.arguments())
        if not isinstance(net, nn.Module):
            raise UsageError(f"{config.name} did not make a torch.nn.Module", found=type(net).__name__)
    else:
        name = config.name  # type: ignore[attr-defined]
        net = importlib.import_module(f"dilkit.models.{name}").build(**config.arguments())
    if config.equivariant:
        from dilkit.models.equivariant import Equivariant

        net = Equivariant(net)
    return net


def _check_arguments(make: Any, config: Custom) -> None:
    """Refuse arguments that the signature does not take; an error inside the call is the net's own."""
    if not callable(make):
        raise UsageError(
            f"{config.name} is no class or function that makes a net",
            where="model.name",
            found=type(make).__name__,
        )
    try:
        signature = inspect.signature(make)
    except ValueError:  # made in C, without one
        return
    given = config.arguments()
    try:
        signature.bind(**given)
    except TypeError as error:
        strange = next((name for name in given if name not in signature.parameters), None)
        raise UsageError(
            f"{config.name}: {error}",
            where="model.args",
            found=", ".join(f"{name}={value!r}" for name, value in given.items()) or "no arguments",
            expected=f"{config.name.partition(':')[2]}{signature}",
            nearest=nearest(strange, signature.parameters) if strange is not None else None,
            remedy="model.args.NAME=VALUE gives an argument in a recipe, NAME=VALUE after `dilkit check`",
        ) from None


def import_object(path: str, where: str) -> Any:
    """What `package.module:name` names; `where` is the recipe's key, for the error."""
    module, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        itself = error.name is None or module == error.name or module.startswith(f"{error.name}.")
        own = "install the package, or put its folder on PYTHONPATH: PYTHONPATH=. dilkit ..."
        raise UsageError(
            f"cannot import {module!r}: {error}",
            where=where,
            remedy=own if itself else f"install {error.name}, which {module} imports",
        ) from error
    except AttributeError:
        found = importlib.import_module(module)
        raise UsageError(
            f"{module} has no {attribute!r}", where=where, nearest=nearest(attribute, dir(found))
        ) from None
