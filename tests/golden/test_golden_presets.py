"""The presets against the numbers of their papers, by what they draw."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import scipy.ndimage

from dilkit.distortions import (
    SampleKey,
    Word,
    awgn,
    clip,
    confounder_set,
    describe_preset,
    gaussian_blur,
    integers,
    jpeg,
    parse,
    poisson,
    quantize,
    speckle,
    uniform,
)
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError

IMAGE = np.random.default_rng(0).random((64, 96, 3), dtype=np.float32)


def samples(name, count=3000):
    word = parse(name)
    return [[(p.kind.name, p.params) for p in word.resolve(SampleKey(seed, b""))] for seed in range(count)]


def share(condition, drawn):
    return np.mean([condition(steps) for steps in drawn])


def near(value, tolerance=0.035):
    return pytest.approx(value, abs=tolerance)


def spread(values):
    values = list(values)
    return min(values), max(values)


def test_dil():
    assert parse("dil-denoise") == awgn[5, 10, 15, 20] >> clip
    assert parse("dil-deblur") == gaussian_blur[1, 2, 3, 4]


def test_hybrid():
    assert parse("hybrid-severe").named("") == (
        gaussian_blur(uniform(3.5, 5), radius=10) >> awgn(uniform(35, 50)) >> clip >> jpeg(integers(10, 25))
    )
    mild, moderate, severe = (parse(f"hybrid-{name}").steps for name in ("mild", "moderate", "severe"))
    for step in (0, 1):  # each range begins where the milder one ends
        assert mild[step].degree.args[1] == moderate[step].degree.args[0]
        assert moderate[step].degree.args[1] == severe[step].degree.args[0]


def test_unseen_noises():
    alphas = (2, 2.5, 3, 3.5)
    assert parse("clipdenoising-poisson") == confounder_set([poisson(a, legacy=True) for a in alphas])
    assert parse("masked-speckle").named("") == speckle(0.024, law="uniform") >> clip >> quantize


def test_bsrgan_draws_what_the_paper_says():
    drawn = samples("bsrgan", 5000)
    assert all(steps[-1][0] == "jpeg" for steps in drawn)
    assert share(lambda steps: [n for n, _ in steps].count("jpeg") == 2, drawn) == near(0.9)
    halved = [steps for steps in drawn if steps[0][0] == "resize" and steps[0][1]["factor"] == 0.5]
    assert len(halved) / len(drawn) == near(0.25)
    methods = Counter(steps[0][1]["method"] for steps in halved)
    assert methods["antialiased"] / len(halved) == near(0.5)
    assert all(methods[name] / len(halved) == near(1 / 6, 0.04) for name in ("area", "bilinear", "bicubic"))
    assert all(steps[1][0] == "clip" for steps in halved)
    in_full = [steps for steps in drawn if steps[0][0] != "resize" or steps[0][1]["factor"] != 0.5]
    for scale, chains in ((4, in_full), (2, [steps[2:] for steps in halved])):
        check_bsrgan_chain(scale, chains)


def check_bsrgan_chain(scale, drawn):
    resizes = [[(k, p) for k, (name, p) in enumerate(steps) if name == "resize"] for steps in drawn]
    assert all(len(two) == 2 and two[1][1]["of"] == "clean" for two in resizes)
    assert all(two[1][1]["factor"] == 0.25 for two in resizes)
    filtered = [
        [n for n, _ in steps[:k]].count("gaussian_blur") > 0 and p["factor"] == 1 / scale
        for steps, ((k, p), _) in zip(drawn, resizes, strict=True)
    ]
    assert np.mean(filtered) == near(0.25)
    random = [1 / two[0][1]["factor"] for two, fixed in zip(resizes, filtered, strict=True) if not fixed]
    assert spread(random) == (near(1, 0.05), near(2 * scale, 0.05))
    assert np.mean(random) == near((1 + 2 * scale) / 2, 0.2)  # 1 / U(1, 2 scale)
    blurs = [(name, p) for steps in drawn for name, p in steps if name.endswith("blur")]
    assert {p["radius"] for _, p in blurs} == set(range(3, 13))  # 7 to 25 pixels
    assert len(blurs) / len(drawn) == near(2.25)  # two, and the filter of the nearest resize
    oval = [p["sigma"] ** 2 for name, p in blurs if name == "anisotropic_blur"]
    assert len(oval) / len(drawn) == near(1, 0.05)
    assert spread(oval) == (near(0, 0.1), near(4 + scale, 0.1))
    assert np.mean(oval) == near((4 + scale) / 2, 0.2)  # eigenvalues U(0, 4 + scale)
    assert max(p["sigma"] for name, p in blurs if name == "gaussian_blur") == near(2 + 0.2 * scale, 0.1)
    noises = [p for steps in drawn for name, p in steps if name == "awgn"]
    assert len(noises) == len(drawn)
    assert spread(p["sigma"] for p in noises) == (2, 25)
    for channels, expected in (("colour", 0.4), ("grey", 0.4), ("correlated", 0.2)):
        assert np.mean([p["channels"] == channels for p in noises]) == near(expected)
    quality = [p["quality"] for steps in drawn for name, p in steps if name == "jpeg"]
    assert spread(quality) == (30, 95)
    assert len(Counter(steps[0][0] for steps in drawn)) >= 6  # a random order


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 1.2])
def test_bsrgan_samples_its_shifted_kernel(scale, sigma):
    """One kernel value for each pixel, moved by (scale - 1) / 2 by linear interpolation, then [::scale]."""
    y, x = np.mgrid[-12:13, -12:13]
    kernel = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    shifted = scipy.ndimage.shift(kernel, (1 - scale) / 2, order=1, mode="nearest")
    planes = [
        scipy.ndimage.convolve(IMAGE[..., c].astype(float), shifted / shifted.sum(), mode="mirror")
        for c in range(3)
    ]
    expected = np.stack(planes, axis=2)[::scale, ::scale]
    text = f"gaussian_blur({sigma}, radius=12) >> resize({1 / scale:g}, method='bilinear')"
    made = parse(text).apply(IMAGE, SampleKey(0, b""))
    np.testing.assert_allclose(made, expected, atol=2e-6)
    assert f"radius=12) >> resize({1 / scale:g}, method='bilinear')" in PRESETS["bsrgan"].text


def test_real_esrgan_first_order():
    drawn = samples("real-esrgan-1")
    kernels = Counter()
    for (name, params), *_ in drawn:
        kernels[name, bool(params.get("across"))] += 1 / len(drawn)
    assert kernels["sinc", False] == near(0.1)
    for kind, oval, expected in (
        ("gaussian_blur", False, 0.45),
        ("anisotropic_blur", True, 0.25),
        ("generalised_blur", False, 0.12),
        ("generalised_blur", True, 0.03),
        ("plateau_blur", False, 0.12),
        ("plateau_blur", True, 0.03),
    ):
        assert kernels[kind, oval] == near(0.9 * expected, 0.01 if expected < 0.2 else 0.035)
    for kind, low, high in (("generalised_blur", 0.5, 4), ("plateau_blur", 1, 2)):
        found = spread(steps[0][1]["beta"] for steps in drawn if steps[0][0] == kind)
        assert found == (near(low, 0.1), near(high, 0.1))
    blurs = [steps[0][1] for steps in drawn if steps[0][0] != "sinc"]
    assert spread(p["sigma"] for p in blurs) == (near(0.2, 0.02), near(3, 0.02))
    assert {p["radius"] for p in blurs} == set(range(3, 11))  # kernels of 7 to 21
    resized = [p["factor"] for steps in drawn for n, p in steps if n == "resize" and p["of"] == "image"]
    assert np.mean([f > 1 for f in resized]) * len(resized) / len(drawn) == near(0.2)
    assert len(resized) / len(drawn) == near(0.9)
    assert spread(resized) == (near(0.15, 0.02), near(1.5, 0.02))
    assert share(lambda steps: any(n == "awgn" for n, _ in steps), drawn) == near(0.5)
    grey = [p["channels"] == "grey" for steps in drawn for n, p in steps if n in ("awgn", "poisson")]
    assert np.mean(grey) == near(0.4)
    assert spread(p["sigma"] for s in drawn for n, p in s if n == "awgn") == (near(1, 0.2), near(30, 0.2))
    alphas = spread(p["alpha"] for s in drawn for n, p in s if n == "poisson")
    assert alphas == (near(0.05, 0.02), near(3, 0.02))
    assert spread(p["quality"] for s in drawn for n, p in s if n == "jpeg") == (30, 95)
    assert all([n for n, _ in steps][-3:] == ["resize", "clip", "quantize"] for steps in drawn)


def test_real_esrgan_second_order():
    drawn = samples("real-esrgan-2")
    again = [steps[i + 1 :] for steps in drawn for i in [[n for n, _ in steps].index("jpeg")]]
    blurred = share(lambda steps: "blur" in steps[0][0] or steps[0][0] == "sinc", again)
    assert blurred == near(0.8)
    sigmas = [steps[0][1]["sigma"] for steps in again if "blur" in steps[0][0]]
    assert spread(sigmas) == (near(0.2, 0.02), near(1.5, 0.02))
    factors = [next(p["factor"] * 4 for n, p in steps if n == "resize") for steps in again]
    assert spread(factors) == (near(0.3, 0.02), near(1.2, 0.02))
    for condition, expected in ((lambda f: f > 1, 0.3), (lambda f: f < 1, 0.4), (lambda f: f == 1, 0.3)):
        assert np.mean([condition(f) for f in factors]) == near(expected)
    assert spread(p["sigma"] for s in again for n, p in s if n == "awgn") == (near(1, 0.2), near(25, 0.2))
    ends = [[n for n, _ in steps if n in ("sinc", "jpeg", "resize")][-3:] for steps in again]
    assert np.mean([end[-1] == "jpeg" for end in ends]) == near(0.5)
    last_sinc = [s for s in again if "sinc" in [n for n, _ in s[3:]]]
    assert len(last_sinc) / len(again) == near(0.8)
    assert all([n for n, _ in steps][-2:] == ["clip", "quantize"] for steps in drawn)


SEVERITIES = [
    {word.steps[0].name: word.steps[0].params for word in parse(f"corruptions-s{k}")} for k in range(1, 6)
]


def severities(name, *params):
    """The numbers of a corruption at severities 1 to 5."""
    return [tuple(level[name][param] for param in params) for level in SEVERITIES]


def test_common_corruptions_are_fifteen():
    assert all(len(parse(f"corruptions-s{k}")) == len(level) == 15 for k, level in enumerate(SEVERITIES, 1))
    assert [s for (s,) in severities("awgn", "sigma")] == pytest.approx(
        [255 * s for s in (0.08, 0.12, 0.18, 0.26, 0.38)]
    )
    for name, param, numbers in (
        ("poisson", "peak", (60, 25, 12, 5, 3)),
        ("salt_pepper", "amount", (0.03, 0.06, 0.09, 0.17, 0.27)),
        ("defocus", "radius", (3, 4, 6, 8, 10)),
        ("brightness", "shift", (0.1, 0.2, 0.3, 0.4, 0.5)),
        ("contrast", "factor", (0.4, 0.3, 0.2, 0.1, 0.05)),
        ("pixelate", "factor", (0.6, 0.5, 0.4, 0.3, 0.25)),
    ):
        assert severities(name, param) == [(number,) for number in numbers]
    assert severities("fog", "density", "decay") == [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]
    ranges = [(1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)]
    for (zoom, step), (end, source_step) in zip(severities("zoom_blur", "zoom", "step"), ranges, strict=True):
        zooms = np.arange(1, end, source_step)  # the first holds its end: 0.11 / 0.01 is more than 11
        assert (zoom, step) == (pytest.approx(zooms[-1]), source_step)
    trails = [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]
    assert severities("motion_trail", "radius", "sigma") == trails
    assert severities("jpeg", "quality") == [(25,), (18,), (15,), (10,), (7,)]
    assert severities("glass_blur", "sigma", "delta", "iterations") == [
        (0.7, 1, 2),
        (0.9, 2, 1),
        (1, 2, 3),
        (1.1, 3, 2),
        (1.5, 4, 2),
    ]
    assert severities("frost", "keep", "weight") == [
        (1, 0.4),
        (0.8, 0.6),
        (0.7, 0.7),
        (0.65, 0.7),
        (0.6, 0.75),
    ]
    assert severities("snow", "mean", "deviation", "zoom", "threshold") == [
        (0.1, 0.3, 3, 0.5),
        (0.2, 0.3, 2, 0.5),
        (0.55, 0.3, 4, 0.9),
        (0.55, 0.3, 4.5, 0.85),
        (0.55, 0.3, 2.5, 0.85),
    ]
    assert [1 - w for (w,) in severities("snow", "whiten")] == pytest.approx([0.8, 0.7, 0.7, 0.65, 0.55])
    assert np.array(severities("elastic", "alpha", "sigma", "jitter")) / 244 == pytest.approx(
        np.array([[2, 0.7, 0.1], [2, 0.08, 0.2], [0.05, 0.01, 0.02], [0.07, 0.01, 0.02], [0.12, 0.01, 0.02]])
    )


@pytest.mark.parametrize(
    ("name", "blurs"),
    [
        ("snow", [(10, 4), (12, 4), (12, 8), (12, 8), (12, 12)]),
    ],
)
def test_lines_deviate_as_the_one_sided_gaussians_that_they_stand_for(name, blurs):
    for (length,), (radius, sigma) in zip(severities(name, "length"), blurs, strict=True):
        k = np.arange(2 * radius + 1)
        weight = np.exp(-(k**2) / (2 * sigma**2))
        mean = np.average(k, weights=weight)
        variance = np.average((k - mean) ** 2, weights=weight)
        assert length == round(np.sqrt(12 * variance + 1))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_explained_printed_and_applied(name):
    preset = PRESETS[name]
    assert preset.summary.endswith(".")
    assert preset.source
    made = parse(name)
    assert parse(str(made)) == made == parse(preset.identifier)
    assert made.hash == parse(preset.text).hash
    if isinstance(made, Word):
        assert made.label == name
    assert describe_preset(name)["hash"] == made.hash
    for word in confounder_set(made):
        result = word.apply(IMAGE, SampleKey(0, b""))
        assert np.isfinite(result).all()
        assert result.shape == ((16, 24, 3) if preset.params else IMAGE.shape)
        if isinstance(made, Word):
            assert np.abs(result.mean() - IMAGE.mean()) < 0.3


def test_presets_are_names_in_longer_expressions():
    assert parse("dil-denoise | jpeg(30)") == parse("dil-denoise") | jpeg(30)
    assert parse("clip >> real-esrgan-1") == clip >> parse("real_esrgan_1")
    assert parse("alb('MotionBlur') | masked-speckle").labels[0] == "alb(MotionBlur)"
    with pytest.raises(UsageError, match=r"did you mean: bsrgan\?"):
        parse("bsrgn")
    with pytest.raises(UsageError, match="did you mean: dil-denoise"):
        describe_preset("dil-denois")
