"""Orbits: training images moved by a symmetry of their distortion, so that degrees which are never drawn
are met.

`contrast` acts on the clean image before it is distorted: noise of sigma on an image of a third of the
contrast is what noise of 3 sigma is to the image itself. `scale` acts on both images of a pair after the
distortion: an image blurred by sigma and enlarged r times is blurred by r sigma. Which kinds have which
symmetry is
declared with them (`dilkit.distortions.symmetry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from dilkit.distortions import Image, Word
from dilkit.errors import UsageError

OrbitName = Literal["contrast", "scale"]


class Element(NamedTuple):
    """What acts on one crop: contrast `s` about the grey value `b` (0 or 1), or an enlargement by `ratio`."""

    s: float = 1.0
    b: float = 0.0
    ratio: float = 1.0

    def contracted(self, image: Image) -> Image:
        """`s x + (1 - s) b`: an image in [0, 1] stays in it."""
        with np.errstate(all="ignore"):  # pixels that nobody looks at may hold anything
            return image * np.float32(self.s) + np.float32((1 - self.s) * self.b)


_IDENTITY = Element()


@dataclass(frozen=True)
class Orbit:
    """A law of elements of one group.

    Attributes:
        probability: of a crop to be moved at all.
        reach: the strongest degree that the moved crops stand for, in the unit of the kind's own parameter
            (sigma on the scale of 0 .. 255 for noise, in pixels for blur); three times the strongest degree
            trained on by default. The degree a crop is moved to is uniform between that of its distortion and
            `reach`.
    """

    group: OrbitName
    probability: float
    reach: float | None = None

    def spans(self, words: Mapping[str, Word]) -> dict[str, float]:
        """How many times stronger than the degree of each word the orbit reaches, at least 1; under the key
        "" that of the strongest, for crops that all words share.

        Raises:
            UsageError: a word has no kind with this symmetry, or its degree is a law of chance.
        """
        degrees = {label: self._degree(word) for label, word in words.items()}
        degrees[""] = max(degrees.values())
        reach = self.reach if self.reach is not None else 3 * degrees[""]
        return {label: max(1.0, reach / degree) for label, degree in degrees.items()}

    def element(self, span: float, bits: npt.NDArray[np.uint64]) -> Element:
        """The element drawn by three random words of 64 bits, for crops whose degree the orbit exceeds
        `span` times."""
        moved, far, side = (float(word) / 2**64 for word in bits)
        if moved >= self.probability or span <= 1:
            return _IDENTITY
        times = 1 + far * (span - 1)
        if self.group == "scale":
            return Element(ratio=times)
        return Element(s=1 / times, b=float(side >= 0.5))

    def _degree(self, word: Word) -> float:
        for step in word.steps:
            for symmetry in step.kind.symmetries:
                for name, power in symmetry.powers.items() if symmetry.group == self.group else ():
                    value = step.params.get(name)
                    if power != 1 or not isinstance(value, int | float):
                        raise UsageError(
                            f"the degree of {word.label} under {self.group} is not one number",
                            where="data.orbit",
                            found=f"{name}={value}",
                        )
                    if value > 0:
                        return float(value)
        raise UsageError(
            f"{word.label} has no symmetry of {self.group}",
            where="data.orbit",
            remedy="`dilkit ls distortions` says which kinds have it",
        )
