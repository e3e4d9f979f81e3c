"""Randomness that depends on what is distorted and how, never on who does it or when: keys, and fields made
from them.

Raw 64-bit words of PCG64 (whose stream NumPy promises for good) are read as uint16 and mapped by a fixed
65,536-entry quantile table, so the same key gives the same bits under any build of NumPy; `advance` reaches
any row of a field, so the field of a window is the cut of the field of the whole image.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, Protocol

from dilkit.errors import DilkitError, UsageError
from dilkit.libraries import Array, np, npt

LEVELS = 1 << 16
_NORMAL_TABLE_DIGEST = "7013eb3e874e925f"
_SKIP_COST = 2000
"""Words that PCG64 makes in the time that jumping to another row costs."""
_PIECE = 1 << 17
"""Elements of a field made at a time: few calls, and the bits are in the cache when they are looked up."""
_BAND = 1 << 15
"""Elements of a band: what a primitive needs in between stays in the cache and costs no fresh memory."""


class Keyed(Protocol):
    """A step of a word, as far as keys know it."""

    @property
    def json(self) -> str:
        """Its canonical form."""

    @property
    def common_json(self) -> str:
        """Its canonical form without degrees."""


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
            object.__setattr__(self, "seed", _whole_number(self.seed, "the seed of a sample"))
        if type(self.replicate) is not int:
            object.__setattr__(self, "replicate", _whole_number(self.replicate, "the replicate of a sample"))
        if not isinstance(self.pixels, bytes):
            raise UsageError(
                "the pixels of a sample key are bytes",
                found=type(self.pixels).__name__,
                remedy="give pixel_hash(image)",
            )

    def derive(self, step: Keyed, position: Sequence[int]) -> bytes:
        """The key of one step at a position in the flattened word (a path, inside `mix` and `shuffle`)."""
        form = step.common_json if self.coupling == "common" else step.json
        fields = f'[{self.seed},"{self.pixels.hex()}",{form},{list(position)},{self.replicate}]'
        return blake2b(fields.encode(), digest_size=32, person=b"dilkit-draw-1").digest()


def _whole_number(value: Any, name: str) -> int:
    """A whole number of NumPy's as one of Python's."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise UsageError(f"{name} must be a whole number", found=repr(value))
    return int(value)


def uniform_word(token: bytes, purpose: str) -> int:
    """A uniform 64-bit number that a step draws under its key: of a parameter, or of a place in an order."""
    return int.from_bytes(blake2b(token + purpose.encode(), digest_size=8).digest(), "big")


def pixel_hash(image: npt.NDArray[Any]) -> bytes:
    """16 bytes that identify the content of an image, the same for uint8 and float32:

    `pixel_hash(u) == pixel_hash(as_float(u))`.
    """
    if image.dtype == np.float32 and image.size:
        levels = np.rint(image * np.float32(255))
        if np.array_equal(levels / np.float32(255), image) and levels.min() >= 0 and levels.max() <= 255:
            image = levels.astype(np.uint8)
    elif image.dtype != np.uint8 or not image.size:
        found = f"{image.dtype} {image.shape}"
        raise UsageError("an image has no pixel hash", found=found, expected="pixels of uint8 or float32")
    state = blake2b(f"{image.dtype} {image.shape}".encode(), digest_size=16, person=b"dilkit-pixels-1")
    state.update(np.ascontiguousarray(image).data)
    return state.digest()


class Window(NamedTuple):
    """A box of pixels: rows y .. y+h, columns x .. x+w."""

    y: int
    x: int
    h: int
    w: int


