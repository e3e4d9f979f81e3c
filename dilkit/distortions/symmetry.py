"""Symmetries: groups acting on images that carry one degree of a distortion to another.

A distortion `d` is symmetric under a group where, for each of its elements g and every image x,

    g . d[p](x)  =  d[g p](g . x)      in law,

with `p` the parameters and `g p` those that g carries them to: for additive noise and a contrast of s,
`s awgn(sigma)(x) = awgn(s sigma)(s x)`. A net that is equivariant under the group, or is trained on the
group's orbit of its clean images, has in effect met every degree that the group reaches from those it was
trained on (`reached` in novelty.py).

Clipping and rounding break it: black and white do not move with the image. Kinds declare what holds without
them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dilkit.distortions.params import Law
from dilkit.distortions.render import Image
from dilkit.errors import UsageError
from dilkit.libraries import cv2, np

GroupName = Literal["contrast", "offset", "gain", "scale", "box", "rotate", "flip", "square", "permute"]


@dataclass(frozen=True)
class Group:
    """A group acting on images.

    Attributes:
        element: what an element g is.
        act: (image, g) -> the image it is carried to; the image may be (h, w, 3) of any size.
    """

    name: GroupName
    element: str
    act: Callable[[Image, Any], Image]


def _rotated(image: Image, degrees: float) -> Image:
    if degrees % 90:
        raise UsageError("pixels can be turned by quarters only", found=f"{degrees} degrees")
    return np.ascontiguousarray(np.rot90(image, int(degrees // 90)))


def _averaged(image: Image, r: int) -> Image:
    h, w = image.shape[0] // r, image.shape[1] // r
    return np.asarray(image[: h * r, : w * r].reshape(h, r, w, r, -1).mean((1, 3)), np.float32)


def _squared(image: Image, k: int) -> Image:
    return np.ascontiguousarray(np.rot90(image[:, ::-1] if k >= 4 else image, k % 4))


def _enlarged(image: Image, ratio: float) -> Image:
    size = round(image.shape[1] * ratio), round(image.shape[0] * ratio)
    method = cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(image, size, interpolation=method), np.float32)


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Group(
            "contrast",
            "(s, b): contrast s > 0 about the grey value b, s x + (1 - s) b",
            lambda image, g: image * np.float32(g[0]) + np.float32((1 - g[0]) * g[1]),
        ),
        Group("offset", "c: a constant added, x + c", lambda image, g: image + np.float32(g)),
        Group("gain", "s > 0: contrast about black, s x", lambda image, g: image * np.float32(g)),
        Group("scale", "r > 0: the image enlarged r times", _enlarged),
        Group(
            "box",
            "r = 1, 2, ..: means over boxes of r x r pixels, which none undoes: the images r times smaller",
            _averaged,
        ),
        Group("rotate", "degrees, counter-clockwise; pixels turn by quarters", _rotated),
        Group("flip", "left and right exchanged", lambda image, g: np.ascontiguousarray(image[:, ::-1])),
        Group("square", "0 .. 7: quarter turns (k mod 4), of the mirror image from 4 on", _squared),
        Group(
            "permute", "an order of the channels", lambda image, g: np.ascontiguousarray(image[..., list(g)])
        ),
    )
}
"""Every group by name."""

Holds = Literal["rounding", "law", "fine"]
Power = float | Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True)
class Symmetry:
    """A group under which a kind is symmetric, and how it carries its parameters.

    Attributes:
        group: the name of the group, one of `GROUPS`.
        powers: parameters that an element g > 0 multiplies by g ** power (of contrast, g is s); a power may
            be a function of the parameters. A parameter of 0 stays 0.
        angles: parameters that `rotate` adds its degrees to and `flip` takes from 180.
        period: of the angles, in degrees: 180 of lines, 360 of directions.
        holds: how far the equation holds for one draw of the random numbers: `rounding`: up to the last bits
            of float32 (bit for bit where g is a power of two about black, a flip or a permutation); `law`: in
            distribution (where a field has a lattice of cells, but for its place); `fine`: in distribution,
            and the better, the more pixels the details of image and distortion span.
        when: for which parameters it holds.
    """

    group: GroupName
    powers: Mapping[str, Power] = field(default_factory=dict)
    angles: tuple[str, ...] = ()
    period: float = 180
    holds: Holds = "rounding"
    when: Callable[[Mapping[str, Any]], bool] = lambda params: True

    def power(self, name: str, params: Mapping[str, Any]) -> float:
        """The power of g that multiplies a parameter; 0: it stays."""
        power = self.powers.get(name, 0.0)
        return float(power(params)) if callable(power) else power

    def carry(self, params: Mapping[str, Any], g: Any) -> dict[str, Any]:
        """The parameters that the element g carries these to, neither checked nor rounded to whole numbers.

        Raises:
            UsageError: a parameter that would change is a law of chance, or the symmetry does not hold here.
        """
        if not self.when(params):
            raise UsageError(
                f"the symmetry {self.group} does not hold for these parameters", found=dict(params)
            )
        made = dict(params)
        for name in (*self.powers, *self.angles):
            if isinstance(made[name], Law):
                raise UsageError("a law of chance is not carried", found=f"{name}={made[name]}")
        factor = g[0] if self.group == "contrast" else g
        for name in self.powers:
            made[name] = made[name] * factor ** self.power(name, params)
        for name in self.angles:
            turned = 180 - made[name] if self.group == "flip" else made[name] + g
            made[name] = (turned + 180) % 360 - 180
        return made

    def __str__(self) -> str:
        """`contrast: sigma * g`, `rotate: angle + g`, `permute`."""
        moved = [
            f"{name} * g" + ("" if p == 1 else "**(...)" if callable(p) else f"**{p:g}")
            for name, p in self.powers.items()
        ]
        moved += [f"180 - {name}" if self.group == "flip" else f"{name} + g" for name in self.angles]
        return f"{self.group}: {', '.join(moved)}" if moved else self.group


def invariant(
    *groups: GroupName, holds: Literal["rounding", "law", "fine"] = "rounding"
) -> tuple[Symmetry, ...]:
    """Symmetries that leave the parameters as they are."""
    return tuple(Symmetry(group, holds=holds) for group in groups)
