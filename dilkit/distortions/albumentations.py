"""albumentations both ways. This file alone names it, and imports it only when something of it is needed.

    alb("MotionBlur", blur_limit=(3, 15))     any transform of the library's, always applied, as a distortion
    Distort("gaussian_blur(2) >> awgn(25)")   any word as an `ImageOnlyTransform`
    Awgn(sigma=25), Jpeg(quality=30) ...      every kind as one: attributes of this module, by class name
    to_albumentations, from_albumentations    words as `A.Compose` trees, and trees (or their dicts) as words

Inside a tree albumentations draws the branches and orders, so pixels differ from `Word.apply`; what a word
*is* comes back whole: `from_albumentations(to_albumentations(word))` has its hash.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterable, Mapping
from fractions import Fraction
from functools import cache
from itertools import chain, combinations
from math import comb
from types import ModuleType, SimpleNamespace
from typing import Any

from dilkit.distortions.algebra import (
    MAX_STEPS,
    REGISTRY,
    ConfounderSet,
    Expression,
    Mix,
    Primitive,
    PrimitiveKind,
    Shuffle,
    Step,
    Weighted,
    Word,
    as_expression,
    as_word,
    class_name,
    dumps,
    exact_weight,
    mix,
    prob,
    shuffle,
    value_form,
)
from dilkit.distortions.families.resampling import resize
from dilkit.distortions.grammar import confounder_set, parse
from dilkit.distortions.params import GLOBAL, Param, ParameterError, make_law, refuse_unknown
from dilkit.distortions.randomness import Draw, SampleKey, pixel_hash
from dilkit.distortions.render import Image, as_float, to_levels
from dilkit.errors import DilkitError, UsageError, nearest
from dilkit.libraries import np, npt

_KEEP_GEOMETRY = (
    *("CoarseDropout", "ConstrainedCoarseDropout", "Erasing", "FrequencyMasking", "GridDropout"),
    *("NoOp", "PixelDropout", "TimeMasking", "XYMasking"),
)
"""Transforms that the library counts as spatial, but that leave every pixel where it is."""

_NEEDS = {
    "FDA": "reference images",
    "HistogramMatching": "reference images",
    "PixelDistributionAdaptation": "reference images",
    "TemplateTransform": "template images",
    "TextImage": "a font file and texts as metadata",
    "OverlayElements": "images as metadata",
    "Mosaic": "other images as metadata",
    "MaskDropout": "a mask",
    "CropNonEmptyMaskIfExists": "a mask",
    "AtLeastOneBBoxRandomCrop": "boxes",
    "BBoxSafeRandomCrop": "boxes",
    "RandomCropNearBBox": "boxes",
    "RandomSizedBBoxSafeCrop": "boxes",
}
"""Transforms that need more than an image, which a distortion has not."""


@cache
def library() -> ModuleType:
    """albumentations, imported when first needed.

    It imports torch, if it is installed, for `ToTensorV2` and `ToTensor3D` alone, which takes longer than all
    the rest: unless torch is there already, they are imported when they are asked for.
    """
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks a package index for news
    if "torch" in sys.modules or "albumentations" in sys.modules:
        return importlib.import_module("albumentations")
    tensors = "albumentations.pytorch"
    sys.modules[tensors] = None  # type: ignore[assignment]  # what importlib takes for not installed
    try:
        made = importlib.import_module("albumentations")
    finally:
        del sys.modules[tensors]

    def later(name: str) -> Any:
        if name in ("ToTensorV2", "ToTensor3D"):
            return getattr(importlib.import_module(tensors), name)
        raise AttributeError(f"module 'albumentations' has no attribute {name!r}")

    vars(made)["__getattr__"] = later
    return made


class AlbumentationsKind(PrimitiveKind):
    """Its parameters are those of the transform that its first argument names, and `spatial`."""

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        name = self._by_name(args, {k: v for k, v in kwargs.items() if k == "transform"}).get("transform")
        if not isinstance(name, str):
            raise ParameterError("alb needs the name of a transform", expected='such as alb("MotionBlur")')
        given = {k: v for k, v in kwargs.items() if k not in ("transform", "spatial")}
        if "p" in given:
            raise ParameterError(
                "alb is always applied", parameter="p", remedy=f'write prob({given["p"]}, alb("{name}", ...))'
            )
        if name in _NEEDS:
            raise ParameterError(
                f"{name} needs {_NEEDS[name]}, which a distortion does not have",
                parameter=0,
                remedy="register a distortion of your own that brings them",
            )
        settled = arguments(name, **given)
        if arguments(name, **settled) != settled:
            raise UsageError(f"albumentations cannot make {name} again from its own arguments", found=settled)
        allowed = kwargs.get("spatial", False)
        if not isinstance(allowed, bool):
            raise ParameterError("spatial is True or False", parameter="spatial", found=repr(allowed))
        spatial = issubclass(getattr(library(), name), library().DualTransform) and name not in _KEEP_GEOMETRY
        if spatial and not allowed:
            raise ParameterError(
                f"{name} moves pixels, so the distorted image would no longer match the clean one",
                parameter=0,
                remedy=f'alb("{name}", ..., spatial=True) allows it',
            )
        return {"transform": name, **({"spatial": True} if spatial else {}), **settled}

    def example(self) -> dict[str, Any]:
        return {"transform": "MotionBlur"}

    def defaults(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        return _defaults(params["transform"])


def build(name: str, arguments: Mapping[str, Any]) -> Any:
    """The transform itself, applied always; wrong names and values raise a ParameterError."""
    A = library()
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
    rest = {key: _tupled(value) for key, value in params.items() if key not in ("transform", "spatial")}
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


@cache
def _classes() -> SimpleNamespace:
    """`WordTransform`, `KindTransform` and `Distort`, made when the library is imported."""

    class WordTransform(library().ImageOnlyTransform):  # type: ignore[misc]
        """A word as a transform; uint8 images are made float, distorted, clipped and rounded.

        Args:
            root_seed: with it, the bits of `word.apply(image, SampleKey(root_seed, pixel_hash(image)))`;
                without, a seed is drawn from the pipeline's generator for every image.
            p: the probability of being applied.
        """

        word: Word

        def __init__(self, root_seed: int | None = None, p: float = 1.0) -> None:
            super().__init__(p=p)
            self.root_seed = root_seed

        def get_params(self) -> dict[str, Any]:
            drawn = self.root_seed
            return {"drawn_seed": int(self.random_generator.integers(2**63)) if drawn is None else drawn}

        def apply(self, img: npt.NDArray[Any], drawn_seed: int, **params: Any) -> npt.NDArray[Any]:
            key = SampleKey(drawn_seed, pixel_hash(img))
            if img.dtype == np.uint8 and self.word.eight_bit:
                return self.word.levels(img, key)
            result = self.word.apply(as_float(img), key)
            return to_levels(result) if img.dtype == np.uint8 else result

    class Distort(WordTransform):
        """Any word inside anybody's `A.Compose`: `Distort("gaussian_blur(2) >> awgn(25)")`."""

        def __init__(
            self, expression: str, root_seed: int | None = None, p: float = 1.0, strict: bool = True
        ) -> None:
            super().__init__(root_seed, p)
            self.word = as_word(parse(expression), "the expression of a transform")
            self.expression = str(self.word)

        def __reduce__(self) -> tuple[Any, ...]:
            return _blank, ("",), self.__dict__

    class KindTransform(WordTransform):
        """What the transforms of single kinds share; `transform_class` makes one class per kind."""

        kind: PrimitiveKind

        def get_transform_init_args(self) -> dict[str, Any]:
            params = {name: value_form(value) for name, value in self.word.steps[0].values}
            return params | {"root_seed": self.root_seed}

        def __reduce__(self) -> tuple[Any, ...]:
            return _blank, (self.kind.name,), self.__dict__

    made = {"WordTransform": WordTransform, "Distort": Distort, "KindTransform": KindTransform}
    for name, cls in made.items():
        cls.__qualname__ = name
    return SimpleNamespace(**made)


