"""`alb("MotionBlur", blur_limit=(3, 15))`: any albumentations transform, always applied, as a distortion.

Both ways with albumentations: words as `A.Compose` trees, and trees (or their dicts) as words.

Inside a tree albumentations draws the branches and orders, so pixels differ from `Word.apply`; what a word
*is* comes back whole: `from_albumentations(to_albumentations(word))` has its hash.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from fractions import Fraction
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from dilkit.distortions.algebra import (
    MAX_STEPS,
    REGISTRY,
    ConfounderSet,
    Expression,
    Image,
    Mix,
    Param,
    ParameterError,
    Primitive,
    PrimitiveKind,
    Shuffle,
    Step,
    Weighted,
    Word,
    as_expression,
    clean,
    confounder_set,
    dumps,
    exact_weight,
    mix,
    shuffle,
    value_form,
)
from dilkit.distortions.families.resampling import resize
from dilkit.distortions.params import GLOBAL
from dilkit.distortions.randomness import Draw
from dilkit.errors import DilkitError, UsageError, nearest


class AlbumentationsKind(PrimitiveKind):
    """Its parameters are those of the transform that its first argument names."""

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        name = self._by_name(args, {k: v for k, v in kwargs.items() if k == "transform"}).get("transform")
        if not isinstance(name, str):
            raise ParameterError("alb needs the name of a transform", expected='such as alb("MotionBlur")')
        given = {k: v for k, v in kwargs.items() if k != "transform"}
        if "p" in given:
            raise ParameterError(
                "alb is always applied", parameter="p", remedy=f'write prob({given["p"]}, alb("{name}", ...))'
            )
        settled = arguments(name, **given)
        if arguments(name, **settled) != settled:
            raise UsageError(f"albumentations cannot make {name} again from its own arguments", found=settled)
        return {"transform": name, **settled}

    def defaults(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return _defaults(params["transform"])

    def transform(self, *args: Any, root_seed: int | None = None, p: float = 1.0, **kwargs: Any) -> Any:
        from dilkit.distortions._albumentations import Distort

        return Distort(str(self(*args, **kwargs)), root_seed=root_seed, p=p)


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """The transform itself, applied always; wrong names and values raise a ParameterError."""
    from dilkit.distortions._albumentations import A

    abstract = (A.BasicTransform, A.DualTransform, A.ImageOnlyTransform, A.Transform3D)
    known_classes = (c for c in vars(A).values() if isinstance(c, type) and issubclass(c, A.BasicTransform))
    classes: dict[str, Any] = {c.__name__: c for c in known_classes if c not in abstract}
    cls = classes.get(name)
    if cls is None:
        raise ParameterError(
            f"albumentations has no transform {name!r}", parameter=0, nearest=nearest(name, classes)
        )
    known = [n for n in cls.InitSchema.model_fields if n not in ("p", "strict")]
    refuse_unknown(name, arguments, known)
    try:
        strict = {"strict": True} if "InitSchema" in vars(cls) else {}  # the others have no such switch
        with warnings.catch_warnings():
            warnings.filterwarnings("error", ".*automatically adjusted", UserWarning)
            return cls(**arguments, **strict, p=1.0)
    except (ValueError, TypeError, NotImplementedError, UserWarning) as error:
        reason = " ".join(str(error).split())
        raise ParameterError(f"albumentations refuses {name}", found=reason[:300]) from None


def refuse_unknown(name: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raises ParameterError for the first name that a transform does not take."""
    for key in given:
        if key not in known:
            raise ParameterError(
                f"{name} has no parameter {key!r}",
                parameter=key,
                expected=", ".join(known),
                nearest=nearest(key, known),
            )


def arguments(name: str, /, **given: Any) -> dict[str, Any]:
    """All arguments of the transform as it would serialise them, defaults filled in, JSON-able."""
    if name == "Lambda":
        raise ParameterError("a Lambda cannot be written down", remedy="register a distortion of your own")
    built = build(name, {key: _tupled(value) for key, value in given.items()})
    stated = {key: _plain(value) for key, value in built.get_transform_init_args().items() if key != "p"}
    kept = {key: value for key, value in stated.items() if key in type(built).InitSchema.model_fields}
    try:
        dumps(value_form(kept))
    except (TypeError, ValueError):
        raise UsageError(f"{name} has arguments that cannot be written down", found=kept) from None
    return kept


@cache
def _defaults(name: str) -> Mapping[str, Any]:
    try:
        return arguments(name)
    except UsageError:
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return getattr(value, "value", value) if type(value).__module__ != "builtins" else value


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def instance(params: Mapping[str, Any]) -> Any:
    """The transform that the parameters of `alb` stand for."""
    rest = {key: _tupled(value) for key, value in params.items() if key != "transform"}
    return build(params["transform"], rest)


def _apply(image: Image, params: Mapping[str, Any], draw: Draw) -> Image:
    transform = instance(params)
    transform.set_random_seed(int.from_bytes(draw.key[:16], "big"))
    try:
        result = transform(image=np.clip(image, np.float32(0), np.float32(1)))["image"]
    except (KeyError, ValueError, TypeError) as error:
        raise DilkitError(f"albumentations' {params['transform']} failed", found=str(error)) from error
    return np.ascontiguousarray(result, dtype=np.float32)


alb = REGISTRY.add(
    AlbumentationsKind(
        name="alb",
        family="albumentations",
        summary="Any transform of albumentations, with its own parameters; its input is clipped to [0, 1].",
        source="albumentations 2.0.8",
        params=(Param("transform", str, doc="its class, such as MotionBlur"),),
        apply=_apply,
        locality=lambda params: GLOBAL,
        degree="transform",
        random=True,
        version=20008,
    )
)


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
    from dilkit.distortions.grammar import parse

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
    from dilkit.distortions._albumentations import A, Distort, transform_class

    if isinstance(step, Mix):
        unit = 10 ** len(str(max(weight for weight, _ in step.branches)))
        return A.OneOf([_sequence(word, _decimal(Fraction(w, unit))) for w, word in step.branches], p=1.0)
    if isinstance(step, Shuffle) and step.riffled:
        return Distort(str(step))
    if isinstance(step, Shuffle):
        return A.RandomOrder([_sequence(word) for word in step.words], n=len(step.words), p=1.0)
    if step.kind is alb:
        return instance(step.params)
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
