"""Crops moved along a symmetry stand for degrees that are never drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.live import LiveStore
from dilkit.confounders.orbit import Element, Orbit
from dilkit.distortions import parse
from dilkit.errors import UsageError

SOURCE = ["deadleaves:3@64"]


def live(distort: str) -> LiveStore:
    return LiveStore(SOURCE, distort, tile=64, stride=64, seed=3)


def sampler(distort: str, orbit: Orbit | None, pairing: str = "independent") -> EpisodeSampler:
    return EpisodeSampler(live(distort), batch=64, crop=16, pairing=pairing, seed=5, split=None, orbit=orbit)


def test_the_degree_reached_is_uniform_up_to_the_reach() -> None:
    orbit = Orbit("contrast", 1.0, 60)
    spans = orbit.spans({"a": parse("awgn(5) >> clip"), "b": parse("awgn(20)")})
    assert spans == {"a": 12, "b": 3, "": 3}
    bits = np.random.default_rng(0).integers(0, 2**63, (2000, 3)).astype(np.uint64) * np.uint64(2)
    moved = [orbit.element(3, row) for row in bits]
    reached = np.array([20 / element.s for element in moved])
    assert reached.min() >= 20 and reached.max() <= 60
    assert abs(reached.mean() - 40) < 1 and abs(np.mean([e.b for e in moved]) - 0.5) < 0.05
    assert Orbit("contrast", 1.0).spans({"a": parse("awgn(7)")}) == {"a": 3, "": 3}


def test_contrast_acts_before_the_noise_which_keeps_its_strength() -> None:
    plain = sampler("awgn(10)", None).episode(0)
    moved = sampler("awgn(10)", Orbit("contrast", 1.0, 60)).episode(0)
    (label,) = plain.labels
    noise = moved.views[label] - moved.targets[label]
    assert torch.allclose(noise, plain.views[label] - plain.targets[label], atol=2e-6)
    x, y = plain.targets[label], moved.targets[label]
    for before, after in zip(x, y, strict=True):
        s = float((after.max() - after.min()) / (before.max() - before.min()))
        b = float((after - s * before).mean() / (1 - s)) if s < 0.99 else 0.0
        assert 1 / 6 - 1e-3 <= s <= 1 and min(abs(b), abs(b - 1)) < 1e-2
    assert y.min() >= 0 and y.max() <= 1


def test_some_crops_stay_and_the_picks_are_those_without_an_orbit() -> None:
    half, none = sampler("awgn(10)", Orbit("contrast", 0.5, 60)), sampler("awgn(10)", None)
    elements = [pick.element for pick in half.picks(4, "awgn(10)")]
    assert 10 < sum(element == Element() for element in elements) < 54
    assert [p[:3] for p in half.picks(4, "awgn(10)")] == [p[:3] for p in none.picks(4, "awgn(10)")]
    again = half.episode(4)
    assert all(torch.equal(again.views[k], v) for k, v in half.episode(4).views.items())


def test_paired_confounders_share_the_moved_image() -> None:
    episode = sampler("awgn[5, 10]", Orbit("contrast", 1.0, 30), "paired").episode(0)
    assert episode.clean.shape == (64, 3, 16, 16)
    for label, sigma in (("awgn(5)", 5), ("awgn(10)", 10)):
        assert float((episode.views[label] - episode.clean).std()) * 255 == pytest.approx(sigma, rel=0.1)


def test_scale_enlarges_both_images_of_a_pair() -> None:
    made = sampler("gaussian_blur(1)", Orbit("scale", 1.0, 3))
    sides = {pick.window.h for pick in made.picks(0, "gaussian_blur(1)")}
    assert min(sides) < 8 and max(sides) <= 16
    episode = made.episode(0)
    assert (
        episode.views["gaussian_blur(1)"].shape
        == episode.targets["gaussian_blur(1)"].shape
        == (64, 3, 16, 16)
    )


@pytest.mark.parametrize(
    ("distort", "orbit", "said"),
    [
        ("jpeg(20)", Orbit("scale", 0.5), "no symmetry of scale"),
        ("awgn(uniform(5, 9))", Orbit("contrast", 0.5), "not one number"),
    ],
)
def test_what_has_no_such_symmetry_is_refused(distort: str, orbit: Orbit, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sampler(distort, orbit)


def test_contrast_needs_views_that_are_made_as_they_are_read(tmp_path: Path) -> None:
    from dilkit.confounders.store import Store

    augment(SOURCE, "awgn(5)", tmp_path / "stored.h5", tile=64, stride=64)
    with pytest.raises(UsageError, match="has stored") as caught:
        EpisodeSampler(
            Store(tmp_path / "stored.h5"), batch=1, crop=16, split=None, orbit=Orbit("contrast", 0.5)
        )
    assert "--storage virtual" in str(caught.value.remedy)
