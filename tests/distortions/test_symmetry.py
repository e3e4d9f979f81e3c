"""The symmetries that kinds declare hold on pixels, and what follows from them for unseen degrees."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dilkit.distortions import Draw, PrimitiveKind, Symmetry, confounder_set, distortions, parse
from dilkit.distortions.novelty import novelty, reached
from dilkit.distortions.symmetry import GROUPS
from dilkit.errors import UsageError

EXAMPLES = {
    "awgn": [{"sigma": 20.0}, {"sigma": 20.0, "channels": "grey"}, {"sigma": 20.0, "channels": "correlated"}],
    "poisson": [
        {"alpha": 2.0, "peak": 64.0},
        {"alpha": 2.0, "channels": "grey"},
        {"alpha": 1, "legacy": True},
    ],
    "speckle": [{"variance": 0.04}, {"variance": 0.04, "law": "uniform"}],
    "correlated_noise": [{"sigma": 40.0}],
    "salt_pepper": [{"amount": 0.2}],
    "gaussian_blur": [{"sigma": 2.0}, {"sigma": 2.0, "radius": 5}],
    "anisotropic_blur": [{"sigma": 3.0, "across": 1.5, "angle": 30.0}],
    "generalised_blur": [{"sigma": 3.0, "across": 1.5, "angle": 30.0, "beta": 0.8}],
    "plateau_blur": [{"sigma": 3.0, "across": 1.5, "angle": 30.0, "beta": 1.5}],
    "sinc": [{"cutoff": 0.6}],
    "motion_blur": [{"length": 9, "angle": 30.0}],
    "motion_trail": [{"sigma": 3.0, "radius": 6, "angle": 30.0}],
    "defocus": [{"radius": 3.0}],
    "zoom_blur": [{"zoom": 1.1}],
    "glass_blur": [{"delta": 2}],
    "elastic": [{"alpha": 30.0}, {"alpha": 30.0, "jitter": 3.0}],
    "brightness": [{"shift": 0.1}],
    "contrast": [{"factor": 0.4}],
    "low_light": [{"gamma": 2.0, "alpha": 0.9}],
    "clip": [{}],
    "quantize": [{}],
    "resize": [
        {"factor": 0.5},
        {"factor": 1.5, "method": "nearest"},
        {"factor": 0.4, "method": "antialiased"},
    ],
    "resize_to": [{"height": 20, "width": 30}],
    "updown": [
        {"factor": 0.125},
        {"factor": 0.0625, "back": "nearest"},
        {"factor": 1.5, "there": "bilinear"},
    ],
    "downsample": [{"factor": 2}, {"factor": 3, "method": "area"}],
    "pixelate": [{"factor": 0.0625}],
    "camera_noise": [{"shot": 0.01, "mosaic": False}, {"shot": 0.01}],
    "rain": [{"density": 0.01, "angle": 70.0}, {"density": 0.01, "blend": "screen"}],
    "haze": [{"transmission": 0.6}, {"transmission": 0.6, "variation": 0.5}],
    "fog": [{"density": 1.5}],
    "snow": [{"mean": 0.4, "angle": 70.0}],
    "frost": [{"weight": 0.5}, {"weight": 0.5, "keep": 1.0}],
}
ELEMENTS = {
    "contrast": [(2.0, 0.0), (0.7, 0.5), (1.6, 1.0)],
    "offset": [0.125, -0.2],
    "gain": [0.5, 1.7],
    "box": [2, 3],
    "rotate": [90.0, 180.0],
    "flip": [True],
    "permute": [(2, 0, 1)],
    "scale": [2.0],
}
KEY = b"a key of thirty-two bytes, or so"


def cases(*holds: str) -> list[tuple[PrimitiveKind, Symmetry, dict]]:
    return [
        (kind, symmetry, params)
        for kind in distortions()
        for symmetry in kind.symmetries
        if symmetry.holds in holds
        for params in (kind.bind(**given) for given in EXAMPLES[kind.name])
        if symmetry.when(params)
    ]


def ids(value: object) -> str:
    return str(value) if not isinstance(value, dict) else "-".join(map(str, value.values()))


def smooth(side: int, detail: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(size=(side, side, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), detail)
    return np.asarray(0.5 + 0.12 * (blurred - blurred.mean()) / blurred.std(), np.float32)


def made(kind: PrimitiveKind, image: np.ndarray, params: dict, key: bytes = KEY) -> np.ndarray:
    return kind.apply(image, params, Draw.whole(key, (image.shape[0], image.shape[1])))


def test_every_kind_of_ours_is_tried():
    assert set(EXAMPLES) == {kind.name for kind in distortions() if kind.symmetries}


@pytest.mark.parametrize(("kind", "symmetry", "params"), cases("rounding"), ids=ids)
def test_it_holds_for_one_draw_up_to_rounding(kind, symmetry, params):
    image = smooth(48, 1.5)
    act = GROUPS[symmetry.group].act
    for g in ELEMENTS[symmetry.group]:
        if kind.name == "low_light" and symmetry.group == "gain" and g > 1:
            continue  # its curve ends at 1
        acted_on = act(made(kind, image, params), g)
        carried = made(kind, act(image, g), symmetry.carry(params, g))
        np.testing.assert_allclose(carried, acted_on, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "group", "params", "g"),
    [
        ("awgn", "contrast", {"sigma": 20.0}, (2.0, 0.0)),
        ("correlated_noise", "contrast", {"sigma": 40.0}, (0.5, 0.0)),
        ("poisson", "gain", {"alpha": 2.0, "peak": 64.0}, 0.5),
        ("speckle", "gain", {"variance": 0.04}, 4.0),
        ("gaussian_blur", "contrast", {"sigma": 2.0}, (4.0, 0.0)),
        ("gaussian_blur", "permute", {"sigma": 2.0}, (2, 0, 1)),
        ("motion_blur", "permute", {"length": 9, "angle": 30.0}, (1, 2, 0)),
        ("frost", "gain", {"weight": 0.5}, 0.5),
        ("rain", "permute", {"density": 0.01}, (1, 2, 0)),
        ("low_light", "permute", {"gamma": 2.0}, (1, 2, 0)),
    ],
)
def test_powers_of_two_about_black_and_permutations_hold_bit_for_bit(name, group, params, g):
    kind = next(kind for kind in distortions() if kind.name == name)
    symmetry = next(symmetry for symmetry in kind.symmetries if symmetry.group == group)
    image, bound, act = smooth(48, 1.5), kind.bind(**params), GROUPS[group].act
    carried = made(kind, act(image, g), symmetry.carry(bound, g))
    assert carried.tobytes() == act(made(kind, image, bound), g).tobytes()


def statistics(residual: np.ndarray) -> np.ndarray:
    """Mean, deviation, and products of neighbours across, down and between channels: means of many values."""
    flat = residual.astype(np.float64)
    parts = [flat, flat**2, flat[:, 1:] * flat[:, :-1], flat[1:] * flat[:-1], flat[..., :1] * flat[..., 1:2]]
    return np.array([part.mean() for part in parts])


@pytest.mark.parametrize(("kind", "symmetry", "params"), cases("law"), ids=ids)
def test_it_holds_in_law(kind, symmetry, params):
    image = smooth(64, 4.0)
    act = GROUPS[symmetry.group].act
    for g in ELEMENTS[symmetry.group]:
        changed, carried = act(image, g), symmetry.carry(params, g)
        keys = [bytes([k]) * 32 for k in range(24)]
        there = np.array([statistics(act(made(kind, image, params, k), g) - changed) for k in keys])
        back = np.array([statistics(made(kind, changed, carried, k[::-1] + b"b") - changed) for k in keys])
        error = np.sqrt((there.var(axis=0, ddof=1) + back.var(axis=0, ddof=1)) / len(keys)) + 1e-9
        assert (np.abs(there.mean(axis=0) - back.mean(axis=0)) < 6 * error).all()


@pytest.mark.parametrize(("kind", "symmetry", "params"), cases("fine"), ids=ids)
def test_scale_holds_the_better_the_finer_the_sampling(kind, symmetry, params):
    if kind.random:
        pytest.skip("compared by what is drawn below")
    image = smooth(96, 4.0)
    act = GROUPS["scale"].act
    acted_on = act(made(kind, image, params), 2.0)
    carried = made(kind, act(image, 2.0), symmetry.carry(params, 2.0) | _whole(kind, symmetry, params))
    inside = np.s_[48:-48, 48:-48]
    effect = np.abs(acted_on - act(image, 2.0))[inside].mean()
    assert np.abs(carried - acted_on)[inside].mean() < 0.12 * effect


def _whole(kind: PrimitiveKind, symmetry: Symmetry, params: dict) -> dict:
    """Whole numbers stay whole."""
    carried = symmetry.carry(params, 2.0)
    return {p.name: round(carried[p.name]) for p in kind.params if p.type is int}


def test_rain_enlarged_is_rain_of_longer_sparser_streaks():
    kind = next(kind for kind in distortions() if kind.name == "rain")
    symmetry = next(symmetry for symmetry in kind.symmetries if symmetry.group == "scale")
    params = kind.bind(0.01, length=9, width=1.0)
    carried = symmetry.carry(params, 2.0)
    assert carried == {**params, "density": 0.0025, "length": 18, "width": 2.0}
    carried["length"] = 18
    small, large = np.zeros((128, 128, 3), np.float32), np.zeros((256, 256, 3), np.float32)
    wet = [made(kind, small, params, bytes([k]) * 32).mean() for k in range(12)]
    enlarged = [made(kind, large, carried, bytes([k]) * 32).mean() for k in range(12)]
    assert np.mean(enlarged) == pytest.approx(np.mean(wet), rel=0.15)


def test_snow_enlarged_is_snow_of_larger_flakes():
    kind = next(kind for kind in distortions() if kind.name == "snow")
    symmetry = next(symmetry for symmetry in kind.symmetries if symmetry.group == "scale")
    params = kind.bind(0.5, zoom=4, length=7, whiten=0)
    carried = symmetry.carry(params, 2.0)
    assert carried == {**params, "zoom": 8, "length": 14}
    carried["length"] = 14
    small, large = np.zeros((128, 128, 3), np.float32), np.zeros((256, 256, 3), np.float32)
    for statistic in (np.mean, np.std):
        snowy = [statistic(made(kind, small, params, bytes([k]) * 32)) for k in range(12)]
        enlarged = [statistic(made(kind, large, carried, bytes([k]) * 32)) for k in range(12)]
        assert np.mean(enlarged) == pytest.approx(np.mean(snowy), rel=0.15)


@pytest.mark.parametrize("settings", [{"sigma": 4.0}, {"sigma": 4.0, "jitter": 3.0}])
def test_elastic_enlarged_moves_farther_and_more_smoothly(settings):
    """On a ramp, the change of a value says how far it was moved, as a part of the image's width."""
    kind = next(kind for kind in distortions() if kind.name == "elastic")
    symmetry = next(symmetry for symmetry in kind.symmetries if symmetry.group == "scale")
    params = kind.bind(60.0, **settings)
    carried = symmetry.carry(params, 2.0)
    assert carried == {**params, "alpha": 240, "sigma": 8, "jitter": 2 * params["jitter"]}
    moved = []
    for side, given in ((128, params), (256, carried)):
        ramp = np.tile((np.arange(side, dtype=np.float32) / side)[None, :, None], (side, 1, 3))
        inside = np.s_[side // 4 : -side // 4, side // 4 : -side // 4]
        keys = [bytes([k]) * 32 for k in range(12)]
        moved.append(np.mean([(made(kind, ramp, given, key) - ramp)[inside].std() for key in keys]))
    assert moved[1] == pytest.approx(moved[0], rel=0.15)


def test_what_is_not_declared_is_refused():
    legacy = next(kind for kind in distortions() if kind.name == "poisson")
    with pytest.raises(UsageError, match="does not hold for these parameters"):
        legacy.symmetries[0].carry(legacy.bind(1, legacy=True), 2.0)
    with pytest.raises(UsageError, match="a law of chance"):
        word = parse("awgn(uniform(1, 30))").steps[0]
        word.kind.symmetries[0].carry(word.params, (2.0, 0.0))
    with pytest.raises(UsageError, match="by quarters"):
        GROUPS["rotate"].act(np.zeros((4, 4, 3), np.float32), 30)


@pytest.mark.parametrize(
    ("trained", "tested", "by"),
    [
        ("awgn[5, 10, 15, 20] >> clip", "awgn(50) >> clip", "contrast"),
        ("awgn(uniform(5, 20))", "awgn(uniform(1, 60))", "contrast"),
        ("awgn[5, 10]", "awgn(10)", None),  # seen
        ("awgn(15)", "poisson(3.5)", None),
        ("awgn(0)", "awgn(5)", None),
        ("awgn(15)", "awgn(50, channels='grey')", None),
        ("gaussian_blur[1, 2, 3, 4]", "gaussian_blur(5)", "scale"),
        ("gaussian_blur(2) >> awgn(15)", "gaussian_blur(2) >> awgn(50)", "contrast"),
        (
            "gaussian_blur(2) >> awgn(15)",
            "gaussian_blur(3) >> awgn(50)",
            None,
        ),  # two elements would be needed
        ("awgn(15) >> correlated_noise(30)", "awgn(30) >> correlated_noise(60)", "contrast"),
        ("awgn(15) >> correlated_noise(30)", "awgn(30) >> correlated_noise(50)", None),
        ("mix(awgn(5), jpeg(30))", "awgn(50)", "contrast"),
        ("awgn(5) | jpeg(30)", "mix(awgn(50), jpeg(30))", None),  # no group carries jpeg(30) to itself
        ("motion_blur(9)", "motion_blur(9, angle=30)", "rotate"),
        ("motion_blur(9)", "motion_blur(15)", "scale"),
        ("pixelate(0.5)", "pixelate(0.125)", "scale"),
        ("snow(0.5, angle=70)", "snow(0.5, angle=100)", "rotate"),
        ("frost(0.5)", "frost(0.7)", "gain"),
        ("haze(0.6) >> gaussian_blur(2)", "haze(0.6) >> gaussian_blur(4)", "scale"),
        ("rain(0.01)", "rain(0.0025, length=30, width=1)", "scale"),
        ("rain(0.01)", "rain(0.0025, length=30)", None),
        ("poisson(1)", "poisson(1, peak=10)", "gain"),
        ("poisson(1)", "poisson(2)", None),
        ("poisson(1, legacy=True)", "poisson(1, legacy=True, peak=10)", None),
        ("low_light(2)", "low_light(2, beta=0.5)", "gain"),
        ("salt_pepper(0.1)", "salt_pepper(0.2)", None),
        ("gaussian_blur(2)", "gaussian_blur(1)", None),  # orbits enlarge, and the wrapper shrinks
        ("gaussian_blur(uniform(1, 4))", "gaussian_blur(uniform(2, 9))", "scale"),
        ("poisson(1)", "poisson(1, peak=1024)", "gain"),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=160)", "rotate"),
        ("motion_trail(3, angle=20)", "motion_trail(3, angle=50)", "rotate"),
        ("gaussian_blur(2) >> awgn(15)", "gaussian_blur(2) >> awgn(15)", None),
        ("gaussian_blur(2) >> awgn(15)", "gaussian_blur(5) >> awgn(15)", None),  # noise has no scale
    ],
)
def test_what_is_reached_from_what_was_seen(trained, tested, by):
    word, met = parse(tested), confounder_set(trained)
    assert reached(word, met) == by
    plain = novelty(word, met)
    assert plain in ("seen", "degree", "type")  # a net without symmetries reaches nothing
    if by is not None:
        assert plain == "degree"
        assert novelty(word, met, (by,)) == "reached"


