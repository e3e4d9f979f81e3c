"""Where each value of a recipe comes from, and how two layers of a recipe become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent, NodeEvent

from dilkit.errors import UsageError

Key = tuple[str | int, ...]
ALTERNATIVES: dict[Key, tuple[str, ...]] = {
    (): ("steps", "passes", "epochs", "hours"),
    ("data",): ("store", "sources"),
}
"""By section, keys of which a recipe has one: a layer that gives one replaces the others below it."""
NAMED = frozenset({"model", "objective", "inner", "optim", "schedule", "orbit"})
"""Sections told apart by their `name`; `model: dncnn` is short for `model: {name: dncnn}`."""


@dataclass(frozen=True)
class Origin:
    """A line of a file, or the command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Layer:
    """Plain nested values, and the origin of every key of them."""

    tree: dict[str, Any]
    origins: dict[Key, Origin] = field(default_factory=dict)

    def origin(self, key: Key) -> Origin | None:
        """The origin of `key`, or of something inside it, or of the section it is in."""
        if key in self.origins:
            return self.origins[key]
        if not key:
            return None
        inside = (o for k, o in self.origins.items() if k[: len(key)] == key)
        return next(inside, None) or self.origin(key[:-1])


LARGEST = 1 << 16
"""Characters of a recipe file; the largest that is shipped has 4,000."""
_DEEPEST, _MOST_VALUES = 32, 4_000
_TAGS = (
    "tag:yaml.org,2002:str",
    "tag:yaml.org,2002:int",
    "tag:yaml.org,2002:float",
    "tag:yaml.org,2002:bool",
)


def read_layer(text: str, source: str) -> Layer:
    """Parse YAML 1.2 text (so `1e-4` is a number and `on` is text), remembering lines.

    Raises:
        UsageError: it is not YAML, not a map, names a type to construct (`!!python/...`), or is larger,
            deeper or (its aliases written out) longer than any recipe is.
    """
    if len(text) > LARGEST:
        raise UsageError(
            "too large for a recipe",
            where=source,
            found=f"{len(text)} characters",
            expected=f"at most {LARGEST}",
        )
    try:
        _refuse_tags_and_depth(text, source)
        node = YAML(typ="rt").load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = Origin(source, mark.line + 1 if mark else None)
        raise UsageError(f"not YAML: {getattr(error, 'problem', error)}", where=where) from None
    except UsageError:
        raise
    except (ValueError, TypeError, ArithmeticError, AttributeError) as error:  # a date or number out of range
        raise UsageError(f"not YAML: {error}", where=source) from None
    if node is None:
        return Layer({})
    if not isinstance(node, CommentedMap):
        raise UsageError("a recipe is a map of keys", where=source, found=type(node).__name__)
    origins: dict[Key, Origin] = {}
    return Layer(_plain(node, (), source, origins), origins)


def _refuse_tags_and_depth(text: str, source: str) -> None:
    """Look at the events alone, which construct nothing and expand no alias."""
    depth = values = 0
    for event in YAML(typ="rt", pure=True).parse(text):
        where = Origin(source, event.start_mark.line + 1)
        tag = getattr(event, "tag", None)
        if tag is not None and str(tag) not in _TAGS:
            raise UsageError(
                "a recipe holds plain values, it constructs nothing", where=where, found=str(tag)
            )
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        values += isinstance(event, NodeEvent)
        if values > _MOST_VALUES:
            raise UsageError(
                "too large for a recipe", where=source, expected=f"{_MOST_VALUES} values at most"
            )
        if depth > _DEEPEST:
            raise UsageError(
                "nested too deeply for a recipe", where=where, expected=f"{_DEEPEST} levels at most"
            )


def read_layer_file(path: Path) -> Layer:
    """Read a recipe file."""
    try:
        with path.open(encoding="utf-8") as file:
            return read_layer(file.read(LARGEST + 1), str(path))
    except FileNotFoundError:
        raise UsageError("no such file", where=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the recipe: {error}", where=path) from None


def _plain(node: Any, at: Key, source: str, origins: dict[Key, Origin]) -> Any:
    if len(origins) > _MOST_VALUES or len(at) > _DEEPEST:
        raise UsageError(
            "its aliases make it too large for a recipe",
            where=source,
            expected=f"{_MOST_VALUES} values at most",
        )
    if isinstance(node, CommentedMap):
        tree = {}
        for key, value in node.items():
            inner = (*at, str(key))
            line = node.lc.data.get(key)  # none for what a merge key (`<<`) brings
            origins[inner] = Origin(source, line[0] + 1 if line else None)
            tree[str(key)] = written_out(str(key), _plain(value, inner, source, origins))
        return tree
    if isinstance(node, CommentedSeq):
        items = []
        for i, value in enumerate(node):
            origins[(*at, i)] = Origin(source, node.lc.item(i)[0] + 1)
            items.append(_plain(value, (*at, i), source, origins))
        return items
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def written_out(key: str, value: Any) -> Any:
    """A section given by its name alone, written out."""
    return {"name": value} if key in NAMED and isinstance(value, str) else value


def overlay(below: Layer, above: Layer) -> Layer:
    """One layer of two: maps merge key by key, everything else is replaced by the layer above.

    Two rules on top. A section that names another `name` starts afresh, because the settings of one model
    are not those of another. And of `ALTERNATIVES`, such as `steps` and `passes`, the layer above decides.
    """
    tree, origins = dict(below.tree), dict(below.origins)
    for at, keys in ALTERNATIVES.items():
        new, old = _section(above.tree, at), _section(tree, at)
        if any(key in new for key in keys):
            for key in {*keys, *(("distort", "pairs") if "store" in new else ())} & old.keys():
                _drop(old, key, at, origins)
            tree = {**tree, str(at[0]): old} if at else old
    if "pairs" in _section(above.tree, ("data",)):  # real pairs go with sources, or alone
        data = _section(tree, ("data",))
        _drop(data, "store", ("data",), origins)
        tree = {**tree, "data": data}
    _merge_maps(tree, above.tree, (), origins)
    origins.update(above.origins)
    return Layer(tree, origins)


def _merge_maps(below: dict[str, Any], above: Mapping[str, Any], at: Key, origins: dict[Key, Origin]) -> None:
    for key, value in above.items():
        old, inner = below.get(key), (*at, key)
        if isinstance(old, dict) and isinstance(value, dict) and not _renames(old, value):
            below[key] = dict(old)
            _merge_maps(below[key], value, inner, origins)
            continue
        _drop(below, key, at, origins)
        below[key] = value


def _drop(tree: dict[str, Any], key: str, at: Key, origins: dict[Key, Origin]) -> None:
    tree.pop(key, None)
    inner = (*at, key)
    for known in [k for k in origins if k[: len(inner)] == inner]:
        del origins[known]


def _section(tree: dict[str, Any], at: Key) -> dict[str, Any]:
    """A copy of the map at a path; empty where there is none."""
    found: Any = tree
    for part in at:
        found = found.get(part)
    return dict(found) if isinstance(found, dict) else {}


def _renames(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "name" in new and "name" in old and new["name"] != old["name"]


def leaves(tree: Any, at: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Every (path, value) that is not itself a non-empty map."""
    if isinstance(tree, Mapping) and (tree or not at):
        for key, value in tree.items():
            yield from leaves(value, (*at, key))
    else:
        yield at, tree


def dotted(key: Key) -> str:
    return ".".join(str(part) for part in key)
