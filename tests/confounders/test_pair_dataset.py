"""The pairs of a store in anybody's training loop."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dilkit.confounders.build import augment
from dilkit.confounders.episodes import PairDataset
from dilkit.confounders.store import Store
from dilkit.distortions import as_float
from dilkit.errors import UsageError


def test_whole_items_are_those_of_the_store(store: Store) -> None:
    data = PairDataset(store, split=None)
    assert len(data) == len(store) * len(store.labels)
    for index in (0, 7, len(data) - 1):
        degraded, clean = data[index]
        item, label = index % len(store), data.label(index)
        assert np.array_equal(clean, as_float(store.clean(item)).transpose(2, 0, 1))
        assert np.array_equal(degraded, as_float(store.view(item, label)).transpose(2, 0, 1))
    with pytest.raises(IndexError):
        data[len(data)]


def test_all_views_of_an_item_are_one_crop(store: Store) -> None:
    data = PairDataset(store, crop=16, views=True, labels=["awgn(5)", "awgn(25)"])
    degraded, clean = data[3]
    assert len(data) == len(store) and list(degraded) == ["awgn(5)", "awgn(25)"]
    for label, sigma in (("awgn(5)", 5), ("awgn(25)", 25)):
        assert degraded[label].shape == clean.shape == (3, 16, 16)
        assert sigma / 2 < float((degraded[label] - clean).std()) * 255 < 2 * sigma


def test_a_loader_with_workers_gives_what_one_without_gives_for_whole_items(store: Store) -> None:
    data = pickle.loads(pickle.dumps(PairDataset(store)))  # noqa: S301
    alone, shared = (list(DataLoader(data, batch_size=5, num_workers=n)) for n in (0, 2))
    assert len(alone) == len(shared) == -(-len(data) // 5)
    for a, b in zip(alone, shared, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_crops_follow_torchs_seed_and_differ_from_one_epoch_to_the_next(store: Store) -> None:
    data = PairDataset(store, crop=8)

    def epoch() -> torch.Tensor:
        return torch.cat([clean for _, clean in DataLoader(data, batch_size=4)])

    torch.manual_seed(0)
    first, second = epoch(), epoch()
    torch.manual_seed(0)
    assert torch.equal(epoch(), first) and not torch.equal(first, second)


def test_virtual_views_are_drawn_afresh(tmp_path: Path) -> None:
    store = augment("deadleaves:1@32", "awgn(25)", tmp_path / "v.h5", tile=32, storage="virtual").path
    torch.manual_seed(0)
    noises = [degraded - clean for degraded, clean in (PairDataset(store, crop=32)[0] for _ in range(2))]
    assert not torch.equal(noises[0].sort().values, noises[1].sort().values)


def test_super_resolution_pairs_keep_their_scale(tmp_path: Path) -> None:
    path = augment("deadleaves:2@64", "downsample(2)", tmp_path / "s.h5", tile=64).path
    for crop, side in ((None, 64), (32, 32)):
        degraded, clean = PairDataset(path, crop=crop)[1]
        assert clean.shape == (3, side, side) and degraded.shape == (3, side // 2, side // 2)


def test_a_transform_has_the_last_word(store: Store) -> None:
    data = PairDataset(store, transform=lambda degraded, clean: {"lq": degraded, "gt": clean})
    assert set(next(iter(DataLoader(data, batch_size=2)))) == {"lq", "gt"}


def test_wrong_questions_are_named(store: Store) -> None:
    with pytest.raises(UsageError, match="smaller than the crop"):
        PairDataset(store, crop=64)
    with pytest.raises(UsageError, match="did you mean"):
        PairDataset(store, labels=["awgn(6)"])
