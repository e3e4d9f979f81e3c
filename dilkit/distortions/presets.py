"""The degradations of well-known papers as expressions: `print(parse("bsrgan"))` shows all of it.

A preset is a name for a text, with the source of its numbers; what departs from the source is in its notes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dilkit.distortions.params import Param, refuse_unknown

METHODS = "method=choice('area', 'bilinear', 'bicubic')"


@dataclass(frozen=True)
class Preset:
    """A named expression, which may take parameters: `bsrgan(scale=2)`.

    Attributes:
        write: the expression for given parameters, or the expression.
        source: where its numbers come from.
        notes: where it departs from that source.
        params: what it takes, by name; all have defaults.
    """

    name: str
    summary: str
    write: Callable[[Mapping[str, Any]], str] | str
    source: str
    notes: str = ""
    params: tuple[Param, ...] = ()

    @property
    def identifier(self) -> str:
        """The name as Python could read it: real_esrgan_1."""
        return self.name.replace("-", "_")

    @property
    def text(self) -> str:
        """The expression at the default parameters."""
        return self.text_for({})

    def text_for(self, given: Mapping[str, Any]) -> str:
        """The expression for these parameters.

        Raises:
            ParameterError: it has no such parameter, or the value is out of range.
        """
        settled = {param.name: param.default for param in self.params} | self._checked(given)
        return self.write if isinstance(self.write, str) else self.write(settled)

    def label_for(self, given: Mapping[str, Any]) -> str:
        """The name of the word that it stands for: its own, and parameters that are not at their defaults."""
        defaults = {param.name: param.default for param in self.params}
        others = [f"-{k}-{v}" for k, v in self._checked(given).items() if v != defaults[k]]
        return "".join([self.name, *others])

    def _checked(self, given: Mapping[str, Any]) -> dict[str, Any]:
        refuse_unknown(self.name, given, [param.name for param in self.params])
        return {p.name: p.check(given[p.name], self.name) for p in self.params if p.name in given}


_SCALE = Param("scale", int, default=4, low=1, high=4, doc="how many times smaller the result is")


def _weighted(*branches: tuple[float, str]) -> str:
    return f"mix({', '.join(f'{weight}*({text})' for weight, text in branches)})"


# -- Real-ESRGAN -------------------------------------------------------------------------------------------


def _kernels(greatest: float) -> str:
    """Kernels 7 to 21 pixels wide, of six kinds; in their place, one time in ten, a sinc."""
    sigma = f"uniform(0.2, {greatest})"
    round_ = f"({sigma}, radius=integers(3, 10)"
    oval = f"({sigma}, across={sigma}, angle=uniform(-180, 180), radius=integers(3, 10)"
    blurs = _weighted(
        (0.45, f"gaussian_blur{round_})"),
        (0.25, f"anisotropic_blur{oval})"),
        (0.06, f"generalised_blur{round_}, beta=uniform(0.5, 1))"),
        (0.06, f"generalised_blur{round_}, beta=uniform(1, 4))"),
        (0.015, f"generalised_blur{oval}, beta=uniform(0.5, 1))"),
        (0.015, f"generalised_blur{oval}, beta=uniform(1, 4))"),
        (0.06, f"plateau_blur{round_}, beta=1)"),
        (0.06, f"plateau_blur{round_}, beta=uniform(1, 2))"),
        (0.015, f"plateau_blur{oval}, beta=1)"),
        (0.015, f"plateau_blur{oval}, beta=uniform(1, 2))"),
    )
    narrow = "sinc(uniform(1.0472, 3.1415), radius=integers(3, 5))"
    wide = "sinc(uniform(0.62832, 3.1415), radius=integers(6, 10))"
    return _weighted((0.9, blurs), (0.1, _weighted((3, narrow), (5, wide))))


def _resize(down: float, up: float, shares: tuple[float, float, float], of: str, scale: float) -> str:
    """Up, down or kept: up to `up`, down to `down`, as parts of 1 / scale."""
    tail = f"{METHODS}, of='{of}') >> clip"
    return _weighted(
        (shares[0], f"resize(uniform({1 / scale:.12g}, {up / scale:.12g}), {tail}"),
        (shares[1], f"resize(uniform({down / scale:.12g}, {1 / scale:.12g}), {tail}"),
        (shares[2], f"resize({1 / scale:.12g}, {tail}" if of == "clean" else "clean"),
    )


def _noise(sigma: float, alpha: float) -> str:
    gauss, shot = f"awgn(uniform(1, {sigma:g}))", f"poisson(uniform(0.05, {alpha:g}), legacy=True)"
    grey = ", channels='grey')"
    return (
        _weighted((0.3, gauss), (0.2, gauss[:-1] + grey), (0.3, shot), (0.2, shot[:-1] + grey)) + " >> clip"
    )


_JPEG = "jpeg(integers(30, 95))"
_FIRST = " >> ".join([_kernels(3), _resize(0.15, 1.5, (0.2, 0.7, 0.1), "image", 1), _noise(30, 3), _JPEG])


def _to_scale(scale: int) -> str:
    return f"resize({1 / scale:.12g}, {METHODS}, of='clean') >> clip"


def _real_esrgan_1(params: Mapping[str, Any]) -> str:
    return f"{_FIRST} >> {_to_scale(params['scale'])} >> quantize"


def _real_esrgan_2(params: Mapping[str, Any]) -> str:
    scale = params["scale"]
    steps = [
        f"prob(0.8, {_kernels(1.5)})",
        _resize(0.3, 1.2, (0.3, 0.4, 0.3), "clean", scale),
        _noise(25, 2.5),
    ]
    sinc = f"{_to_scale(scale)} >> prob(0.8, sinc(uniform(1.0472, 3.1415), radius=integers(3, 10)))"
    return " >> ".join([_FIRST, *steps, f"mix({sinc} >> {_JPEG}, {_JPEG} >> {sinc}) >> clip >> quantize"])


_ESRGAN = "Real-ESRGAN (Wang et al., ICCVW 2021), section 3 and its released options"

# -- BSRGAN ------------------------------------------------------------------------------------------------

_BSRGAN_NOISE = _weighted(
    (0.4, "awgn(integers(2, 25)) >> clip"),
    (0.4, "awgn(integers(2, 25), channels='grey') >> clip"),
    (0.2, "awgn(integers(2, 25), channels='correlated') >> clip"),
)
_BSRGAN_CAMERA = "prob(0.25, camera_noise(loguniform(0.0001, 0.012)) >> clip)"
_HALF = f"mix(resize(0.5, {METHODS}), resize(0.5, method='antialiased')) >> clip"


def _bsrgan_chain(scale: int, of_clean: float) -> str:
    """The chain for an image `scale` times too large; the result is `of_clean` as large as the clean one.

    Its nearest resize samples a kernel which is shifted to the middle of each scale x scale pixels: bilinear
    values between the pixels there are the same.
    """
    width = f"root_uniform(0.05, {math.sqrt(4 + scale):.9g})"
    blur = _weighted(
        (1, f"anisotropic_blur({width}, across={width}, angle=uniform(0, 180), radius=integers(3, 12))"),
        (1, f"gaussian_blur(uniform(0.05, {2 + 0.2 * scale:g}), radius=integers(3, 12))"),
    )
    nearest = (
        f"gaussian_blur(uniform(0.1, {0.6 * scale:g}), radius=12) >> "
        f"resize({1 / scale:.12g}, method='bilinear')"
    )
    resize = _weighted(
        (0.75, f"resize(inverse_uniform({0.5 / scale:.12g}, 1), {METHODS}) >> clip"), (0.25, nearest)
    )
    last = _weighted(
        (1, f"resize({of_clean:.12g}, method='area', of='clean')"),
        (1, f"resize({of_clean:.12g}, method='bilinear', of='clean')"),
        (1, f"resize({of_clean:.12g}, of='clean') >> clip"),
    )
    return (
        f"interleave({blur}, {blur}, {resize} >> {last}, {_BSRGAN_NOISE}, "
        f"prob(0.9, {_JPEG}), {_BSRGAN_CAMERA}) >> {_JPEG}"
    )


def _bsrgan(params: Mapping[str, Any]) -> str:
    """At scale 4, one time in four the image is first halved and the chain is that of scale 2."""
    scale = params["scale"]
    chain = _bsrgan_chain(scale, 1 / scale)
    if scale != 4:
        return chain
    return _weighted((0.75, chain), (0.25, f"{_HALF} >> {_bsrgan_chain(2, 1 / scale)}"))


# -- hybrid distortions, cameras, common corruptions -------------------------------------------------------


def _hybrid(name: str, blur: str, noise: str, quality: str, levels: str) -> Preset:
    steps = f"gaussian_blur(uniform({blur}), radius=10) >> awgn(uniform({noise})) >> clip"
    return Preset(
        f"hybrid-{name}",
        f"Blur, then noise, then JPEG, all three {name}.",
        f"{steps} >> jpeg(integers({quality}))",
        "RL-Restore (Yu et al., CVPR 2018): blur 0 to 5, noise 0 to 50, quality 100 to 10, in ten levels",
        f"RL-Restore bounds the sum of the three levels; here each is drawn from levels {levels} on its own.",
    )


_CAMERAS = ("huawei-nexus-6p", "sony-a7r", "olympus-e-m10", "sony-rx100-iv")
_SENSOR = "loguniform(0.0001, 0.012), read=loguniform(0.00000001, 0.0002)"
_GAINS = "red_gain=uniform(1.9, 2.4), blue_gain=uniform(1.5, 1.9)"

_CORRUPTIONS = (
    ("awgn({})", (20.4, 30.6, 45.9, 66.3, 96.9)),
    ("poisson(1, peak={})", (60, 25, 12, 5, 3)),
    ("salt_pepper({})", (0.03, 0.06, 0.09, 0.17, 0.27)),
    ("defocus({})", (3, 4, 6, 8, 10)),
    (
        "glass_blur({}, sigma={}, iterations={})",
        ((1, 0.7, 2), (2, 0.9, 1), (2, 1, 3), (3, 1.1, 2), (4, 1.5, 2)),
    ),
    ("motion_trail({}, radius={}, angle=uniform(-45, 45))", ((3, 10), (5, 15), (8, 15), (12, 15), (15, 20))),
    ("zoom_blur({}, step={})", ((1.11, 0.01), (1.15, 0.01), (1.2, 0.02), (1.24, 0.02), (1.3, 0.03))),
    (
        "snow({}, zoom={}, threshold={}, length={}, angle=uniform(45, 135), whiten={})",
        (
            (0.1, 3, 0.5, 9, 0.2),
            (0.2, 2, 0.5, 9, 0.3),
            (0.55, 4, 0.9, 17, 0.3),
            (0.55, 4.5, 0.85, 17, 0.35),
            (0.55, 2.5, 0.85, 22, 0.45),
        ),
    ),
    ("frost({}, keep={})", ((0.4, 1), (0.6, 0.8), (0.7, 0.7), (0.7, 0.65), (0.75, 0.6))),
    ("fog({}, decay={})", ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    ("brightness({})", (0.1, 0.2, 0.3, 0.4, 0.5)),
    ("contrast({})", (0.4, 0.3, 0.2, 0.1, 0.05)),
    (
        "elastic({}, sigma={}, jitter={})",
        (
            (488, 170.8, 24.4),
            (488, 19.52, 48.8),
            (12.2, 2.44, 4.88),
            (17.08, 2.44, 4.88),
            (29.28, 2.44, 4.88),
        ),
    ),
    ("pixelate({})", (0.6, 0.5, 0.4, 0.3, 0.25)),
    ("jpeg({})", (25, 18, 15, 10, 7)),
)
"""The fifteen in their source's order, with what each severity fills in."""


