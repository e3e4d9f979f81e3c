"""Nets of the user's own, by `package.module:Class`: imported and called only as far as they are trusted, and
which image sizes they take, found by trying it, because a net need not say."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

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
            f"{config.name} is not a torch.nn.Module, and has not been called",
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
            f"{name} is not a class or function that makes a net",
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


def scale_between(given: Tensor, restored: object) -> int | None:
    """By what whole number the output is larger than the input; None for anything else."""
    if not isinstance(restored, Tensor) or restored.ndim != 4 or restored.shape[:2] != given.shape[:2]:
        return None
    scale = restored.shape[-1] // given.shape[-1]
    same = restored.shape[-2:] == (given.shape[-2] * scale, given.shape[-1] * scale)
    return scale if scale >= 1 and same else None


@torch.inference_mode()
def find_multiple(net: nn.Module, device: str | torch.device = "cpu") -> int | None:
    """The least m among 1, 2, 4 .. 128 such that the net takes sides that are odd multiples of m, and returns
    them or a whole multiple of them; None where none will do. The net is run once or twice per candidate."""
    for m in (1, 2, 4, 8, 16, 32, 64, 128):
        least = -(-48 // m) | 1
        x = torch.full((1, 3, m * least, m * (least + 2)), 0.5, device=device)
        try:
            found = net(x)
        except Exception:  # noqa: BLE001  (a net may raise anything about a size it does not take)
            continue
        if scale_between(x, found) is not None:
            return m
    return None


@torch.inference_mode()
def takes(net: nn.Module, side: int) -> bool:
    """Whether the net takes a square of this side, and returns one of a whole multiple of it."""
    x = torch.full((1, 3, side, side), 0.5)
    try:
        return scale_between(x, net(x)) is not None
    except Exception:  # noqa: BLE001  (a net may raise anything about a size it does not take)
        return False
