"""The canonical form as JSON: what equality, order, hashes and keys are made of.

The operators of the algebra, shared by kinds, words and confounder sets.

Distortions of third parties: found by the entry-point group `dilkit.distortions` when first needed.

In the plug-in's pyproject.toml:

    [project.entry-points."dilkit.distortions"]
    vhs = "vhs_noise:KINDS"

where `KINDS` is a `PrimitiveKind`, several of them, or a module that calls `dilkit.register` itself.

What a kind must be to be registered, so that its words can be written, read and made transforms of.

What a primitive distortion is: a registered kind, its parameters, and how they are checked.

The text of an expression, as short as it can be: `parse(str(x)) == x`.

The steps of a word: primitives, `Mix` (a branch is drawn per sample), `Shuffle` (an order is).

The values of the algebra: words and confounder sets, always in canonical form.

A `Word` is a sequence of steps (steps.py), a `ConfounderSet` a finite set of words. Equal expressions are
equal values, with equal hashes, labels and pixels.

The operations of the algebra: a semiring of distortions.

* `>>` is associative, `clean` is its unit, `none` annihilates; it distributes over `|` on both sides.
* `|` is associative, commutative and idempotent, `none` is its unit; a word equals the set of it alone.
* `d ** m >> d ** n == d ** (m + n)`, `d ** 0 == clean`.
* `mix` and `shuffle` do not depend on the order of their arguments, `mix` not on the scale of its weights.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import math
import operator
import re
import threading
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from itertools import chain, groupby, pairwise, product, takewhile
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

import numpy as np
import numpy.typing as npt

from dilkit.distortions import render as sampling
from dilkit.distortions.params import LAWS, POINT, Always, Law, Locality, as_locality, as_python
from dilkit.distortions.presets import PRESETS
from dilkit.distortions.randomness import Draw
from dilkit.distortions.render import Levels
from dilkit.errors import DilkitError, UsageError, nearest

if TYPE_CHECKING:
    from dilkit.distortions.randomness import Window
    from dilkit.distortions.render import SampleKey, Size


SCHEME = b"dilkit-distort-1"
"""Part of every hash; it changes when the canonical form does."""


def primitive(name: str, version: int, params: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": name, "params": {key: value_form(v) for key, v in params.items()}, "version": version}


def value_form(value: Any) -> Any:
    """A parameter's value, JSON-able and exact: 25.0 is 25."""
    if isinstance(value, Law):
        return {"law": value.name, "args": [value_form(arg) for arg in value.args]}
    if isinstance(value, (list, tuple)):
        return [value_form(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): value_form(item) for key, item in value.items()}
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def dumps(form: Any) -> str:
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16, person=SCHEME).hexdigest()


def order(form: Any) -> tuple[Any, ...]:
    """A sorting key for JSON-able values of any types: numbers by size, texts by letters."""
    if form is None:
        return (0,)
    if isinstance(form, bool):
        return (1, form)
    if isinstance(form, (int, float)):
        return (2, form)
    if isinstance(form, str):
        return (3, form)
    if isinstance(form, list):
        return (4, tuple(order(item) for item in form))
    return (5, tuple((key, order(form[key])) for key in sorted(form)))


