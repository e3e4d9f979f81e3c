"""The steps of a word: primitives, `Mix` (a branch is drawn per sample), `Shuffle` (an order is)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from dilkit.distortions import canonical, text
from dilkit.distortions.locality import POINT, Locality
from dilkit.distortions.primitive import PrimitiveKind

if TYPE_CHECKING:
    from dilkit.distortions.words import Word


class Canonical:
    """What everything with a canonical form shares: equality, hash and order follow from it."""

    def canonical(self) -> Any:
        raise NotImplementedError

    @cached_property
    def json(self) -> str:
        """The canonical form as text: the one thing that identity is made of."""
        return canonical.dumps(self.canonical())

    @cached_property
    def hash(self) -> str:
        """blake2b of the canonical form, 32 hexadecimal digits."""
        return canonical.digest(self.json)

    @cached_property
    def order(self) -> Any:
        """A key that sorts by name, then by number."""
        return canonical.order(self.canonical())

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
        for params in canonical.corners(self.params):
            widest = widest | self.kind.locality(params)
        return widest

    def canonical(self) -> Any:
        return canonical.primitive(self.kind.name, self.kind.version, self.params)

    @cached_property
    def common_json(self) -> str:
        """The canonical form without the degree: what the key of a common coupling is made of."""
        rest = {name: value for name, value in self.values if name != self.kind.degree}
        return canonical.dumps(canonical.primitive(self.kind.name, self.kind.version, rest))

    def __str__(self) -> str:
        return text.show_primitive(self)


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
        return canonical.dumps({"mix": [[weight, word.common] for weight, word in self.common_branches]})

    @cached_property
    def common_branches(self) -> tuple[tuple[int, Word], ...]:
        """The branches in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.branches, key=lambda branch: branch[1].common_order))

    def __str__(self) -> str:
        return text.show_mix(self)


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
        return canonical.dumps({self.name: [word.common for word in self.common_words]})

    @cached_property
    def common_words(self) -> tuple[Word, ...]:
        """The words in the order of a common coupling: the degree comes last."""
        return tuple(sorted(self.words, key=lambda word: word.common_order))

    def __str__(self) -> str:
        return text.show_shuffle(self)


Step = Primitive | Mix | Shuffle
