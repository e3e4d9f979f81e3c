"""From names, files and `key=value` to one validated recipe.

What may be asked of recipes: where values come from, how two differ, what an editor should know.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from dilkit.errors import UsageError, expanded, nearest
from dilkit.models import MODELS
from dilkit.objectives import OBJECTIVES
from dilkit.recipe.explain import explain, refuse_wrong_settings, takes_text
from dilkit.recipe.layers import (
    Key,
    Layer,
    Origin,
    dotted,
    leaves,
    overlay,
    read_layer,
    read_layer_file,
    written_out,
)
from dilkit.recipe.schema import Recipe
from dilkit.registry import load_plugin, loaded_plugins

if TYPE_CHECKING:
    from dilkit.distortions import ConfounderSet


@dataclass(frozen=True)
class Composed:
    """A validated recipe, the layers it was made of merged into one, and the words that asked for it.

    Attributes:
        named: the recipes, parts and files among the words, merged; without the overrides.
    """

    recipe: Recipe
    layer: Layer
    words: tuple[str, ...]
    named: Layer

    def plus(self, *words: str) -> Composed:
        """What `compose` makes of these words after the others; files that were read are not read again."""
        return _composed(self.named, (*self.words, *words), new=words)

    def __reduce__(self) -> tuple[Any, ...]:
        """What a worker is sent: the values, and the user's plug-ins whose settings they may be."""
        return _sent, (self.named, self.words, loaded_plugins())


def _sent(named: Layer, words: tuple[str, ...], plugins: Sequence[str]) -> Composed:
    for path in plugins:
        load_plugin(path)
    return _composed(named, words, new=())


def compose(words: Sequence[str]) -> Composed:
    """Compose recipes, parts and overrides from left to right.

    Args:
        words: recipe names, part names, paths of YAML files, and `key.path=value` overrides. The plug-in
            files under their `plugins:` are run; those of a checkpoint's recipe never are (`validate`).

    Raises:
        UsageError: an unknown name, a cycle of `extends`, or a value the schema refuses.
    """
    return _composed(Layer({}), tuple(words), new=words)


def _composed(named: Layer, words: tuple[str, ...], *, new: Sequence[str]) -> Composed:
    """`named` with what the `new` words name on top, then the overrides among all words."""
    for word in new:
        if not _is_override(word):
            named = _above(named, _extended(*locate(word), ()))
    overrides = _override_layer([word for word in words if _is_override(word)])
    total = _select_objective(_above(named, overrides))
    for path in _plugins(total):
        load_plugin(path)
    try:
        recipe = Recipe.model_validate(total.tree)
    except ValidationError as error:
        raise explain(error, total) from None
    refuse_leaks(recipe)
    return Composed(recipe, total, words, named)


def validate(tree: dict[str, Any], source: str = "recipe") -> Recipe:
    """Validate a resolved recipe, such as the one in a checkpoint."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise explain(error, Layer(tree, {(k,): Origin(source) for k in tree})) from None


def to_yaml(tree: dict[str, Any]) -> str:
    """YAML 1.2 text that `compose` reads back to the same values."""
    out = io.StringIO()
    yaml = YAML(typ="rt")
    yaml.default_flow_style = None
    yaml.width = 100
    yaml.dump(tree, out)
    return out.getvalue()


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Every value of a recipe, defaults included, as plain JSON values."""
    return recipe.model_dump(mode="json", exclude_none=True, by_alias=True)


def _is_override(word: str) -> bool:
    return "=" in word


def _extended(layer: Layer, source: str, above: tuple[str, ...]) -> Layer:
    chain = (*above, source)
    if source in above:
        raise UsageError("recipes extend each other in a circle", where=source, found=" -> ".join(chain))
    parents = layer.tree.get("extends", [])
    parents = [parents] if isinstance(parents, str) else parents
    if not isinstance(parents, list) or not all(isinstance(p, str) for p in parents):
        raise UsageError(
            "`extends` is a recipe name or a list of them", where=layer.origin(("extends",)), found=parents
        )
    total = Layer({})
    for parent in parents:
        near = Path(source).parent if source.endswith((".yaml", ".yml")) else None
        total = _above(total, _extended(*locate(parent, near, layer.origin(("extends",))), chain))
    own = Layer({k: v for k, v in layer.tree.items() if k != "extends"}, layer.origins)
    return _above(total, _beside(own, source))