def corners(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters with every law at each of its extremes."""
    sides = [value.extremes if isinstance(value, Law) else (value,) for value in params.values()]
    for values in product(*sides):
        yield dict(zip(params, values, strict=True))


class Operators:
    """`a >> b` then, `a | b` or, `a - b` without, `a ** n` n times in sequence, `weight * a` in a mix."""

    __slots__ = ()
    __array_ufunc__ = None

    def __rshift__(self, other: Any) -> Any:

        return then(self, other) if isinstance(other, Operators) else NotImplemented

    def __or__(self, other: Any) -> Any:

        return union(self, other) if isinstance(other, Operators) else NotImplemented

    def __sub__(self, other: Any) -> Any:

        return without(self, other) if isinstance(other, Operators) else NotImplemented

    def __pow__(self, times: Any) -> Any:

        return power(self, times)

    def __rmul__(self, weight: Any) -> Any:

        return Weighted.of(weight, self)


GROUP = "dilkit.distortions"


def load(add: Callable[[PrimitiveKind], PrimitiveKind]) -> None:
    """Add the kinds of every installed plug-in; a broken one is named."""
    for point in entry_points(group=GROUP):
        try:
            for kind in _kinds(point):
                add(kind)
        except Exception as error:
            package = point.dist.name if point.dist else "unknown"
            raise DilkitError(
                f"the plug-in {point.name!r} cannot be loaded: {error}",
                where=f"package {package}",
                found=point.value,
                remedy="repair or uninstall that package",
            ) from error


def _kinds(point: EntryPoint) -> Iterable[PrimitiveKind]:

    found = point.load()
    if isinstance(found, ModuleType):
        return ()
    if isinstance(found, PrimitiveKind):
        return (found,)
    kinds = tuple(found)
    if not all(isinstance(kind, PrimitiveKind) for kind in kinds):
        raise TypeError("it holds something that is no PrimitiveKind")
    return kinds


RESERVED = frozenset(
    (
        *("clean", "none", "mix", "shuffle", "interleave", "prob", *LAWS),
        *(preset.identifier for preset in PRESETS.values()),
    )
)
"""Names that the text form needs itself."""

TYPES = (float, int, bool, str)
"""What a parameter can be."""

RESERVED_PARAMETERS = frozenset(("self", "p", "root_seed", "strict"))
"""What the transforms of albumentations take besides."""

RESERVED_CLASSES = frozenset(
    (
        *("A", "Any", "Distort", "KindTransform", "Mapping", "PrimitiveKind", "REGISTRY", "SampleKey"),
        *("Word", "WordTransform"),
    )
)
"""Names in the module that the transforms of all kinds are part of."""


def class_name(name: str) -> str:
    """How the albumentations transform of the kind of that name is called."""
    return "".join(part.capitalize() for part in name.split("_"))


def check(kind: PrimitiveKind, known: Collection[str]) -> None:
    """Raises UsageError for what cannot stand beside the kinds of the known names."""
    if not _writable(kind.name) or kind.name in RESERVED or kind.name.startswith("_"):
        raise UsageError(
            f"a distortion cannot be named {kind.name!r}", expected="an identifier that is not reserved"
        )
    if isinstance(kind.version, bool) or not isinstance(kind.version, int):
        raise UsageError(f"the version of {kind.name!r} must be a whole number", found=repr(kind.version))
    for param in kind.params:
        _check_param(param, kind.name)
    names = [param.name for param in kind.params]
    if len(set(names)) < len(names) or (kind.degree is not None and kind.degree not in names):
        raise UsageError(f"the degree of {kind.name!r} must be one of its parameters", found=kind.degree)
    if kind.name in known:
        raise UsageError(f"a distortion named {kind.name!r} is already registered")
    _check_class(kind.name, known)


def _writable(name: object) -> bool:
    """Whether Python reads it as one name, and as no other one."""
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        return False
    return unicodedata.normalize("NFKC", name) == name


def _check_param(param: object, kind: str) -> None:

    if not isinstance(param, Param):
        raise UsageError(f"a parameter of {kind!r} must be a Param", found=repr(param))
    if not _writable(param.name) or param.name in RESERVED_PARAMETERS:
        raise UsageError(
            f"a parameter of {kind!r} cannot be named {param.name!r}",
            expected="an identifier that is not reserved",
        )
    if param.type not in TYPES:
        raise UsageError(
            f"the parameter {param.name} of {kind!r} has a type that it cannot have",
            found=repr(param.type),
            expected=", ".join(allowed.__name__ for allowed in TYPES),
        )
    if param.default is not REQUIRED:
        param.check(param.default, kind)


def _check_class(name: str, known: Collection[str]) -> None:
    made = class_name(name)
    other = next((taken for taken in known if class_name(taken) == made), None)
    if other is not None or made in RESERVED_CLASSES:
        raise UsageError(
            f"the transform of a distortion named {name!r} would be called {made}",
            found=f"that of {other!r} is" if other else f"another {made} in the module of the transforms",
            remedy="choose another name",
        )


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

        return Word((Primitive(self, tuple(self.bind(*args, **kwargs).items())),))

    def __getitem__(self, degrees: Any) -> ConfounderSet:

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
                check(kind, self._kinds)
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
            load(self.add)
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


MAX_LABEL = 72
LEAST_WEIGHT = Fraction(1, 10**9)
"""The smallest weight above 0 that a text may hold."""


def show_value(value: Any) -> str:
    if isinstance(value, Law):
        return f"{value.name}({', '.join(map(show_value, value.args))})"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show_value, value))}]"
    return repr(value)


def show_primitive(step: Primitive) -> str:
    """The degree by position, the others by name; what has its default is left out."""
    defaults = {name: value_form(value) for name, value in step.kind.defaults(step.params).items()}
    given = [(k, v) for k, v in step.values if k not in defaults or value_form(v) != defaults[k]]
    degree = [show_value(value) for name, value in given if name == step.kind.degree]
    others = [f"{name}={show_value(value)}" for name, value in given if name != step.kind.degree]
    return f"{step.name}({', '.join(degree + others)})" if given else step.name


def show_word(word: Word) -> str:
    return " >> ".join(_runs(map(str, word.sequence))) or "clean"


def _runs(steps: Iterable[str]) -> Iterator[str]:
    for step, run in groupby(steps):
        times = sum(1 for _ in run)
        yield step if times == 1 else f"{step} ** {times}"


def show_mix(mix: Mix) -> str:
    weights = [weight for weight, _ in mix.branches]
    if len(weights) == 2 and not mix.branches[0][1].sequence:
        chance = Fraction(weights[1], sum(weights))
        if chance >= LEAST_WEIGHT and Fraction(repr(float(chance))) == chance:
            return f"prob({show_value(float(chance))}, {mix.branches[1][1]})"
    branches = (str(word) if weight == 1 else f"{weight}*{_factor(word)}" for weight, word in mix.branches)
    return f"mix({', '.join(branches)})"


def _factor(word: Word) -> str:
    return f"({word})" if len(word.sequence) > 1 else str(word)


def show_shuffle(shuffle: Shuffle) -> str:
    return f"{shuffle.name}({', '.join(map(str, shuffle.words))})"


def show_set(words: ConfounderSet) -> str:
    """Neighbours that differ in the degree of one step alone are a sweep."""
    shown: list[str] = []
    left = list(words)
    while left:
        place = _swept(*left[:2]) if len(left) > 1 else None
        count = 1
        while place is not None and count < len(left) and _swept(*left[count - 1 : count + 1]) == place:
            count += 1
        shown.append(show_word(left[0]) if place is None else _show_sweep(left[:count], place))
        left = left[count:]
    return " | ".join(shown) or "none"


def _swept(a: Word, b: Word) -> int | None:
    """The one place where two words differ, if a sweep can write both."""
    if len(a.sequence) != len(b.sequence):
        return None
    pairs = [(x, y) for x, y in zip(a.sequence, b.sequence, strict=True)]
    places = [place for place, (x, y) in enumerate(pairs) if x.json != y.json]
    if len(places) != 1 or not all(map(_sweepable, pairs[places[0]])):
        return None
    x, y = pairs[places[0]]
    return places[0] if x.name == y.name else None  # type: ignore[union-attr]


def _sweepable(step: Step) -> bool:
    """Whether it has but a numeric degree."""

    if not isinstance(step, Primitive) or isinstance(step.degree, bool):
        return False
    bare = (step.name, f"{step.name}({show_value(step.degree)})")
    return isinstance(step.degree, (int, float)) and str(step) in bare


def _show_sweep(words: list[Word], place: int) -> str:
    steps = [word.sequence[place] for word in words]
    sweep = f"{steps[0].name}[{_degrees([step.degree for step in steps])}]"  # type: ignore[union-attr]
    before, after = words[0].sequence[:place], words[0].sequence[place + 1 :]
    return " >> ".join([*_runs(map(str, before)), sweep, *_runs(map(str, after))])


def _degrees(degrees: list[float]) -> str:
    exact = [Fraction(repr(degree)) for degree in degrees]
    steps = {b - a for a, b in pairwise(exact)}
    if len(degrees) > 4 and len(steps) == 1:
        step = float(steps.pop())
        return f"{show_value(degrees[0])}:{show_value(degrees[-1])}:{show_value(step)}"
    return ", ".join(map(show_value, degrees))


_WORDED = re.compile(r"'(?!None'|True'|False')([^\W\d]\w*)'")
"""A quoted word that cannot be taken for another value without its quotes."""
_READABLE = re.compile(r"[\w.,=()\[\]*>:~-]+")


def label(word: Word) -> str:
    """The text without spaces and quotes; where it is long or holds what a path cannot, cut, with a hash."""
    short = _WORDED.sub(r"\1", str(word)).replace(" ", "")
    if len(short) <= MAX_LABEL and _READABLE.fullmatch(short):
        return short
    plain = "".join(_READABLE.findall(short))
    return f"{plain[: MAX_LABEL - 12]}~{word.hash[:8]}"


class Canonical:
    """What everything with a canonical form shares: equality, hash and order follow from it."""

    def canonical(self) -> Any:
        raise NotImplementedError

    @cached_property
    def json(self) -> str:
        """The canonical form as text: the one thing that identity is made of."""
        return dumps(self.canonical())

    @cached_property
    def hash(self) -> str:
        """blake2b of the canonical form, 32 hexadecimal digits."""
        return digest(self.json)

    @cached_property
    def order(self) -> Any:
        """A key that sorts by name, then by number."""
        return order(self.canonical())

    def __eq__(self, other: object) -> bool:
        return self.json == other.json if isinstance(other, Canonical) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.json)


@dataclass(frozen=True, eq=False)
class Primitive(Canonical):
    """A distortion kind with all its parameters.

    Attributes:
        values: (name, value) for every parameter; a value may be a `Law`.
    """

    kind: PrimitiveKind
    values: tuple[tuple[str, Any], ...]

    @property
    def name(self) -> str:
        return self.kind.name

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.values)

    @property
    def degree(self) -> Any:
        """The value of the degree parameter, or None where there is none."""
        return self.params.get(self.kind.degree) if self.kind.degree else None

    @property
    def size(self) -> int:
        return 1

    @property
    def depth(self) -> int:
        return 0

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        return (self,)

    @cached_property
    def locality(self) -> Locality:
        widest = POINT
        for params in corners(self.params):
            widest = widest | self.kind.locality(params)
        return widest

    def canonical(self) -> Any:
        return primitive(self.kind.name, self.kind.version, self.params)

    @cached_property
    def common_json(self) -> str:
        """The canonical form without the degree: what the key of a common coupling is made of."""
        rest = {name: value for name, value in self.values if name != self.kind.degree}
        return dumps(primitive(self.kind.name, self.kind.version, rest))

    def __str__(self) -> str:
        return show_primitive(self)


@dataclass(frozen=True, eq=False)
class Mix(Canonical):
    """One branch, drawn per sample.

    Attributes:
        branches: (weight, word), at least two, each word once, in canonical order; the weights are coprime
            whole numbers.
    """

    branches: tuple[tuple[int, Word], ...]

    @property
    def size(self) -> int:
        return sum(word.size for _, word in self.branches)

    @property
    def depth(self) -> int:
        return 1 + max(word.depth for _, word in self.branches)

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        return tuple(chain.from_iterable(word.steps for _, word in self.branches))

    @property
    def locality(self) -> Locality:
        widest = POINT
        for _, word in self.branches:
            widest = widest | word.reach
        return widest

    def canonical(self) -> Any:
        return {"mix": [[weight, word.canonical()] for weight, word in self.branches]}

    @cached_property
    def common_json(self) -> str:
        return dumps({"mix": [[weight, word.common] for weight, word in self.common_branches]})

    @cached_property
    def common_branches(self) -> tuple[tuple[int, Word], ...]:
        """The branches in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.branches, key=lambda branch: branch[1].common_order))

    def __str__(self) -> str:
        return show_mix(self)


