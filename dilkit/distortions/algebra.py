"""The algebra of distortions: kinds, words, sets, the operations on them, and their text.

A `PrimitiveKind` is a registered distortion; called with its parameters it is a `Word` of one step. A `Word`
is a sequence of steps: primitives, `Mix` (one branch is drawn per sample), `Shuffle` (an order is drawn). A
`ConfounderSet` is a finite set of words. All are always in canonical form: equal expressions are equal
values, with equal hashes, labels and pixels. The operations form a semiring:

* `>>` is associative, `clean` is its unit, `none` annihilates; it distributes over `|` on both sides.
* `|` is associative, commutative and idempotent, `none` is its unit; a word equals the set of it alone.
* `d ** m >> d ** n == d ** (m + n)`, `d ** 0 == clean`.
* `mix` and `shuffle` do not depend on the order of their arguments, `mix` not on the scale of its weights.

`str(x)` is the shortest text; grammar.py reads it again: `parse(str(x)) == x`.
"""

from __future__ import annotations

import hashlib
import json
import keyword
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, reduce
from itertools import chain, groupby, pairwise, permutations, product, takewhile
from typing import Any, ClassVar, SupportsIndex, overload

from dilkit.distortions import render
from dilkit.distortions.params import (
    LAWS,
    POINT,
    REQUIRED,
    Law,
    Locality,
    Param,
    ParameterError,
    as_locality,
    as_python,
    refuse_unknown,
)
from dilkit.distortions.presets import PRESETS
from dilkit.distortions.randomness import SampleKey, Window, uniform_word
from dilkit.distortions.render import MAX_PIXELS, Apply, ApplyLevels, Image, Levels, Resolved, Size
from dilkit.distortions.symmetry import Symmetry
from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.libraries import np
from dilkit.registry import Registry

# -- canonical form ----------------------------------------------------------------------------------------