def _blank(name: str) -> Any:
    """An instance without its state: of the class of the kind of that name, or of `Distort`."""
    cls = transform_class(REGISTRY.get(name)) if name else _classes().Distort
    return cls.__new__(cls)


@cache
def transform_class(kind: PrimitiveKind) -> Any:
    """The `ImageOnlyTransform` class of a kind: its parameters by name, `root_seed` and `p`.

    With a `root_seed` it gives, for whichever image, the bits of the word under
    `SampleKey(root_seed, pixel_hash(image))`; without, it draws a seed from the pipeline it is in. It is an
    attribute of this module, too: `from dilkit.distortions.albumentations import Awgn`.
    """
    base = _classes().KindTransform

    def __init__(
        self: Any, root_seed: int | None = None, p: float = 1.0, strict: bool = True, **params: Any
    ) -> None:
        base.__mro__[1].__init__(self, root_seed, p)
        self.word = kind(**{name: _law_revived(value) for name, value in params.items()})

    keyword = inspect.Parameter.KEYWORD_ONLY
    names = [*(param.name for param in kind.params), "root_seed", "p"]
    own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    signature = inspect.Signature([*own, *(inspect.Parameter(name, keyword) for name in names)])
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    body = {"__init__": __init__, "__doc__": kind.summary, "__module__": __name__, "kind": kind}
    return type(class_name(kind.name), (base,), body)


def _law_revived(value: Any) -> Any:
    """A parameter's value from its JSON form."""
    if isinstance(value, Mapping) and set(value) == {"law", "args"}:
        return make_law(value["law"], *map(_law_revived, value["args"]))
    return value


