"""The text of an expression, as short as it can be: `parse(str(x)) == x`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any

from dilkit.distortions.canonical import value_form
from dilkit.distortions.laws import Law

if TYPE_CHECKING:
    from dilkit.distortions.steps import Mix, Primitive, Shuffle, Step
    from dilkit.distortions.words import ConfounderSet, Word

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
    from dilkit.distortions.steps import Primitive

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
