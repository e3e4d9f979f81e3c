"""`dilkit ls`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Annotated

import typer

from .app import app


class Kind(StrEnum):
    distortions = "distortions"
    metrics = "metrics"
    models = "models"
    objectives = "objectives"
    protocols = "protocols"


_EPILOG = """
Examples:

`dilkit ls protocols`

`dilkit ls protocols denoise-awgn`

`dilkit ls distortions`
"""


@app.command("ls", epilog=_EPILOG)
def ls(
    what: Annotated[Kind, typer.Argument(help="What to list.")],
    name: Annotated[str | None, typer.Argument(help="Of protocols, the one to print in full.")] = None,
) -> None:
    """List what dilkit knows: distortions, metrics, models, objectives, protocols."""
    from dilkit.errors import UsageError

    from ._table import show_table

    if name is not None:
        if what is not Kind.protocols:
            raise UsageError("only a protocol is printed in full", found=f"ls {what} {name}")
        from dilkit.evaluation.protocols import find_protocol, to_yaml

        print(to_yaml(find_protocol(name)), end="")
        return
    head, lines = _LISTS[what]()
    show_table(head, lines, numbers=False)


_Listing = tuple[Sequence[str], Sequence[Sequence[str]]]


def _distortions() -> _Listing:
    from dilkit.distortions import REGISTRY

    kinds = sorted(REGISTRY.kinds.values(), key=lambda kind: (kind.family, kind.name))
    head = ("name", "family", "degree", "summary")
    return head, [(kind.name, kind.family, kind.degree or "", kind.summary) for kind in kinds]


def _metrics() -> _Listing:
    from dilkit.evaluation.perceptual import EXTRAS

    own = [("psnr", "higher", "", "dilkit"), ("ssim", "higher", "", "dilkit")]
    more = [
        (e.name, "higher" if e.higher_is_better else "lower", e.weights, e.library) for e in EXTRAS.values()
    ]
    return ("name", "better", "weights", "from"), own + more


def _models() -> _Listing:
    from dilkit.models import BUILTIN

    return ("name", "about"), [(name, _first_line(config.__doc__)) for name, config in BUILTIN.items()]


def _objectives() -> _Listing:
    from typing import get_args

    from dilkit.objectives.config import ObjectiveConfig

    configs = get_args(get_args(ObjectiveConfig)[0])
    return ("name", "about"), [(c.model_fields["name"].default, _first_line(c.__doc__)) for c in configs]


def _protocols() -> _Listing:
    from dilkit.evaluation.protocols import table
    from dilkit.evaluation.shipped import PROTOCOLS

    return ("name", "", "sets", "distortions", "about"), table(PROTOCOLS.values())


_LISTS: dict[Kind, Callable[[], _Listing]] = {
    Kind.distortions: _distortions,
    Kind.metrics: _metrics,
    Kind.models: _models,
    Kind.objectives: _objectives,
    Kind.protocols: _protocols,
}


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]