def __getattr__(name: str) -> Any:
    """`Distort`, and the transform class of every kind."""
    if name in ("Distort", "KindTransform", "WordTransform"):
        return getattr(_classes(), name)
    kinds = REGISTRY.values() if name[0].isupper() else ()
    kind = next((kind for kind in kinds if class_name(kind.name) == name), None)
    if kind is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return transform_class(kind)


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
    A = library()
    made = as_expression(parse(expression) if isinstance(expression, str) else expression)
    if isinstance(made, ConfounderSet):
        return {word.label: A.Compose(_steps(word)) for word in made}
    return A.Compose(_steps(made))


def _steps(word: Word) -> list[Any]:
    looking = [index for index, step in enumerate(word.sequence) if any(map(_looks_back, step.primitives))]
    together = looking[-1] + 1 if looking else 0
    first = [_classes().Distort(str(Word(word.sequence[:together])))] if together else []
    return first + [_step(step) for step in word.sequence[together:]]


def _looks_back(step: Primitive) -> bool:
    return step.kind is resize and step.params["of"] != "image"


def _step(step: Step) -> Any:
    A = library()
    if isinstance(step, Mix):
        unit = 10 ** len(str(max(weight for weight, _ in step.branches)))
        return A.OneOf([_sequence(word, _decimal(Fraction(w, unit))) for w, word in step.branches], p=1.0)
    if isinstance(step, Shuffle) and step.riffled:
        return _classes().Distort(str(step))
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
    A = library()
    return A.Sequential([_step(step) for step in word.sequence], p=p)


def from_albumentations(source: Any, *, spatial: bool = False) -> Expression:
    """The word that a pipeline draws from.

    Args:
        source: a transform, a pipeline (`Compose`, `Sequential`, `OneOf`, `SomeOf`, `RandomOrder`), what its
            `to_dict` gives, or a mapping of labels to any of them, which is a confounder set.
        spatial: whether transforms that move pixels are taken, too.

    Raises:
        UsageError: something in it has no counterpart (boxes, key points, drawing with replacement).
    """
    if isinstance(source, Mapping) and "transform" not in source:
        return confounder_set([from_albumentations(part, spatial=spatial) for part in source.values()])
    if isinstance(source, Mapping):
        source = _revived(source)
    return _node(source, spatial)


def _revived(source: Mapping[str, Any]) -> Any:
    """The pipeline that a dict describes."""
    A = library()
    for kind in REGISTRY.values():
        transform_class(kind)  # so that from_dict knows them
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


def _node(node: Any, spatial: bool) -> Word:
    """What a node does when it is called without force."""
    A = library()
    if not isinstance(node, A.BaseCompose | A.BasicTransform):
        raise UsageError("not a pipeline of albumentations", found=type(node).__name__)
    if isinstance(node, A.SomeOf):
        return _some_of(node, spatial)
    return prob(node.p, _forced(node, spatial))


def _forced(node: Any, spatial: bool) -> Word:
    """What a node does under `force_apply`; its own probability is left out."""
    A = library()
    if isinstance(node, _classes().WordTransform):
        return node.word
    if isinstance(node, A.OneOf):
        if not any(member.p for member in node.transforms):
            raise UsageError(NEVER)
        # its choice is forced, but `SomeOf` heeds its own probability all the same
        drawn = ((t.p, (_node if isinstance(t, A.SomeOf) else _forced)(t, spatial)) for t in node.transforms)
        return mix(*(Weighted.of(weight, word) for weight, word in drawn))
    if isinstance(node, A.Compose | A.Sequential):
        if getattr(node, "processors", None):
            raise UsageError("a distortion has no boxes or key points", found=type(node).__name__)
        return _chained(_node(member, spatial) for member in node.transforms)
    if isinstance(node, A.BasicTransform):
        known = type(node).InitSchema.model_fields  # some state what their base classes take as well
        settings = {k: v for k, v in node.get_transform_init_args().items() if k in known and k != "p"}
        return alb(type(node).__name__, spatial=spatial, **settings)
    raise UsageError(f"{type(node).__name__} has no counterpart among words")


def _chained(words: Iterable[Word]) -> Word:
    return Word(tuple(chain.from_iterable(word.sequence for word in words)))


def _some_of(node: Any, spatial: bool) -> Word:
    A = library()
    if node.replace:
        raise UsageError(f"{type(node).__name__} with replacement has no counterpart among words")
    if comb(len(node.transforms), node.n) > MAX_STEPS:
        raise UsageError(f"{type(node).__name__} has too many selections", expected=f"at most {MAX_STEPS}")
    arrange = (lambda words: shuffle(*words)) if isinstance(node, A.RandomOrder) else _chained
    selections = combinations((_node(member, spatial) for member in node.transforms), node.n)
    return prob(node.p, mix(*(arrange(selection) for selection in selections)))