def _plugins(layer: Layer) -> list[str]:
    """The plug-in files that a layer names; none where the list is wrong, which the schema refuses."""
    found = layer.tree.get("plugins", [])
    return found if isinstance(found, list) and all(isinstance(path, str) for path in found) else []


def _above(below: Layer, above: Layer) -> Layer:
    """One layer of two, with the plug-ins of both."""
    total, paths = overlay(below, above), [*_plugins(below), *_plugins(above)]
    return Layer({**total.tree, "plugins": list(dict.fromkeys(paths))}, total.origins) if paths else total


def _beside(layer: Layer, source: str) -> Layer:
    """The layer with its plug-ins found beside the recipe file that names them, or from here."""
    here = Path(source).parent
    paths = [str(here / path) if (here / path).is_file() else path for path in _plugins(layer)]
    return Layer({**layer.tree, "plugins": paths}, layer.origins) if paths else layer


@cache
def shipped() -> dict[str, Traversable]:
    """Recipe name -> its file; those of the nets that ship with dilkit are called `zoo/NAME`."""
    folder = files("dilkit.recipes")
    nets = _yaml_in(folder / "zoo")
    return _yaml_in(folder) | {f"zoo/{name}": file for name, file in nets.items()}


@cache
def parts() -> dict[str, tuple[str, Layer]]:
    """Part name -> (the section it is for, its layer).

    Every model and objective is a part by its own name, with its own defaults; the rest are files.
    """
    found: dict[str, tuple[str, Layer]] = {}
    for section, names in (("model", MODELS), ("objective", OBJECTIVES)):
        for name in names:
            origins: dict[Key, Origin] = {(section, "name"): Origin(f"part {name}")}
            found[name] = (section, Layer({section: {"name": name}}, origins))
    for room in sorted(files("dilkit.recipes").joinpath("parts").iterdir(), key=lambda r: r.name):
        if room.is_dir():
            found |= {name: (room.name, _read(name, file)) for name, file in _yaml_in(room).items()}
    return dict(sorted(found.items(), key=lambda item: item[1][0]))


@cache
def read_shipped(name: str) -> Layer:
    """The layer of a shipped recipe."""
    return _read(name, shipped()[name])


def locate(word: str, near: Path | None = None, asked: Origin | None = None) -> tuple[Layer, str]:
    """The layer a word names, and its source: a path ending in .yaml, or a shipped recipe or part.

    Args:
        near: the folder a relative path is tried in first (that of the recipe which extends it).
        asked: the line that names it, for the error.
    """
    if word.endswith((".yaml", ".yml")):
        path = expanded(word)
        if near is not None and (near / path).is_file():
            path = near / path
        if not path.is_file():
            raise UsageError("no such recipe file", where=asked or "command line", found=word)
        return read_layer_file(path), str(path)
    recipes, known = shipped(), parts()
    names = [*recipes, *known]
    if word not in names:
        of_run = Path(word).expanduser() / "recipe.yaml"
        key = {".h5": "data.store", ".hdf5": "data.store", ".safetensors": "init"}.get(Path(word).suffix)
        lists = "`dilkit recipes ls` lists them; your own file ends in .yaml; a setting is key.path=value"
        raise UsageError(
            f"no recipe or part is called {word!r}",
            where=asked or "command line",
            nearest=str(of_run) if of_run.is_file() else nearest(word, names),
            remedy=f"{key}={word}, after the name of a recipe" if key else lists,
        )
    return read_shipped(word) if word in recipes else _bare(known[word][1]), f"dilkit.recipes/{word}"


def _bare(part: Layer) -> Layer:
    """A part without its description: what it is added to keeps its own."""
    return Layer({k: v for k, v in part.tree.items() if k != "description"}, part.origins)


def _read(name: str, file: Traversable) -> Layer:
    return read_layer(file.read_text(encoding="utf-8"), f"{name}.yaml")