@dataclass(frozen=True)
class Draw:
    """The random numbers of one primitive on one image.

    One primitive may need several fields; each has its own `stream` name. A field with `pad` is that of the
    image grown by `pad` pixels on every side, cut to the window grown likewise: what a filter of noise needs.

    Attributes:
        key: blake2b of (root seed, pixel hash of the clean image, canonical primitive, position in the
            flattened word, replicate); nothing else may enter.
        shape: (H, W) of the whole image.
        window: the part of it that is being made; fields are cut to it, so that
            `apply(image, draw)[window] == apply(image[window], draw.at(window))` for a point primitive.
        clean: (H, W) of the clean image that the word began with, where it may have another shape.
    """

    key: bytes
    shape: tuple[int, int]
    window: Window
    clean: tuple[int, int] | None = None

    @classmethod
    def whole(cls, key: bytes, shape: tuple[int, int]) -> Draw:
        """The draw of a whole image of `shape` (H, W)."""
        return cls(key, shape, Window(0, 0, *shape))

    def at(self, window: Window) -> Draw:
        """The same draw, for another part of the image."""
        return replace(self, window=window)

    def bits(self, channels: int = 3, *, pad: int = 0, stream: str = "") -> npt.NDArray[np.uint16]:
        """Independent uniform 16-bit integers, (h + 2 pad, w + 2 pad, channels)."""
        y, x, h, w = self.window
        row = (self.shape[1] + 2 * pad) * channels
        h, w = h + 2 * pad, w + 2 * pad
        cut = _rows(self._state(stream), row, y, h, x * channels, w * channels)
        return cut.reshape(h, w, channels)

    def normal(self, channels: int = 3, *, pad: int = 0, stream: str = "") -> Array:
        """Independent values of the standard normal law (tails end at 4.3), as `bits` in shape."""
        table = normal_table()

        def look_up(bits: npt.NDArray[np.uint16], out: Array) -> None:
            table.take(bits, mode="wrap", out=out)

        return self._field(channels, 1, pad, stream, look_up)

    def uniform(self, channels: int = 3, *, pad: int = 0, stream: str = "") -> Array:
        """Independent values of the uniform law on [0, 1), multiples of 2**-24; as `bits` in shape."""

        def join(bits: npt.NDArray[np.uint16], out: Array) -> None:
            words = np.ascontiguousarray(bits).view("<u4")
            np.multiply(words >> np.uint32(8), np.float32(2.0**-24), out=out, casting="unsafe")

        return self._field(channels, 2, pad, stream, join)

    def bands(self, channels: int = 3) -> Iterator[tuple[slice, Draw]]:
        """Bands of rows of the window, counted from its top, and the draw of each; they fit a cache."""
        y, x, h, w = self.window
        for rows in _bands(h, w * channels, _BAND):
            yield rows, self.at(Window(y + rows.start, x, rows.stop - rows.start, w))

    def _field(
        self,
        channels: int,
        halves: int,
        pad: int,
        stream: str,
        make: Callable[[npt.NDArray[np.uint16], Array], None],
    ) -> Array:
        y, x, h, w = self.window
        h, w = h + 2 * pad, w + 2 * pad
        state = self._state(stream)
        row = (self.shape[1] + 2 * pad) * channels * halves
        out = np.empty((h, w, channels), np.float32)
        flat = out.reshape(h, w * channels)
        for rows in _bands(h, row, _PIECE):
            count = rows.stop - rows.start
            cut = _rows(state, row, y + rows.start, count, x * channels * halves, w * channels * halves)
            make(cut, flat[rows])
        return out

    def scalars(self, count: int = 1, *, stream: str = "") -> tuple[float, ...]:
        """Uniform numbers on [0, 1), the same for every window."""
        words = _words(self._state("scalars:" + stream), 0, count)
        return tuple((int(word) >> 11) * 2.0**-53 for word in words)

    def normal_scalars(self, count: int = 1, *, stream: str = "") -> tuple[float, ...]:
        """Standard normal numbers, the same for every window."""
        table = normal_table()
        return tuple(float(table[int(u * LEVELS)]) for u in self.scalars(count, stream=stream))

    def _state(self, stream: str) -> dict[str, Any]:
        digest = blake2b(stream.encode(), key=self.key[:64], digest_size=32).digest()
        state, increment = int.from_bytes(digest[:16], "little"), int.from_bytes(digest[16:], "little") | 1
        return {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": increment},
            "has_uint32": 0,
            "uinteger": 0,
        }


@functools.cache
def normal_table() -> npt.NDArray[np.float32]:
    """Quantiles of the normal law at (k + 1/2) / 65536, scaled to variance one.

    Computed in pure Python floats (Wichura's AS 241 in the standard library) and checked against a digest.
    """
    law = NormalDist()
    half = np.array([law.inv_cdf((k + 0.5) / LEVELS) for k in range(LEVELS // 2)])
    exact = np.concatenate([half, -half[::-1]])
    scale = math.sqrt(math.fsum(z * z for z in exact) / LEVELS)
    table = checked((exact / scale).astype(np.float32), _NORMAL_TABLE_DIGEST, "the normal law")
    table.flags.writeable = False
    return table


def checked(table: npt.NDArray[Any], digest: str, what: str) -> npt.NDArray[Any]:
    """The table, if its bits are those that every other machine has; a DilkitError otherwise."""
    little = table.astype(table.dtype.newbyteorder("<"), copy=False)
    found = blake2b(little.tobytes(), digest_size=8).hexdigest()
    if found != digest:
        raise DilkitError(
            f"the table of {what} has other bits on this machine, so nothing could be made again elsewhere",
            found=found,
            expected=digest,
            remedy="report this with your processor, Python and NumPy versions",
        )
    return table


_local = threading.local()


def _bands(height: int, row: int, size: int) -> Iterator[slice]:
    rows = max(1, size // row)
    return (slice(start, min(height, start + rows)) for start in range(0, height, rows))


def _words(state: dict[str, Any], first: int, count: int) -> npt.NDArray[np.uint64]:
    generator = getattr(_local, "generator", None)
    if generator is None:
        generator = _local.generator = np.random.PCG64(0)
    generator.state = state
    if first:
        generator.advance(first)
    return generator.random_raw(count)


def _rows(state: dict[str, Any], row: int, y: int, h: int, x: int, n: int) -> npt.NDArray[np.uint16]:
    """Elements [y .. y+h) x [x .. x+n) of a field of `row` elements a row, four elements to a word."""
    if n < row and (row - n) // 4 > _SKIP_COST:
        return np.stack([_span(state, (y + i) * row + x, n) for i in range(h)])
    rows = _span(state, y * row + x, (h - 1) * row + n)
    if n == row:
        return rows.reshape(h, n)
    return np.lib.stride_tricks.as_strided(rows, (h, n), (2 * row, 2), writeable=False)


def _span(state: dict[str, Any], start: int, count: int) -> npt.NDArray[np.uint16]:
    first, skip = divmod(start, 4)
    words = _words(state, first, (skip + count + 3) // 4)
    return words.astype("<u8", copy=False).view("<u2")[skip : skip + count]
