"""What the parameters of a distortion may be: ranges, and laws of chance (`awgn(uniform(1, 30))` draws its
sigma anew for every sample); and its locality, how far an output pixel looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from dilkit.errors import UsageError, nearest
from dilkit.libraries import np

Value = float | int | bool | str

REQUIRED: Any = object()
"""The default of a parameter that has none."""

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
        name: one of `SCALES`, `integers` (both ends included) or `choice` (each equally likely).
        args: (low, high), or the values to choose from.
    """

    name: str
    args: tuple[Any, ...]

    @property
    def continuous(self) -> bool:
        return self.name in SCALES

    def map(self, check: Callable[[Any], Any]) -> Any:
        """The same law of checked values; its extremes are checked, so all between them is allowed."""
        return make_law(self.name, *(check(value) for value in self.args))

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
        """The least and the greatest value, or all values where they are not numbers."""
        if any(isinstance(value, str | bool) for value in self.args):
            return tuple(dict.fromkeys(self.args))
        return self.args[0], self.args[-1]


def as_python(value: Any) -> Any:
    """A number of NumPy's as one of Python's; anything else as it is."""
    if type(value) in (bool, int, float, str):
        return value  # without importing NumPy
    return value.item() if isinstance(value, np.generic) else value


def make_law(name: str, *args: Any) -> Any:
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
    """Uniform between `low` and `high`."""
    return make_law("uniform", low, high)


def loguniform(low: float, high: float) -> Any:
    """The logarithm is uniform: every ratio is equally likely."""
    return make_law("loguniform", low, high)


def inverse_uniform(low: float, high: float) -> Any:
    """The reciprocal is uniform: inverse_uniform(0.25, 1) is 1 / uniform(1, 4)."""
    return make_law("inverse_uniform", low, high)


def root_uniform(low: float, high: float) -> Any:
    """The square is uniform: a standard deviation whose variance is uniform."""
    return make_law("root_uniform", low, high)


def integers(low: int, high: int) -> Any:
    """Each whole number from `low` to `high`, both included, is equally likely."""
    return make_law("integers", low, high)


def choice(*values: Any) -> Any:
    """Each value is equally likely; one given twice, twice as likely."""
    return make_law("choice", *values)


LAWS: dict[str, Callable[..., Any]] = {
    law.__name__: law for law in (uniform, loguniform, inverse_uniform, root_uniform, integers, choice)
}


class ParameterError(UsageError):
    """A wrong argument; `parameter` names it (or gives its position), so that a parser can point at it."""

    def __init__(self, message: str, *, parameter: str | int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.parameter = parameter


def refuse_unknown(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ParameterError for the first parameter that the distortion or preset `name` does not take."""
    for key in given:
        if key not in known:
            raise ParameterError(
                f"{name} has no parameter {key!r}",
                parameter=key,
                expected=", ".join(known) or "no parameters",
                nearest=nearest(key, known),
            )


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

    def check(self, value: Any, kind: str) -> Any:
        """The value in its exact form: 25 and 25.0 are one float.

        A `Law` is accepted where all it can draw would be.
        """
        if isinstance(value, Law):
            if self.type is not float and value.continuous:
                raise self._refuse(value, kind)
            return value.map(lambda drawn: self.check(drawn, kind))
        exact = self._exact(value)
        if exact is None or (self.choices and exact not in self.choices):
            close = nearest(value, [str(c) for c in self.choices]) if isinstance(value, str) else None
            raise self._refuse(value, kind, nearest=close)
        if not self.choices and self.type in (int, float) and not self.low <= exact <= self.high:
            raise self._refuse(value, kind)
        return exact

    @property
    def range(self) -> str:
        """What may be given, in words: `a number from 0 to 255`."""
        if self.choices:
            return " or ".join(repr(c) for c in self.choices)
        noun = {float: "a number", int: "a whole number", bool: "True or False", str: "a quoted word"}[
            self.type
        ]
        low, high = math.isfinite(self.low), math.isfinite(self.high)
        if low and high:
            noun += f" from {self.low:g} to {self.high:g}"
        elif low:
            noun += f" of at least {self.low:g}"
        elif high:
            noun += f" of at most {self.high:g}"
        return f"{noun} ({self.unit})" if self.unit else noun

    @property
    def example(self) -> Any:
        """Something allowed, for a parameter that must be given."""
        if self.choices:
            return self.choices[0]
        if self.type in (str, bool):
            return self.type()
        low, high = max(self.low, -1e6), min(self.high, 1e6)
        value = low + (high - low) / 4
        return round(value) if self.type is int else float(f"{value:.2g}")

    def _exact(self, value: Any) -> Any:
        """`value` as exactly the type wanted, or None where it is not one."""
        wanted, value = self.type, as_python(value)
        if wanted in (bool, str):
            return value if isinstance(value, wanted) else None
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        if not math.isfinite(number):
            return None
        if wanted is int:
            return int(value) if number.is_integer() else None
        return number + 0.0  # -0.0 is 0.0

    def _refuse(self, value: Any, kind: str, nearest: str | None = None) -> ParameterError:
        return ParameterError(
            f"{kind} cannot take {self.name}={value if isinstance(value, Law) else repr(value)}",
            parameter=self.name,
            expected=self.range,
            nearest=nearest,
        )


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
            f"{kind} has no valid locality",
            found=repr(value),
            expected="a halo of at least 0 pixels, GLOBAL, or a function of the parameters",
        )
    return made