SCHEME = b"dilkit-distort-1"
"""Part of every hash; it changes when the canonical form does."""


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
    """JSON of one value only: sorted keys, no spaces."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sort_key(form: Any) -> tuple[Any, ...]:
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
        return (4, tuple(sort_key(item) for item in form))
    return (5, tuple((key, sort_key(form[key])) for key in sorted(form)))


def refuse_more(count: int, most: int, what: str) -> None:
    """Raises UsageError where `what` (with {} for the count) has more than `most`."""
    if count > most:
        raise UsageError(what.format(count), expected=f"at most {most}")


class Canonical:
    """What everything with a canonical form shares: equality, hash and order follow from it.

    Attributes:
        names: what a user calls its words, where they have names of their own. They are part of equality and
            of labels, not of the canonical form: `hash`, keys and pixels do not depend on them.
    """

    names: tuple[str, ...] = ()

    def canonical(self) -> Any:
        raise NotImplementedError

    @cached_property
    def json(self) -> str:
        """The canonical form as text: the one thing that identity is made of."""
        return dumps(self.canonical())

    @cached_property
    def hash(self) -> str:
        """blake2b of the canonical form, 32 hexadecimal digits."""
        return hashlib.blake2b(self.json.encode(), digest_size=16, person=SCHEME).hexdigest()

    @cached_property
    def order(self) -> Any:
        """A key that sorts by name, then by number."""
        return sort_key(self.canonical())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Canonical):
            return NotImplemented
        return self.json == other.json and self.names == other.names

    def __hash__(self) -> int:
        return hash(self.json)


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


# -- kinds -------------------------------------------------------------------------------------------------


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
        notes: where the pixels differ from those of the source, measured where that can be.
        size_after: of a kind that changes the size: (resolved parameters, size of its input, size of the
            clean image) -> size of its result, not decreasing in the sizes.
        work: multiplications per pixel and channel, about; what refuses words that would run for hours.
        symmetries: the groups that carry one of its degrees to another; see symmetry.py.
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
    notes: str = ""
    size_after: Callable[[Mapping[str, Any], Size, Size], Size] | None = None
    work: Callable[[Mapping[str, Any]], float] = lambda params: 10.0
    symmetries: tuple[Symmetry, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.locality):
            always = as_locality(self.locality, self.name)
            object.__setattr__(self, "locality", lambda params: always)

    def __call__(self, *args: Any, **kwargs: Any) -> Word:
        return Word((Primitive(self, tuple(self.bind(*args, **kwargs).items())),))

    def __getitem__(self, degrees: Any) -> ConfounderSet:
        return sweep(self, degrees)

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Every parameter by name, checked, defaults filled in."""
        given = {**self.optional, **self._by_name(args, kwargs)}
        for param in self.params:
            if param.name not in given:
                raise ParameterError(f"{self.name} needs {param.name}", expected=param.range)
        return {param.name: param.check(given[param.name], self.name) for param in self.params}

    @property
    def optional(self) -> dict[str, Any]:
        """The parameters that have a default, at their defaults."""
        return {param.name: param.default for param in self.params if param.default is not REQUIRED}

    def defaults(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the text form leaves out: the values that these parameters have when they are not given."""
        return self.optional

    def example(self) -> dict[str, Any]:
        """Something allowed for every parameter that has no default."""
        return {param.name: param.example for param in self.params if param.default is REQUIRED}

    def describe(self) -> dict[str, Any]:
        """What it does, its parameters, how far it looks, where it comes from; JSON-able."""
        return {
            "name": self.name,
            "summary": self.summary,
            "write": str(self(**self.example())),
            "parameters": [
                {
                    "name": param.name,
                    "takes": param.range,
                    "default": None if param.default is REQUIRED else show_value(param.default),
                    "meaning": param.doc,
                }
                for param in self.params
            ],
            "degree": self.degree,
            "locality": self.localities,
            "random": self.random,
            "symmetries": "; ".join(map(str, self.symmetries)),
            "family": self.family,
            "source": self.source,
            "notes": self.notes,
            "version": self.version,
        }

    @property
    def localities(self) -> str:
        """point, halo or global; several where it depends on the parameters: `point or halo`."""
        free = self.optional | self.example()
        tried = [free]
        for param in self.params:
            if param.type is bool:
                tried.append({**free, param.name: not free[param.name]})
            elif param.type is float and param.name != self.degree and math.isfinite(param.high):
                tried.append({**free, param.name: param.high})
        return " or ".join(dict.fromkeys(self.locality(params).name for params in tried))

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
        refuse_unknown(self.name, kwargs, names)
        if args and self.degree in kwargs:
            raise ParameterError(f"{self.name} is given {self.degree} twice", parameter=self.degree)
        return ({self.degree: args[0]} if args and self.degree else {}) | kwargs

    def __repr__(self) -> str:
        return self.name

    def __reduce__(self) -> tuple[Any, ...]:
        return kind_of, (self.name,)


RESERVED = frozenset(
    (
        *("clean", "none", "mix", "shuffle", "interleave", "prob", *LAWS),
        *(preset.identifier for preset in PRESETS.values()),
    )
)
"""Names that the text form needs itself."""

RESERVED_PARAMETERS = frozenset(("self", "p", "root_seed", "strict"))
"""What the transforms of albumentations take as well."""

RESERVED_CLASSES = frozenset(("Distort", "KindTransform", "WordTransform"))
"""Names beside the transforms of all kinds in albumentations.py; a test compares them with that module's."""


def class_name(name: str) -> str:
    """How the albumentations transform of the kind of that name is called."""
    return "".join(part.capitalize() for part in name.split("_"))


def check_kind(kind: PrimitiveKind, known: Collection[str]) -> None:
    """Raises UsageError for a kind whose words could not be written, read or turned into transforms."""
    if not isinstance(kind, PrimitiveKind):
        raise UsageError("only a PrimitiveKind can be registered", found=repr(kind))
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
    made = class_name(kind.name)
    other = next((taken for taken in known if class_name(taken) == made), None)
    if other is not None or made in RESERVED_CLASSES:
        raise UsageError(
            f"the transform of a distortion named {kind.name!r} would be called {made}",
            found=f"that of {other!r} is" if other else f"another {made} in the module of the transforms",
            remedy="choose another name",
        )


def _writable(name: object) -> bool:
    """Whether Python reads it as one identifier, unchanged."""
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
    if param.type not in (float, int, bool, str):
        raise UsageError(
            f"the parameter {param.name} of {kind!r} has a type that it cannot have",
            found=repr(param.type),
            expected="float, int, bool or str",
        )
    if param.default is not REQUIRED:
        param.check(param.default, kind)


def new_registry() -> Registry[PrimitiveKind]:
    """A registry of distortions, empty but for what installed plug-ins bring."""

    def check(name: str, kind: PrimitiveKind) -> None:
        check_kind(kind, registry.loaded)
        if kind.name != name:
            raise UsageError(f"the distortion {kind.name!r} cannot be registered as {name!r}")

    registry: Registry[PrimitiveKind] = Registry(
        "distortion",
        check=check,
        is_one=lambda value: isinstance(value, PrimitiveKind),
        command="dilkit ls distortions",
    )
    return registry


REGISTRY = new_registry()
"""Distortion kinds by name: those of the package, those registered since, those of installed plug-ins."""


def distortion(*params: Param, family: str, source: str, **settings: Any) -> Callable[[Apply], PrimitiveKind]:
    """Register a function as the distortion of its name; its docstring is the summary.

    Args:
        settings: other fields of `PrimitiveKind`.
    """

    def register(apply: Apply) -> PrimitiveKind:
        summary = " ".join((apply.__doc__ or "").split())
        return REGISTRY.add(PrimitiveKind(apply.__name__, family, summary, source, params, apply, **settings))

    return register


def kind_of(name: str) -> PrimitiveKind:
    """The registered kind of that name; kinds are pickled by it."""
    return REGISTRY.get(name)


def distortions() -> list[PrimitiveKind]:
    """Every kind, by family and name."""
    return sorted(REGISTRY.values(), key=lambda kind: (kind.family, kind.name))


# -- steps -------------------------------------------------------------------------------------------------

MAX_WORDS = 1024
"""The most words in one set."""
MAX_STEPS = 1024
"""The most primitives in one word, branches included."""
MAX_SET_STEPS = 65_536
"""The most primitives in all words of a product of sets."""
MAX_DEPTH = 16
"""The deepest nesting of `mix` and `shuffle`."""
MAX_WORK = 100_000
"""The most multiplications per pixel of the clean image and channel: about 10 s for 256 x 256 pixels."""


class KindError(UsageError, TypeError):
    """Something that is not a distortion where one was expected, or a set where a word was."""


@dataclass(frozen=True)
class Extent:
    """How large the images that a word makes can be, and its work at worst; see `Word.extent`.

    Attributes:
        clean: height and width of the clean image.
        least, greatest: of all results that can be drawn, side by side.
        pixels: of the largest image that can occur on the way.
        work: multiplications per channel.
    """

    clean: Size
    least: Size
    greatest: Size
    pixels: int
    work: float = 0.0

    @classmethod
    def of(cls, size: Size) -> Extent:
        return cls(size, size, size, size[0] * size[1])

    def either(self, other: Extent) -> Extent:
        """That of one or the other."""
        low = min(self.least[0], other.least[0]), min(self.least[1], other.least[1])
        high = max(self.greatest[0], other.greatest[0]), max(self.greatest[1], other.greatest[1])
        return Extent(self.clean, low, high, max(self.pixels, other.pixels), max(self.work, other.work))


def corners(params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The parameters with every law at each of its extremes."""
    sides = [value.extremes if isinstance(value, Law) else (value,) for value in params.values()]
    for values in product(*sides):
        yield dict(zip(params, values, strict=True))


@dataclass(frozen=True, eq=False)
class Primitive(Canonical):
    """A distortion kind with all its parameters.

    Attributes:
        values: (name, value) for every parameter; a value may be a `Law`.
    """

    kind: PrimitiveKind
    values: tuple[tuple[str, Any], ...]
    size: ClassVar[int] = 1
    depth: ClassVar[int] = 0

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
    def primitives(self) -> tuple[Primitive, ...]:
        return (self,)

    @cached_property
    def locality(self) -> Locality:
        return reduce(operator.or_, map(self.kind.locality, corners(self.params)))

    def canonical(self) -> Any:
        return self._form(self.params)

    @cached_property
    def common_json(self) -> str:
        """The canonical form without the degree: what the key of a common coupling is made of."""
        rest = {name: value for name, value in self.values if name != self.kind.degree}
        return dumps(self._form(rest))

    def _form(self, params: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: value_form(value) for name, value in params.items()}
        return {"name": self.kind.name, "params": values, "version": self.kind.version}

    def resolve(self, key: SampleKey, place: tuple[int, ...]) -> Iterator[Resolved]:
        """Itself, each law replaced by what it draws."""
        token, settled = key.derive(self, place), self.params
        for param in self.kind.params:
            law = settled[param.name]
            if isinstance(law, Law):
                settled[param.name] = param.type(law.sample(uniform_word(token, param.name)))
        yield Resolved(self.kind, settled, token)

    @cached_property
    def heaviest(self) -> float:
        """Multiplications per pixel and channel, at most."""
        return max(float(self.kind.work(params)) for params in corners(self.params))

    def extent(self, before: Extent) -> Extent:
        """What can come after it of what came before."""
        low, high, after = before.least, before.greatest, self.kind.size_after
        if after is not None:
            small = zip(*(after(params, low, before.clean) for params in corners(self.params)), strict=True)
            large = zip(*(after(params, high, before.clean) for params in corners(self.params)), strict=True)
            low, high = (min(next(small)), min(next(small))), (max(next(large)), max(next(large)))
        area = max(before.greatest[0] * before.greatest[1], high[0] * high[1])
        return Extent(
            before.clean, low, high, max(before.pixels, area), before.work + self.heaviest * float(area)
        )

    def __str__(self) -> str:
        """The degree by position, the others by name; what has its default is left out."""
        defaults = {name: value_form(value) for name, value in self.kind.defaults(self.params).items()}
        given = [(k, v) for k, v in self.values if k not in defaults or value_form(v) != defaults[k]]
        degree = [show_value(value) for name, value in given if name == self.kind.degree]
        others = [f"{name}={show_value(value)}" for name, value in given if name != self.kind.degree]
        return f"{self.name}({', '.join(degree + others)})" if given else self.name


class Compound(Canonical):
    """A step that is made of words."""

    words: tuple[Word, ...]

    @property
    def size(self) -> int:
        return sum(word.size for word in self.words)

    @property
    def depth(self) -> int:
        return 1 + max(word.depth for word in self.words)

    @property
    def primitives(self) -> tuple[Primitive, ...]:
        return tuple(chain.from_iterable(word.steps for word in self.words))


@dataclass(frozen=True, eq=False)
class Mix(Compound):
    """One branch, drawn per sample.

    Attributes:
        branches: (weight, word), at least two, each word once, in canonical order; the weights are coprime
            whole numbers.
    """

    branches: tuple[tuple[int, Word], ...]

    @property
    def words(self) -> tuple[Word, ...]:  # type: ignore[override]
        return tuple(word for _, word in self.branches)

    @property
    def locality(self) -> Locality:
        return reduce(operator.or_, (word.locality for word in self.words))

    def canonical(self) -> Any:
        return {"mix": [[weight, word.canonical()] for weight, word in self.branches]}

    @cached_property
    def common_json(self) -> str:
        return dumps({"mix": [[weight, word.common] for weight, word in self.common_branches]})

    @cached_property
    def common_branches(self) -> tuple[tuple[int, Word], ...]:
        """The branches in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.branches, key=lambda branch: branch[1].common_order))

    def resolve(self, key: SampleKey, place: tuple[int, ...]) -> Iterator[Resolved]:
        """The primitives of the branch that is drawn."""
        branches = self.common_branches if key.coupling == "common" else self.branches
        token = key.derive(self, place)
        point = int.from_bytes(token, "big") * sum(weight for weight, _ in branches) >> 8 * len(token)
        for weight, word in branches:
            point -= weight
            if point < 0:
                yield from word.resolve(key, place)
                return

    def extent(self, before: Extent) -> Extent:
        """That of any branch."""
        return reduce(Extent.either, (word.after(before) for word in self.words))

    def __str__(self) -> str:
        """`prob(...)` of a word and `clean`, where the probability is a short decimal; else `mix(...)`."""
        weights = [weight for weight, _ in self.branches]
        if len(weights) == 2 and not self.words[0].sequence:
            chance = Fraction(weights[1], sum(weights))
            if chance >= LEAST_WEIGHT and Fraction(repr(float(chance))) == chance:
                return f"prob({show_value(float(chance))}, {self.words[1]})"
        branches = (
            str(word) if weight == 1 else f"{weight}*{f'({word})' if len(word.sequence) > 1 else word}"
            for weight, word in self.branches
        )
        return f"mix({', '.join(branches)})"


