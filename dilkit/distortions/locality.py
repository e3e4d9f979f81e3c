"""How far an output pixel of a distortion looks: what windows are grown by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dilkit.errors import UsageError


@dataclass(frozen=True)
class Locality:
    """How far an output pixel looks: 0 is a point operation, an integer a halo, None the whole image."""

    halo: int | None

    @property
    def name(self) -> Literal["point", "halo", "global"]:
        if self.halo is None:
            return "global"
        return "point" if self.halo == 0 else "halo"

    def __add__(self, other: Locality) -> Locality:
        """One after the other."""
        return Locality(None if self.halo is None or other.halo is None else self.halo + other.halo)

    def __or__(self, other: Locality) -> Locality:
        """One or the other: the wider."""
        return Locality(None if self.halo is None or other.halo is None else max(self.halo, other.halo))


POINT = Locality(0)
GLOBAL = Locality(None)


def as_locality(value: Any, kind: str) -> Locality:
    """A halo in pixels, or a locality as it is."""
    made = Locality(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(made, Locality) or (made.halo is not None and made.halo < 0):
        raise UsageError(
            f"{kind} has a locality that is none",
            found=repr(value),
            expected="a halo of at least 0 pixels, GLOBAL, or a function of the parameters",
        )
    return made


@dataclass(frozen=True)
class Always:
    """The locality that a kind has whatever its parameters are."""

    locality: Locality

    def __call__(self, params: Mapping[str, Any]) -> Locality:
        return self.locality
