"""Whether a kind keeps the contract of kinds: what `dilkit.testing.check_distortion` tries."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dilkit.distortions.algebra import REGISTRY, Primitive, PrimitiveKind, Word
from dilkit.distortions.grammar import parse
from dilkit.distortions.params import REQUIRED, Param
from dilkit.distortions.randomness import Draw, SampleKey, Window
from dilkit.distortions.render import as_float, to_levels
from dilkit.distortions.symmetry import GROUPS
from dilkit.errors import DilkitError, UsageError


class ConformanceError(DilkitError, AssertionError):
    """Something that is plugged in breaks the contract of its kind."""


_SIZE = 72, 48
_WINDOWS = (
    *(Window(0, 0, 9, 11), Window(63, 37, 9, 11), Window(0, 20, 72, 3), Window(31, 0, 1, 48)),
    *(Window(13, 7, 33, 21), Window(50, 1, 8, 40)),
)
_ELEMENTS: dict[str, Any] = {
    "contrast": (2.0, 0.0),
    "offset": 0.0625,
    "gain": 0.5,
    "rotate": 90.0,
    "flip": True,
    "permute": (2, 0, 1),
}


def check_distortion(kind: PrimitiveKind | str, **settings: Any) -> None:
    """Try a kind on images and windows, at its defaults, each of its choices and several of its degrees.

    It must not change its input or anybody's random state; give a float32 image of the declared size with
    finite values; draw all randomness from its `draw`, and none if `random` is False; give the same pixels
    in a window as in the whole, if its locality is not global; agree with itself on whole levels; keep the
    symmetries that it declares for one draw; and come back from its text.

    Args:
        kind: a kind, or the name of a registered one (its text is only tried if it is registered).
        settings: parameters that stay as they are given.

    Raises:
        ConformanceError: it does not; the message says what differs, at which parameters.
        UsageError: there is no such distortion, or it does not take the settings.
    """
    made = REGISTRY.get(kind) if isinstance(kind, str) else kind
    draws_anything = False
    for params in _settings(made, settings):
        for image in _images():
            draws_anything |= _check_at(made, params, image)
    if made.random and not draws_anything and not settings:
        raise _broken(made, {}, "declares random=True, but its draw changes nothing")
    word = made(**made.example())
    if REGISTRY.find(made.name) is made and parse(str(word)) != word:
        raise _broken(made, made.example(), "does not come back from its text", found=str(word))


def _broken(kind: PrimitiveKind, params: Mapping[str, Any], what: str, **details: Any) -> ConformanceError:
    shown = ", ".join(f"{name}={value!r}" for name, value in params.items())
    return ConformanceError(what, where=f"{kind.name}({shown})", **details)


def _images() -> tuple[np.ndarray[Any, np.dtype[np.float32]], ...]:
    """Values over and beyond [0, 1], and a smooth picture."""
    noise = np.random.default_rng(0).normal(0.5, 0.4, (*_SIZE, 3)).astype(np.float32)
    y, x = np.mgrid[: _SIZE[0], : _SIZE[1]]
    waves = [0.5 + 0.3 * np.sin(y / a) * np.cos(x / b) for a, b in ((5, 9), (11, 4), (7, 7))]
    return noise, np.stack(waves, axis=2).astype(np.float32)


def _settings(kind: PrimitiveKind, fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Parameters to try, those too large for the images left out."""
    free = (
        {p.name: p.default for p in kind.params if p.default is not REQUIRED} | kind.example() | dict(fixed)
    )
    tried = [free]
    for param in (p for p in kind.params if p.name not in fixed):
        tried += [{**free, param.name: value} for value in _values(param, param.name == kind.degree)]
    for given in tried:
        params = kind.bind(**given)
        try:
            Word((Primitive(kind, tuple(params.items())),)).extent(*_SIZE)
        except UsageError:
            continue
        yield params


def _values(param: Param, is_degree: bool) -> list[Any]:
    if param.choices:
        return list(param.choices)
    if param.type is bool:
        return [False, True]
    if param.type is str:
        return []
    low, high = max(param.low, -10.0), min(param.high, 10.0)
    low, high = (low, high) if low < high else (param.low, param.high)
    values = [low + (high - low) * share for share in ((0.02, 0.2, 0.7) if is_degree else (0.3,))]
    return sorted({round(value) for value in values}) if param.type is int else values


