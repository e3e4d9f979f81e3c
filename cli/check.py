"""`dilkit check`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .base import app, examples, panel
from .options import Json, choice
from .output import show_json, show_table

if TYPE_CHECKING:
    from torch import nn

    from dilkit.meta.check import Finding

EPILOG = examples("""
dilkit check dncnn depth=8 width=32
dilkit check runs/dil/checkpoints/last.safetensors --size 64
dilkit check mypackage.nets:Restorer depth=4 --train --json
dilkit check distortion vhs_noise strength=0.3 --plugin mine.py
dilkit check objective dil_sf
""")

KINDS = ("distortion", "objective", "loss", "model", "metric", "protocol", "sink")
"""What `dilkit check KIND NAME` takes: the kinds of `dilkit.testing.CHECKS`."""


@app.command("check", epilog=EPILOG, rich_help_panel=panel("check"))
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL | KIND NAME",
            help="A built-in name, package.module:Class, a checkpoint, a run's folder or zoo:NAME; "
            f"or a kind of plug-in and its name: {', '.join(KINDS)}.",
            autocompletion=choice(KINDS),
        ),
    ],
    settings: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE...]", help="Arguments of the model or plug-in.")
    ] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the square images to try, in pixels.")] = 32,
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 2,
    channels: Annotated[int, typer.Option(min=1, help="Channels of an image.")] = 3,
    train: Annotated[bool, typer.Option("--train/--eval", help="The mode to judge it in.")] = True,
    confounders: Annotated[int, typer.Option(min=2, help="Distortions per step in the cost table.")] = 4,
    costs: Annotated[bool, typer.Option("--costs/--no-costs", help="Also measure each objective.")] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and images.")] = 0,
    trust_code: Annotated[
        bool,
        typer.Option("--trust-code", help="Run code that the checkpoint, or package.module:name, names."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Say whether a net can be trusted with virtual updates, and what each objective would cost on it.

    Exit code 1 where its meta-gradients would be wrong or impossible. With a kind and a name, check that a
    plug-in keeps the contract of its kind (`dilkit.testing` has the same checks for its own tests).
    """
    if model in KINDS:
        _check_plugin(model, settings or [])
        return
    import torch

    from dilkit.meta.check import examine

    torch.manual_seed(seed)
    net = _load(model, settings or [], trust_code).train(train)
    shape = (batch, channels, size, size)
    findings = [*examine(net, shape, seed=seed), *_sizes(net, channels)]
    trusted = all(f.verdict != "fail" for f in findings)
    units, table = _costs(net, shape, confounders) if costs and trusted else (None, [])
    if as_json:
        show_json(
            {
                "model": model, "mode": "train" if train else "eval", "trusted": trusted,
                "findings": [asdict(f) for f in findings], "units": asdict(units) if units else None,
                "costs": [asdict(c) for c in table],
            }
        )  # fmt: skip
    else:
        _show(findings, units, table, confounders)
    raise typer.Exit(0 if trusted else 1)


def _sizes(net: nn.Module, channels: int) -> list[Finding]:
    """Which image sizes the net takes, where it is a net of RGB images."""
    from copy import deepcopy

    from dilkit.meta.check import Finding
    from dilkit.models.custom import find_multiple

    multiple = find_multiple(deepcopy(net).eval()) if channels == 3 else None
    if multiple is None:
        return []
    if multiple == 1:
        return [Finding("sizes", "ok", "images of any size")]
    padded = "eval and restore pad others by reflection and crop the result"
    return [Finding("sizes", "note", f"sides that are multiples of {multiple}; {padded}")]


def _check_plugin(kind: str, words: list[str]) -> None:
    from dilkit.errors import DilkitError, UsageError
    from dilkit.testing import CHECKS

    if not words or "=" in words[0]:
        raise UsageError(f"which {kind} is to be checked?", remedy=f"dilkit check {kind} NAME [KEY=VALUE...]")
    name, *settings = words
    try:
        CHECKS[kind](name, **_arguments(settings))
    except UsageError as error:
        if error.message.startswith("unknown"):
            raise
        raise DilkitError(
            error.message, where=error.where, found=error.found, expected=error.expected, remedy=error.remedy
        ) from error
    print(f"the {kind} {name} keeps its contract")


def _arguments(settings: list[str]) -> dict[str, Any]:
    """KEY=VALUE words as arguments; values are read as JSON where they are JSON."""
    from dilkit.errors import UsageError

    arguments: dict[str, Any] = {}
    for item in settings:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError("a setting is KEY=VALUE", found=item)
        try:
            arguments[key] = json.loads(value)
        except json.JSONDecodeError:
            arguments[key] = value
    return arguments


def _load(model: str, settings: list[str], trust_code: bool) -> nn.Module:
    from dilkit.errors import UsageError, nearest
    from dilkit.models import build

    if settings and "=" not in settings[0]:
        raise UsageError(
            "no such kind of plug-in", found=model, expected=", ".join(KINDS), nearest=nearest(model, KINDS)
        )
    arguments = _arguments(settings)
    path = Path(model)
    run = (path / "checkpoints").is_dir()
    if model.startswith("zoo:") or path.suffix == ".safetensors" or path.is_file() or run:
        from dilkit.checkpoint import find_checkpoint, load

        if arguments:
            raise UsageError("a checkpoint brings its own settings", found=" ".join(settings))
        return load(find_checkpoint(model), trust_code=trust_code).net
    if ":" in model:
        return build(model, args=arguments, trust_code=trust_code)
    return build(model, **arguments)


def _costs(net: nn.Module, shape: tuple[int, ...], n: int) -> tuple[Any, list[Any]]:
    import torch

    from dilkit.objectives.costs import costs, units

    with torch.no_grad():
        out = net(torch.rand(shape))
    batches = [(torch.rand(shape), torch.rand_like(out)) for _ in range(n)]
    base = units(net, batches[0])
    return base, list(costs(net, batches, base))


def _show(findings: list[Any], units: Any, table: list[Any], n: int) -> None:
    lines = [(f.name, f.verdict, f.found + (f"; to do: {f.remedy}" if f.remedy else "")) for f in findings]
    show_table(("property", "", "found"), lines, numbers=False)
    if units is None:
        return
    print(
        f"\nu = {1e3 * units.seconds:.1f} ms (one forward and backward pass), "
        f"A = {units.activations / 2**20:.2f} MiB of activations, P = {units.parameters / 2**20:.2f} MiB"
    )
    head = (f"step over {n} distortions", "u predicted", "u measured", "A predicted", "A measured")
    rows = [
        (c.variant, f"{c.predicted_time:.0f}", f"{c.time:.1f}", f"{c.predicted_activations:.2f}",
         f"{c.activations:.2f}")
        for c in table
    ]  # fmt: skip
    show_table(head, rows)
