"""Laws of chance for parameters: `awgn(uniform(1, 30))` draws its sigma anew for every sample.

How far an output pixel of a distortion looks: what windows are grown by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from dilkit.errors import UsageError

SCALES: dict[str, tuple[Callable[[float], float], Callable[[float], float]]] = {
    "uniform": (float, float),
    "loguniform": (math.log, math.exp),
    "inverse_uniform": (lambda x: 1 / x, lambda x: 1 / x),
    "root_uniform": (lambda x: x * x, math.sqrt),
}
"""Continuous laws: (what of the value is uniform, the value from it)."""


@dataclass(frozen=True)
class Law:
    """A law of chance: its name and its numbers, least first.

    Attributes:
        name: one of `SCALES`, `integers` (both ends allowed) or `choice` (each alike).
        args: (low, high), or the values to choose from.
    """

    name: str
    args: tuple[Any, ...]

    @property
    def continuous(self) -> bool:
        return self.name in SCALES

    def map(self, check: Callable[[Any], Any]) -> Any:
        """The same law of checked values; its extremes are checked, so all between them is allowed."""
        return make(self.name, *(check(value) for value in self.args))

    def sample(self, word: int) -> Any:
        """The value that a uniform 64-bit word stands for."""
        if self.name == "choice":
            return self.args[(word * len(self.args)) >> 64]
        low, high = self.args
        if self.name == "integers":
            return low + ((word * (high - low + 1)) >> 64)
        there, back = SCALES[self.name]
        value = back(there(low) + (there(high) - there(low)) * ((word >> 11) * 2.0**-53))
        if self.name == "loguniform":
            value = float(f"{value:.12g}")  # mathematical libraries differ in the last digits
        return min(max(value, low), high)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})"

    @property
    def extremes(self) -> tuple[Any, ...]:
        """The least and the greatest value, or all where they are no numbers."""
        if any(isinstance(value, str | bool) for value in self.args):
            return tuple(dict.fromkeys(self.args))
        return self.args[0], self.args[-1]


def as_python(value: Any) -> Any:
    """A number of NumPy's as one of Python's; anything else as it is."""
    return value.item() if isinstance(value, np.generic) else value


def make(name: str, *args: Any) -> Any:
    """The law of that name; a law with one possible value is that value."""
    args = tuple(map(as_python, args))
    if name == "choice":
        if not args:
            raise UsageError("choice needs at least one value")
        for value in args:
            if not isinstance(value, str | bool | int | float):
                raise UsageError(
                    "choice takes plain values", found=repr(value), expected="numbers, words, True or False"
                )
        ordered = tuple(sorted(args, key=lambda value: (isinstance(value, str), value)))
        return ordered[0] if all(value == ordered[0] for value in ordered) else Law("choice", ordered)
    if len(args) != 2:
        raise UsageError(f"{name} takes two numbers, the least and the greatest", found=f"{len(args)} values")
    for value in args:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"{name} takes two numbers, the least and the greatest", found=repr(value))
        if name == "integers" and int(value) != value:
            raise UsageError("integers takes two whole numbers", found=repr(value))
        if name in ("loguniform", "inverse_uniform") and value <= 0:
            raise UsageError(f"{name} takes numbers above 0", found=repr(value))
        if name == "root_uniform" and value < 0:
            raise UsageError("root_uniform takes numbers of at least 0", found=repr(value))
    low, high = map(int, args) if name == "integers" else args
    if low > high:
        raise UsageError(f"{name}({low:g}, {high:g}) is empty", remedy="give the least value first")
    return low if low == high else Law(name, (low, high))


def uniform(low: float, high: float) -> Any:
    """Every number between `low` and `high` alike."""
    return make("uniform", low, high)


def loguniform(low: float, high: float) -> Any:
    """Every ratio alike: the logarithm is uniform."""
    return make("loguniform", low, high)


def inverse_uniform(low: float, high: float) -> Any:
    """The reciprocal is uniform: inverse_uniform(0.25, 1) is 1 / uniform(1, 4)."""
    return make("inverse_uniform", low, high)


def root_uniform(low: float, high: float) -> Any:
    """The square is uniform: a standard deviation whose variance is uniform."""
    return make("root_uniform", low, high)


def integers(low: int, high: int) -> Any:
    """Every whole number from `low` to `high`, both included, alike."""
    return make("integers", low, high)


def choice(*values: Any) -> Any:
    """Every value alike; a value given twice is twice as likely."""
    return make("choice", *values)


LAWS: dict[str, Callable[..., Any]] = {
    law.__name__: law for law in (uniform, loguniform, inverse_uniform, root_uniform, integers, choice)
}


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