def _corruptions(severity: int) -> Preset:
    words = []
    for form, severities in _CORRUPTIONS:
        numbers = severities[severity - 1]
        words.append(form.format(*numbers) if isinstance(numbers, tuple) else form.format(numbers))
    return Preset(
        f"corruptions-s{severity}",
        f"The fifteen common corruptions, severity {severity} of 5; for evaluation.",
        f"({' | '.join(words)}) >> clip",
        "ImageNet-C (Hendrycks and Dietterich, ICLR 2019)",
        "Frost is a drawn texture with the means of their photographs. Elastic interpolates once, not"
        " twice, and draws where corners come from, not where they go; the one-sided Gaussian of snow"
        " is a line of the same deviation. Defocus has no second blur; fog takes 1 for the brightest "
        "value. Lengths are in pixels, chosen for images of 224 x 224. Values are clipped, not "
        "rounded. Mean PSNR against the clean image beside the imagecorruptions package on CBSD68 "
        "images, severities 1 to 5, in dB: motion -0.2 to 0.0, zoom within 0.02, glass within 0.06, "
        "fog -0.1 to +0.3 (error 0.25), frost -0.9 to -0.6 (error 0.5: five photographs), snow -0.7 "
        "to 0.0, defocus within 0.04.",
    )


def _rain(name: str, summary: str, text: str, source: str, psnr: int) -> Preset:
    notes = f"That set is fixed images; the numbers here give CBSD68 its input PSNR, about {psnr} dB."
    return Preset(f"rain-{name}", summary, f"{text} >> clip", source, notes)


