"""The algebra of distortions: `gaussian_blur(2) >> awgn[5, 10, 15, 20] | clean`.

Every registered distortion is an attribute of this module: `from dilkit.distortions import awgn, jpeg`.

    algebra.py       kinds, words, sets, the operations and their laws, the registry
    grammar.py       text to values, with errors that point; presets.py texts with names
    render.py        choices to pixels, in windows; randomness.py keys and random fields
    params.py        ranges and laws of parameters, and how far an output pixel looks
    symmetry.py      groups that carry one degree to another
    novelty.py       whether a distortion was met in training, or is reached from there
    albumentations.py  its transforms as words, words as its transforms, whole pipelines both ways
    contract.py      whether a kind keeps its contract
    families/        the distortions themselves

Each file imports only what stands below it: params and randomness, render, symmetry, presets, algebra,
grammar and families; novelty, contract and albumentations on top.
"""

from __future__ import annotations

import importlib
from typing import Any

from dilkit.distortions import albumentations
from dilkit.distortions.albumentations import from_albumentations, to_albumentations
from dilkit.distortions.algebra import (
    REGISTRY,
    ConfounderSet,
    Expression,
    Extent,
    KindError,
    Mix,
    Primitive,
    PrimitiveKind,
    Shuffle,
    Word,
    clean,
    distortions,
    interleave,
    mix,
    none,
    prob,
    shuffle,
)
from dilkit.distortions.grammar import ExpressionError, confounder_set, describe_preset, distort_image, parse
from dilkit.distortions.params import (
    GLOBAL,
    POINT,
    Law,
    Locality,
    Param,
    choice,
    integers,
    inverse_uniform,
    loguniform,
    root_uniform,
    uniform,
)
from dilkit.distortions.randomness import Draw, SampleKey, Window, pixel_hash
from dilkit.distortions.render import Image, as_float
from dilkit.distortions.symmetry import Symmetry

importlib.import_module(f"{__name__}.families")  # each family registers its kinds

register = REGISTRY.add
"""Add a distortion of your own: `dilkit.register(PrimitiveKind(...))`."""


def __getattr__(name: str) -> Any:
    if name == "Distort":  # a word as an albumentations transform; it imports that library
        return albumentations.Distort
    if not name.startswith("_") and (kind := REGISTRY.find(name)) is not None:
        return kind
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *REGISTRY.loaded, "Distort"})


__all__ = [
    "GLOBAL",
    "POINT",
    "REGISTRY",
    "ConfounderSet",
    "Draw",
    "Expression",
    "ExpressionError",
    "Extent",
    "Image",
    "KindError",
    "Law",
    "Locality",
    "Mix",
    "Param",
    "Primitive",
    "PrimitiveKind",
    "SampleKey",
    "Shuffle",
    "Symmetry",
    "Window",
    "Word",
    "as_float",
    "choice",
    "clean",
    "confounder_set",
    "describe_preset",
    "distort_image",
    "distortions",
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
