"""The values of the algebra: words and confounder sets, always in canonical form.

A `Word` is a sequence of steps (steps.py), a `ConfounderSet` a finite set of words. Equal expressions are
equal values, with equal hashes, labels and pixels.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, SupportsIndex, overload

from dilkit.distortions import sampling, text
from dilkit.distortions.eight_bit import Levels
from dilkit.distortions.locality import POINT, Locality
from dilkit.distortions.operators import Operators
from dilkit.distortions.primitive import Image
from dilkit.distortions.steps import Canonical, Primitive, Step
from dilkit.errors import UsageError, nearest

if TYPE_CHECKING:
    from dilkit.distortions.draw import Window
    from dilkit.distortions.sampling import SampleKey, Size

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
        return text.label(self)

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
        return text.show_word(self)

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
        return text.show_set(self)

    def __repr__(self) -> str:
        return f"parse({str(self)!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfounderSet, (self.words,)


Expression = Word | ConfounderSet

clean = Word()
"""The word that changes nothing: the unit of `>>`."""
none = ConfounderSet()
"""The empty set: the unit of `|`; it annihilates under `>>`."""
