"""What a primitive distortion is: a registered kind, its parameters, and how they are checked."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dilkit.distortions import plugins, registration
from dilkit.distortions.draw import Draw
from dilkit.distortions.eight_bit import Levels
from dilkit.distortions.laws import Law, as_python
from dilkit.distortions.locality import POINT, Always, Locality, as_locality
from dilkit.distortions.operators import Operators
from dilkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from dilkit.distortions.words import ConfounderSet, Word

Image = npt.NDArray[np.float32]
"""(H, W, 3) RGB float32, nominally in [0, 1]; noise may leave that range until `clip`."""

Value = float | int | bool | str
Apply = Callable[[Image, Mapping[str, Any], Draw], Image]
"""(the image or its window, resolved parameters, the draw) -> the distorted image."""

ApplyLevels = Callable[[Levels, Mapping[str, Any], Draw], Levels]

REQUIRED: Any = object()


class ParameterError(UsageError):
    """A wrong argument; `parameter` names it (or gives its position), so that a parser can point at it."""

    def __init__(self, message: str, *, parameter: str | int | None = None, **details: Any) -> None:
        super().__init__(message, **details)
        self.parameter = parameter


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
        exact = _exact(value, self.type)
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

    def _refuse(self, value: Any, kind: str, nearest: str | None = None) -> ParameterError:
        return ParameterError(
            f"{kind} cannot take {self.name}={value if isinstance(value, Law) else repr(value)}",
            parameter=self.name,
            expected=self.range,
            nearest=nearest,
        )


def _exact(value: Any, wanted: type) -> Any:
    """`value` as exactly the `wanted` type, or None where it is not one."""
    value = as_python(value)
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


@dataclass(frozen=True, eq=False)
class PrimitiveKind(Operators):
    """A named distortion. `version` is part of every hash: raise it when the pixels change.

    Called, it is a word of one step: `awgn(25)`. Subscripted, it is a degree sweep: `awgn[5, 10]`.

    Attributes:
        apply: never changes its input.
        degree: the parameter that says how strong the distortion is (the only positional one), or None.
        locality: what an output pixel depends on: a halo, a `Locality`, or a function of the resolved
            parameters that gives one; it is kept as a function.
        random: whether `apply` uses its draw.
        levels: of a kind whose result is 8-bit by nature, the same on levels 0 .. 255:
            `apply(x, ...) == as_float(levels(to_levels(x), ...))`.
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
    levels: ApplyLevels | None = None

    def __post_init__(self) -> None:
        if not callable(self.locality):
            object.__setattr__(self, "locality", Always(as_locality(self.locality, self.name)))

    def __call__(self, *args: Any, **kwargs: Any) -> Word:
        from dilkit.distortions.steps import Primitive
        from dilkit.distortions.words import Word

        return Word((Primitive(self, tuple(self.bind(*args, **kwargs).items())),))

    def __getitem__(self, degrees: Any) -> ConfounderSet:
        from dilkit.distortions.algebra import sweep

        return sweep(self, degrees)

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every parameter by name, checked, defaults filled in."""
        given = self._by_name(args, kwargs)
        bound: dict[str, Any] = {}
        for param in self.params:
            value = given.get(param.name, param.default)
            if value is REQUIRED:
                raise ParameterError(f"{self.name} needs {param.name}", expected=param.range)
            bound[param.name] = param.check(value, self.name)
        return bound

    def defaults(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the text form leaves out: the values that these parameters have when they are not given."""
        return {param.name: param.default for param in self.params if param.default is not REQUIRED}

    def transform(self, *args: Any, root_seed: int | None = None, p: float = 1.0, **kwargs: Any) -> Any:
        """This distortion as an albumentations `ImageOnlyTransform`.

        With a `root_seed` it gives, for whichever image, the bits of the word under
        `SampleKey(root_seed, pixel_hash(image))`; without, it draws a seed from the pipeline it is in.
        """
        from dilkit.distortions._albumentations import transform_class

        return transform_class(self)(**self.bind(*args, **kwargs), root_seed=root_seed, p=p)

    def _by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        names = [param.name for param in self.params]
        allowed = 0 if self.degree is None else 1
        if len(args) > allowed:
            takes = f"its degree ({self.degree}) alone" if allowed else "no argument"
            raise ParameterError(
                f"{self.name} takes {takes} by position",
                parameter=allowed,
                expected="the others by name: " + ", ".join(n for n in names if n != self.degree),
            )
        for name in kwargs:
            if name not in names:
                raise ParameterError(
                    f"{self.name} has no parameter {name!r}",
                    parameter=name,
                    expected=", ".join(names) or "no parameters",
                    nearest=nearest(name, names),
                )
        if args and self.degree in kwargs:
            raise ParameterError(f"{self.name} is given {self.degree} twice", parameter=self.degree)
        return ({self.degree: args[0]} if args and self.degree else {}) | kwargs

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_of, (self.name,)


class Registry:
    """Distortion kinds by name: those of the package, those registered since, those of installed plug-ins."""

    def __init__(self) -> None:
        self._kinds: dict[str, PrimitiveKind] = {}
        self._complete = False
        self._loading = False
        self._lock = threading.RLock()

    def add(self, kind: PrimitiveKind) -> PrimitiveKind:
        """Register a kind and return it; a name can be taken once, but the same kind may come again."""
        if not isinstance(kind, PrimitiveKind):
            raise UsageError("only a PrimitiveKind can be registered", found=repr(kind))
        with self._lock:
            if self._kinds.get(kind.name) is not kind:
                registration.check(kind, self._kinds)
                self._kinds[kind.name] = kind
        return kind

    @property
    def loaded(self) -> Collection[PrimitiveKind]:
        """Those known so far, without plug-ins that nobody has asked for."""
        return self._kinds.values()

    @property
    def kinds(self) -> Mapping[str, PrimitiveKind]:
        """All of them; plug-ins are loaded when this is first asked.

        Other threads wait for that; a plug-in that asks while it is loaded itself gets those known so far.
        """
        if not self._complete:
            with self._lock:
                self._load()
        return MappingProxyType(self._kinds)

    def _load(self) -> None:
        if self._complete or self._loading:
            return
        self._loading = True
        try:
            plugins.load(self.add)
            self._complete = True
        finally:
            self._loading = False

    def find(self, name: str) -> PrimitiveKind | None:
        """The kind of that name, if there is one; plug-ins are loaded only for a name that is not known."""
        return self._kinds.get(name) or self.kinds.get(name)

    def get(self, name: str) -> PrimitiveKind:
        """The kind of that name; a UsageError if there is none."""
        kind = self.find(name)
        if kind is None:
            raise UsageError(
                f"unknown distortion {name!r}",
                nearest=nearest(name, self.kinds),
                remedy="`dilkit ls distortions` lists them",
            )
        return kind


REGISTRY = Registry()


def kind_of(name: str) -> PrimitiveKind:
    """The registered kind of that name (kinds are pickled by name)."""
    return REGISTRY.get(name)
