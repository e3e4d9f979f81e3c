"""`alb("MotionBlur", blur_limit=(3, 15))`: any albumentations transform, always applied, as a distortion."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import numpy as np

from dilkit.distortions.canonical import dumps, value_form
from dilkit.distortions.draw import Draw
from dilkit.distortions.locality import GLOBAL
from dilkit.distortions.primitive import REGISTRY, Image, Param, ParameterError, PrimitiveKind
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
