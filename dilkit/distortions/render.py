"""Between [0, 1] and whole levels 0 .. 255, exactly.

How a word meets an image: keys, the choices that are drawn, and windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dilkit.distortions.params import Law
from dilkit.distortions.randomness import Draw, Window
from dilkit.errors import DilkitError, UsageError

if TYPE_CHECKING:
    from dilkit.distortions.algebra import Image, Primitive, PrimitiveKind, Step, Word


Levels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB uint8, 0 .. 255."""


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


Size = tuple[int, int]
"""Height and width."""


@dataclass(frozen=True)
class SampleKey:
    """What all random numbers of one sample derive from, with the expression and the position in it.

    Attributes:
        seed: the root seed of the data set.
        pixels: `pixel_hash` of the whole clean image.
        replicate: which of several samples of the same image.
        coupling: `common` leaves the degree out, so awgn(5) and awgn(20) share one noise field: the literal
            counterfactual of the paper's section 3.2. Branches and orders are then drawn without regard to
            the degrees, too, as long as the words differ in something else.

    Raises:
        UsageError: a field is of another type, or the coupling is unknown.
    """

    seed: int
    pixels: bytes
    replicate: int = 0
    coupling: Literal["independent", "common"] = "independent"

    def __post_init__(self) -> None:
        if self.coupling not in ("independent", "common"):
            raise UsageError(f"unknown coupling {self.coupling!r}", expected="independent or common")
        if type(self.seed) is not int:
            object.__setattr__(self, "seed", _whole(self.seed, "the seed of a sample"))
        if type(self.replicate) is not int:
            object.__setattr__(self, "replicate", _whole(self.replicate, "the replicate of a sample"))
        if not isinstance(self.pixels, bytes):
            raise UsageError(
                "the pixels of a sample key are bytes",
                found=type(self.pixels).__name__,
                remedy="give pixel_hash(image)",
            )

    def derive(self, step: Step, position: Sequence[int]) -> bytes:
        """The key of one step at a position in the flattened word (a path, inside `mix` and `shuffle`)."""
        form = step.common_json if self.coupling == "common" else step.json
        fields = f'[{self.seed},"{self.pixels.hex()}",{form},{list(position)},{self.replicate}]'
        return hashlib.blake2b(fields.encode(), digest_size=32, person=b"dilkit-draw-1").digest()