_DIL = "DIL (Li et al., CVPR 2023)"
_LOG_READ = "Their read noise follows the shot noise; here both are drawn from the same ranges on their own."

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "dil-denoise",
            "The training set of cross-degree denoising; 30, 40, 50 are its unseen degrees.",
            "awgn[5, 10, 15, 20] >> clip",
            f"{_DIL}, section 4.2 and its released script (clipped, not rounded)",
        ),
        Preset(
            "dil-deblur",
            "The training set of cross-degree deblurring; 4.2 to 5.0 are its unseen degrees.",
            "gaussian_blur[1, 2, 3, 4]",
            f"{_DIL}, section 4.2",
        ),
        _hybrid("mild", "0.05, 1.5", "0, 15", "50, 100", "1 to 3"),
        _hybrid("moderate", "1.5, 3.5", "15, 35", "25, 50", "4 to 7"),
        _hybrid("severe", "3.5, 5", "35, 50", "10, 25", "8 to 10"),
        Preset(
            "real-denoise",
            "Four synthetic cameras, one confounder each.",
            "("
            + " | ".join(f"camera_noise({_SENSOR}, camera='{name}', {_GAINS})" for name in _CAMERAS)
            + ") >> clip",
            f"{_DIL}, section 4.3; cameras and ranges of Brooks et al., CVPR 2019",
            _LOG_READ,
        ),
        _rain(
            "light",
            "Fine streaks of one direction.",
            "rain(uniform(0.001, 0.003), length=integers(9, 21), angle=uniform(70, 110), "
            "opacity=uniform(0.4, 0.8))",
            "in the manner of Rain100L (Yang et al., CVPR 2017)",
            27,
        ),
        _rain(
            "heavy",
            "Long, dense streaks of two directions.",
            "rain(uniform(0.003, 0.008), length=integers(21, 41), angle=uniform(60, 120), "
            "opacity=uniform(0.45, 0.85)) ** 2",
            "in the manner of Rain100H (Yang et al., CVPR 2017)",
            14,
        ),
        _rain(
            "screen",
            "Streaks blended by screen.",
            "rain(uniform(0.002, 0.008), length=integers(15, 31), angle=uniform(60, 120), "
            "opacity=uniform(0.4, 0.8), blend='screen')",
            "in the manner of Rain800 (Zhang et al., TCSVT 2020); the blend of Luo et al., ICCV 2015",
            23,
        ),
        Preset(
            "bsrgan",
            "Blind super-resolution: a random order of blurs, resizes, noise, JPEG and camera noise.",
            _bsrgan,
            "BSRGAN (Zhang et al., ICCV 2021)",
            "The camera is sensor noise in place of a learned pipeline. Noise correlated between channels "
            "has the drawn sigma in their mean; theirs is 25 times the root of eigenvalues U(0, 1), whatever "
            "was drawn, its covariances made positive. With scale=1 the size stays.",
            (_SCALE,),
        ),
        Preset(
            "real-esrgan-1",
            "Blind super-resolution: blur, resize, noise, JPEG.",
            _real_esrgan_1,
            _ESRGAN,
            "JPEG is the real encoder, of whole qualities.",
            (_SCALE,),
        ),
        Preset(
            "real-esrgan-2",
            "Blind super-resolution: blur, resize, noise, JPEG, twice over, and a last sinc filter.",
            _real_esrgan_2,
            _ESRGAN,
            "JPEG is the real encoder, of whole qualities.",
            (_SCALE,),
        ),
        Preset(
            "clipdenoising-poisson",
            "Four unseen Poisson noises for a net trained on AWGN 15.",
            " | ".join(f"poisson({alpha}, legacy=True)" for alpha in (2, 2.5, 3, 3.5)),
            "CLIPDenoising (Cheng et al., CVPR 2024), released test script",
        ),
        Preset(
            "masked-speckle",
            "Unseen speckle noise for a net trained on AWGN 15.",
            "speckle(0.024, law='uniform') >> clip >> quantize",
            "Masked Image Training (Chen et al., CVPR 2023), released test script: imnoise on 8-bit images",
        ),
        *(_corruptions(severity) for severity in range(1, 6)),
    )
}
"""Every preset by name."""
