"""Episodes: a pure function of (seed, step, rank), true pairs, every item once an epoch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import Episode, EpisodeSampler, episodes
from dilkit.confounders.format import Array
from dilkit.confounders.live import LiveStore
from dilkit.confounders.store import Store
from dilkit.errors import DilkitError, UsageError


def same(a: Episode, b: Episode) -> bool:
    return a.labels == b.labels and all(
        torch.equal(a.views[label], b.views[label]) and torch.equal(a.targets[label], b.targets[label])
        for label in a.labels
    )


def test_paired_views_are_distortions_of_one_clean_batch(store: Store) -> None:
    sampler = EpisodeSampler(store, batch=4, crop=16)
    episode = sampler.episode(0)
    assert episode.labels == store.labels
    assert episode.clean.shape == (4, 3, 16, 16) and episode.clean.dtype == torch.float32
    noise = (episode.views["awgn(5)"] - episode.clean).std() * 255
    assert 4.7 < noise < 5.3
    rounded = episode.views["awgn(15)>>clip>>quantize"] * 255
    assert torch.allclose(rounded, rounded.round(), atol=1e-4)
    for row, pick in enumerate(sampler.picks(0)):
        cut = store.clean(pick.item, pick.window).astype(np.float32) / 255
        crop = episode.clean[row].permute(1, 2, 0).numpy()
        turned = [np.rot90(t, k) for t in (cut, cut[::-1]) for k in range(4)]
        assert sum(np.array_equal(crop, t) for t in turned) >= 1


def test_independent_batches_hold_other_images_with_their_own_targets(store: Store) -> None:
    episode = EpisodeSampler(store, batch=3, crop=16, pairing="independent").episode(1)
    a, b = (episode.targets[label] for label in ("awgn(5)", "awgn(25)"))
    assert not torch.equal(a, b)
    assert 22 < (episode.views["awgn(25)"] - b).std() * 255 < 28
    with pytest.raises(UsageError):
        _ = episode.clean


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_an_episode_depends_on_seed_step_and_rank_alone(store: Store, pairing: str) -> None:
    def make(**changes: int) -> EpisodeSampler:
        return EpisodeSampler(store, batch=2, crop=8, pairing=pairing, **changes)  # type: ignore[arg-type]

    sampler = make()
    sampler.episode(0)
    assert same(sampler.episode(7), make().episode(7))
    assert not same(make().episode(7), make().episode(8))
    assert not same(make().episode(7), make(seed=1).episode(7))
    assert not same(make(rank=0, world=2).episode(7), make(rank=1, world=2).episode(7))


def test_prefetching_changes_nothing(store: Store) -> None:
    for pairing in ("paired", "independent"):
        sampler = EpisodeSampler(store, batch=2, crop=8, pairing=pairing)  # type: ignore[arg-type]
        ahead = list(episodes(sampler, 3, 6, workers=1))
        assert [episode.step for episode in ahead] == [3, 4, 5]
        assert all(same(a, sampler.episode(a.step)) for a in ahead)


def test_every_item_is_met_once_an_epoch_over_all_ranks(store: Store) -> None:
    ranks = [EpisodeSampler(store, batch=1, crop=8, rank=rank, world=2) for rank in (0, 1)]
    assert len(ranks[0]) == 3
    for epoch in range(3):
        steps = range(epoch * 3, epoch * 3 + 3)
        met = [pick.item for sampler in ranks for step in steps for pick in sampler.picks(step)]
        assert sorted(met) == list(range(6))


def test_all_windows_and_symmetries_are_met_alike(store: Store) -> None:
    sampler = EpisodeSampler(store, batch=50, crop=31)
    picks = [pick for step in range(40) for pick in sampler.picks(step)]
    counts = np.bincount([4 * p.symmetry // 4 for p in picks], minlength=8)
    assert len(counts) == 8 and counts.min() > 180
    corners = np.bincount([2 * p.window.y + p.window.x for p in picks], minlength=4)
    assert len(corners) == 4 and corners.min() > 420
    assert all(p.symmetry == 0 for p in EpisodeSampler(store, batch=50, crop=31, symmetry=False).picks(0))


def test_a_subset_of_labels_in_the_order_asked_for(store: Store) -> None:
    episode = EpisodeSampler(store, batch=1, crop=8, labels=["gaussian_blur(1)", "awgn(5)"]).episode(0)
    assert episode.labels == ("gaussian_blur(1)", "awgn(5)")


def test_downsampled_views_keep_their_place(tmp_path: Path) -> None:
    """Crops of a smaller view are those of the clean crop's place, turned alike."""
    out = augment("deadleaves:3@48", "downsample(2) | awgn(5)", tmp_path / "sr.h5", tile=48, stride=48).path
    store = Store(out)
    assert store.scale("downsample(2)") == 2 and store.view(0, "downsample(2)").shape == (24, 24, 3)
    for pairing in ("paired", "independent"):
        sampler = EpisodeSampler(store, batch=6, crop=32, pairing=pairing)  # type: ignore[arg-type]
        episode = sampler.episode(1)
        view, clean = episode.batch("downsample(2)")
        assert view.shape == (6, 3, 16, 16) and clean.shape == (6, 3, 32, 32)
        assert episode.views["awgn(5)"].shape == (6, 3, 32, 32)
        small = torch.nn.functional.avg_pool2d(clean, 2)
        assert ((small - view).abs().mean(dim=(1, 2, 3)) < 0.1).all()
        picks = sampler.picks(1, "" if pairing == "paired" else "downsample(2)")
        assert all(p.window.y % 2 == p.window.x % 2 == 0 for p in picks)
    with pytest.raises(UsageError, match="multiple of 2"):
        EpisodeSampler(store, batch=1, crop=31)
    with pytest.raises(UsageError, match="multiples of 2"):
        augment("deadleaves:1@33", "downsample(2)", tmp_path / "odd.h5", tile=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"crop": 33}, "smaller than the crop"),
        ({"labels": ["awgn(6)"]}, "did you mean"),
        ({"split": "validation"}, "no items of split"),
        ({"pairing": "pair"}, "pairing"),
        ({"batch": 0}, "batch"),
    ],
)
def test_senseless_samplers_are_refused(store: Store, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        EpisodeSampler(store, **({"batch": 1, "crop": 8} | change))  # type: ignore[arg-type]


def test_a_live_dataset_can_be_closed_and_read_again() -> None:
    store = LiveStore(("deadleaves:2@32",), "awgn(5)", tile=32, stride=32)
    before = store.view(1, "awgn(5)").copy()
    store.close()
    assert np.array_equal(store.view(1, "awgn(5)"), before)


@pytest.mark.parametrize("other", [np.zeros((20, 32, 3), np.uint8), np.zeros((32, 32), np.uint16)])
def test_an_image_that_changed_since_is_named(pictures: Path, other: Array) -> None:
    sources = [str(pictures)]
    live = LiveStore(sources, "awgn(5)", tile=32, stride=32)
    assert live.view(0, "awgn(5)").shape == (32, 32, 3)
    Image.fromarray(other).save(pictures / "1.png")
    with pytest.raises(DilkitError, match=r"1\.png: the file changed"):
        live.view(4, "awgn(5)")


def test_a_live_dataset_keeps_no_more_images_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dilkit.confounders.live.CACHE", 3 * 32 * 32 * 3)
    store = LiveStore(("deadleaves:6@32",), "clean", tile=16, stride=16)
    whole = [store.clean(item).copy() for item in range(24)]
    for item in (3, 23, 0, 12):
        assert np.array_equal(store.clean(item), whole[item])
    assert (
        store._bytes == sum(tile.nbytes for kept in store._kept.values() for tile in kept) == 3 * 32 * 32 * 3
    )
