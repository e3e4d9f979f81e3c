"""`dilkit recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from .app import app

recipes = typer.Typer(
    name="recipes", help="List, show and compose recipes.", no_args_is_help=True, rich_markup_mode="markdown"
)
app.add_typer(recipes)

_Words = Annotated[
    list[str], typer.Argument(metavar="RECIPE [PART...] [KEY.PATH=VALUE...]", show_default=False)
]


@recipes.command("ls")
def ls() -> None:
    """The recipes that come with dilkit."""
    from dilkit.recipe import shipped
    from dilkit.recipe.layers import read_layer

    for name, file in shipped().items():
        layer = read_layer(file.read_text(encoding="utf-8"), f"{name}.yaml")
        print(f"{name:28}{layer.tree.get('description', '')}")


@recipes.command("show", epilog="Example: `dilkit recipes show denoise-gaussian optim.lr=2e-4`")
def show(words: _Words) -> None:
    """Every value of a composed recipe, as YAML."""
    from dilkit.recipe import compose, resolved, to_yaml

    print(to_yaml(resolved(compose(words).recipe)), end="")
