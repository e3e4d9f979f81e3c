"""The algebra of distortions: `gaussian_blur(2) >> awgn[5, 10, 15, 20] | clean`.

Every registered distortion is an attribute of this module: `from dilkit.distortions import awgn, jpeg`.
"""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from dilkit.distortions.algebra import confounder_set, interleave, mix, prob, shuffle
from dilkit.distortions.draw import Draw, Window
from dilkit.distortions.interchange import from_albumentations, to_albumentations
from dilkit.distortions.laws import Law, choice, integers, inverse_uniform, loguniform, root_uniform, uniform
from dilkit.distortions.parser import ExpressionError, parse
from dilkit.distortions.primitive import (
    GLOBAL,
    POINT,
    REGISTRY,
    Image,
    Locality,
    Param,
    PrimitiveKind,
    Registry,
)
from dilkit.distortions.sampling import SampleKey, as_float, pixel_hash
from dilkit.distortions.words import (
    ConfounderSet,
    Expression,
    KindError,
    Mix,
    Primitive,
    Shuffle,
    Word,
    clean,
    none,
)

_FAMILIES = (
    "noise",
    "blur",
    "compression",
    "pointwise",
    "tone",
    "resampling",
    "weather",
    "camera",
    "foreign",
)
for _family in _FAMILIES:
    if find_spec(f"{__name__}.{_family}") is not None:
        importlib.import_module(f"{__name__}.{_family}")


register = REGISTRY.add
"""Add a distortion of your own: `dilkit.register(PrimitiveKind(...))`."""


def __getattr__(name: str) -> Any:
    if not name.startswith("_") and (kind := REGISTRY.find(name)) is not None:
        return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GLOBAL",
    "POINT",
    "REGISTRY",
    "ConfounderSet",
    "Draw",
    "Expression",
    "ExpressionError",
    "Image",
    "KindError",
    "Law",
    "Locality",
    "Mix",
    "Param",
    "Primitive",
    "PrimitiveKind",
    "Registry",
    "SampleKey",
    "Shuffle",
    "Window",
    "Word",
    "as_float",
    "choice",
    "clean",
    "confounder_set",
    "from_albumentations",
    "integers",
    "interleave",
    "inverse_uniform",
    "loguniform",
    "mix",
    "none",
    "parse",
    "pixel_hash",
    "prob",
    "register",
    "root_uniform",
    "shuffle",
    "to_albumentations",
    "uniform",
]
