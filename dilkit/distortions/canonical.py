"""The canonical form as JSON: what equality, order, hashes and keys are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from dilkit.distortions.laws import Law

SCHEME = b"dilkit-distort-1"
"""Part of every hash; it changes when the canonical form does."""


def primitive(name: str, version: int, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "params": {key: value_form(v) for key, v in params.items()}, "version": version}


def value_form(value: Any) -> Any:
    """A parameter's value, JSON-able and exact: 25.0 is 25."""
    if isinstance(value, Law):
        return {"law": value.name, "args": [value_form(arg) for arg in value.args]}
    if isinstance(value, (list, tuple)):
        return [value_form(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): value_form(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def dumps(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16, person=SCHEME).hexdigest()


def order(form: Any) -> tuple[Any, ...]:
    """A sorting key for JSON-able values of any types: numbers by size, texts by letters."""
    if form is None:
        return (0,)
    if isinstance(form, bool):
        return (1, form)
    if isinstance(form, (int, float)):
        return (2, form)
    if isinstance(form, str):
        return (3, form)
    if isinstance(form, list):
        return (4, tuple(order(item) for item in form))
    return (5, tuple((key, order(form[key])) for key in sorted(form)))


def corners(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters with every law at each of its extremes."""
    sides = [value.extremes if isinstance(value, Law) else (value,) for value in params.values()]
    for values in product(*sides):
        yield dict(zip(params, values, strict=True))
