"""`dilkit recipes`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .base import group
from .options import Words

recipes = group("recipes", "List, show, compose and check recipes.")


@recipes.command("ls", epilog="Example: `dilkit recipes ls`")
def ls() -> None:
    """The recipes and parts that come with dilkit."""
    from dilkit.recipe import parts, read_shipped, shipped

    print("recipes")
    for name in shipped():
        print(f"  {name:28}{read_shipped(name).tree.get('description', '')}")
    section = ""
    for name, (room, layer) in parts().items():
        if room != section:
            section = room
            print(f"parts: {section}")
        print(f"  {name:28}{layer.tree.get('description', '')}".rstrip())


@recipes.command("show", epilog="Example: `dilkit recipes show denoise-gaussian optim.lr=2e-4 --origin`")
def show(
    words: Words,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
) -> None:
    """Every value of a composed recipe."""
    from dilkit.recipe import compose, origins, resolved, to_yaml

    composed = compose(words)
    if not origin:
        print(to_yaml(resolved(composed.recipe)), end="")
        return
    rows = origins(composed)
    width = max(len(f"{key}: {value}") for key, value, _ in rows)
    for key, value, where in rows:
        print(f"{f'{key}: {value}':{min(width, 60)}}  # {where}")


@recipes.command(
    "compose", epilog="Example: `dilkit recipes compose denoise-gaussian dil_ps steps=1000 --out mine.yaml`"
)
def compose_(words: Words, out: Annotated[Path, typer.Option(help="The file to write.")]) -> None:
    """Keep a composition as a recipe file of your own."""
    from dilkit.recipe import compose, resolved, to_yaml

    _write(out, to_yaml(resolved(compose(words).recipe)))


@recipes.command("cp", epilog="Example: `dilkit recipes cp denoise-gaussian-small mine.yaml`")
def cp(
    name: Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe, by name.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")],
) -> None:
    """Copy a shipped recipe, comments and all, to a file to edit."""
    from dilkit.errors import UsageError, nearest
    from dilkit.recipe import shipped

    files = shipped()
    if name not in files:
        raise UsageError(f"no recipe is called {name!r}", nearest=nearest(name, files))
    _write(out, files[name].read_text(encoding="utf-8"))


@recipes.command("diff", epilog="Example: `dilkit recipes diff denoise-gaussian denoise-gaussian-small`")
def diff(
    old: Annotated[str, typer.Argument(metavar="OLD", help="A recipe's name or file.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another.")],
) -> None:
    """Where two recipes (names, files or a run's recipe.yaml) differ; exit 1 if they do."""
    from dilkit.recipe import compose, differences, resolved

    found = differences(resolved(compose([old]).recipe), resolved(compose([new]).recipe))
    print("\n".join(found) if found else "no difference")
    raise typer.Exit(1 if found else 0)


@recipes.command("validate", epilog="Example: `dilkit recipes validate mine.yaml denoise-gaussian`")
def validate(files: Annotated[list[str], typer.Argument(metavar="RECIPE...")]) -> None:
    """Check recipe files, each for itself; every mistake is told."""
    import sys

    from dilkit.errors import DilkitError
    from dilkit.recipe import compose

    wrong = 0
    for file in files:
        try:
            compose([file])
            print(f"{file}: valid")
        except DilkitError as error:
            wrong += 1
            print(f"dilkit: {error}", file=sys.stderr)
    raise typer.Exit(2 if wrong else 0)


@recipes.command("schema", epilog="Example: `dilkit recipes schema --out recipe.schema.json`")
def schema(
    out: Annotated[Path | None, typer.Option(help="The file to write [default: stdout].")] = None,
) -> None:
    """The JSON schema of a recipe file, for editors."""
    import json

    from dilkit.recipe import json_schema

    text = json.dumps(json_schema(), indent=2) + "\n"
    if out is None:
        print(text, end="")
    else:
        _write(out, text)


def _write(out: Path, text: str) -> None:
    from dilkit.errors import UsageError

    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError("the file exists", where=out, remedy="give another name") from None
    except OSError as error:
        raise UsageError(f"cannot write: {error.strerror}", where=out) from None
