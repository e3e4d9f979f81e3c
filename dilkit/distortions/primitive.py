"""What a primitive distortion is: a registered kind, and a frozen value of that kind."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from dilkit.distortions.draw import Draw
from dilkit.errors import UsageError, nearest

Image = npt.NDArray[np.float32]
"""(H, W, 3) RGB float32, nominally in [0, 1]; noise may leave that range until `clip`."""

Value = float | int | bool | str
Apply = Callable[[Image, Mapping[str, Any], Draw], Image]
"""(the image or its window, resolved parameters, the draw) -> the distorted image."""

REQUIRED: Any = object()


@dataclass(frozen=True)
class Param:
    """One parameter of a primitive: its type, unit and range (both ends allowed)."""

    name: str
    type: type = float
    default: Any = REQUIRED
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[Value, ...] = ()
    unit: str = ""
    doc: str = ""


@dataclass(frozen=True)
class Locality:
    """How far an output pixel looks: 0 is a point operation, an integer a halo, None the whole image."""

    halo: int | None

    @property
    def name(self) -> Literal["point", "halo", "global"]:
        if self.halo is None:
            return "global"
        return "point" if self.halo == 0 else "halo"


POINT = Locality(0)
GLOBAL = Locality(None)


@dataclass(frozen=True)
class PrimitiveKind:
    """A named distortion. `version` is part of every hash: raise it when the pixels change.

    Attributes:
        degree: the parameter that says how strong the distortion is (the first positional one), or None.
        locality: what an output pixel depends on, given the resolved parameters.
        random: whether `apply` uses its draw.
        source: where the definition comes from (paper, library, standard).
    """

    name: str
    family: str
    summary: str
    source: str
    params: tuple[Param, ...]
    apply: Apply
    locality: Callable[[Mapping[str, Any]], Locality] = lambda params: POINT
    degree: str | None = None
    random: bool = False
    version: int = 1


@dataclass(frozen=True)
class Registry:
    """Distortion kinds by name; adding a name twice is an error."""

    kinds: dict[str, PrimitiveKind] = field(default_factory=dict)

    def add(self, kind: PrimitiveKind) -> PrimitiveKind:
        if kind.name in self.kinds:
            raise UsageError(f"a distortion named {kind.name!r} is already registered")
        self.kinds[kind.name] = kind
        return kind

    def get(self, name: str) -> PrimitiveKind:
        try:
            return self.kinds[name]
        except KeyError:
            raise UsageError(
                f"unknown distortion {name!r}",
                nearest=nearest(name, self.kinds),
                remedy="`dilkit ls distortions` lists them",
            ) from None


REGISTRY = Registry()
