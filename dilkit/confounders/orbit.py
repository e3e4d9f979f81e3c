"""Orbits: training images moved by a symmetry of their distortion, so that degrees which are never drawn
are met. And one augmentation that is no symmetry: `Correlation` makes white noise look like a camera's.

`contrast` and `gain` act on the clean image before it is distorted: noise of sigma on an image of a third of
the contrast is what noise of 3 sigma is to the image itself. The others act on both images of a pair after
the distortion: an image blurred by sigma and enlarged r times (`scale`) is blurred by r sigma; noise of sigma
averaged over boxes of r x r pixels (`box`) is noise of sigma / r. Which kinds have which symmetry is declared
with them (`dilkit.distortions.symmetry`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, NamedTuple

from dilkit.distortions import Image, Word, as_float
from dilkit.distortions.algebra import Primitive
from dilkit.distortions.novelty import is_policy
from dilkit.distortions.symmetry import GROUPS
from dilkit.errors import UsageError
from dilkit.libraries import cv2, np, npt

OrbitName = Literal["contrast", "gain", "scale", "box", "permute"]
_EYE = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_ORDERS = tuple(permutations(range(3)))
BITS = 13
"""Random words of 64 bits that an element takes at most."""


class Element(NamedTuple):
    """What moves one crop: before the distortion the contrast `s` about the grey value `b` (0 or 1); after
    it, on both images, a matrix (row by row) that mixes the channels, the mean over boxes of `box` x `box`
    pixels, and an enlargement by `ratio`."""

    s: float = 1.0
    b: float = 0.0
    ratio: float = 1.0
    box: int = 1
    mix: tuple[float, ...] = _EYE

    def contracted(self, image: Image) -> Image:
        """`s x + (1 - s) b`: an image in [0, 1] stays in it."""
        with np.errstate(all="ignore"):  # pixels that nobody looks at may hold anything
            return GROUPS["contrast"].act(image, (self.s, self.b))

    def side(self, crop: int) -> int:
        """Side of the square that becomes a crop of `crop` pixels."""
        return max(1, round(crop / self.ratio)) * self.box

    def after(self, part: npt.NDArray[Any], crop: int) -> npt.NDArray[np.float32]:
        """What acts after the distortion: a square of `side(crop)` pixels -> one of `crop`. Enlarging is
        bilinear, and mixing takes means, so that values stay in their range."""
        image: npt.NDArray[Any] = np.ascontiguousarray(as_float(part))
        if self.mix != _EYE:
            image = image @ np.array(self.mix, np.float32).reshape(3, 3).T
        if self.box > 1:
            size = image.shape[1] // self.box, image.shape[0] // self.box
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # of whole boxes: their means
        if image.shape[0] != crop:
            image = cv2.resize(image, (crop, crop), interpolation=cv2.INTER_LINEAR)
        return np.asarray(image, np.float32)

    def then(self, other: Element) -> Element:
        """The element that does both, each of its parts after that of `self`."""
        s = self.s * other.s
        b = (other.s * (1 - self.s) * self.b + (1 - other.s) * other.b) / (1 - s) if s != 1 else 0.0
        mix = np.array(other.mix).reshape(3, 3) @ np.array(self.mix).reshape(3, 3)
        return Element(s, b, self.ratio * other.ratio, self.box * other.box, tuple(mix.ravel().tolist()))


UNMOVED = Element()


@dataclass(frozen=True)
class Orbit:
    """A law of elements of one group.

    Attributes:
        probability: of a crop to be moved at all.
        reach: the farthest degree that the moved crops stand for, in the unit of the kind's own parameter
            (sigma on the scale of 0 .. 255 for noise, in pixels for blur); by default three times as far as
            that trained on. The element that moves a crop is uniform between none and the one that reaches
            it; of `box` it is a whole number, and of `permute`, which changes no degree, any order.
    """

    group: OrbitName
    probability: float
    reach: float | None = None

    def spans(self, words: Mapping[str, Word]) -> dict[str, float]:
        """The farthest element for each word, at least 1 (`reach` over its degree, for a degree that moves
        as g); under the key "" that of the farthest word, for crops that all words share.

        Raises:
            UsageError: a word has a kind without this symmetry, or its degree is a law of chance.
        """
        degrees = {label: self._degree(word) for label, word in words.items()}
        if self.group == "permute":
            return dict.fromkeys((*degrees, ""), 1.0)
        far = max(value ** (1 / power) for value, power in degrees.values())
        made = {
            label: (self.reach / value) ** (1 / power)
            if self.reach is not None
            else 3 * far / value ** (1 / power)
            for label, (value, power) in degrees.items()
        }
        return {label: max(1.0, span) for label, span in {**made, "": min(made.values())}.items()}

    def element(self, span: float, bits: Sequence[Any] | npt.NDArray[np.uint64]) -> Element:
        """The element drawn by three random words of 64 bits, up to the farthest, `span`."""
        moved, far, side = (float(word) / 2**64 for word in bits[:3])
        if moved >= self.probability:
            return UNMOVED
        if self.group == "permute":
            order = _ORDERS[int(far * len(_ORDERS))]
            return Element(mix=tuple(float(column == row) for row in order for column in range(3)))
        if span <= 1:
            return UNMOVED
        times = 1 + far * (span - 1)
        if self.group == "box":
            return Element(box=2 + int(far * (int(span + 1e-6) - 1))) if span >= 2 else UNMOVED
        if self.group == "scale":
            return Element(ratio=times)
        return Element(s=1 / times, b=float(side >= 0.5) if self.group == "contrast" else 0.0)

    def largest(self, crop: int, spans: Mapping[str, float]) -> int:
        """Side of the largest square that a crop can come from."""
        return crop * int(max(spans.values()) + 1e-6) if self.group == "box" else crop

    def _degree(self, word: Word) -> tuple[float, float]:
        """The value of the first parameter of a word that the group moves, and its power; of `permute`, which
        moves none, (1, 1)."""
        found = (1.0, 1.0) if self.group == "permute" else None
        for step in word.sequence:
            if not isinstance(step, Primitive):
                raise self._refused(word)
            symmetry = next((s for s in step.kind.symmetries if s.group == self.group), None)
            if is_policy(step):
                continue
            if symmetry is None or not symmetry.when(step.params):
                raise self._refused(word)
            for name in symmetry.powers:
                value, power = step.params.get(name), symmetry.power(name, step.params)
                if not isinstance(value, int | float):
                    raise UsageError(
                        f"the degree of {word.label} under {self.group} is not one number",
                        where="data.orbit",
                        found=f"{name}={value}",
                    )
                if value > 0 and power and found is None:
                    found = float(value), power
        if found is None:
            raise self._refused(word)
        return found

    def _refused(self, word: Word) -> UsageError:
        return UsageError(
            f"{word.label} has no symmetry of {self.group}",
            where="data.orbit",
            remedy="`dilkit ls distortions` says which kinds have it",
        )


@dataclass(frozen=True)
class Correlation:
    """White noise made correlated, over pixels by enlarging both images of a pair, over channels by mixing
    theirs: as the noise of a camera is after demosaicking and compression.

    This is no symmetry: no group carries white noise to correlated noise, and no degree is reached by it. It
    shows the net noise that its distortion never makes, of scenes that are smoother and less colourful.

    Attributes:
        pixels: probability of a crop to be enlarged, by a ratio uniform between 1 and `reach`.
        channels: probability of its channels to be mixed, by (1 - t) I + t P, with t uniform in [0, 1] and
            each row of P uniform among the means of the three channels.
    """

    pixels: float = 0.0
    channels: float = 0.0
    reach: float = 2.5

    def element(self, bits: Sequence[Any] | npt.NDArray[np.uint64]) -> Element:
        """The element drawn by thirteen random words of 64 bits."""
        enlarged, far, mixed, share, *rest = (float(word) / 2**64 for word in bits)
        made = Element(ratio=1 + far * (self.reach - 1)) if enlarged < self.pixels else UNMOVED
        if mixed < self.channels:
            means = -np.log(np.maximum(rest, 1e-12)).reshape(3, 3)
            means /= means.sum(1, keepdims=True)
            matrix = (1 - share) * np.eye(3) + share * means
            made = made._replace(mix=tuple(matrix.ravel().tolist()))
        return made
