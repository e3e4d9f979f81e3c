"""The algebra of distortions: `gaussian_blur(2) >> awgn[5, 10, 15, 20] | clean`.

Every registered distortion is an attribute of this module: `from dilkit.distortions import awgn, jpeg`.

    words.py         the values: words and confounder sets, of steps.py; canonical.py their identity
    algebra.py       the operations and their laws; operators.py gives them to Python's signs
    text.py          values to text; parser.py text to values; presets.py texts with names
    sampling.py      words to pixels: keys, choices, windows; draw.py the random fields
    eight_bit.py     between [0, 1] and whole levels
    primitive.py     what a kind is, and the registry; registration.py its conditions; plugins.py the rest
    locality.py      how far an output pixel looks
    novelty.py       whether a distortion was met in training
    foreign.py       albumentations' transforms as words; interchange.py whole pipelines, both ways
"""

from __future__ import annotations

import importlib
from typing import Any

from dilkit.distortions.albumentations import from_albumentations, to_albumentations
from dilkit.distortions.algebra import (
    REGISTRY,
    ConfounderSet,
    Expression,
    Image,
    KindError,
    Mix,
    Param,
    Primitive,
    PrimitiveKind,
    Registry,
    Shuffle,
    Word,
    clean,
    confounder_set,
    interleave,
    mix,
    none,
    prob,
    shuffle,
)
from dilkit.distortions.grammar import ExpressionError, parse
from dilkit.distortions.params import (
    GLOBAL,
    POINT,
    Law,
    Locality,
    choice,
    integers,
    inverse_uniform,
    loguniform,
    root_uniform,
    uniform,
)
from dilkit.distortions.randomness import Draw, Window
from dilkit.distortions.render import SampleKey, as_float, pixel_hash

importlib.import_module(f"{__name__}.families")  # each family registers its kinds

register = REGISTRY.add
"""Add a distortion of your own: `dilkit.register(PrimitiveKind(...))`."""


def __getattr__(name: str) -> Any:
    if name == "Distort":  # a word as an albumentations transform; it imports that library
        return importlib.import_module("dilkit.distortions._albumentations").Distort
    if not name.startswith("_") and (kind := REGISTRY.find(name)) is not None:
        return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *(kind.name for kind in REGISTRY.loaded), "Distort"})


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
