"""What a net has seen is remembered for any number of images, and found mirrored, turned and saved anew."""

from __future__ import annotations

import base64
import json
import zlib

import cv2
import numpy as np
import pytest

from dilkit.confounders import duplicates
from dilkit.confounders.duplicates import NEAR, SeenImages, near_pairs, perceptual_hash
from dilkit.confounders.images import dead_leaves
from dilkit.confounders.live import LiveStore
from dilkit.confounders.store import Store
from dilkit.errors import DilkitError


def test_exclusion_and_the_leak_flag_have_one_rule() -> None:
    """Whatever near_pairs calls alike is found among the seen, and nothing else."""
    draw = np.random.default_rng(0)
    for _ in range(200):
        value = int(draw.integers(1, 2**63))
        other = value
        for bit in draw.choice(64, int(draw.integers(0, 2 * NEAR)), replace=False):
            other ^= 1 << int(bit)
        turned = int(duplicates.symmetries(np.array([other], np.uint64))[draw.integers(8), 0])
        assert SeenImages([value]).holds_hash(turned) == (near_pairs([value, turned]) == [(0, 1)])


def test_an_image_is_found_mirrored_turned_and_saved_anew() -> None:
    images = [dead_leaves(3, k, 256) for k in range(20)]
    seen = SeenImages.from_json(json.loads(json.dumps(SeenImages(map(perceptual_hash, images)).to_json())))
    assert len(seen) == 20
    for image in images[:5]:
        jpeg = cv2.imdecode(cv2.imencode(".jpg", image, [1, 60])[1], 1)
        for changed in (image, image[:, ::-1], np.rot90(image), np.rot90(image[::-1]), jpeg, image[::2, ::2]):
            assert seen.holds(np.ascontiguousarray(changed))
    assert not any(seen.holds(dead_leaves(4, k, 256)) for k in range(20))


def test_any_number_of_images_is_kept_and_found_as_exactly_as_one() -> None:
    draw = np.random.default_rng(1)
    hashes = draw.integers(1, 2**63, 50_000).astype(np.uint64)
    seen = SeenImages(hashes[:40_000]) | SeenImages(hashes[30_000:])
    seen = SeenImages.from_json(seen.to_json())
    assert len(seen) == 50_000
    turned = duplicates.symmetries(hashes[::500])[3]
    assert all(seen.holds_hash(int(value) ^ 0b1011) for value in turned)
    assert not any(seen.holds_hash(int(value)) for value in draw.integers(1, 2**63, 100))


def test_lists_of_earlier_checkpoints_are_read_and_damaged_ones_named() -> None:
    seen = SeenImages.from_json([f"{5:016x}", "00000000000000ff"])
    assert seen.holds_hash(5) and seen.holds_hash(0xFE) and len(seen) == 2
    kept = SeenImages([5]).to_json()
    bomb = base64.b64encode(zlib.compress(bytes(1 << 20))).decode()
    for damaged in (
        "text", {"hashes": "!!"}, {"hashes": "AAAA"}, ["xyz"], {"count": 3}, 7, [None], [1 << 70],
        kept | {"filter": "AAAA"}, kept | {"hashes": bomb},
    ):  # fmt: skip
        with pytest.raises(DilkitError, match="damaged"):
            SeenImages.from_json(damaged)


def test_stores_and_live_sources_know_their_images(store: Store) -> None:
    live = LiveStore(["deadleaves:6@32"], "awgn(5)", tile=32, stride=32, seed=3)
    for source in (store, live):
        seen = source.seen_images()
        assert len(seen) == 6 and all(seen.holds(store.clean(item)[:, ::-1]) for item in range(6))
