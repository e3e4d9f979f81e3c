"""Recipes: what a training run is, composed from files, parts and the command line."""

from __future__ import annotations

from dilkit.recipe.compose import Composed, compose, resolved, to_yaml, validate
from dilkit.recipe.schema import Recipe
from dilkit.recipe.shipped import parts, shipped

__all__ = ["Composed", "Recipe", "compose", "parts", "resolved", "shipped", "to_yaml", "validate"]
