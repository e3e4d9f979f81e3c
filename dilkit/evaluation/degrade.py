"""How a clean test image becomes a net's input: the word, its randomness, and explicit clip and quantise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dilkit.distortions import Law, Primitive, SampleKey, Word, as_float, pixel_hash
from dilkit.errors import UsageError
from dilkit.libraries import np, npt

Noise = Literal["keyed", "legacy-numpy"]
"""`keyed`: dilkit's own, by seed, image, word and draw. `legacy-numpy`: that of common benchmark scripts, for
`awgn` only: `numpy.random.seed(seed)` before each image, then `numpy.random.normal(0, sigma / 255, HWC)`."""


@dataclass(frozen=True)
class Degradation:
    """What is done to every test image.

    Attributes:
        clip: clamp the input to [0, 1] after the word.
        quantize: round the input to whole 8-bit levels after the word.
    """

    seed: int
    clip: bool
    quantize: bool
    noise: Noise = "keyed"

    def __call__(self, clean: npt.NDArray[np.generic], word: Word, draw: int = 0) -> npt.NDArray[np.float32]:
        """(H, W, 3) uint8 or float32 clean image -> (H, W, 3) float32."""
        image = as_float(clean)
        if self.noise == "keyed":
            distorted = word.apply(image, SampleKey(self.seed, pixel_hash(clean), draw))
        else:
            distorted = _legacy(image, word, np.random.RandomState(self.seed + draw))
        if self.clip:
            distorted = distorted.clip(0, 1)
        if self.quantize:
            distorted = np.rint(distorted * np.float32(255)) / np.float32(255)
        return np.ascontiguousarray(distorted, np.float32)

    def check(self, words: Mapping[str, Word]) -> None:
        """Refuse, before anything is computed, a word that the noise protocol does not define."""
        if self.noise == "keyed":
            return
        for label, word in words.items():
            for step in word.sequence:
                if not _defined(step):
                    raise UsageError(
                        "the legacy-numpy noise is defined for awgn of a fixed sigma only",
                        where=label,
                        found=step,
                    )


def _defined(step: object) -> bool:
    if not isinstance(step, Primitive) or any(isinstance(value, Law) for value in step.params.values()):
        return False
    return step.name == "awgn" or not step.kind.random


def _legacy(image: npt.NDArray[Any], word: Word, random: np.random.RandomState) -> npt.NDArray[np.float32]:
    for step in word.sequence:
        if isinstance(step, Primitive) and step.name == "awgn":
            image = image + random.normal(0, step.params["sigma"] / 255, image.shape)
        else:
            image = Word((step,)).apply(image.astype(np.float32, copy=False), SampleKey(0, b""))
    return image.astype(np.float32)