def _check_at(kind: PrimitiveKind, params: dict[str, Any], image: Any) -> bool:
    """Whether another key gives other pixels."""
    draw, other = (Draw(key * 32, _SIZE, Window(0, 0, *_SIZE), _SIZE) for key in (b"k", b"o"))
    given, before = image.copy(), (random.getstate(), np.random.get_state())  # noqa: NPY002
    settled = dict(params)
    try:
        whole = kind.apply(given, settled, draw)
    except UsageError:
        return False  # it refuses this image, and says why
    except Exception as error:
        raise _broken(kind, params, f"fails: {type(error).__name__}: {error}") from error
    if given.tobytes() != image.tobytes() or settled != params:
        raise _broken(kind, params, "changes its input")
    after = random.getstate(), np.random.get_state()  # noqa: NPY002
    if before[0] != after[0] or str(before[1]) != str(after[1]):
        raise _broken(
            kind, params, "uses Python's or NumPy's own random numbers", expected="those of its draw alone"
        )
    _check_image(kind, params, whole)
    kept = whole.copy()
    kind.apply(image[::-1].copy(), dict(params), other)  # whatever it remembers must not matter
    if whole.tobytes() != kept.tobytes():
        raise _broken(kind, params, "changes an image that it has returned")
    again = kind.apply(image.copy(), dict(params), draw)
    if again.tobytes() != kept.tobytes():
        raise _broken(kind, params, "gives other pixels when it is called again with the same draw")
    differs = kind.apply(image.copy(), dict(params), other).tobytes() != kept.tobytes()
    if differs and not kind.random:
        raise _broken(kind, params, "declares random=False, but two draws give other pixels")
    _check_windows(kind, params, image)
    _check_levels(kind, params, image, draw)
    _check_symmetries(kind, params)
    return differs


def _check_image(kind: PrimitiveKind, params: Mapping[str, Any], result: Any) -> None:
    if not isinstance(result, np.ndarray) or result.dtype != np.float32 or result.ndim != 3:
        found = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise _broken(kind, params, "returns no image", found=found, expected="(h, w, 3) float32")
    size = kind.size_after(params, _SIZE, _SIZE) if kind.size_after else _SIZE
    if result.shape != (*size, 3):
        raise _broken(
            kind,
            params,
            "changes the size without saying so"
            if not kind.size_after
            else "gives another size than it says",
            found=str(result.shape),
            expected=str((*size, 3)),
            remedy=None if kind.size_after else "declare size_after",
        )
    if not np.isfinite(result).all():
        raise _broken(kind, params, "gives values that are not finite")


def _check_windows(kind: PrimitiveKind, params: Mapping[str, Any], image: Any) -> None:
    locality = kind.locality(params)
    if locality.halo is None:
        return
    word, key = Word((Primitive(kind, tuple(params.items())),)), SampleKey(0, b"conformance")
    whole = word.apply(image, key)
    for window in _WINDOWS:
        y, x, h, w = window
        try:
            part = word.apply(image, key, window)
        except DilkitError as error:
            raise _broken(kind, params, f"fails in a window: {error}", found=str(tuple(window))) from error
        if part.tobytes() != whole[y : y + h, x : x + w].tobytes():
            off = np.abs(part - whole[y : y + h, x : x + w]).max()
            raise _broken(
                kind,
                params,
                "gives other pixels in a window than in the whole",
                found=f"off by {off:.2g} in the window {tuple(window)}, with a halo of {locality.halo} px",
                expected="the same bits",
                remedy="declare a wider halo, or GLOBAL; take random numbers from the draw alone",
            )


def _check_levels(kind: PrimitiveKind, params: Mapping[str, Any], image: Any, draw: Draw) -> None:
    if kind.levels is None:
        return
    floats = kind.apply(image.copy(), dict(params), draw)
    whole = kind.levels(to_levels(image), dict(params), draw)
    if not isinstance(whole, np.ndarray) or whole.dtype != np.uint8:
        raise _broken(kind, params, "returns no whole levels", expected="(h, w, 3) uint8")
    if as_float(whole).tobytes() != floats.tobytes():
        raise _broken(kind, params, "gives other pixels on whole levels than on floats")


def _check_symmetries(kind: PrimitiveKind, params: Mapping[str, Any]) -> None:
    """Those that hold for one draw; on a square, inside [0, 1]."""
    image = np.ascontiguousarray(_images()[1][:48] * np.float32(0.8))
    for symmetry in kind.symmetries:
        if symmetry.group not in GROUPS:
            raise _broken(kind, params, f"declares a symmetry under no known group: {symmetry.group!r}")
        if symmetry.holds != "rounding" or not symmetry.when(params):
            continue
        act, g = GROUPS[symmetry.group].act, _ELEMENTS.get(symmetry.group)
        if g is None:
            continue
        draw = Draw.whole(b"s" * 32, (48, 48))
        acted = act(kind.apply(image, params, draw), g)
        carried = kind.apply(act(image, g), symmetry.carry(params, g), draw)
        if acted.shape != carried.shape or np.abs(acted - carried).max() > 1e-4 * max(1, np.abs(acted).max()):
            raise _broken(kind, params, f"does not have the symmetry that it declares: {symmetry}")
