"""Pixels are asked for before they are read: all of them, and little else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dilkit.confounders.build import augment
from dilkit.confounders.combine import merge
from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.format import MappedFile
from dilkit.confounders.store import Store
from dilkit.distortions.randomness import Window

WORDS = "awgn[5, 25] >> clip >> quantize | gaussian_blur(1) | downsample(2)"
PART = Window(20, 6, 16, 24)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """First byte and count of everything that is asked for."""
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(MappedFile, "expect", lambda self, start, count: found.append((start, count)))
    return found


def dataset(folder: Path, storage: str) -> Store:
    made = augment("deadleaves:4@64", WORDS, folder / "d.h5", tile=64, storage=storage)  # type: ignore[arg-type]
    return Store(made.path)


def test_the_bytes_of_a_part_are_asked_for_and_no_row_more(
    tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    store = dataset(tmp_path, "stored")
    store.expect(2, store.labels, PART)
    before, rows = list(asked), {"clean": 64 * 3, "gaussian_blur(1)": 64 * 12, "downsample(2)": 32 * 12}
    parts = {"clean": store.clean(2, PART)}
    for label in store.labels:
        scale = store.scale(label)
        parts[label] = store.view(2, label, Window(*(side // scale for side in PART)))
    raw = np.fromfile(store.path, np.uint8)
    assert len(before) == len(parts) == 5
    for (start, count), (name, part) in zip(before, parts.items(), strict=True):
        row = rows.get(name, 64 * 3)
        assert count == len(part) * row
        offset = PART.x // store.scale(name) if name != "clean" else PART.x
        cut = raw[start : start + count].view(part.dtype).reshape(len(part), -1, 3)
        assert np.array_equal(cut[:, offset : offset + part.shape[1]], part)


def test_of_a_virtual_dataset_what_its_views_look_at_is_asked_for(
    tmp_path: Path, asked: list[tuple[int, int]]
) -> None:
    store = dataset(tmp_path, "virtual")
    store.expect(1, ["awgn(5)>>clip>>quantize"], PART)
    store.expect(1, ["gaussian_blur(1)"], PART)
    store.expect(1, ["downsample(2)"], PART)
    point, halo, whole = (count // (64 * 3) for _, count in asked)
    assert point == PART.h < halo < whole == 64


def test_a_merged_dataset_asks_its_shards(tmp_path: Path, asked: list[tuple[int, int]]) -> None:
    shards = [
        augment("deadleaves:4@64", WORDS, tmp_path / f"{k}.h5", tile=64, shard=(k, 2)).path for k in (1, 2)
    ]
    merge(shards, tmp_path / "all.h5")
    Store(tmp_path / "all.h5").expect(3, ["gaussian_blur(1)"], PART)
    whole = list(asked)
    Store(shards[1]).expect(1, ["gaussian_blur(1)"], PART)
    assert len(whole) == 2 and asked[2:] == whole


@pytest.mark.parametrize("pairing", ["paired", "independent"])
def test_the_next_episode_is_asked_for_while_this_one_is_used(
    tmp_path: Path, pairing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = EpisodeSampler(dataset(tmp_path, "stored"), batch=2, crop=16, pairing=pairing)  # type: ignore[arg-type]
    asked: list[tuple[int, Window | None]] = []
    monkeypatch.setattr(
        Store, "expect", lambda self, item, labels, window, draw: asked.append((item, window))
    )

    def crops(step: int) -> list[tuple[int, Window]]:
        labels = ("",) if pairing == "paired" else sampler.labels
        return [(pick.item, pick.window) for label in labels for pick in sampler.picks(step, label)]

    sampler.episode(3)
    assert asked == crops(3) + crops(4)
    sampler.episode(4)
    assert asked == crops(3) + crops(4) + crops(5)
