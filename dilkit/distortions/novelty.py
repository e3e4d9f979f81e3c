"""Whether a test distortion was met in training: seen, an unseen degree of a seen type, or an unseen type.

`clip` and `quantize` are ignored (they are the protocol's business), `mix` means any of its branches,
`shuffle` any of its orders, and a law of chance every value it can draw.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice, permutations, product
from typing import Any, Literal

from dilkit.distortions.algebra import ConfounderSet, Mix, Primitive, Shuffle, Step, Word
from dilkit.distortions.params import Law

Novelty = Literal["seen", "degree", "type", "clean", "unknown"]
"""`degree`: the type was trained on, at other degrees. `clean`: no distortion, and none such in training.
`unknown`: it is not known what the net was trained on."""

Chain = tuple[Primitive, ...]
_VARIANTS = 5000
_POLICY = ("clip", "quantize")


GIVEN = "given"
"""The label and type of a distortion that was not made: real images (the word None)."""


def novelty(word: Word | None, trained: ConfounderSet | None) -> Novelty:
    """How new `word` is to a net trained on the confounder set `trained` (None: not known).

    Real distortions (the word None) are a type of their own, which no synthetic training has met.
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
    types = {_names(m) for m in met}
    return "degree" if all(_names(t) in types for t in tests) else "type"


def type_of(word: Word | None) -> str:
    """The word without its numbers: `gaussian_blur>>awgn`; `clean` for none."""
    if word is None:
        return GIVEN
    return ">>".join(map(_type_of_step, word.sequence)) or "clean"


def degree_of(word: Word | None) -> float | None:
    """The degree of a word of one primitive (`clip` and `quantize` aside), if it is a number."""
    if word is None:
        return None
    steps = [step for step in word.sequence if not _is_policy(step)]
    if len(steps) != 1 or not isinstance(steps[0], Primitive):
        return None
    degree = steps[0].degree
    return float(degree) if isinstance(degree, int | float) else None


def _type_of_step(step: Step) -> str:
    if isinstance(step, Primitive):
        return step.name
    if isinstance(step, Mix):
        return "mix(" + ",".join(type_of(word) for _, word in step.branches) + ")"
    return "shuffle(" + ",".join(map(type_of, step.words)) + ")"


def _variants(word: Word) -> Iterator[Chain]:
    """The chains of primitives a word can become, at most 5,000 of them."""
    options = [list(islice(_of_step(step), _VARIANTS)) for step in word.sequence if not _is_policy(step)]
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
        return ends and (trained.continuous or not test.continuous)
    if isinstance(trained, Law):
        if trained.name == "choice":
            return test in trained.args
        whole = trained.continuous or float(test).is_integer()
        return bool(trained.args[0] <= test <= trained.args[1]) and whole
    return bool(trained == test)


def _names(primitives: Chain) -> tuple[str, ...]:
    return tuple(p.name for p in primitives)


def _is_policy(step: Step) -> bool:
    return isinstance(step, Primitive) and step.name in _POLICY