@pytest.mark.parametrize(
    ("trained", "tested", "group", "is_reached"),
    [
        ("awgn(15)", "awgn(5)", "box", True),
        ("awgn(15)", "awgn(10)", "box", False),  # no box has 1.5 pixels a side
        ("awgn(15)", "awgn(30)", "box", False),  # nothing undoes a mean
        ("awgn(uniform(10, 15))", "awgn(uniform(4, 5))", "box", True),
        ("awgn(15)", "awgn(uniform(5, 15))", "box", False),
        ("poisson(1)", "poisson(1, peak=1024)", "box", True),
        ("awgn(15)", "awgn(50)", "gain", True),  # contrast about black
        ("salt_pepper(0.1)", "salt_pepper(0.2)", "gain", False),
        ("awgn(15)", "awgn(50)", "permute", False),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=110)", "square", True),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=160)", "square", True),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=70)", "square", True),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=50)", "square", False),
        ("motion_blur(9, angle=20)", "motion_blur(9, angle=uniform(20, 110))", "square", False),
        ("motion_blur(9, angle=uniform(0, 45))", "motion_blur(9, angle=uniform(100, 130))", "square", True),
        ("motion_trail(3, angle=20)", "motion_trail(3, angle=110)", "square", True),
        ("motion_trail(3, angle=20)", "motion_trail(3, angle=160)", "square", True),
        ("motion_trail(3, angle=20)", "motion_trail(3, angle=-20)", "square", True),  # and turned by half
        ("motion_trail(3, angle=20)", "motion_trail(3, angle=50)", "square", False),
        ("rain(0.01, angle=70)", "rain(0.01, angle=110)", "flip", True),
        ("rain(0.01, angle=70)", "rain(0.01, angle=110)", "square", True),
        ("rain(0.01, angle=70)", "rain(0.01, angle=100)", "rotate", True),
        ("rain(0.01, angle=70)", "rain(0.01, angle=100)", "square", False),
    ],
)
def test_a_net_reaches_what_the_groups_that_it_has_carry(trained, tested, group, is_reached):
    word, met = parse(tested), confounder_set(trained)
    assert reached(word, met, (group,)) == (group if is_reached else None)
    assert novelty(word, met, (group,)) == ("reached" if is_reached else "degree")


