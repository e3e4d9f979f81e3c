"""albumentations, imported in this one place, and every distortion as one of its `ImageOnlyTransform`s."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks a package index for news

import albumentations as A
import numpy as np
import numpy.typing as npt

from dilkit.distortions.algebra import REGISTRY, PrimitiveKind, Word, class_name, value_form
from dilkit.distortions.params import make
from dilkit.distortions.render import SampleKey, as_float, pixel_hash, to_levels


class WordTransform(A.ImageOnlyTransform):
    """A word as a transform; uint8 images are made float, distorted, clipped and rounded.

    Args:
        root_seed: with it, the bits of `word.apply(image, SampleKey(root_seed, pixel_hash(image)))`; without,
            a seed is drawn from the pipeline's generator for every image.
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
        from dilkit.distortions.algebra import as_word
        from dilkit.distortions.grammar import parse

        super().__init__(root_seed, p)
        self.word = as_word(parse(expression), "the expression of a transform")
        self.expression = str(self.word)


class KindTransform(WordTransform):
    """What the transforms of single kinds share; `transform_class` makes one class per kind."""

    kind: PrimitiveKind

    def get_transform_init_args(self) -> dict[str, Any]:
        params = {name: value_form(value) for name, value in self.word.steps[0].values}
        return params | {"root_seed": self.root_seed}


@cache
def transform_class(kind: PrimitiveKind) -> type[KindTransform]:
    """The `ImageOnlyTransform` class of a kind: its parameters, `root_seed` and `p`."""

    def __init__(
        self: KindTransform, root_seed: int | None = None, p: float = 1.0, strict: bool = True, **params: Any
    ) -> None:
        WordTransform.__init__(self, root_seed, p)
        self.word = kind(**{name: revived(value) for name, value in params.items()})

    keyword = inspect.Parameter.KEYWORD_ONLY
    names = [*(param.name for param in kind.params), "root_seed", "p"]
    own = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    signature = inspect.Signature([*own, *(inspect.Parameter(name, keyword) for name in names)])
    __init__.__signature__ = signature  # type: ignore[attr-defined]
    body = {"__init__": __init__, "__doc__": kind.summary, "__module__": __name__, "kind": kind}
    return type(class_name(kind.name), (KindTransform,), body)


def revived(value: Any) -> Any:
    """A parameter's value from its JSON form."""
    if isinstance(value, Mapping) and set(value) == {"law", "args"}:
        return make(value["law"], *map(revived, value["args"]))
    return value


def register_all() -> None:
    """Make the class of every kind, so that `A.from_dict` knows them."""
    for kind in REGISTRY.kinds.values():
        transform_class(kind)


def __getattr__(name: str) -> Any:
    """The transform class of that name (this is how they are pickled)."""
    for kind in REGISTRY.kinds.values():
        if class_name(kind.name) == name:
            return transform_class(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


for _kind in tuple(REGISTRY.loaded):
    transform_class(_kind)

__all__ = ["A", "Distort", "KindTransform", "WordTransform", "register_all", "transform_class"]
