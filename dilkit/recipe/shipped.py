"""The recipes that come with dilkit, and how a name finds its file."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from dilkit.errors import UsageError, expanded, nearest
from dilkit.models import MODELS
from dilkit.objectives import OBJECTIVES
from dilkit.recipe.layers import Key, Layer, Origin, read_layer, read_layer_file


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
        raise UsageError(
            f"no recipe or part is called {word!r}",
            where=asked or "command line",
            nearest=str(of_run) if of_run.is_file() else nearest(word, names),
            remedy="`dilkit recipes ls` lists them; your own file ends in .yaml; a setting is key.path=value",
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