@dataclass(frozen=True, eq=False)
class Shuffle(Canonical):
    """All words, in an order drawn per sample.

    Attributes:
        words: at least two, in canonical order.
        riffled: each word keeps the order of its own steps, but steps of the others may come between them.
    """

    words: tuple[Word, ...]
    riffled: bool = False

    @property
    def name(self) -> str:
        return "interleave" if self.riffled else "shuffle"

    @property
    def size(self) -> int:
        return sum(word.size for word in self.words)

    @property
    def depth(self) -> int:
        return 1 + max(word.depth for word in self.words)

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        return tuple(chain.from_iterable(word.steps for word in self.words))

    @property
    def locality(self) -> Locality:
        total = POINT
        for word in self.words:
            total = total + word.reach
        return total

    def canonical(self) -> Any:
        return {self.name: [word.canonical() for word in self.words]}

    @cached_property
    def common_json(self) -> str:
        return dumps({self.name: [word.common for word in self.common_words]})

    @cached_property
    def common_words(self) -> tuple[Word, ...]:
        """The words in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.words, key=lambda word: word.common_order))

    def __str__(self) -> str:
        return show_shuffle(self)


Step = Primitive | Mix | Shuffle


MAX_WORDS = 1024
"""The most words in one set."""
MAX_STEPS = 1024
"""The most primitives in one word, branches included."""
MAX_SET_STEPS = 65_536
"""The most primitives in all words of a product of sets."""
MAX_DEPTH = 16
"""The deepest nesting of `mix` and `shuffle`."""


class KindError(UsageError, TypeError):
    """Something that is no distortion where one was expected, or a set where one word was."""


_CLOSING = {"clip", "quantize"}
"""Primitives that leave the 8-bit grid where it is, and together bring anything onto it."""


def _is_closing(step: Step) -> bool:
    return isinstance(step, Primitive) and step.name in _CLOSING and step.params.get("bits", 8) == 8


@dataclass(frozen=True, eq=False)
class Word(Canonical, Operators):
    """Distortions in sequence, applied left to right; without steps it is `clean`.

    Attributes:
        sequence: the steps; no step is itself a sequence.
    """

    sequence: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        if self.size > MAX_STEPS:
            raise UsageError(
                f"a word of {self.size} distortions is too long", expected=f"at most {MAX_STEPS}"
            )
        if self.depth > MAX_DEPTH:
            raise UsageError("mix and shuffle are nested too deeply", expected=f"at most {MAX_DEPTH} levels")

    @cached_property
    def size(self) -> int:
        return sum(step.size for step in self.sequence)

    @cached_property
    def depth(self) -> int:
        return max((step.depth for step in self.sequence), default=0)

    @property
    def steps(self) -> tuple[Primitive, ...]:
        """Every primitive in it, left to right (of `mix` and `shuffle`, those of all branches)."""
        return tuple(chain.from_iterable(step.primitives for step in self.sequence))

    @cached_property
    def reach(self) -> Locality:
        total = POINT
        for step in self.sequence:
            total = total + step.locality
        return total

    @property
    def locality(self) -> Locality:
        """How far an output pixel of the whole word looks, at the widest."""
        return self.reach

    @cached_property
    def label(self) -> str:
        """Short, stable, readable, unique: `gaussian_blur(2)>>awgn(25)`; never with a '/'."""
        return label(self)

    @cached_property
    def order(self) -> Any:
        """Step by step, so that `clean` comes first and a word comes before what continues it."""
        return tuple(step.order for step in self.sequence)

    @property
    def common(self) -> Any:
        return [step.common_json for step in self.sequence]

    @property
    def common_order(self) -> Any:
        """A key that sorts by all but the degrees, and by them only where all else is alike."""
        return self.common, self.order

    def canonical(self) -> Any:
        """JSON-able: flattened, defaults explicit, sorted, exact numbers, versions of the primitives."""
        parts = [step.canonical() for step in self.sequence]
        return parts[0] if len(parts) == 1 else {"then": parts}

    def apply(
        self, image: Image, key: SampleKey, window: Window | None = None, size: Size | None = None
    ) -> Image:
        """Distort an image.

        Args:
            image: the whole clean image, (H, W, 3) float32 in [0, 1]; it is not changed.
            key: what its random numbers derive from.
            window: the part of the result that is wanted (of the whole result, if that has another size).
            size: the height and width that the whole result must have.

        Returns:
            (h, w, 3) float32, bit for bit the cut of the whole; nothing is clipped or rounded unless the word
            says so. Point and halo primitives after the last global one compute no more than is needed.

        Raises:
            UsageError: the image has another type or shape, or the window leaves it.
            DilkitError: the whole result has not the given size.
        """
        return sampling.apply(self, image, key, window, size)

    @cached_property
    def closing(self) -> tuple[Primitive, ...]:
        """The steps at its end that do nothing but clip and round to 8 bits."""
        found = takewhile(_is_closing, reversed(self.sequence))
        return tuple(step for step in found if isinstance(step, Primitive))[::-1]

    @cached_property
    def rounds(self) -> bool:
        """Whether it ends with `clip` and `quantize`."""
        return {step.name for step in self.closing} == _CLOSING

    @property
    def eight_bit(self) -> bool:
        """Whether its results are whole levels k / 255: it `rounds`, or ends 8-bit by nature, as JPEG is."""
        rest = self.sequence[: len(self.sequence) - len(self.closing)]
        last = rest[-1] if rest else None
        return self.rounds or (isinstance(last, Primitive) and last.kind.levels is not None)

    def levels(
        self,
        image: Image | Levels,
        key: SampleKey,
        window: Window | None = None,
        size: Size | None = None,
    ) -> Levels:
        """As `apply`, but (h, w, 3) uint8 and faster: `as_float(levels(...)) == apply(...)`, bit for bit.

        The image may be uint8, too; JPEG alone then never leaves 8 bits.

        Raises:
            DilkitError: a result that is not on the 8-bit grid, or no number.
        """
        return sampling.levels(self, image, key, window, size)

    def __str__(self) -> str:
        return show_word(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Word, (self.sequence,)


@dataclass(frozen=True, eq=False)
class ConfounderSet(Canonical, Operators):
    """A finite set of words in canonical order; build it with `|`, a sweep or `confounder_set`."""

    words: tuple[Word, ...] = ()

    @classmethod
    def of(cls, words: Iterable[Word]) -> ConfounderSet:
        unique = {word.json: word for word in words}
        if len(unique) > MAX_WORDS:
            raise UsageError(
                f"a set of {len(unique)} distortions is too large", expected=f"at most {MAX_WORDS}"
            )
        return cls(tuple(sorted(unique.values(), key=lambda word: word.order)))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """One per word, in order, each different."""
        return tuple(word.label for word in self.words)

    def canonical(self) -> Any:
        """JSON-able; of a set of one word, that of the word."""
        parts = [word.canonical() for word in self.words]
        return parts[0] if len(parts) == 1 else {"or": parts}

    def __iter__(self) -> Iterator[Word]:
        return iter(self.words)

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, item: object) -> bool:
        return item in self.words or item in self.labels

    @overload
    def __getitem__(self, label: str | SupportsIndex) -> Word: ...
    @overload
    def __getitem__(self, label: slice) -> ConfounderSet: ...
    def __getitem__(self, label: str | SupportsIndex | slice) -> Word | ConfounderSet:
        if isinstance(label, slice):
            return ConfounderSet.of(self.words[label])
        if isinstance(label, SupportsIndex):
            return self.words[operator.index(label)]
        try:
            return self.words[self.labels.index(label)]
        except ValueError:
            raise UsageError(
                f"no confounder is called {label!r}",
                expected=", ".join(self.labels) or "none: the set is empty",
                nearest=nearest(str(label), self.labels),
            ) from None

    def __str__(self) -> str:
        return show_set(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfounderSet, (self.words,)


Expression = Word | ConfounderSet

clean = Word()
"""The word that changes nothing: the unit of `>>`."""
none = ConfounderSet()
"""The empty set: the unit of `|`; it annihilates under `>>`."""


MAX_WEIGHT = 10**30
"""The largest weight, once those of a mix are whole numbers without a common divisor."""


@dataclass(frozen=True)
class Weighted:
    """A branch of a mix with its weight; only `mix` takes it."""

    weight: Fraction
    word: Word

    @classmethod
    def of(cls, weight: Any, word: Any) -> Weighted:
        return cls(exact_weight(weight), as_word(word, "a branch of mix"))


def exact_weight(value: Any) -> Fraction:
    """A weight as the exact decimal that was written: 0.3 is 3/10."""
    value = as_python(value)
    if isinstance(value, Fraction):
        exact = value
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise KindError(f"a weight must be a number, not {value!r}")
    else:
        exact = Fraction(repr(value)) if isinstance(value, float) else Fraction(value)
    if exact and not LEAST_WEIGHT <= exact <= MAX_WEIGHT:
        raise UsageError(f"the weight {value!r} is out of range", expected="0, or from 1e-9 to 1e30")
    return exact


def exact_chance(value: Any) -> Fraction:
    """A probability as the exact decimal that was written."""
    chance = exact_weight(value)
    if chance > 1:
        raise UsageError(f"{value} is no probability", expected="a number from 0 to 1")
    return chance


def as_expression(value: Any) -> Expression:
    """A word or a set; a kind without arguments is its word."""
    if isinstance(value, PrimitiveKind):
        return value()
    if isinstance(value, (Word, ConfounderSet)):
        return value
    if isinstance(value, Weighted):
        raise KindError(f"a weight belongs inside mix: mix({value.weight}*{value.word}, ...)")
    raise KindError(f"{value!r} is no distortion")


def as_word(value: Any, role: str) -> Word:
    """A word; a set is refused."""
    made = as_expression(value)
    if isinstance(made, ConfounderSet):
        raise KindError(
            f"{role} must be one word, not a set of {len(made)}",
            found=str(made),
            remedy="`mix` draws one branch per sample; `|` makes one confounder of each",
        )
    return made


def words_of(value: Any) -> tuple[Word, ...]:
    made = as_expression(value)
    return made.words if isinstance(made, ConfounderSet) else (made,)


def then(first: Any, second: Any) -> Expression:
    """`first >> second`: over sets, every pair."""
    a, b = as_expression(first), as_expression(second)
    if isinstance(a, Word) and isinstance(b, Word):
        return Word(a.sequence + b.sequence) if b.sequence else a
    left, right = words_of(a), words_of(b)
    if len(left) * len(right) > MAX_WORDS:
        raise UsageError(
            f"a set of {len(left) * len(right)} distortions is too large", expected=f"at most {MAX_WORDS}"
        )
    steps = len(right) * sum(word.size for word in left) + len(left) * sum(word.size for word in right)
    if steps > MAX_SET_STEPS:
        raise UsageError(
            f"a set with {steps} primitives is too large",
            expected=f"at most {MAX_SET_STEPS} in all its words",
        )
    return ConfounderSet.of(Word(x.sequence + y.sequence) for x in left for y in right)


def union(first: Any, second: Any) -> ConfounderSet:
    """`first | second`."""
    return ConfounderSet.of(words_of(first) + words_of(second))


def without(first: Any, second: Any) -> ConfounderSet:
    """`first - second`: the words of the first that are not in the second (hold-outs)."""
    left_out = set(words_of(second))
    return ConfounderSet.of(word for word in words_of(first) if word not in left_out)


def power(base: Any, times: Any) -> Expression:
    """`base ** times`: so many independent draws in sequence."""
    made, times = as_expression(base), as_python(times)
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise KindError(f"a power must be a whole number of at least 0, not {times!r}")
    if isinstance(made, Word):
        if made.size * times > MAX_STEPS:
            raise UsageError(
                f"a word of {made.size * times} distortions is too long", expected=f"at most {MAX_STEPS}"
            )
        return Word(made.sequence * times) if made.sequence else made
    if times > MAX_STEPS:
        raise UsageError(f"the power {times} is too high", expected=f"at most {MAX_STEPS}")
    if times < 2:
        return made if times else clean
    half = power(made, times // 2)
    whole = then(half, half)
    return then(whole, made) if times % 2 else whole


def sweep(kind: PrimitiveKind, degrees: Any) -> ConfounderSet:
    """`kind[5, 10]` or `kind[30:90:20]`: one word per degree; the last degree of a range is included."""
    if kind.degree is None:
        raise KindError(f"{kind.name} has no degree to sweep", remedy=f"write {kind.name}(...)")
    members = degrees if isinstance(degrees, tuple) else (degrees,)
    values = chain.from_iterable(_range(d, kind.name) if isinstance(d, slice) else (d,) for d in members)
    return ConfounderSet.of(kind(value) for value in values)


def _range(degrees: slice, name: str) -> list[float]:
    ends = [as_python(end) for end in (degrees.start, degrees.stop, degrees.step)]
    ends[2] = 1 if ends[2] is None else ends[2]
    if any(isinstance(e, bool) or not isinstance(e, (int, float)) or not math.isfinite(e) for e in ends):
        raise UsageError(
            f"a range of degrees needs numbers: {name}[first:last:step]",
            found=":".join("" if e is None else str(e) for e in ends),
        )
    first, last, step = (Fraction(repr(e)) for e in ends)
    if step == 0 or (last - first) / step < 0:
        raise UsageError(f"the range {ends[0]}:{ends[1]}:{ends[2]} is empty", expected="first:last:step")
    count = int((last - first) / step) + 1
    if count > MAX_WORDS:
        raise UsageError(f"a range of {count} degrees is too long", expected=f"at most {MAX_WORDS}")
    return [float(first + step * i) for i in range(count)]


def mix(*branches: Any) -> Word:
    """One word that draws one branch per sample: `mix(0.3*a, 0.7*b)`; without weights each is alike."""
    weights: dict[Word, Fraction] = {}
    for branch in branches:
        weighted = branch if isinstance(branch, Weighted) else Weighted.of(1, branch)
        for share, word in _flat(weighted):
            weights[word] = weights.get(word, Fraction(0)) + share
    drawn = {word: weight for word, weight in weights.items() if weight > 0}
    if not drawn:
        raise UsageError("mix needs at least one branch with a weight above 0")
    if len(drawn) == 1:
        return next(iter(drawn))
    scale = Fraction(math.lcm(*(w.denominator for w in drawn.values())))
    whole = {word: int(weight * scale) for word, weight in drawn.items()}
    common = math.gcd(*whole.values())
    if max(whole.values()) > common * MAX_WEIGHT:
        raise UsageError("the weights of mix differ too finely", expected="ratios of smaller whole numbers")
    ordered = sorted(whole.items(), key=lambda item: item[0].order)
    return Word((Mix(tuple((weight // common, word) for word, weight in ordered)),))


def _flat(weighted: Weighted) -> Iterator[tuple[Fraction, Word]]:
    """A branch that is itself a mix gives its own branches."""
    steps = weighted.word.sequence
    if len(steps) == 1 and isinstance(steps[0], Mix):
        inner = steps[0].branches
        total = sum(weight for weight, _ in inner)
        for weight, word in inner:
            yield weighted.weight * weight / total, word
    else:
        yield weighted.weight, weighted.word


def prob(p: float, word: Any) -> Word:
    """The word with probability p, else `clean`."""
    chance = exact_chance(p)
    made = as_word(word, "the argument of prob")
    return mix(Weighted(chance, made), Weighted(1 - chance, clean))


def shuffle(*words: Any) -> Word:
    """One word that applies all of them in an order drawn per sample, each as a block."""
    return _arranged(words, Shuffle)


def interleave(*words: Any) -> Word:
    """One word that riffles them per sample: each keeps its own order, steps of others may come between."""
    return _arranged(words, lambda kept: Shuffle(kept, riffled=True))


def _arranged(words: tuple[Any, ...], make: Callable[[tuple[Word, ...]], Shuffle]) -> Word:
    made = [as_word(word, "an argument of shuffle or interleave") for word in words]
    kept = sorted((word for word in made if word.sequence), key=lambda word: word.order)
    if len(kept) <= 1:
        return kept[0] if kept else clean
    return Word((make(tuple(kept)),))


def confounder_set(expr: str | Expression | PrimitiveKind | Sequence[Any]) -> ConfounderSet:
    """Anything that means distortions, as a set: a text, a word, a set, or a list of them (it means `|`)."""
    if isinstance(expr, str):
        from dilkit.distortions.grammar import parse

        return ConfounderSet.of(words_of(parse(expr)))
    if isinstance(expr, (list, tuple)):
        return ConfounderSet.of(chain.from_iterable(confounder_set(part).words for part in expr))
    return ConfounderSet.of(words_of(expr))
