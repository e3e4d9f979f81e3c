"""Options that several commands share, what they complete, and hints for options that belong elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from dilkit.errors import UsageError


def union(distort: list[str] | None) -> str | None:
    """Expressions given one by one, as one."""
    return " | ".join(f"({d})" for d in distort) if distort else None


def complete_run(incomplete: str) -> list[str]:
    """Run folders and checkpoints below what is typed so far, and the nets of the zoo."""
    from dilkit.zoo import PREFIX, shipped_nets

    here = Path(incomplete or ".")
    base = here if incomplete.endswith("/") or not incomplete else here.parent
    found = [name for net in shipped_nets() if (name := PREFIX + net).startswith(incomplete)]
    for path in sorted(base.iterdir()) if base.is_dir() else ():
        text = str(path)
        if not text.startswith(incomplete) or path.name.startswith("."):
            continue
        if path.suffix == ".safetensors" or (path / "checkpoints").is_dir():
            found.append(text)
        elif path.is_dir():
            found.append(f"{text}/")
    return found


def complete_distortion(incomplete: str) -> list[str]:
    """The distortion or preset whose name is being typed at the end of an expression."""
    from dilkit.distortions import REGISTRY
    from dilkit.distortions.presets import PRESETS

    start = max(incomplete.rfind(c) for c in " >|(,*-") + 1
    names = sorted({*REGISTRY, *PRESETS})
    return [incomplete[:start] + name for name in names if name.startswith(incomplete[start:])]


def complete_recipe(incomplete: str) -> list[str]:
    """Recipes, parts, and the keys of a recipe up to their `=`."""
    from dilkit.recipe import keys, parts, shipped

    if "=" in incomplete:
        return []
    words = [*shipped(), *parts(), *(f"{key}=" for key in keys())]
    return [word for word in words if word.startswith(incomplete)]


def grouped(title: str) -> Callable[..., Any]:
    """`typer.Option`, for the options that stand under a heading of their own in the help."""
    return partial(typer.Option, rich_help_panel=title)


def choice(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completion from a fixed list."""
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


Words = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE [PART...] [KEY.PATH=VALUE...]",
        help="Recipes and parts (`dilkit recipes ls`), YAML files, and single settings.",
        show_default=False,
        autocompletion=complete_recipe,
    ),
]
"""What composes a recipe."""

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="The trained net: a checkpoint, a run's folder or zoo:NAME.",
        autocompletion=complete_run,
    ),
]
NetSource = Annotated[
    str,
    typer.Argument(
        metavar="NET",
        help="A checkpoint, a run's folder, zoo:NAME, spandrel:FILE, onnx:FILE or "
        "module:pkg.mod:Class(weights=FILE).",
        autocompletion=complete_run,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of text.")]
TrustCode = Annotated[
    bool,
    typer.Option(
        "--trust-code",
        help="Let a checkpoint import and run the class that it names. Only for files you trust.",
    ),
]
Workers = Annotated[int, typer.Option("--workers", "-j", min=0, help="Processes; 0 takes every core.")]
Baseline = Annotated[str | None, typer.Option(help="Differences are to this net or arm [the first].")]
On = Annotated[str, typer.Option(help="local:N, dask://HOST:PORT, or slurm[:key=value,...].")]
Clip = Annotated[bool | None, typer.Option("--clip/--no-clip", help="Clamp the nets' input to [0, 1].")]


def check_figure(path: Path | None) -> Path | None:
    """A figure's file, refused before anything is computed."""
    if path is None:
        return None
    from dilkit.report.plots import drawable

    return drawable(path)


Plot = Annotated[
    Path | None,
    typer.Option(
        help="Draw what was measured (.png, .svg, .pdf; without an ending, .png and .svg).",
        callback=check_figure,
        rich_help_panel="What is written",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Clean images: a folder, glob, file, samples:test, a set of $DILKIT_DATA; again for more."
    ),
]
Distort = Annotated[
    list[str] | None,
    typer.Option(
        "--distort",
        "-d",
        help="Distortions, as an expression; again for more.",
        autocompletion=complete_distortion,
    ),
]

RECIPE_KEYS = {
    "--device": "hardware.device", "--lr": "optim.lr", "--learning-rate": "optim.lr", "--seed": "seed",
    "--batch": "data.batch", "--batch-size": "data.batch", "--crop": "data.crop", "--steps": "steps",
    "--epochs": "epochs", "--passes": "passes", "--hours": "hours", "--data": "data.store",
    "--store": "data.store", "--model": "model.name", "--objective": "objective.name", "--loss": "loss",
    "--workers": "data.workers", "--precision": "hardware.precision", "--init": "init",
    "--optimizer": "optim.name", "--weight-decay": "optim.weight_decay", "--ema": "ema",
}  # fmt: skip
"""What other trainers take as options, and the recipe's key for it."""

SECTIONS = ("data", "model", "objective", "optim", "hardware", "log", "checkpoint", "validate", "test")


class RecipeCommand(TyperCommand):
    """A command that takes a recipe: an option that is really a key of the recipe is answered with it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = {name for param in self.params for name in param.opts}
        for i, word in enumerate(args[: args.index("--")] if "--" in args else args):
            name, _, value = word.partition("=")
            if name in RECIPE_KEYS and name not in own:
                value = value or next(iter(args[i + 1 : i + 2]), "")
                value = "VALUE" if not value or value.startswith("-") else value
                raise UsageError(
                    f"{name} is no option here: it is a key of the recipe", found=word,
                    remedy=f"dilkit {ctx.info_name} ... {RECIPE_KEYS[name]}={value}",
                )  # fmt: skip
            if re.fullmatch(rf"({'|'.join(SECTIONS)})(\.[a-z_]+)+", word) and not Path(word).exists():
                value = next(iter(args[i + 1 : i + 2]), "VALUE")
                raise UsageError(
                    f"{word} has no value", expected=f"{word}=VALUE, without spaces",
                    remedy=f"dilkit {ctx.info_name} ... {word}={value}",
                )  # fmt: skip
        return super().parse_args(ctx, args)
