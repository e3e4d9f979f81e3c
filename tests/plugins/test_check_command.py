"""The conformance check finds distortions that would give a window other pixels than the whole."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from dilkit.distortions import REGISTRY, Param, PrimitiveKind, register
from dilkit.errors import DilkitError
from dilkit.losses import LOSSES
from dilkit.testing import check_distortion, check_loss

COUNT = iter(range(10**6))


def neighbours(image, params, draw):
    """Looks one pixel to the left."""
    return 0.5 * (image + np.roll(image, 1, axis=1))


def own_noise(image, params, draw):
    """Noise from a generator of its own, that is not keyed."""
    return image + np.random.default_rng().normal(0, 0.1, image.shape).astype(np.float32)


def global_noise(image, params, draw):
    """Noise from NumPy's global generator."""
    return image + np.random.rand(*image.shape).astype(np.float32)  # noqa: NPY002


def counting(image, params, draw):
    """Other pixels each time."""
    return image + np.float32(next(COUNT) * 1e-3)


def mean_of_all(image, params, draw):
    """Depends on all pixels."""
    return image - image.mean()


def in_place(image, params, draw):
    image *= 0.5
    return image


def doubles(image, params, draw):
    return image.astype(np.float64)


BROKEN = {
    "undeclared_neighbours": (neighbours, "other pixels in a window than in the whole"),
    "undeclared_mean": (mean_of_all, "other pixels in a window than in the whole"),
    "own_generator": (own_noise, "other pixels when it is called again"),
    "global_generator": (global_noise, "NumPy's own random numbers"),
    "keeps_state": (counting, "other pixels when it is called again"),
    "in_place": (in_place, "changes its input"),
    "float64": (doubles, "returns no image"),
}


@pytest.fixture
def added(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"broken_{request.param}"
    apply, _ = BROKEN[request.param]
    if name not in REGISTRY:
        register(
            PrimitiveKind(
                name=name, family="test", summary="Broken.", source="this test",
                params=(Param("amount", default=1.0),), apply=apply,
            )
        )  # fmt: skip
    yield name


@pytest.mark.parametrize("added", BROKEN, indirect=True)
def test_a_broken_promise_is_found(added: str) -> None:
    with pytest.raises(DilkitError, match=BROKEN[added.removeprefix("broken_")][1]):
        check_distortion(added)


@pytest.mark.parametrize("name", ["awgn", "gaussian_blur", "poisson", "jpeg", "clip", "rain", "elastic"])
def test_a_distortion_of_dilkit_passes(name: str) -> None:
    if name not in REGISTRY:
        pytest.skip(f"there is no {name}")
    kind = REGISTRY.get(name)
    settings = {"awgn": {"sigma": 25}, "gaussian_blur": {"sigma": 2}, "poisson": {"alpha": 2}}
    settings |= {"jpeg": {"quality": 30}, "rain": {"density": 0.005}}
    known = {param.name for param in kind.params}
    check_distortion(name, **{k: v for k, v in settings.get(name, {}).items() if k in known})


def test_a_loss_that_passes_no_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LOSSES, "_entries", dict(LOSSES._entries))
    LOSSES.add(lambda output, target: (output.detach() - target).abs().mean(), "mute")
    with pytest.raises(DilkitError, match="no usable gradient"):
        check_loss("mute")