@dataclass(frozen=True, eq=False)
class Shuffle(Compound):
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
    def locality(self) -> Locality:
        return reduce(operator.add, (word.locality for word in self.words))

    def canonical(self) -> Any:
        return {self.name: [word.canonical() for word in self.words]}

    @cached_property
    def common_json(self) -> str:
        return dumps({self.name: [word.common for word in self.common_words]})

    @cached_property
    def common_words(self) -> tuple[Word, ...]:
        """The words in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.words, key=lambda word: word.common_order))

    def resolve(self, key: SampleKey, place: tuple[int, ...]) -> Iterator[Resolved]:
        """The primitives in an order drawn from all: slots are sorted by random numbers."""
        words = self.common_words if key.coupling == "common" else self.words
        token, sizes = key.derive(self, place), [len(word.sequence) for word in words]
        slots = [member for member, size in enumerate(sizes) for _ in range(size if self.riffled else 1)]
        drawn = [slots[k] for k in sorted(range(len(slots)), key=lambda k: uniform_word(token, str(k)))]
        following = [iter(range(size)) for size in sizes]
        for member in drawn:
            for index in following[member]:
                yield from words[member].sequence[index].resolve(key, (*place, member, index))
                if self.riffled:
                    break

    def extent(self, before: Extent) -> Extent:
        """That of any order: exact where one word alone changes the size, or where few steps do."""
        movers = [[step for step in word.sequence if _changes_size(step)] for word in self.words]
        movers = [steps for steps in movers if steps]
        slots = [k for k, steps in enumerate(movers) for _ in (steps if self.riffled else steps[:1])]
        if len(slots) <= _FEW:
            whole: Extent | None = None
            for order in set(permutations(slots)):
                following = [iter(steps) for steps in movers]
                sized = before
                for member in order:
                    for step in following[member]:
                        sized = step.extent(sized)
                        if self.riffled:
                            break
                whole = sized if whole is None else whole.either(sized)
            sized = whole or before
        else:
            sized = before
            for _ in movers:  # any order of k words is within k rounds of all of them
                for step in chain.from_iterable(movers):
                    sized = sized.either(step.extent(sized))
        heaviest = sum(step.heaviest for word in self.words for step in word.steps)
        return Extent(
            before.clean, sized.least, sized.greatest, sized.pixels, before.work + heaviest * sized.pixels
        )

    def __str__(self) -> str:
        return f"{self.name}({', '.join(map(str, self.words))})"


Step = Primitive | Mix | Shuffle

_FEW = 6
"""Steps that change the size of which all orders are tried."""


def _changes_size(step: Step) -> bool:
    return any(primitive.kind.size_after is not None for primitive in step.primitives)


# -- words and sets ----------------------------------------------------------------------------------------

_CLOSING = {"clip", "quantize"}
"""Primitives that leave the 8-bit grid where it is, and together bring anything onto it."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,39}")
_NO_NAMES = frozenset(("clean", "none", "given"))


