"""What there is to say about every distortion and preset, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import REGISTRY, REQUIRED, Param, PrimitiveKind, show_value
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError, nearest


def distortions() -> list[PrimitiveKind]:
    """Every kind, by family and name."""
    return sorted(REGISTRY.kinds.values(), key=lambda kind: (kind.family, kind.name))


def describe_distortion(name: str) -> dict[str, Any]:
    """One distortion: what it does, its parameters, how far it looks, where it comes from."""
    kind = REGISTRY.get(name)
    return {
        "name": kind.name,
        "summary": kind.summary,
        "write": usage(kind),
        "parameters": [_parameter(param) for param in kind.params],
        "degree": kind.degree,
        "locality": locality(kind),
        "random": kind.random,
        "family": kind.family,
        "source": kind.source,
        "version": kind.version,
    }


def describe_preset(name: str) -> dict[str, Any]:
    """One preset: its expression in full, its hash, its source, where it departs from it."""
    from dilkit.distortions.grammar import parse

    preset = PRESETS.get(name.replace("_", "-"))
    if preset is None:
        raise UsageError(
            f"no preset is called {name!r}",
            nearest=nearest(name, PRESETS),
            remedy="`dilkit ls presets` lists them",
        )
    made = parse(preset.text)
    return {
        "name": preset.name,
        "summary": preset.summary,
        "expression": str(made),
        "hash": made.hash,
        "source": preset.source,
        "notes": preset.notes,
    }


def usage(kind: PrimitiveKind) -> str:
    """How it is written, with something allowed for what must be given: `awgn(64)`."""
    if not kind.params:
        return kind.name
    return str(kind(**example(kind)))


def example(kind: PrimitiveKind) -> dict[str, Any]:
    """Something allowed for every parameter that has no default."""
    if kind.name == "alb":
        return {"transform": "MotionBlur"}
    return {param.name: _within(param, 0.25) for param in kind.params if param.default is REQUIRED}


def _within(param: Param, share: float) -> Any:
    if param.choices:
        return param.choices[0]
    if param.type in (str, bool):
        return param.type()
    low, high = max(param.low, -1e6), min(param.high, 1e6)
    value = low + (high - low) * share
    return round(value) if param.type is int else float(f"{value:.2g}")


def locality(kind: PrimitiveKind) -> str:
    """point, halo or global; several where it depends on the parameters."""
    free: Mapping[str, Any] = {param.name: param.default for param in kind.params} | example(kind)
    tried = [free]
    for param in kind.params:
        if param.type is bool:
            tried.append({**free, param.name: not free[param.name]})
        elif param.type is float and param.name != kind.degree and math.isfinite(param.high):
            tried.append({**free, param.name: param.high})
    return " or ".join(dict.fromkeys(kind.locality(params).name for params in tried))


def _parameter(param: Param) -> dict[str, Any]:
    required = param.default is REQUIRED
    return {
        "name": param.name,
        "takes": param.range,
        "default": None if required else show_value(param.default),
        "meaning": param.doc,
    }
