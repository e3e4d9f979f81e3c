"""From choices to pixels: a list of primitives whose every choice is made, run on an image or a window of it.

It knows nothing of words: `Word.apply` in algebra.py makes the choices and calls it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from dilkit.distortions.params import Locality
from dilkit.distortions.randomness import Draw, Window
from dilkit.errors import DilkitError, UsageError
from dilkit.libraries import cv2, np, npt

Image: TypeAlias = "npt.NDArray[np.float32]"
"""(H, W, 3) RGB float32, nominally in [0, 1]; noise may leave that range until `clip`."""

Levels: TypeAlias = "npt.NDArray[np.uint8]"
"""(H, W, 3) RGB uint8, 0 .. 255."""

Size = tuple[int, int]
"""Height and width in pixels."""

Apply = Callable[[Image, Mapping[str, Any], Draw], Image]
"""(the image or its window, resolved parameters, the draw) -> the distorted image."""

ApplyLevels = Callable[[Levels, Mapping[str, Any], Draw], Levels]
"""As `Apply`, on whole levels."""

MAX_PIXELS = 1 << 26
"""The most pixels of an image that a distortion may make: 8192 x 8192, 805 MB as float32."""


def as_float(image: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """(H, W, 3) uint8 as float32 in [0, 1] (values / 255); float32 as it is."""
    return np.divide(image, np.float32(255), dtype=np.float32) if image.dtype == np.uint8 else image


def to_levels(image: npt.NDArray[Any]) -> Levels:
    """[0, 1] float32 -> 0 .. 255, clipped and rounded half to even; uint8 as it is."""
    if image.dtype == np.uint8:
        return image
    low, high, _, _ = cv2.minMaxLoc(image.reshape(len(image), -1))
    return rounded(np.clip(image, np.float32(0), np.float32(1)) if low < 0 or high > 1 else image)


def rounded(image: npt.NDArray[np.float32]) -> Levels:
    """Values in [0, 1] -> 0 .. 255, rounded half to even."""
    return np.asarray(cv2.convertScaleAbs(image, alpha=255), np.uint8)


class Renderer(Protocol):
    """What a kind is to the renderer; see `PrimitiveKind`."""

    @property
    def name(self) -> str: ...
    @property
    def apply(self) -> Apply: ...
    @property
    def levels(self) -> ApplyLevels | None: ...
    @property
    def locality(self) -> Callable[[Mapping[str, Any]], Locality]: ...


class Resolved(NamedTuple):
    """A primitive whose every choice is made: numbers, and the key of its draw."""

    kind: Renderer
    params: dict[str, Any]
    key: bytes


def run(
    todo: Sequence[Resolved],
    image: Any,
    where: str,
    window: Window | None = None,
    size: Size | None = None,
    in_levels: bool = False,
) -> Any:
    """The image after all of `todo`, cut to the window.

    Primitives after the last global one compute no more than the window needs.

    Args:
        image: the whole clean image; it is not changed.
        where: what errors call the word.
        window: the part of the whole result that is wanted.
        size: the height and width that the whole result must have.
        in_levels: whether the last primitive is run on whole levels; the result is then uint8.

    Raises:
        UsageError: the window leaves the result.
        DilkitError: a primitive fails, returns a wrong image, or the result has another size than it must.
    """
    clean = image.shape[:2]
    image = image.view()
    image.flags.writeable = False  # other words get it too
    ending = todo[-1] if in_levels else None
    reaches = [p.kind.locality(p.params).halo for p in todo] if window is not None else [None] * len(todo)
    split = max((i + 1 for i, halo in enumerate(reaches) if halo is None), default=0)
    for resolved in todo[:split]:
        whole = Window(0, 0, *image.shape[:2])
        image = _run_one(resolved, image, whole, image.shape[:2], clean, resolved is ending)
    shape = image.shape[:2]
    if size is not None and shape != size:
        raise DilkitError(
            "the distortion changes the size of some images in another way than that of others",
            where=where,
            found=f"{shape[0]} x {shape[1]}",
            expected=f"{size[0]} x {size[1]}",
            remedy="resize(1, of='clean') at its end brings the size of the clean image back",
        )
    windows = [_checked_window(window, shape)]
    for halo in reversed(reaches[split:]):
        windows.insert(0, _grown(windows[0], halo or 0, shape))
    part = _cut(image, windows[0])
    for resolved, before, after in zip(todo[split:], windows, windows[1:], strict=False):
        inside = Window(after.y - before.y, after.x - before.x, after.h, after.w)
        part = _cut(_run_one(resolved, part, before, shape, clean, resolved is ending), inside)
    return part if part.base is None else part.copy()


def _run_one(
    resolved: Resolved,
    part: Image,
    window: Window,
    shape: tuple[int, ...],
    clean: tuple[int, ...],
    in_levels: bool,
) -> Any:
    kind, draw = resolved.kind, Draw(resolved.key, (shape[0], shape[1]), window, (clean[0], clean[1]))
    try:
        if in_levels and kind.levels is not None:
            result: Any = kind.levels(to_levels(part), resolved.params, draw)
        else:
            result = kind.apply(part, resolved.params, draw)
    except DilkitError:
        raise
    except Exception as error:
        raise DilkitError(
            f"the distortion {kind.name} failed: {error}",
            found=f"{type(error).__name__} at {resolved.params}",
        ) from error
    dtype, wanted, found = np.uint8 if in_levels else np.float32, part.shape, type(result).__name__
    if isinstance(result, np.ndarray):
        if kind.locality(resolved.params).halo is None:
            wanted = (*result.shape[:2], 3)
        if result.dtype == dtype and result.shape == wanted:
            return result
        found = f"{result.dtype} {result.shape}"
    raise DilkitError(
        f"the distortion {kind.name} returned a wrong image",
        found=found,
        expected=f"{np.dtype(dtype)} {wanted}",
    )


def _grown(window: Window, halo: int, shape: tuple[int, ...]) -> Window:
    y, x = max(window.y - halo, 0), max(window.x - halo, 0)
    bottom, right = min(window.y + window.h + halo, shape[0]), min(window.x + window.w + halo, shape[1])
    return Window(y, x, bottom - y, right - x)


def _cut(image: Image, window: Window) -> Image:
    if (window.y, window.x, window.h, window.w) == (0, 0, *image.shape[:2]):
        return image
    return image[window.y : window.y + window.h, window.x : window.x + window.w]


def _checked_window(window: Window | None, shape: tuple[int, ...]) -> Window:
    whole = Window(0, 0, shape[0], shape[1])
    if window is None:
        return whole
    made = Window(*window)
    inside = 0 <= made.y <= shape[0] - made.h and 0 <= made.x <= shape[1] - made.w
    if not inside or made.h < 1 or made.w < 1:
        raise UsageError(
            "the window leaves the image", found=str(tuple(made)), expected=f"inside {tuple(whole)}"
        )
    return made


def require_image(image: Any, *dtypes: Any) -> None:
    """Raises UsageError unless the image is an (H, W, 3) array of one of these types (float32 by default)."""
    is_array = isinstance(image, np.ndarray) and image.dtype in (dtypes or (np.float32,))
    if not is_array or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(
            "a distortion applies to an RGB image", found=found, expected="(H, W, 3) float32 in [0, 1]"
        )


def require_numbers(image: Image, label: str) -> None:
    """Raises DilkitError where a value is infinite or NaN: the sum of squares is then, too."""
    flat = image.reshape(-1)
    if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
        raise DilkitError(
            "the distortion gave values that are not finite",
            where=label,
            found=f"{np.count_nonzero(~np.isfinite(flat))} of {flat.size}",
            expected="finite values",
        )


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> bool:
    """Let this process keep up to 256 MB of freed memory for its next arrays; for workers, not for libraries.

    Fresh pages are slow: half the time of many primitives goes to the kernel clearing them. This doubles the
    speed of those that need several arrays of the image's size. It returns False and does nothing where the C
    library is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, 1 << 25) and mallopt(_TRIM_THRESHOLD, 1 << 28))