def _whole(value: Any, name: str) -> int:
    """A whole number of NumPy's as one of Python's."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number", found=repr(value))
    return int(value)


def pixel_hash(image: npt.NDArray[Any]) -> bytes:
    """16 bytes that name the content of an image, uint8 or float32, whichever way it is held:

    `pixel_hash(u) == pixel_hash(as_float(u))`.
    """
    if image.dtype == np.float32 and image.size:
        levels = np.rint(image * np.float32(255))
        if np.array_equal(levels / np.float32(255), image) and levels.min() >= 0 and levels.max() <= 255:
            image = levels.astype(np.uint8)
    elif image.dtype != np.uint8 or not image.size:
        found = f"{image.dtype} {image.shape}"
        raise UsageError("an image has no pixel hash", found=found, expected="pixels of uint8 or float32")
    state = hashlib.blake2b(
        f"{image.dtype} {image.shape}".encode(), digest_size=16, person=b"dilkit-pixels-1"
    )
    state.update(np.ascontiguousarray(image).data)
    return state.digest()


class Planned(NamedTuple):
    """A primitive whose every choice is made: numbers, and the key of its draw."""

    kind: PrimitiveKind
    params: dict[str, Any]
    key: bytes


def plan(
    word: Word, key: SampleKey, position: tuple[int, ...] = (), stop: int | None = None
) -> Iterator[Planned]:
    """The primitives that a word comes to for one sample, in order, or those of its first `stop` steps."""
    for index, step in enumerate(word.sequence[:stop]):
        yield from _plan_step(step, key, (*position, index))


def _plan_step(step: Step, key: SampleKey, here: tuple[int, ...]) -> Iterator[Planned]:
    from dilkit.distortions.algebra import Mix, Primitive

    token = key.derive(step, here)
    if isinstance(step, Primitive):
        yield Planned(step.kind, _settle(step, token), token)
    elif isinstance(step, Mix):
        branches = step.common_branches if key.coupling == "common" else step.branches
        yield from plan(_branch(branches, token), key, here)
    else:
        words = step.common_words if key.coupling == "common" else step.words
        for member, index in _arrangement(words, step.riffled, token):
            yield from _plan_step(words[member].sequence[index], key, (*here, member, index))


def _settle(step: Primitive, token: bytes) -> dict[str, Any]:
    """The parameters, each law replaced by what it draws."""
    settled = step.params
    for param in step.kind.params:
        law = settled[param.name]
        if isinstance(law, Law):
            settled[param.name] = param.type(law.sample(_number(token, param.name)))
    return settled


def _number(token: bytes, purpose: str) -> int:
    """A uniform 64-bit number."""
    return int.from_bytes(hashlib.blake2b(token + purpose.encode(), digest_size=8).digest(), "big")


def _branch(branches: Sequence[tuple[int, Word]], token: bytes) -> Word:
    point = int.from_bytes(token, "big") * sum(weight for weight, _ in branches) >> 8 * len(token)
    for weight, word in branches:
        point -= weight
        if point < 0:
            return word
    raise AssertionError("the weights do not sum up")


def _arrangement(words: Sequence[Word], riffled: bool, token: bytes) -> list[tuple[int, int]]:
    """(member, index of its step) in an order drawn uniformly: slots are sorted by random numbers."""
    sizes = [len(word.sequence) for word in words]
    slots = [member for member, size in enumerate(sizes) for _ in range(size if riffled else 1)]
    order = sorted(range(len(slots)), key=lambda slot: _number(token, str(slot)))
    if not riffled:
        return [(slots[slot], index) for slot in order for index in range(sizes[slots[slot]])]
    following = [iter(range(size)) for size in sizes]
    return [(slots[slot], next(following[slots[slot]])) for slot in order]


def apply(word: Word, image: Image, key: SampleKey, window: Window | None, size: Size | None) -> Image:
    """`Word.apply`."""
    _check_image(image)
    return _through(word, list(plan(word, key)), image, window, size)


def levels(
    word: Word, image: Image | Levels, key: SampleKey, window: Window | None, size: Size | None
) -> Levels:
    """`Word.levels`."""
    _check_image(image, np.uint8, np.float32)
    todo = list(plan(word, key, stop=len(word.sequence) - len(word.closing)))
    in_levels = bool(todo) and todo[-1].kind.levels is not None
    if word.closing and not word.rounds and not in_levels:
        todo = list(plan(word, key))  # a clip or quantize alone does something
    if in_levels:
        given = image if len(todo) == 1 else as_float(image)
        return _through(word, todo, given, window, size, in_levels=True)
    made = _through(word, todo, as_float(image), window, size)
    require_numbers(made, word.label)
    if word.rounds:
        return rounded(np.clip(made, np.float32(0), np.float32(1), out=made))
    whole = rounded(made)
    if not np.array_equal(as_float(whole), made):
        raise DilkitError("the result is not on the 8-bit grid, so it has no levels", where=word.label)
    return whole


def require_numbers(image: Image, label: str) -> None:
    """Raises DilkitError where a value is infinite or none at all: so is the square of the length, then."""
    flat = image.reshape(-1)
    if not np.isfinite(np.dot(flat, flat)) and not np.isfinite(flat).all():
        raise DilkitError(
            "the distortion made values that are no numbers",
            where=label,
            found=f"{np.count_nonzero(~np.isfinite(flat))} of {flat.size}",
            expected="finite values",
        )


def _through(
    word: Word,
    todo: list[Planned],
    image: Any,
    window: Window | None,
    size: Size | None,
    in_levels: bool = False,
) -> Any:
    """The image after all of it, cut to the window; `in_levels` as uint8, by the last primitive."""
    clean = image.shape[:2]
    image = image.view()
    image.flags.writeable = False  # other words get it too
    ending = todo[-1] if in_levels else None
    reaches = [p.kind.locality(p.params).halo for p in todo] if window is not None else [None] * len(todo)
    split = max((i + 1 for i, halo in enumerate(reaches) if halo is None), default=0)
    for planned in todo[:split]:
        whole = Window(0, 0, *image.shape[:2])
        image = _run(planned, image, whole, image.shape[:2], clean, planned is ending)
    shape = image.shape[:2]
    if size is not None and shape != size:
        raise DilkitError(
            "the distortion changes the size of some images in another way than that of others",
            where=word.label,
            found=f"{shape[0]} x {shape[1]}",
            expected=f"{size[0]} x {size[1]}",
            remedy="resize(1, of='clean') at its end brings the size of the clean image back",
        )
    windows = [_check_window(window, shape)]
    for halo in reversed(reaches[split:]):
        windows.insert(0, _grown(windows[0], halo or 0, shape))
    part = _cut(image, windows[0])
    for planned, before, after in zip(todo[split:], windows, windows[1:], strict=False):
        part = _cut(_run(planned, part, before, shape, clean, planned is ending), _inside(after, before))
    return part if part.base is None else part.copy()


def _run(
    planned: Planned,
    part: Image,
    window: Window,
    shape: tuple[int, ...],
    clean: tuple[int, ...],
    in_levels: bool,
) -> Any:
    kind, draw = planned.kind, Draw(planned.key, (shape[0], shape[1]), window, (clean[0], clean[1]))
    try:
        if in_levels and kind.levels is not None:
            result: Any = kind.levels(to_levels(part), planned.params, draw)
        else:
            result = kind.apply(part, planned.params, draw)
    except DilkitError:
        raise
    except Exception as error:
        raise DilkitError(
            f"the distortion {kind.name} failed: {error}", found=f"{type(error).__name__} at {planned.params}"
        ) from error
    dtype, wanted, found = np.uint8 if in_levels else np.float32, part.shape, type(result).__name__
    if isinstance(result, np.ndarray):
        if kind.locality(planned.params).halo is None:
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


def _inside(inner: Window, outer: Window) -> Window:
    return Window(inner.y - outer.y, inner.x - outer.x, inner.h, inner.w)


def _cut(image: Image, window: Window) -> Image:
    if (window.y, window.x, window.h, window.w) == (0, 0, *image.shape[:2]):
        return image
    return image[window.y : window.y + window.h, window.x : window.x + window.w]


def _check_image(image: Any, *dtypes: Any) -> None:
    is_array = isinstance(image, np.ndarray) and image.dtype in (dtypes or (np.float32,))
    if not is_array or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        found = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise UsageError(
            "a distortion applies to an RGB image", found=found, expected="(H, W, 3) float32 in [0, 1]"
        )


def _check_window(window: Window | None, shape: tuple[int, ...]) -> Window:
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
