"""The check of a distortion finds each way to break the contract, and passes every kind of ours."""

from __future__ import annotations

import random

import numpy as np
import pytest

from dilkit.distortions import GLOBAL, Param, PrimitiveKind, Symmetry, as_float, distortions
from dilkit.distortions.contract import ConformanceError, check_distortion
from dilkit.distortions.render import to_levels
from dilkit.errors import UsageError


def kind(apply, **fields):
    fields = {"locality": 0} | fields
    params = fields.pop("params", (Param("amount", low=0, high=1, default=0.5),))
    return PrimitiveKind("tried", "test", "Tried.", "this test", params, apply, **fields)


def mutating(image, params, draw):
    image *= np.float32(0.5)
    return image


def looking_around(image, params, draw):
    return image + np.roll(image, 1, axis=1)


def by_the_mean(image, params, draw):
    return image - image.mean(dtype=np.float32)


def by_its_own_numbers(image, params, draw):
    return image + np.random.default_rng().normal(size=image.shape).astype(np.float32)


def by_global_numbers(image, params, draw):
    return image + np.float32(random.random())


def by_the_key_alone(image, params, draw):
    noise = np.random.default_rng(int.from_bytes(draw.key[:8], "big")).normal(size=image.shape)
    return image + noise.astype(np.float32)


CALLS: list[int] = []


def counting(image, params, draw):
    CALLS.append(1)
    return image + np.float32(len(CALLS))


BUFFER = np.zeros((72, 48, 3), np.float32)


def reusing(image, params, draw):
    if image.shape != BUFFER.shape:
        return image.copy()
    np.multiply(image, np.float32(0.5), out=BUFFER)
    return BUFFER


def wrong_levels(levels, params, draw):
    return 255 - levels


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (kind(mutating), "changes its input"),
        (kind(looking_around), "other pixels in a window"),
        (kind(by_the_mean), "other pixels in a window"),
        (kind(by_the_key_alone, random=True), "other pixels in a window"),
        (kind(by_the_key_alone, locality=GLOBAL), "declares random=False"),
        (kind(lambda image, params, draw: image + draw.normal(3)), "declares random=False"),
        (kind(lambda image, params, draw: image + 0, random=True), "its draw changes nothing"),
        (kind(by_its_own_numbers, random=True), "called again with the same draw"),
        (kind(by_global_numbers, random=True), "Python's or NumPy's own random numbers"),
        (kind(counting), "called again with the same draw"),
        (kind(reusing), "changes an image that it has returned"),
        (kind(lambda image, params, draw: image.astype(np.float64)), "returns no image"),
        (kind(lambda image, params, draw: image[..., 0]), "returns no image"),
        (kind(lambda image, params, draw: image[::2].copy(), locality=GLOBAL), "without saying so"),
        (
            kind(
                lambda image, params, draw: image[::2].copy(),
                locality=GLOBAL,
                size_after=lambda params, size, clean: (size[0] // 3, size[1]),
            ),
            "another size than it says",
        ),
        (kind(lambda image, params, draw: image / np.float32(0)), "not finite"),
        (kind(lambda image, params, draw: 1 // 0), "fails: ZeroDivisionError"),
        (
            kind(lambda image, params, draw: as_float(to_levels(image)), levels=wrong_levels),
            "on whole levels",
        ),
        (
            kind(
                lambda image, params, draw: image * image,
                symmetries=(Symmetry("contrast", {"amount": 1.0}),),
            ),
            "does not have the symmetry",
        ),
        (  # only at one of its choices
            kind(
                lambda image, params, draw: looking_around(image, params, draw) if params["wide"] else image,
                params=(Param("wide", bool, default=False),),
            ),
            "wide=True.*other pixels in a window",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_each_defect_is_found(made, says):
    with pytest.raises(ConformanceError, match=says):
        check_distortion(made)


@pytest.mark.parametrize(
    "name", [k.name for k in distortions() if k.family not in ("albumentations", "real")]
)
def test_every_kind_of_ours_conforms(name):
    check_distortion(name)


def test_a_name_that_is_none_is_refused():
    with pytest.raises(UsageError, match="unknown distortion 'awng'"):
        check_distortion("awng")
