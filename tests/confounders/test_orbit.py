"""Crops moved along a symmetry stand for degrees that are never drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.live import LiveStore
from dilkit.confounders.orbit import BITS, Correlation, Element, Orbit
from dilkit.distortions import parse
from dilkit.errors import UsageError

SOURCE = ["deadleaves:3@64"]


def live(distort: str) -> LiveStore:
    return LiveStore(SOURCE, distort, tile=64, stride=64, seed=3)


def sampler(distort: str, orbit: Orbit | None, pairing: str = "independent") -> EpisodeSampler:
    return moved_by(distort, [orbit] if orbit else [], pairing=pairing)


def moved_by(distort: str, orbit: list[Orbit], **settings: Any) -> EpisodeSampler:
    settings = {"batch": 64, "crop": 16, "pairing": "independent", "split": None, **settings}
    return EpisodeSampler(live(distort), seed=5, orbit=orbit, **settings)


def bits(count: int, words: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2**64, (count, words), np.uint64, endpoint=False)


def test_the_degree_reached_is_uniform_up_to_the_reach() -> None:
    orbit = Orbit("contrast", 1.0, 60)
    spans = orbit.spans({"a": parse("awgn(5) >> clip"), "b": parse("awgn(20)")})
    assert spans == {"a": 12, "b": 3, "": 3}
    moved = [orbit.element(3, row) for row in bits(2000)]
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


def test_gain_darkens_the_image_before_poisson_noise() -> None:
    (far,) = {Orbit("gain", 1.0, 64).spans({"a": parse("poisson(1)")})["a"]}
    assert far == 4  # 256 photons down to 64
    elements = [Orbit("gain", 1.0, 64).element(far, row) for row in bits(200)]
    assert {e.b for e in elements} == {0.0} and 1 / 4 <= min(e.s for e in elements) < 0.3
    made = moved_by("poisson(1)", [Orbit("gain", 1.0, 64)]).episode(0)
    plain = moved_by("poisson(1)", []).episode(0)
    x, y = (episode.targets["poisson(1)"] for episode in (plain, made))
    assert torch.allclose(y, x * (y.amax((1, 2, 3)) / x.amax((1, 2, 3))).view(-1, 1, 1, 1), atol=1e-6)


def test_boxes_average_both_images_of_a_pair_so_that_noise_weakens() -> None:
    orbit = Orbit("box", 1.0, 5)
    assert orbit.spans({"a": parse("awgn(15)")}) == {"a": 3, "": 3}
    assert {orbit.element(3, row).box for row in bits(200)} == {2, 3}
    sampler = moved_by("awgn(15)", [orbit])
    picks = sampler.picks(0, "awgn(15)")
    assert {pick.window.h for pick in picks} == {32, 48}
    episode = sampler.episode(0)
    noise = episode.views["awgn(15)"] - episode.targets["awgn(15)"]
    for r in (2, 3):
        of = torch.tensor([pick.element.box == r for pick in picks])
        assert float(noise[of].std()) * 255 == pytest.approx(15 / r, rel=0.05)
        neighbours = torch.corrcoef(
            torch.stack([noise[of][..., 1:].flatten(), noise[of][..., :-1].flatten()])
        )
        assert abs(float(neighbours[0, 1])) < 0.05  # it stays white
    source = sampler.store.clean(picks[0].item, picks[0].window).astype(np.float32) / 255
    r = picks[0].element.box
    means = source.reshape(16, r, 16, r, 3).mean((1, 3))
    turned = moved_by("awgn(15)", [orbit], symmetry=False).episode(0).targets["awgn(15)"][0]
    assert torch.allclose(turned, torch.from_numpy(means).permute(2, 0, 1), atol=1e-6)


def test_the_largest_box_fits_the_items() -> None:
    with pytest.raises(UsageError, match="smaller than the crop of 16 with its orbit of boxes") as caught:
        moved_by("awgn(20)", [Orbit("box", 0.1, 4)])
    assert caught.value.expected == "at least 80 x 80"


def test_permuted_channels_are_those_of_the_image_in_any_order() -> None:
    made = moved_by("gaussian_blur(1)", [Orbit("permute", 1.0)])
    plain = moved_by("gaussian_blur(1)", []).episode(0)
    episode, orders = made.episode(0), set()
    for row, pick in enumerate(made.picks(0, "gaussian_blur(1)")):
        order = np.array(pick.element.mix).reshape(3, 3).argmax(1)
        orders.add(tuple(order))
        for mine, theirs in ((episode.views, plain.views), (episode.targets, plain.targets)):
            assert torch.equal(mine["gaussian_blur(1)"][row], theirs["gaussian_blur(1)"][row][order])
    assert len(orders) == 6


def test_orbits_are_composed_and_the_first_is_as_it_is_alone() -> None:
    contrast, box = Orbit("contrast", 0.5, 60), Orbit("box", 0.5, 5)
    both, alone = (moved_by("awgn(15)", orbits) for orbits in ([contrast, box], [contrast]))
    elements = [pick.element for pick in both.picks(3, "awgn(15)")]
    assert [e.s for e in elements] == [p.element.s for p in alone.picks(3, "awgn(15)")]
    assert {(e.s < 1, e.box > 1) for e in elements} == {(a, b) for a in (True, False) for b in (True, False)}
    image = np.random.default_rng(0).random((6, 6, 3), np.float32)
    one, two = Element(0.5, 1.0, mix=(0, 1, 0, 1, 0, 0, 0, 0, 1)), Element(0.25, 0.0, ratio=2.0)
    assert np.allclose(one.then(two).contracted(image), two.contracted(one.contracted(image)))
    assert one.then(two).ratio == 2 and one.then(two).mix == one.mix
    with pytest.raises(UsageError, match="given twice"):
        moved_by("awgn(15)", [contrast, contrast])


def test_correlated_noise_is_correlated_over_pixels_and_channels() -> None:
    def noise(**settings: Any) -> torch.Tensor:
        made = moved_by("awgn(15)", [], correlate=Correlation(**settings)).episode(0)
        return made.views["awgn(15)"] - made.targets["awgn(15)"]

    def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])

    pixels, channels = noise(pixels=1.0), noise(channels=1.0)
    assert correlation(pixels[..., 1:], pixels[..., :-1]) > 0.3
    assert abs(correlation(pixels[:, 0], pixels[:, 1])) < 0.05
    assert correlation(channels[:, 0], channels[:, 1]) > 0.2
    assert abs(correlation(channels[..., 1:], channels[..., :-1])) < 0.05
    elements = [Correlation(0.4, 0.3).element(row) for row in bits(2000, BITS)]
    assert np.mean([e.ratio > 1 for e in elements]) == pytest.approx(0.4, abs=0.04)
    assert max(e.ratio for e in elements) <= 2.5
    mixed = np.array([e.mix for e in elements if e.mix != Element().mix]).reshape(-1, 3, 3)
    assert len(mixed) / 2000 == pytest.approx(0.3, abs=0.04)
    assert np.allclose(mixed.sum(2), 1) and mixed.min() >= 0  # values stay in their range


@pytest.mark.parametrize(
    ("distort", "orbit", "said"),
    [
        ("jpeg(20)", Orbit("scale", 0.5), "no symmetry of scale"),
        ("gaussian_blur(2) >> jpeg(20)", Orbit("scale", 0.5), "no symmetry of scale"),
        ("awgn(0)", Orbit("contrast", 0.5), "no symmetry of contrast"),
        ("mix(awgn(5), awgn(9))", Orbit("contrast", 0.5), "no symmetry of contrast"),
        ("awgn(uniform(5, 9))", Orbit("contrast", 0.5), "not one number"),
        ("downsample(2) >> awgn(5)", Orbit("contrast", 0.5), "views of the size of the image"),
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
            Store(tmp_path / "stored.h5"), batch=1, crop=16, split=None, orbit=[Orbit("contrast", 0.5)]
        )
    assert "--storage virtual" in str(caught.value.remedy)
