"""Both ways with albumentations: words as `A.Compose` trees, and trees (or their dicts) as words.

Inside a tree albumentations draws the branches and orders, so pixels differ from `Word.apply`; what a word
*is* comes back whole: `from_albumentations(to_albumentations(word))` has its hash.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from itertools import combinations
from math import comb
from typing import Any

from dilkit.distortions.algebra import Weighted, as_expression, confounder_set, exact_weight, mix, shuffle
from dilkit.distortions.primitive import REGISTRY
from dilkit.distortions.resampling import resize
from dilkit.distortions.steps import Mix, Primitive, Shuffle, Step
from dilkit.distortions.words import MAX_STEPS, ConfounderSet, Expression, Word, clean
from dilkit.errors import UsageError

NEVER = "the pipeline has a OneOf of which every member has p=0"


def to_albumentations(expression: Any) -> Any:
    """A word as an `A.Compose`: `mix` is `A.OneOf`, `shuffle` is `A.RandomOrder`, `alb` the transform itself.

    An `interleave` has no counterpart there and becomes one transform; so does all of a word up to its last
    resize to a part of the clean image, whose size no transform behind the first could know.

    The transforms of the library want values in [0, 1]: write `clip` before them where noise may leave it.
    Give the pipeline float32 images: uint8 ones are clipped and rounded between its steps, as the word's are
    not. Or put the word in as one transform, `Distort`, which rounds at its end alone.

    Args:
        expression: a word, a text, or a confounder set.

    Returns:
        The pipeline; of a set, one pipeline per label.
    """
    from dilkit.distortions._albumentations import A
    from dilkit.distortions.parser import parse

    made = as_expression(parse(expression) if isinstance(expression, str) else expression)
    if isinstance(made, ConfounderSet):
        return {word.label: A.Compose(_steps(word)) for word in made}
    return A.Compose(_steps(made))


def _steps(word: Word) -> list[Any]:
    from dilkit.distortions._albumentations import Distort

    looking = [index for index, step in enumerate(word.sequence) if any(map(_looks_back, step.primitives))]
    together = looking[-1] + 1 if looking else 0
    first = [Distort(str(Word(word.sequence[:together])))] if together else []
    return first + [_step(step) for step in word.sequence[together:]]


def _looks_back(step: Primitive) -> bool:
    return step.kind is resize and step.params["of"] != "image"


def _step(step: Step) -> Any:
    from dilkit.distortions import foreign
    from dilkit.distortions._albumentations import A, Distort, transform_class

    if isinstance(step, Mix):
        unit = 10 ** len(str(max(weight for weight, _ in step.branches)))
        return A.OneOf([_sequence(word, _decimal(Fraction(w, unit))) for w, word in step.branches], p=1.0)
    if isinstance(step, Shuffle) and step.riffled:
        return Distort(str(step))
    if isinstance(step, Shuffle):
        return A.RandomOrder([_sequence(word) for word in step.words], n=len(step.words), p=1.0)
    if step.kind is foreign.alb:
        return foreign.instance(step.params)
    return transform_class(step.kind)(**step.params)


def _decimal(weight: Fraction) -> float:
    if exact_weight(float(weight)) != weight:
        raise UsageError("a mix has weights that albumentations cannot hold", found=str(weight))
    return float(weight)


def _sequence(word: Word, p: float = 1.0) -> Any:
    from dilkit.distortions._albumentations import A

    return A.Sequential([_step(step) for step in word.sequence], p=p)


def from_albumentations(source: Any) -> Expression:
    """The word that a pipeline draws from.

    Args:
        source: a transform, a pipeline (`Compose`, `Sequential`, `OneOf`, `SomeOf`, `RandomOrder`), what its
            `to_dict` gives, or a mapping of labels to any of them, which is a confounder set.

    Raises:
        UsageError: something in it has no counterpart (boxes, key points, drawing with replacement).
    """
    if isinstance(source, Mapping) and "transform" not in source:
        return confounder_set([from_albumentations(part) for part in source.values()])
    if isinstance(source, Mapping):
        source = _revived(source)
    return _node(source)


def _revived(source: Mapping[str, Any]) -> Any:
    """The pipeline that a dict describes."""
    from dilkit.distortions._albumentations import A, register_all

    register_all()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not valid for transform", UserWarning)  # see _check_names
            made = A.from_dict(dict(source))
        _check_names(made)
        return made
    except UsageError:
        raise
    except KeyError as error:
        raise UsageError("the pipeline names an unknown class", found=str(error)) from None
    except ZeroDivisionError:
        raise UsageError(NEVER) from None
    except (AttributeError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError("albumentations refuses the pipeline", found=reason[:300]) from None


def _check_names(node: Any) -> None:
    """Refuses what the library ignored, unless it writes it itself, as it does for some classes."""
    from dilkit.distortions.foreign import refuse_unknown

    for member in getattr(node, "transforms", ()):
        _check_names(member)
    if ignored := getattr(node, "invalid_args", ()):
        unknown = sorted(set(ignored) - set(node.get_transform_init_args_names()))
        known = [key for key in type(node).InitSchema.model_fields if key != "strict"]
        refuse_unknown(type(node).__name__, unknown, known)


def _node(node: Any) -> Word:
    """What a node does when it is called without force."""
    from dilkit.distortions._albumentations import A

    if not isinstance(node, A.BaseCompose | A.BasicTransform):
        raise UsageError("not a pipeline of albumentations", found=type(node).__name__)
    if isinstance(node, A.SomeOf):
        return _some_of(node)
    return _perhaps(node.p, _forced(node))


def _forced(node: Any) -> Word:
    """What a node does under `force_apply`; its own probability is left out."""
    from dilkit.distortions._albumentations import A, WordTransform

    if isinstance(node, WordTransform):
        return node.word
    if isinstance(node, A.OneOf):
        if not any(member.p for member in node.transforms):
            raise UsageError(NEVER)
        return mix(*(Weighted(exact_weight(t.p), _node_in_one_of(t)) for t in node.transforms))
    if isinstance(node, A.Compose | A.Sequential):
        if getattr(node, "processors", None):
            raise UsageError("a distortion has no boxes or key points", found=type(node).__name__)
        return _sequence_of(map(_node, node.transforms))
    if isinstance(node, A.BasicTransform):
        known = type(node).InitSchema.model_fields  # some state what their base classes take as well
        settings = {k: v for k, v in node.get_transform_init_args().items() if k in known and k != "p"}
        return REGISTRY.get("alb")(type(node).__name__, **settings)
    raise UsageError(f"{type(node).__name__} has no counterpart among words")


def _node_in_one_of(node: Any) -> Word:
    """`OneOf` forces its choice, but `SomeOf` heeds its own probability all the same."""
    from dilkit.distortions._albumentations import A

    return _node(node) if isinstance(node, A.SomeOf) else _forced(node)


def _some_of(node: Any) -> Word:
    from dilkit.distortions._albumentations import A

    if node.replace:
        raise UsageError(f"{type(node).__name__} with replacement has no counterpart among words")
    if comb(len(node.transforms), node.n) > MAX_STEPS:
        raise UsageError(f"{type(node).__name__} has too many selections", expected=f"at most {MAX_STEPS}")
    arrange = (lambda words: shuffle(*words)) if isinstance(node, A.RandomOrder) else _sequence_of
    selections = combinations(map(_node, node.transforms), node.n)
    return _perhaps(node.p, mix(*(arrange(selection) for selection in selections)))


def _perhaps(p: float, word: Word) -> Word:
    chance = exact_weight(p)
    return mix(Weighted(chance, word), Weighted(1 - chance, clean))


def _sequence_of(words: Iterable[Word]) -> Word:
    steps: tuple[Step, ...] = ()
    for word in words:
        steps += word.sequence
    return Word(steps)
