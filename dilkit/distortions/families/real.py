"""Real degradations: photographs of what a clean image became, which no program makes again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind
from dilkit.distortions.params import GLOBAL, Param
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Image
from dilkit.errors import DilkitError


def _refuse(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    raise DilkitError(
        "real pairs are read, not made",
        where=f"pairs({params['name']!r})",
        remedy="evaluate on the folder of degraded images, or train on a dataset made with --pairs",
    )


pairs = REGISTRY.add(
    PrimitiveKind(
        name="pairs",
        family="real",
        summary="Real degraded images of a dataset made with --pairs; it stands for them and makes none.",
        source="the photographs",
        params=(Param("name", str, doc="of the set of pairs"),),
        apply=_refuse,
        locality=lambda params: GLOBAL,
        degree="name",
    )
)
