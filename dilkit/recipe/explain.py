"""Errors about a recipe, told in the user's terms: file, line, key, found, expected, nearest."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from dilkit.errors import UsageError, nearest
from dilkit.objectives import AnyObjective, ObjectiveConfig, configs
from dilkit.recipe.layers import Key, Layer, dotted
from dilkit.recipe.schema import ByName, Recipe


def explain(error: ValidationError, layer: Layer, within: Key = ()) -> UsageError:
    """The first mistake of a recipe, where it was made; `within` is the section that was validated."""
    found = min(error.errors(), key=lambda e: e["type"] == "missing")
    key = _user_key((*within, *found["loc"]), layer.tree, found["type"])
    where = layer.origin(key)
    at = dotted(key)
    kind = found["type"]
    named = layer.tree.get("model") if key[:1] == ("model",) else None
    if kind == "extra_forbidden" and isinstance(named, dict) and ":" in str(named.get("name")):
        return UsageError(
            f"{at!r} is not a setting of a net of your own", where=where, remedy=f"model.args.{key[-1]}=VALUE"
        )
    if kind == "extra_forbidden":
        return UsageError(
            f"unknown key {at!r}",
            where=where,
            expected=", ".join(fields_at(key[:-1], layer.tree)) or None,
            nearest=_nearest_key(key, layer.tree),
        )
    if kind == "missing":
        return UsageError(f"{at!r} is missing", where=where or "recipe", remedy=_give(key))
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        tags = [t.strip().strip("'") for t in str(found["ctx"].get("expected_tags", "")).split(",")]
        tags = [t for t in tags if t] or list(_names_at(key))
        name = found["input"].get("name") if isinstance(found["input"], dict) else found["input"]
        return UsageError(
            f"{at!r} has no such name",
            where=layer.origin((*key, "name")) or where,
            found=name,
            expected=", ".join(tags),
            nearest=nearest(str(name), tags),
        )
    choices = str(found.get("ctx", {}).get("expected", ""))
    options = [c.strip(" '") for c in choices.replace(" or ", ",").split(",")] if choices else []
    message = found["msg"].removeprefix("Value error, ")
    if not key or kind == "value_error":
        return UsageError(message, where=where or at or "recipe", found=found.get("ctx", {}).get("found"))
    return UsageError(
        f"{at}: wrong value",
        where=where,
        found=repr(found["input"]),
        expected=message[0].lower() + message[1:],
        nearest=nearest(str(found["input"]), options),
        remedy=f"a list has brackets: [{found['input']}]" if _is_bare_item(found) else None,
    )


def _give(key: Key) -> str:
    """How a value that is missing is given."""
    if key == ("model",):
        return "begin with a recipe (`dilkit recipes ls` lists them), or give a model, such as model=dncnn"
    return f"give {dotted(key)}=VALUE, or `{key[-1]}: VALUE` in a recipe file"


def _is_bare_item(found: Any) -> bool:
    """Whether a text or number stands where a list of them should."""
    return found["type"] in ("list_type", "tuple_type") and isinstance(found["input"], (str, int, float))


def refuse_wrong_settings(name: str, settings: Any, layer: Layer) -> None:
    """Refuse a wrong entry of `objectives:`, chosen or not."""
    tree = {"name": name, **settings} if isinstance(settings, dict) else settings
    try:
        TypeAdapter(AnyObjective).validate_python(tree)
    except ValidationError as error:
        at: Key = ("objectives", name)
        origins = {("objective", *k[2:]): o for k, o in layer.origins.items() if k[:2] == at}
        raise explain(error, Layer({"objective": tree}, origins), ("objective",)) from None


def keys() -> list[str]:
    """Every key of a recipe that holds a value, with its path: `optim.lr`, `objective.inner.lr`."""
    found = dict.fromkeys(dotted(path) for path in _paths(Recipe))
    sections = {key.rpartition(".")[0] for key in found}
    return [key for key in found if key not in sections]


def fields_at(key: Key, tree: Any) -> list[str]:
    """The keys the schema has at a path, given the names chosen in the tree."""
    kinds: list[type[BaseModel]] = [Recipe]
    for part in key:
        annotations = [_fields(k)[str(part)] for k in kinds if part in _fields(k)]
        kinds = [m for a in annotations for m in _models(a)]
        tree = tree.get(part) if isinstance(tree, dict) else None
        name = tree.get("name") if isinstance(tree, dict) else None
        named = [k for k in kinds if name is not None and name in _names(k)]
        kinds = named or kinds
    return sorted({*(n for k in kinds for n in _fields(k)), *(() if key else ("extends", "objectives"))})


def takes_text(key: Key) -> bool:
    """Whether the schema has only text at this path, so that `a=10` is the text "10"."""
    kinds: list[Any] = [Recipe]
    for part in key:
        kinds = [_fields(k)[str(part)] for a in kinds for k in _models(a) if part in _fields(k)]
    return bool(kinds) and all(set(_plain_types(k)) <= {str, type(None)} for k in kinds)


def _user_key(loc: tuple[int | str, ...], tree: Any, kind: str) -> Key:
    """`loc` without the tags that pydantic adds for the members of a union."""
    key: list[int | str] = []
    for i, part in enumerate(loc):
        last = i == len(loc) - 1
        if isinstance(tree, dict):
            if part in tree:
                tree = tree[part]
            elif not (last and kind == "missing"):
                continue
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            continue
        key.append(part)
    return tuple(key)


def _nearest_key(key: Key, tree: Any) -> str | None:
    here = nearest(str(key[-1]), fields_at(key[:-1], tree))
    if here is not None:
        return dotted((*key[:-1], here))
    everywhere = {str(path[-1]): dotted(path) for path in sorted(_paths(Recipe), key=len, reverse=True)}
    elsewhere = nearest(str(key[-1]), everywhere)
    return everywhere[elsewhere] if elsewhere is not None else None


def _paths(model: type[BaseModel], at: Key = ()) -> Iterator[Key]:
    for name, annotation in _fields(model).items():
        yield (*at, name)
        for inner in _models(annotation):
            yield from _paths(inner, (*at, name))


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Key in the recipe -> annotation."""
    return {
        field.alias or name: Annotated[(field.annotation, *field.metadata)]
        if field.metadata
        else field.annotation
        for name, field in model.model_fields.items()
    }


def _members(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        plain, *extra = get_args(annotation)
        chosen = [choice for choice in extra if isinstance(choice, ByName)]
        yield from chosen[0].configs() if chosen else _members(plain)
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    else:
        yield annotation


def _models(annotation: Any) -> list[type[BaseModel]]:
    found = [m for m in _members(annotation) if isinstance(m, type) and issubclass(m, BaseModel)]
    return [m for model in found for m in (configs().values() if model is ObjectiveConfig else (model,))]


def _plain_types(annotation: Any) -> Iterator[Any]:
    for member in _members(annotation):
        if get_origin(member) is typing.Literal:
            yield from (type(v) for v in get_args(member))
        else:
            yield member


def _names(model: type[BaseModel]) -> tuple[Any, ...]:
    if issubclass(model, ObjectiveConfig):
        return tuple(name for name, config in configs().items() if config is model)
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None else ()


def _names_at(key: Key) -> Iterator[str]:
    annotation = _fields(Recipe).get(str(key[0])) if len(key) == 1 else None
    for model in _models(annotation):
        yield from _names(model)
