"""Nets of the user's own, by `package.module:Class`: imported and called only as far as they are trusted."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from dilkit.errors import UsageError, nearest
from dilkit.models.config import CustomConfig, Trust
from dilkit.registry import import_named


def build_custom(config: CustomConfig, trust: Trust, more: Mapping[str, Any]) -> nn.Module:
    """Import the class and call it with its arguments.

    Args:
        trust: `registered` refuses before anything is imported; `modules` calls only subclasses of
            `nn.Module`, which is checked before the call; `code` calls whatever is named.

    Raises:
        UsageError: it is not trusted, cannot be imported, does not take the arguments, or makes no net.
    """
    if trust == "registered":
        raise UsageError(
            f"it names code to run, {config.name}, which has not been imported",
            where="model.name",
            expected="the name of a model of dilkit or of an installed plug-in",
            remedy="if you trust it: --trust-code, or load(..., trust_code=True)",
        )
    make = import_named(config.name, "model.name")
    if trust == "modules" and not (isinstance(make, type) and issubclass(make, nn.Module)):
        raise UsageError(
            f"{config.name} is no torch.nn.Module, and has not been called",
            where="model.name",
            found=f"a {type(make).__name__}",
            expected="a class that is a torch.nn.Module",
            remedy="--trust-code (trust_code=True) also calls functions that make a net",
        )
    given = {**config.arguments(), **more}
    _check_arguments(make, config.name, given)
    net = make(**given)
    if not isinstance(net, nn.Module):
        raise UsageError(f"{config.name} did not make a torch.nn.Module", found=type(net).__name__)
    return net


def _check_arguments(make: Any, name: str, given: Mapping[str, Any]) -> None:
    """Refuse arguments that the signature does not take; an error inside the call is the net's own."""
    if not callable(make):
        raise UsageError(
            f"{name} is no class or function that makes a net",
            where="model.name",
            found=type(make).__name__,
        )
    try:
        signature = inspect.signature(make)
    except ValueError:  # made in C, without one
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        strange = next((key for key in given if key not in signature.parameters), None)
        raise UsageError(
            f"{name}: {error}",
            where="model.args",
            found=", ".join(f"{key}={value!r}" for key, value in given.items()) or "no arguments",
            expected=f"{name.partition(':')[2]}{signature}",
            nearest=nearest(strange, signature.parameters) if strange is not None else None,
            remedy="model.args.NAME=VALUE gives an argument in a recipe, NAME=VALUE after `dilkit check`",
        ) from None
