"""Nets that ship with dilkit, by name: `zoo:denoise` stands wherever a checkpoint may be given.

A net is a folder here: `net.safetensors` (a checkpoint like any other, so opening it runs no code that it
names), `recipe.yaml` (what it is trained by), `log.csv` (its training), `rows.csv` (what it was measured to
do) and `card.md` (what it saw, where it fails, its licence). `index.json` says what each is for. This package
turns names into paths and knows nothing of nets; it imports no torch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from dilkit.errors import UsageError, nearest

PREFIX = "zoo:"
DEFAULT = "denoise"
"""The net that restores where none is named."""


@dataclass(frozen=True)
class ShippedNet:
    """A net of the zoo.

    Attributes:
        name: `denoise`; as a checkpoint it is called `zoo:denoise`.
        about: what it removes, in a line.
        parameters: how many numbers it has learnt.
        licence: of its weights.
        test: the distortions of its table in docs/zoo.md, as an expression.
        weights: blake2b (16 bytes) of its `net.safetensors`.
    """

    name: str
    about: str
    parameters: int
    licence: str
    test: str
    weights: str

    @property
    def folder(self) -> Path:
        """Where its files lie."""
        return Path(str(files("dilkit.zoo") / self.name))

    @property
    def checkpoint(self) -> Path:
        return self.folder / "net.safetensors"

    @property
    def card(self) -> str:
        """Markdown: what it saw, what it reaches, where it fails, its licence, how it is made again."""
        return (self.folder / "card.md").read_text(encoding="utf-8")


@cache
def shipped_nets() -> dict[str, ShippedNet]:
    """Every net of the zoo by name."""
    index = json.loads((files("dilkit.zoo") / "index.json").read_text(encoding="utf-8"))
    return {name: ShippedNet(name, **facts) for name, facts in index.items()}


def shipped_net(name: str) -> ShippedNet:
    """A net of the zoo, by its name with or without `zoo:`.

    Raises:
        UsageError: there is none of that name.
    """
    known = shipped_nets()
    short = name.removeprefix(PREFIX)
    if short not in known:
        raise UsageError(
            f"the zoo has no net called {short!r}",
            found=name,
            expected=", ".join(PREFIX + each for each in known),
            nearest=nearest(short, known),
            remedy="`dilkit ls nets` lists them",
        )
    return known[short]


def resolve(source: str | Path) -> Path:
    """The file of `zoo:NAME`; any other source as the path that it is.

    Raises:
        UsageError: `zoo:` with a name that it has not.
    """
    return shipped_net(str(source)).checkpoint if str(source).startswith(PREFIX) else Path(source)
