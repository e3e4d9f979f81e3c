"""`dilkit ls`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from enum import StrEnum
from textwrap import shorten
from typing import Annotated, Any

import typer

from .app import app


class Kind(StrEnum):
    distortions = "distortions"
    metrics = "metrics"
    models = "models"
    objectives = "objectives"
    presets = "presets"
    protocols = "protocols"


_EPILOG = """
Examples:

`dilkit ls protocols`

`dilkit ls protocols denoise-awgn`

`dilkit ls distortions`

`dilkit ls distortions awgn`

`dilkit ls presets bsrgan --json`
"""


@app.command("ls", epilog=_EPILOG)
def ls(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help=f"What to list: {', '.join(Kind)}.", autocompletion=lambda: list(Kind)
        ),
    ],
    name: Annotated[str | None, typer.Argument(help="The one to explain in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """List distortions, metrics, models, objectives, presets or protocols; or explain one of them."""
    from dilkit.errors import UsageError

    from ._table import show_table

    what = _kind(kind)
    if name is not None:
        if what not in _EXPLAINED:
            raise UsageError(f"of {what}, none is explained on its own", found=f"ls {what} {name}")
        _EXPLAINED[what](name, as_json)
        return
    head, lines = _LISTS[what]()
    if as_json:
        print(json.dumps([dict(zip(head, line, strict=True)) for line in lines], indent=1))
        return
    shown = [[_cut(*cell) for cell in zip(head, line, strict=True)] for line in lines]
    show_table(head, shown, numbers=False)


def _cut(name: str, cell: str) -> str:
    """Distortions can be of any length."""
    return shorten(cell, 48, placeholder=" ...") if name == "distortions" else cell


def _kind(name: str) -> Kind:
    from dilkit.errors import UsageError, nearest

    if name not in list(Kind):
        raise UsageError(
            f"there is no list of {name!r}",
            where="dilkit ls",
            expected=", ".join(Kind),
            nearest=nearest(name, Kind),
        )
    return Kind(name)


_Listing = tuple[Sequence[str], Sequence[Sequence[str]]]


def _distortions() -> _Listing:
    from dilkit.distortions.catalogue import distortions, locality

    head = ("name", "family", "degree", "locality", "summary")
    return head, [(k.name, k.family, k.degree or "", locality(k), k.summary) for k in distortions()]


def _presets() -> _Listing:
    from dilkit.distortions.presets import PRESETS

    return ("name", "about"), [(preset.name, preset.summary) for preset in PRESETS.values()]


def _metrics() -> _Listing:
    from dilkit.evaluation.extra_metrics import EXTRAS

    own = [("psnr", "higher", "", "dilkit"), ("ssim", "higher", "", "dilkit")]
    more = [
        (e.name, "higher" if e.higher_is_better else "lower", e.weights, e.library) for e in EXTRAS.values()
    ]
    return ("name", "better", "weights", "from"), own + more


def _models() -> _Listing:
    from dilkit.models import BUILTIN

    return ("name", "about"), [(name, _first_line(config.__doc__)) for name, config in BUILTIN.items()]


def _objectives() -> _Listing:
    from dilkit.objectives import configs

    return ("name", "about"), [(name, _first_line(config.__doc__)) for name, config in configs().items()]


def _protocols() -> _Listing:
    from dilkit.evaluation.protocols import PROTOCOLS, table

    return ("name", "", "sets", "distortions", "about"), table(PROTOCOLS.values())


_LISTS: dict[Kind, Callable[[], _Listing]] = {
    Kind.distortions: _distortions,
    Kind.metrics: _metrics,
    Kind.models: _models,
    Kind.objectives: _objectives,
    Kind.presets: _presets,
    Kind.protocols: _protocols,
}


def _explain_distortion(name: str, as_json: bool) -> None:
    from dilkit.distortions.catalogue import describe_distortion, describe_preset
    from dilkit.distortions.presets import PRESETS

    _tell(describe_preset(name) if name in PRESETS else describe_distortion(name), as_json)


def _explain_preset(name: str, as_json: bool) -> None:
    from dilkit.distortions.catalogue import describe_preset

    _tell(describe_preset(name), as_json)


def _explain_protocol(name: str, as_json: bool) -> None:
    from dilkit.evaluation.protocols import find_protocol, to_yaml

    print(to_yaml(find_protocol(name)), end="")


def _tell(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    for key, value in facts.items():
        if isinstance(value, list):
            for row in value:
                default = f", default {row['default']}" if row["default"] is not None else ""
                print(f"  {row['name']:10} {row['takes']}{default}: {row['meaning']}")
        elif value not in (None, ""):
            print(f"{key:10} {value}")


_EXPLAINED: dict[Kind, Callable[[str, bool], None]] = {
    Kind.distortions: _explain_distortion,
    Kind.presets: _explain_preset,
    Kind.protocols: _explain_protocol,
}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
