"""Laws of chance for parameters: `awgn(uniform(1, 30))` draws its sigma anew for every sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dilkit.errors import UsageError

WORD = 1 << 64


@dataclass(frozen=True)
class Law:
    """A law of chance: its name and its numbers, least first.

    Attributes:
        name: `uniform`, `loguniform`, `integers` (both ends allowed) or `choice` (each alike).
        args: (low, high), or the values to choose from.
    """

    name: str
    args: tuple[Any, ...]

    @property
    def continuous(self) -> bool:
        return self.name in ("uniform", "loguniform")

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
        fraction = (word >> 11) * 2.0**-53
        if self.name == "uniform":
            return low + (high - low) * fraction
        value = math.exp(math.log(low) + (math.log(high) - math.log(low)) * fraction)
        return float(f"{value:.12g}")  # the same on every machine's mathematical library

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.args))})"

    @property
    def extremes(self) -> tuple[Any, ...]:
        return self.args


def make(name: str, *args: Any) -> Any:
    """The law of that name; a law with one possible value is that value."""
    if name == "choice":
        if not args:
            raise UsageError("choice needs at least one value")
        ordered = tuple(sorted(args, key=lambda value: (isinstance(value, str), value)))
        return ordered[0] if all(value == ordered[0] for value in ordered) else Law("choice", ordered)
    if len(args) != 2:
        raise UsageError(f"{name} takes two numbers, the least and the greatest", found=f"{len(args)} values")
    low, high = args
    for value in args:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise UsageError(f"{name} takes two numbers, the least and the greatest", found=repr(value))
        if name == "integers" and int(value) != value:
            raise UsageError("integers takes two whole numbers", found=repr(value))
        if name == "loguniform" and value <= 0:
            raise UsageError("loguniform takes numbers above 0", found=repr(value))
    if low > high:
        raise UsageError(f"{name}({low:g}, {high:g}) is empty", remedy="give the least value first")
    if name == "integers":
        low, high = int(low), int(high)
    return low if low == high else Law(name, (low, high))


def uniform(low: float, high: float) -> Any:
    """Every number between `low` and `high` alike."""
    return make("uniform", low, high)


def loguniform(low: float, high: float) -> Any:
    """Every ratio alike: the logarithm is uniform."""
    return make("loguniform", low, high)


def integers(low: int, high: int) -> Any:
    """Every whole number from `low` to `high`, both included, alike."""
    return make("integers", low, high)


def choice(*values: Any) -> Any:
    """Every value alike; a value given twice is twice as likely."""
    return make("choice", *values)


LAWS: dict[str, Callable[..., Any]] = {f.__name__: f for f in (uniform, loguniform, integers, choice)}
