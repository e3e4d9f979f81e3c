"""`dilkit ls`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from textwrap import shorten
from typing import Annotated, Any

import typer

from .base import app, examples, panel
from .options import Json, choice
from .output import show_json, show_table

KINDS = ("distortions", "metrics", "models", "nets", "objectives", "presets", "protocols")
"""What can be listed; below, a function of that name each."""

EPILOG = examples("""
dilkit ls protocols
dilkit ls protocols denoise-awgn
dilkit ls distortions
dilkit ls distortions awgn
dilkit ls presets bsrgan --json
dilkit ls nets denoise
""")


@app.command("ls", epilog=EPILOG, rich_help_panel=panel("ls"))
def ls(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND", help=f"What to list: {', '.join(KINDS)}.", autocompletion=choice(KINDS)
        ),
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The one to explain in full.")] = None,
    as_json: Json = False,
) -> None:
    """List distortions, metrics, models, nets that ship with dilkit, objectives, presets or protocols; or
    explain one of them."""
    from dilkit.errors import UsageError, nearest

    if kind not in KINDS:
        raise UsageError(
            f"there is no list of {kind!r}", where="dilkit ls", expected=", ".join(KINDS),
            nearest=nearest(kind, KINDS),
        )  # fmt: skip
    if name is not None:
        if kind not in _EXPLAINED:
            raise UsageError(f"of {kind}, none is explained on its own", found=f"ls {kind} {name}")
        _EXPLAINED[kind](name, as_json)
        return
    header, lines = _LISTS[kind]()
    if as_json:
        show_json([dict(zip(header, line, strict=True)) for line in lines])
        return
    wide = header.index("distortions") if "distortions" in header else None  # these can be of any length
    lines = [
        [shorten(c, 48, placeholder=" ...") if i == wide else c for i, c in enumerate(ln)] for ln in lines
    ]
    show_table(header, lines, numbers=False)


_Listing = tuple[Sequence[str], Sequence[Sequence[str]]]


def _distortions() -> _Listing:
    from dilkit.distortions import distortions

    head = ("name", "family", "degree", "locality", "summary")
    return head, [(k.name, k.family, k.degree or "", k.localities, k.summary) for k in distortions()]


def _presets() -> _Listing:
    from dilkit.distortions.presets import PRESETS

    return ("name", "about"), [(preset.name, preset.summary) for preset in PRESETS.values()]


def _metrics() -> _Listing:
    from dilkit.evaluation.extra_metrics import METRICS

    own = [("psnr", "higher", "", "dilkit"), ("ssim", "higher", "", "dilkit")]
    extras = map(METRICS.get, METRICS)
    more = [(e.name, "higher" if e.higher_is_better else "lower", e.weights, e.library) for e in extras]
    return ("name", "better", "weights", "from"), own + more


def _models() -> _Listing:
    from dilkit.models import MODELS

    return ("name", "about"), [(name, _first_line(MODELS.get(name).__doc__)) for name in MODELS]


def _nets() -> _Listing:
    from dilkit.zoo import PREFIX, shipped_nets

    nets = shipped_nets().values()
    return ("name", "parameters", "licence", "about"), [
        (PREFIX + net.name, f"{net.parameters:,}", net.licence, net.about) for net in nets
    ]


def _objectives() -> _Listing:
    from dilkit.objectives import configs

    return ("name", "about"), [(name, _first_line(config.__doc__)) for name, config in configs().items()]


def _protocols() -> _Listing:
    from dilkit.evaluation.protocols import PROTOCOLS, table

    return ("name", "", "sets", "distortions", "about"), table(map(PROTOCOLS.get, PROTOCOLS))


_LISTS: dict[str, Callable[[], _Listing]] = {
    "distortions": _distortions,
    "metrics": _metrics,
    "models": _models,
    "nets": _nets,
    "objectives": _objectives,
    "presets": _presets,
    "protocols": _protocols,
}


def _explain_distortion(name: str, as_json: bool) -> None:
    from dilkit.distortions import REGISTRY
    from dilkit.distortions.presets import PRESETS

    if name in PRESETS:
        _explain_preset(name, as_json)
    else:
        _show_facts(REGISTRY.get(name).describe(), as_json)


def _explain_preset(name: str, as_json: bool) -> None:
    from dilkit.distortions import describe_preset

    _show_facts(describe_preset(name), as_json)


def _explain_protocol(name: str, as_json: bool) -> None:
    from dilkit.evaluation.protocols import find_protocol, protocol_yaml

    print(protocol_yaml(find_protocol(name)), end="")


def _explain_net(name: str, as_json: bool) -> None:
    from dilkit.zoo import shipped_net

    net = shipped_net(name)
    if as_json:
        show_json({**asdict(net), "checkpoint": str(net.checkpoint)})
    else:
        print(net.card, end="")


def _show_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(facts)
        return
    for key, value in facts.items():
        if isinstance(value, list):
            for row in value:
                default = f", default {row['default']}" if row["default"] is not None else ""
                print(f"  {row['name']:10} {row['takes']}{default}: {row['meaning']}")
        elif value not in (None, ""):
            print(f"{key:10} {value}")


_EXPLAINED: dict[str, Callable[[str, bool], None]] = {
    "distortions": _explain_distortion,
    "nets": _explain_net,
    "presets": _explain_preset,
    "protocols": _explain_protocol,
}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
