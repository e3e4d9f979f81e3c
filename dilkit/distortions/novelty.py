"""Whether a test distortion was met in training: seen, reached by a symmetry from a seen degree, an unseen
degree of a seen type, or an unseen type.

`clip` and `quantize` are ignored (they are the protocol's business), `mix` means any of its branches,
`shuffle` any of its orders, and a law of chance every value it can draw.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from itertools import chain, islice, permutations, product
from typing import Any, Literal

from dilkit.distortions.algebra import ConfounderSet, Mix, Primitive, Shuffle, Step, Word, corners
from dilkit.distortions.params import Law
from dilkit.distortions.symmetry import GROUPS, GroupName

Novelty = Literal["seen", "reached", "degree", "type", "clean", "unknown"]
"""`reached`: carried from a seen degree by a symmetry that the net has. `degree`: the type was trained on,
at other degrees. `clean`: no distortion, and none such in training. `unknown`: it is not known what the net
was trained on."""

Chain = tuple[Primitive, ...]
_VARIANTS = 5000
_POLICY = ("clip", "quantize")


GIVEN = "given"
"""The label and type of a distortion that was not made: real images (the word None)."""


def novelty(word: Word | None, trained: ConfounderSet | None, groups: Collection[str] = ()) -> Novelty:
    """How new `word` is to a net trained on the confounder set `trained` (None: not known).

    Real distortions (the word None) are a type of their own, which no synthetic training has met.

    Args:
        groups: the symmetries that the net has, by its wrapper or because it was trained on their orbits;
            a degree that one of them reaches (see `reached`) is then `reached`, not `degree`.
    """
    if trained is None:
        return "unknown"
    if word is None:
        return "type"
    tests = list(_variants(word))
    met = [variant for each in trained for variant in _variants(each)]
    if all(any(_covers(m, t) for m in met) for t in tests):
        return "seen"
    if not any(tests):
        return "clean"
    if groups and reached(word, trained, groups):
        return "reached"
    types = {_names(m) for m in met}
    return "degree" if all(_names(t) in types for t in tests) else "type"


def reached(
    word: Word | None, trained: ConfounderSet | None, groups: Collection[str] = tuple(GROUPS)
) -> GroupName | None:
    """The group of symmetries that carries what was trained on to `word`; None where none does, or it was
    seen.

    A group reaches a word where, of every sequence of primitives that it can become and for all values that
    its laws can draw, one element g carries a trained sequence there: the same kinds in the same order,
    each of which declares the symmetry for these parameters, with the same g for all, from parameters that
    training can draw. The parameters that g does not move must be seen ones.

    g may be as large as it needs to be, and `clip` and `quantize` are ignored, though they break the
    symmetry where a carried image leaves [0, 1]: what is `reached` through them is the less exactly so, the
    farther g is from 1. Of `scale` only enlargements count, because orbits enlarge, and the wrapper shrinks
    what is blurred more than in training. Of `box` g is a whole number, and of `square` (the quarter turns
    and mirror images of `data.symmetry`) one of the eight; one element of these has to do for all values of
    a law.

    Args:
        groups: the names to choose from; the first in the order of `GROUPS` is given.
    """
    if word is None or trained is None:
        return None
    tests = list(_variants(word))
    met = [variant for each in trained for variant in _variants(each)]
    if all(any(_covers(m, t) for m in met) for t in tests):
        return None
    for name in GROUPS:
        if name in groups and all(any(_carries(m, t, name) for m in met) for t in tests):
            return GROUPS[name].name
    return None


Span = tuple[float, float]
_TRIES = 4096


def _carries(trained: Chain, test: Chain, group: str) -> bool:
    """Whether the group carries the trained primitives to those tested, for each value they can draw."""
    if not test or _names(trained) != _names(test):
        return False
    if group == "square":
        return any(_carried(trained, test, "rotate", _quarters, mirrored) for mirrored in (False, True))
    return _carried(trained, test, group, _whole if group == "box" else None)


def _carried(
    trained: Chain,
    test: Chain,
    group: str,
    single: Callable[[Span], bool] | None = None,
    mirrored: bool = False,
) -> bool:
    """Whether one element of the group carries the trained primitives to each value that those tested can
    draw.

    The elements that carry a range of values to a value are an interval (of log g, or of degrees), and the
    values that one range of elements can reach are convex, so the extremes of the tested laws decide for
    all between them. Of a group of single elements, `single` says whether one is in an interval, and that
    one has to do for all of them.

    Args:
        mirrored: the image is mirrored first, which takes its angles from 180.
    """
    for a, b in zip(trained, test, strict=True):
        declared = {s.group: s for s in b.kind.symmetries}
        if (mirrored and "flip" not in declared) or group not in declared:
            return False
        symmetry = declared[group]
        if not all(symmetry.when(p) for p in (*corners(a.params), *corners(b.params))):
            return False
        own = {name for name in symmetry.powers if symmetry.power(name, next(corners(b.params)))}
        own |= set(symmetry.angles)
        if not all(_includes(a.params[name], b.params[name]) for name in a.params if name not in own):
            return False
    targets: list[dict[str, Any]] = [{}]
    for place, b in enumerate(test):
        values = {f"{place} {name}": value for name, value in b.params.items()}
        targets = [{**known, **corner} for known in targets for corner in islice(corners(values), _TRIES)]
        if len(targets) > _TRIES:
            return False
    every = [(0.0, math.inf)] if group in ("scale", "box") else [(-math.inf, math.inf)]
    found = every
    for target in targets:
        found = _elements(trained, target, group, mirrored, every if single is None else found)
        if not found:
            return False
    return single is None or any(map(single, found))


def _elements(
    trained: Chain, target: dict[str, Any], group: str, mirrored: bool, among: list[Span]
) -> list[Span]:
    """The elements that carry values which the trained primitives can draw to these."""
    for place, a in enumerate(trained):
        symmetry = next(s for s in a.kind.symmetries if s.group == group)
        for name, law in a.params.items():
            wanted = target[f"{place} {name}"]
            if name in symmetry.angles:
                allowed = _turns(law, wanted, symmetry.period, group == "flip", mirrored)
            elif power := symmetry.power(name, {k: target[f"{place} {k}"] for k in a.params}):
                allowed = [span for low, high in _ranges(law) for span in _factors(low, high, wanted, power)]
            else:
                continue
            among = [
                (max(a, c), min(b, d)) for a, b in among for c, d in allowed if max(a, c) <= min(b, d) + 1e-9
            ]
    return among


def _quarters(span: Span) -> bool:
    """Whether a span of degrees holds a multiple of 90."""
    low, high = span
    return math.isinf(low) or math.floor(high / 90 + 1e-9) * 90 >= low - 1e-9


def _whole(span: Span) -> bool:
    """Whether a span of log g holds a whole g."""
    low, high = span
    return math.isinf(high) or math.log(max(1, math.floor(math.exp(high) + 1e-9))) >= low - 1e-9


def _ranges(value: Any) -> list[Span]:
    """What a parameter can be in training: intervals."""
    if not isinstance(value, Law):
        return [(value, value)]
    return [(v, v) for v in value.args] if value.name == "choice" else [(value.args[0], value.args[-1])]


def _factors(low: float, high: float, wanted: float, power: float) -> Iterator[Span]:
    """The interval of log g for which g ** power carries something in [low, high] to `wanted`."""
    if wanted == 0:
        if low <= 0 <= high:
            yield -math.inf, math.inf
        return
    if wanted < 0:
        low, high, wanted = -high, -low, -wanted
    if high > 0:
        least = (math.log(wanted) - math.log(high)) / power
        most = (math.log(wanted) - math.log(low)) / power if low > 0 else math.copysign(math.inf, power)
        yield min(least, most), max(least, most)


def _turns(law: Any, wanted: float, period: float, flipped: bool, mirrored: bool) -> list[Span]:
    """The degrees by which a trained angle is turned to that wanted; of a flip, none or any."""
    turns = [period * k for k in range(-6, 7)]
    if flipped:
        hit = any(
            low - 1e-9 <= 180 + turn - wanted <= high + 1e-9 for low, high in _ranges(law) for turn in turns
        )
        return [(-math.inf, math.inf)] if hit else []
    ranges = [(180 - high, 180 - low) if mirrored else (low, high) for low, high in _ranges(law)]
    return [(wanted - high + turn, wanted - low + turn) for low, high in ranges for turn in turns]


def type_of(word: Word | None) -> str:
    """The word without its numbers: `gaussian_blur>>awgn`; `clean` for none."""
    if word is None:
        return GIVEN
    return ">>".join(map(_type_of_step, word.sequence)) or "clean"


def degree_of(word: Word | None) -> float | None:
    """The degree of a word of one primitive (`clip` and `quantize` aside), if it is a number."""
    if word is None:
        return None
    steps = [step for step in word.sequence if not is_policy(step)]
    if len(steps) != 1 or not isinstance(steps[0], Primitive):
        return None
    degree = steps[0].degree
    return float(degree) if isinstance(degree, int | float) else None


def told_degree(word: Word | None) -> float | None:
    """The degree that is told to a net which must know it: 0 of a clean image."""
    return 0.0 if type_of(word) == "clean" else degree_of(word)


def _type_of_step(step: Step) -> str:
    if isinstance(step, Primitive) and step.kind.family == "real":
        return f"{step.name}({step.degree})"  # a camera, a kind of weather: a type of its own
    if isinstance(step, Primitive):
        return step.name
    if isinstance(step, Mix):
        return "mix(" + ",".join(type_of(word) for _, word in step.branches) + ")"
    return "shuffle(" + ",".join(map(type_of, step.words)) + ")"


def _variants(word: Word) -> Iterator[Chain]:
    """The chains of primitives a word can become, at most 5,000 of them."""
    options = [list(islice(_of_step(step), _VARIANTS)) for step in word.sequence if not is_policy(step)]
    return islice((tuple(chain.from_iterable(parts)) for parts in product(*options)), _VARIANTS)


def _of_step(step: Step) -> Iterator[Chain]:
    if isinstance(step, Primitive):
        yield (step,)
    elif isinstance(step, Mix):
        for _, word in step.branches:
            yield from _variants(word)
    elif isinstance(step, Shuffle):
        for order in permutations(step.words):
            yield from _variants(Word(tuple(chain.from_iterable(word.sequence for word in order))))


def _covers(trained: Chain, test: Chain) -> bool:
    return _names(trained) == _names(test) and all(
        _includes(a.params[name], b.params[name])
        for a, b in zip(trained, test, strict=True)
        for name in a.params
    )


def _includes(trained: Any, test: Any) -> bool:
    """Whether the values of `test` are among those of `trained`."""
    if isinstance(test, Law):
        if trained == test:
            return True
        if not isinstance(trained, Law):
            return False
        ends = all(_includes(trained, value) for value in test.args)
        if trained.name == "choice" and test.name == "integers":
            return ends and all(value in trained.args for value in range(*test.args))
        return ends and (trained.continuous or not test.continuous)
    if isinstance(trained, Law):
        if trained.name == "choice":
            return test in trained.args
        whole = trained.continuous or float(test).is_integer()
        return bool(trained.args[0] <= test <= trained.args[1]) and whole
    return bool(trained == test)


def _names(primitives: Chain) -> tuple[str, ...]:
    return tuple(map(_type_of_step, primitives))


def is_policy(step: Step) -> bool:
    return isinstance(step, Primitive) and step.name in _POLICY
