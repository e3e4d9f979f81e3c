"""Recipes: what a training run is, composed from files, parts and the command line."""

from __future__ import annotations

from dilkit.recipe.compose import (
    Composed,
    compose,
    differences,
    json_schema,
    origins,
    resolved,
    to_yaml,
    validate,
)
from dilkit.recipe.leaks import refuse_leaks
from dilkit.recipe.schema import Recipe
from dilkit.recipe.shipped import parts, shipped

__all__ = [
    "Composed",
    "Recipe",
    "compose",
    "differences",
    "json_schema",
    "origins",
    "parts",
    "refuse_leaks",
    "resolved",
    "shipped",
    "to_yaml",
    "validate",
]
