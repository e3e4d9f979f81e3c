"""Recipes: what a training run is, composed from files, parts and the command line."""

from __future__ import annotations

from dilkit.recipe.compose import (
    Composed,
    compose,
    differences,
    json_schema,
    origins,
    parts,
    read_shipped,
    refuse_leaks,
    resolved,
    shipped,
    to_yaml,
    validate,
)
from dilkit.recipe.explain import keys
from dilkit.recipe.schema import Recipe

__all__ = [
    "Composed",
    "Recipe",
    "compose",
    "differences",
    "json_schema",
    "keys",
    "origins",
    "parts",
    "read_shipped",
    "refuse_leaks",
    "resolved",
    "shipped",
    "to_yaml",
    "validate",
]
