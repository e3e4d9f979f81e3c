"""What may be asked of recipes: where values come from, how two differ, what an editor should know."""

from __future__ import annotations

from typing import Any

from dilkit.recipe.compose import Composed, resolved
from dilkit.recipe.layers import dotted, leaves
from dilkit.recipe.schema import Recipe


def origins(composed: Composed) -> list[tuple[str, Any, str]]:
    """(key, value, file and line or flag) of every value of a recipe; `default` where none gave it."""
    rows = []
    for key, value in leaves(resolved(composed.recipe)):
        ends = [key[:n] for n in range(len(key), 0, -1)]
        found = next((composed.layer.origins[k] for k in ends if k in composed.layer.origins), None)
        given = found is not None and _has(composed.layer.tree, key)
        rows.append((dotted(key), value, str(found) if given else "default"))
    return rows


def differences(old: Any, new: Any, at: str = "") -> list[str]:
    """Where two resolved recipes differ, as `key: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{at}.{k}" if at else k)]
    return [] if old == new else [f"{at}: {old} -> {new}"]


def json_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file: the schema of a recipe with nothing required, since the rest may come
    from what it extends, and the two keys that composition takes away."""
    schema = Recipe.model_json_schema(by_alias=True)
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    names = {"type": "string"}
    schema["properties"]["extends"] = {"anyOf": [names, {"type": "array", "items": names}]}
    schema["properties"]["objectives"] = {"type": "object", "description": "settings by objective name"}
    for section in ("model", "objective"):
        schema["properties"][section] = {"anyOf": [names, schema["properties"][section]]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _has(tree: Any, key: tuple[str | int, ...]) -> bool:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True