def _yaml_in(folder: Traversable) -> dict[str, Traversable]:
    found = {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def _override_layer(words: Sequence[str]) -> Layer:
    tree: dict[str, Any] = {}
    origins: dict[tuple[str | int, ...], Origin] = {}
    for word in words:
        path, _, text = word.partition("=")
        key = tuple(path.strip().split("."))
        if not all(key):
            raise UsageError("an override is key.path=value", where="command line", found=word)
        at = tree
        for part in key[:-1]:
            at = at.setdefault(part, {})
            if not isinstance(at, dict):
                raise UsageError(f"{part} is given both as a value and as a section", where=word)
        at[key[-1]] = written_out(key[-1], text if takes_text(key) else _value(text))
        origins[key] = Origin(f"command line, {word}")
    return Layer(tree, origins)


def _value(text: str) -> Any:
    try:
        return read_layer(f"value: {text}", "command line").tree["value"]
    except UsageError:
        return text


def _select_objective(layer: Layer) -> Layer:
    """Apply the settings that `objectives:` keeps for the objective that was chosen; check them all."""
    kept = layer.tree.get("objectives", {})
    if not isinstance(kept, dict):
        raise UsageError(
            "`objectives` maps names to settings", where=layer.origin(("objectives",)), found=kept
        )
    for name, settings in kept.items():
        refuse_wrong_settings(name, settings, layer)
    tree = {k: v for k, v in layer.tree.items() if k != "objectives"}
    chosen = tree.get("objective", {"name": "erm"})
    name = chosen.get("name") if isinstance(chosen, dict) else None
    if not isinstance(name, str) or name not in kept:
        return Layer(tree, layer.origins)
    own = Layer({"objective": {"name": name, **kept[name]}}, _moved(layer, ("objectives", name)))
    given = Layer(tree, {k: o for k, o in layer.origins.items() if k[0] != "objectives"})
    return overlay(own, given)


def _moved(layer: Layer, at: Key) -> dict[Key, Origin]:
    return {("objective", *k[2:]): o for k, o in layer.origins.items() if k[:2] == at}


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
    schema["properties"]["extends"] = {
        "anyOf": [names, {"type": "array", "items": names}],
        "description": "recipes this one is laid over, by name or path",
    }
    schema["properties"]["objectives"] = {"type": "object", "description": "settings by objective name"}
    for section in ("model", "objective"):
        of = schema["properties"][section]
        schema["properties"][section] = {"anyOf": [names, of], "description": of["description"]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _has(tree: Any, key: tuple[str | int, ...]) -> bool:
    for part in key:
        if not isinstance(tree, dict) or part not in tree:
            return False
        tree = tree[part]
    return True


def refuse_leaks(recipe: Recipe, seen: Any = None) -> None:
    """Compare what is trained on (`seen`: words, or the recipe's own `data.distort`), held out and tested on.

    Two distortions are the same by the rule of evaluation: `clip` and `quantize` do not count, and a law of
    chance has every value it can draw.

    Raises:
        UsageError: two of the three share a distortion.
    """
    held_out = recipe.validation.held_out if recipe.validation is not None else None
    given = (seen if seen is not None else recipe.data.distort, held_out, recipe.test.distort)
    if sum(distort is not None for distort in given) < 2:
        return
    trained, held, tested = map(_words, given)
    if both := [*_met(tested, held), *_met(held, tested)]:
        raise UsageError(
            "the held-out distortion is one the task is tested on: it would select on the test",
            where="validate.held_out",
            found=", ".join(dict.fromkeys(both)),
            expected="a distortion outside test.distort",
        )
    for key, others in (("validate.held_out", held), ("test.distort", tested)):
        if both := _met(others, trained):
            raise UsageError(
                "a distortion is declared unseen and trained on",
                where=key,
                found=", ".join(both),
                expected=f"none that is among {trained}",
            )


def _words(distort: Any) -> ConfounderSet | None:
    if distort is None:
        return None
    from dilkit.distortions import confounder_set

    return confounder_set(distort)


def _met(words: ConfounderSet | None, others: ConfounderSet | None) -> list[str]:
    """The labels of those among `words` that `others` have or can draw, by the rule of evaluation."""
    if words is None or others is None:
        return []
    from dilkit.distortions.novelty import novelty

    same = {word.hash for word in others}
    return [word.label for word in words if word.hash in same or novelty(word, others) == "seen"]