def test_the_square_turns_and_mirrors_by_quarters():
    image, square = smooth(8, 1.0), GROUPS["square"].act
    kind = next(kind for kind in distortions() if kind.name == "motion_blur")
    assert len({square(image, k).tobytes() for k in range(8)}) == 8
    acted_on = square(made(kind, image, kind.bind(5, angle=90.0)), 5)
    carried = made(kind, square(image, 5), kind.bind(5, angle=0.0))
    np.testing.assert_allclose(carried, acted_on, atol=2e-5)


@pytest.mark.parametrize(("angle", "is_reached"), [(150, True), (-30, False), (-210, True)])
def test_a_flip_turns_a_direction_about_the_vertical(angle, is_reached):
    word, met = parse(f"motion_trail(3, angle={angle})"), confounder_set("motion_trail(3, angle=30)")
    assert (reached(word, met, ("flip",)) == "flip") is is_reached
    line = parse(f"motion_blur(9, angle={angle})")  # of a line, both ends are alike
    assert reached(line, confounder_set("motion_blur(9, angle=30)"), ("flip",)) == "flip"


def test_what_is_not_known_is_not_reached():
    assert reached(None, confounder_set("awgn(5)")) is None
    assert reached(parse("awgn(5)"), None) is None
    assert novelty(None, confounder_set("awgn(5)"), tuple(GROUPS)) == "type"
    assert novelty(parse("clean"), confounder_set("awgn(5)"), tuple(GROUPS)) == "clean"
