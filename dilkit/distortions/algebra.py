"""The operations of the algebra: a semiring of distortions.

* `>>` is associative, `clean` is its unit, `none` annihilates; it distributes over `|` on both sides.
* `|` is associative, commutative and idempotent, `none` is its unit; a word equals the set of it alone.
* `d ** m >> d ** n == d ** (m + n)`, `d ** 0 == clean`.
* `mix` and `shuffle` do not depend on the order of their arguments, `mix` not on the scale of its weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from typing import Any

from dilkit.distortions.laws import as_python
from dilkit.distortions.primitive import PrimitiveKind
from dilkit.distortions.steps import Mix, Shuffle
from dilkit.distortions.text import LEAST_WEIGHT
from dilkit.distortions.words import (
    MAX_SET_STEPS,
    MAX_STEPS,
    MAX_WORDS,
    ConfounderSet,
    Expression,
    KindError,
    Word,
    clean,
)
from dilkit.errors import UsageError

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
        from dilkit.distortions.parser import parse

        return ConfounderSet.of(words_of(parse(expr)))
    if isinstance(expr, (list, tuple)):
        return ConfounderSet.of(chain.from_iterable(confounder_set(part).words for part in expr))
    return ConfounderSet.of(words_of(expr))