def check_name(name: str) -> str:
    """The name, if a confounder can be called so: 1 to 40 letters, digits, `_`, `.` and `-`, a letter first.

    Raises:
        UsageError: it cannot.
    """
    if not _NAME.fullmatch(name) or name in _NO_NAMES:
        raise UsageError(
            f"a confounder cannot be called {name!r}",
            expected="1 to 40 of A-Z, a-z, 0-9, _, . and -, a letter first; not clean, none or given",
        )
    return name


def _is_closing(step: Step) -> bool:
    return isinstance(step, Primitive) and step.name in _CLOSING and step.params.get("bits", 8) == 8


@dataclass(frozen=True, eq=False)
class Word(Canonical, Operators):
    """Distortions in sequence, applied left to right; without steps it is `clean`.

    Attributes:
        sequence: the steps; no step is itself a sequence.
        name: what the user calls it, or nothing: its label. It is the name of this word alone, not of what is
            made of it: `>>` (but with `clean`), `**`, `mix` and `shuffle` leave it out.
    """

    sequence: tuple[Step, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        refuse_more(self.size, MAX_STEPS, "a word of {} distortions is too long")
        if self.depth > MAX_DEPTH:
            raise UsageError("mix and shuffle are nested too deeply", expected=f"at most {MAX_DEPTH} levels")
        if self.name:
            check_name(self.name)
            if not self.sequence:
                raise UsageError(f"`clean` cannot be called {self.name!r}: it keeps its own name")

    @property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.name,) if self.name else ()

    def named(self, name: str) -> Word:
        """The same distortion under a name of the user's (under none, if it is empty)."""
        return self if name == self.name else Word(self.sequence, name)

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
    def locality(self) -> Locality:
        """How far an output pixel of the whole word looks, at the widest."""
        return reduce(operator.add, (step.locality for step in self.sequence), POINT)

    @cached_property
    def label(self) -> str:
        """Its name; without one its text, short, stable, readable, unique: `gaussian_blur(2)>>awgn(25)`.

        The text without spaces and quotes; where that is longer than 72 characters or holds what a path
        cannot, cut, with 8 digits of the hash. Never with a '/'.
        """
        if self.name:
            return self.name
        short = _WORDED.sub(r"\1", str(self)).replace(" ", "")
        if len(short) <= MAX_LABEL and _READABLE.fullmatch(short):
            return short
        return f"{''.join(_READABLE.findall(short))[: MAX_LABEL - 12]}~{self.hash[:8]}"

    @cached_property
    def short_label(self) -> str:
        """The label, for tables and plots cut to 28 characters, the last of them 6 digits of the hash."""
        if len(self.label) <= 28:
            return self.label
        bare = re.sub(r"(?<=\w)\([^()]*\)", "", self.label.rpartition("~")[0] or self.label)
        return f"{bare[:21]}~{self.hash[:6]}"

    @cached_property
    def order(self) -> Any:
        """Step by step, so that `clean` comes first and a word comes before what continues it."""
        return tuple(step.order for step in self.sequence)

    @property
    def common(self) -> Any:
        return [step.common_json for step in self.sequence]

    @property
    def common_order(self) -> Any:
        """A key that sorts by everything but the degrees, and by them where all else is equal."""
        return self.common, self.order

    def canonical(self) -> Any:
        """JSON-able: flattened, defaults explicit, sorted, exact numbers, versions of the primitives."""
        parts = [step.canonical() for step in self.sequence]
        return parts[0] if len(parts) == 1 else {"then": parts}

    def resolve(
        self, key: SampleKey, place: tuple[int, ...] = (), stop: int | None = None
    ) -> Iterator[Resolved]:
        """The primitives that it comes to for one sample, in order, or those of its first `stop` steps."""
        for index, step in enumerate(self.sequence[:stop]):
            yield from step.resolve(key, (*place, index))

    def after(self, before: Extent) -> Extent:
        """What can come after it of what came before."""
        for step in self.sequence:
            before = step.extent(before)
        return before

    @cached_property
    def _extents(self) -> dict[Size, Extent]:
        return {}

    def extent(self, height: int, width: int) -> Extent:
        """How large the images can be that it makes of a clean image of that size, and the work, at worst.

        Nothing is computed: this is known before the first image.

        Raises:
            UsageError: an image could pass 2**26 pixels, or the work 100,000 multiplications per clean pixel
                and channel (about 10 s for 256 x 256 pixels).
        """
        made = self._extents.get((height, width))
        if made is None:
            made = self.after(Extent.of((height, width)))
            if made.pixels > MAX_PIXELS:
                raise UsageError(
                    "the distortion makes images that are too large",
                    where=self.label,
                    found=f"up to {made.pixels} pixels from a clean image of {height} x {width}",
                    expected=f"at most {MAX_PIXELS} pixels",
                )
            if made.work > MAX_WORK * height * width:
                raise UsageError(
                    "the distortion is too much work",
                    where=self.label,
                    found=f"about {made.work / (height * width):.0f} multiplications per clean pixel",
                    expected=f"at most {MAX_WORK}",
                )
            self._extents[height, width] = made
        return made

    def output_size(self, height: int, width: int) -> Size:
        """The size of its result for a clean image of that size, whatever is drawn.

        Raises:
            UsageError: it could have several sizes, or be too large; see `extent`.
        """
        made = self.extent(height, width)
        if made.least != made.greatest:
            low, high = (f"{size[0]} x {size[1]}" for size in (made.least, made.greatest))
            raise UsageError(
                "the distortion can give images of several sizes",
                where=self.label,
                found=f"from {low} to {high}, from a clean image of {height} x {width}",
                expected="one size",
                remedy="resize(1, of='clean') at its end brings the size of the clean image back",
            )
        return made.greatest

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
            UsageError: the image has another type or shape, the window leaves it, or the word is refused for
                its size or work (see `extent`).
            DilkitError: the whole result does not have the given size.
        """
        render.require_image(image)
        self.extent(*image.shape[:2])
        return render.run(list(self.resolve(key)), image, self.label, window, size)

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
        self, image: Image | Levels, key: SampleKey, window: Window | None = None, size: Size | None = None
    ) -> Levels:
        """As `apply`, but (h, w, 3) uint8 and faster: `as_float(levels(...)) == apply(...)`, bit for bit.

        The image may be uint8, too; JPEG alone then never leaves 8 bits.

        Raises:
            DilkitError: a result is not on the 8-bit grid, or not finite.
        """
        render.require_image(image, np.uint8, np.float32)
        self.extent(*image.shape[:2])
        todo = list(self.resolve(key, stop=len(self.sequence) - len(self.closing)))
        in_levels = bool(todo) and todo[-1].kind.levels is not None
        if self.closing and not self.rounds and not in_levels:
            todo = list(self.resolve(key))  # a clip or quantize alone does something
        if in_levels:
            given: Any = image if len(todo) == 1 else render.as_float(image)
            return render.run(todo, given, self.label, window, size, in_levels=True)
        made = render.run(todo, render.as_float(image), self.label, window, size)
        render.require_numbers(made, self.label)
        if self.rounds:
            return render.rounded(np.clip(made, np.float32(0), np.float32(1), out=made))
        whole = render.rounded(made)
        if not np.array_equal(render.as_float(whole), made):
            raise DilkitError("the result is not on the 8-bit grid, so it has no levels", where=self.label)
        return whole

    def __str__(self) -> str:
        """The steps, a run of equal ones as a power; before them its name, if it has one."""
        steps = " >> ".join(_runs(map(str, self.sequence))) or "clean"
        return f"{self.name} = {steps}" if self.name else steps

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Word, (self.sequence, self.name)


@dataclass(frozen=True, eq=False)
class ConfounderSet(Canonical, Operators):
    """A finite set of words in canonical order; build it with `|`, a sweep or `confounder_set`."""

    words: tuple[Word, ...] = ()

    @classmethod
    def of(cls, words: Iterable[Word]) -> ConfounderSet:
        unique: dict[str, Word] = {}
        for word in words:
            present = unique.setdefault(word.json, word)
            if word.name and not present.name:
                unique[word.json] = word
            elif word.name and word.name != present.name:
                raise UsageError(f"one distortion has two names: {present.name} and {word.name}")
        refuse_more(len(unique), MAX_WORDS, "a set of {} distortions is too large")
        made = cls(tuple(sorted(unique.values(), key=lambda word: word.order)))
        if made.names and len(set(made.labels)) < len(made):
            twice = next(label for label in made.labels if made.labels.count(label) > 1)
            raise UsageError(f"two distortions are called {twice!r}")
        return made

    @cached_property
    def names(self) -> tuple[str, ...]:  # type: ignore[override]
        found = tuple(word.name for word in self.words)
        return found if any(found) else ()

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
        if isinstance(item, Word):  # whatever it is called
            return any(word.json == item.json for word in self.words)
        return item in self.labels

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
        """Neighbours without names that differ in the degree of one step alone are a sweep."""
        shown: list[str] = []
        left = list(self)
        while left:
            place = _swept_place(*left[:2])
            count = 1
            while place is not None and _swept_place(*left[count - 1 : count + 1]) == place:
                count += 1
            shown.append(str(left[0]) if place is None else _show_sweep(left[:count], place))
            left = left[count:]
        return " | ".join(shown) or "none"

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfounderSet, (self.words,)


Expression = Word | ConfounderSet

clean = Word()
"""The word that changes nothing: the unit of `>>`."""
none = ConfounderSet()
"""The empty set: the unit of `|`; it annihilates under `>>`."""


# -- operations --------------------------------------------------------------------------------------------

LEAST_WEIGHT = Fraction(1, 10**9)
"""The smallest weight above 0 that a text may hold."""
MAX_WEIGHT = 10**30
"""The largest weight, once those of a mix are whole numbers without a common divisor."""


@dataclass(frozen=True)
class Weighted:
    """A branch of a mix with its weight; only `mix` takes it."""

    weight: Fraction
    word: Word

    @classmethod
    def of(cls, weight: Any, word: Any) -> Weighted:
        return cls(exact_weight(weight), as_word(word, "a branch of mix").named(""))


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
        raise UsageError(f"{value} is not a probability", expected="a number from 0 to 1")
    return chance


def as_expression(value: Any) -> Expression:
    """A word or a set; a kind without arguments is its word."""
    if isinstance(value, PrimitiveKind):
        return value()
    if isinstance(value, (Word, ConfounderSet)):
        return value
    if isinstance(value, Weighted):
        raise KindError(f"a weight belongs inside mix: mix({value.weight}*{value.word}, ...)")
    raise KindError(f"{value!r} is not a distortion")


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
        if not a.sequence or not b.sequence:
            return a if a.sequence else b
        return Word(a.sequence + b.sequence)
    left, right = words_of(a), words_of(b)
    refuse_more(len(left) * len(right), MAX_WORDS, "a set of {} distortions is too large")
    steps = len(right) * sum(word.size for word in left) + len(left) * sum(word.size for word in right)
    if steps > MAX_SET_STEPS:
        raise UsageError(
            f"a set with {steps} primitives is too large",
            expected=f"at most {MAX_SET_STEPS} in all its words",
        )
    return ConfounderSet.of(chain.from_iterable(words_of(then(x, y)) for x in left for y in right))


def union(first: Any, second: Any) -> ConfounderSet:
    """`first | second`."""
    return ConfounderSet.of(words_of(first) + words_of(second))


def without(first: Any, second: Any) -> ConfounderSet:
    """`first - second`: the words of the first that are not in the second, whatever they are called
    (hold-outs).
    """
    left_out = {word.json for word in words_of(second)}
    return ConfounderSet.of(word for word in words_of(first) if word.json not in left_out)


def power(base: Any, times: Any) -> Expression:
    """`base ** times`: so many independent draws in sequence."""
    made, times = as_expression(base), as_python(times)
    if isinstance(times, bool) or not isinstance(times, int) or times < 0:
        raise KindError(f"a power must be a whole number of at least 0, not {times!r}")
    if isinstance(made, Word):
        refuse_more(made.size * times, MAX_STEPS, "a word of {} distortions is too long")
        return made if times == 1 or not made.sequence else Word(made.sequence * times)
    refuse_more(times, MAX_STEPS, "the power {} is too high")
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
    values = chain.from_iterable(
        _degree_range(d, kind.name) if isinstance(d, slice) else (d,) for d in members
    )
    return ConfounderSet.of(kind(value) for value in values)


def _degree_range(degrees: slice, name: str) -> list[float]:
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
    refuse_more(count, MAX_WORDS, "a range of {} degrees is too long")
    return [float(first + step * i) for i in range(count)]


def mix(*branches: Any) -> Word:
    """One word that draws one branch per sample: `mix(0.3*a, 0.7*b)`; by default each is equally likely."""
    weights: dict[Word, Fraction] = {}
    for branch in branches:
        weighted = branch if isinstance(branch, Weighted) else Weighted.of(1, branch)
        for share, word in _flattened(weighted):
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


def _flattened(weighted: Weighted) -> Iterator[tuple[Fraction, Word]]:
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
    made = as_word(word, "the argument of prob").named("")
    return mix(Weighted(chance, made), Weighted(1 - chance, clean))


def shuffle(*words: Any) -> Word:
    """One word that applies all of them in an order drawn per sample, each as a block."""
    return _arranged(words, Shuffle)


def interleave(*words: Any) -> Word:
    """One word that riffles them per sample: each keeps its own order, steps of others may come between."""
    return _arranged(words, lambda kept: Shuffle(kept, riffled=True))


def _arranged(words: tuple[Any, ...], make: Callable[[tuple[Word, ...]], Shuffle]) -> Word:
    made = [as_word(word, "an argument of shuffle or interleave").named("") for word in words]
    kept = sorted((word for word in made if word.sequence), key=lambda word: word.order)
    if len(kept) <= 1:
        return kept[0] if kept else clean
    return Word((make(tuple(kept)),))


# -- text --------------------------------------------------------------------------------------------------

MAX_LABEL = 72
_WORDED = re.compile(r"'(?!None'|True'|False')([^\W\d]\w*)'")
"""A quoted word that cannot be taken for another value without its quotes."""
_READABLE = re.compile(r"[\w.,=()\[\]*>:~-]+")


def show_value(value: Any) -> str:
    """A parameter's value as it is written."""
    if isinstance(value, Law):
        return f"{value.name}({', '.join(map(show_value, value.args))})"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(show_value, value))}]"
    return repr(value)


def _runs(steps: Iterable[str]) -> Iterator[str]:
    for step, run in groupby(steps):
        times = sum(1 for _ in run)
        yield step if times == 1 else f"{step} ** {times}"


def _swept_place(a: Word, b: Word | None = None) -> int | None:
    """The one place where two words differ, if a sweep can write both."""
    if b is None or len(a.sequence) != len(b.sequence) or a.name or b.name:
        return None
    pairs = list(zip(a.sequence, b.sequence, strict=True))
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
