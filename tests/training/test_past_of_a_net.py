"""The record of what a net has seen only grows: by init, resume, live sources and selection."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dilkit.checkpoint import Provenance, load
from dilkit.confounders.build import augment
from dilkit.confounders.duplicates import SeenImages, perceptual_hash
from dilkit.inference.nets import trained_on
from dilkit.training import train

NET = ["demo", "data.crop=16", "data.batch=1", "model.depth=3", "model.width=4", "steps=1"]


def pictures(folder: Path, seed: int) -> tuple[Path, np.ndarray]:
    """A folder of two smooth pictures, and the first of them."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    for k in range(2):
        image = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image.resize((48, 48), Image.Resampling.BICUBIC).save(folder / f"{k}.png")
    return folder, cv2.imread(str(folder / "0.png"))[..., ::-1]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, np.ndarray]]:
    root = tmp_path_factory.mktemp("sets")
    return {name: pictures(root / name, seed) for seed, name in enumerate("abc")}


def live(folder: Path, distort: str = "awgn(5)") -> list[str]:
    return [f"data.sources=[{folder}]", f"data.distort={distort}"]


def past(run: Path) -> Provenance:
    return load(run / "checkpoints/last.safetensors").provenance


def test_trained_on_a_then_on_b_has_seen_a(sets, tmp_path: Path) -> None:
    (a, in_a), (b, in_b), (_, in_c) = sets["a"], sets["b"], sets["c"]
    train([*NET, *live(a, "awgn(45)")], tmp_path / "a")
    train([*NET, *live(b), f"init={tmp_path / 'a'}"], tmp_path / "b")
    seen = past(tmp_path / "b")
    assert seen.holds(in_a) and seen.holds(in_b) and seen.holds(in_c) is False
    assert set(seen.confounders) == {"awgn(45)", "awgn(5)"}
    assert len(seen.parents) == 1 and "last.safetensors" in seen.parents[0]
    loaded = load(tmp_path / "b/checkpoints/last.safetensors")
    assert trained_on({}, loaded.metadata).labels == ("awgn(5)", "awgn(45)")
    train([*NET, *live(b, "awgn(9)"), f"init={tmp_path / 'b'}"], tmp_path / "c")
    assert past(tmp_path / "c").holds(in_a) and len(past(tmp_path / "c").parents) == 2


@pytest.mark.parametrize("way", [np.fliplr, np.flipud, np.rot90], ids=["left-right", "up-down", "turned"])
def test_a_mirrored_or_turned_image_is_known_again(way, sets, tmp_path: Path) -> None:
    folder, image = sets["a"]
    train([*NET, *live(folder)], tmp_path / "run")
    assert past(tmp_path / "run").holds(np.ascontiguousarray(way(image)))


def test_resuming_on_other_data_adds_to_the_record(sets, tmp_path: Path) -> None:
    for name in "ab":
        augment(
            [str(sets[name][0])],
            f"awgn({'5' if name == 'a' else '9'})",
            tmp_path / f"{name}.h5",
            tile=48,
            stride=48,
        )
    train([*NET, f"data.store={tmp_path / 'a.h5'}"], tmp_path / "run")
    words = [*NET, f"data.store={tmp_path / 'b.h5'}", "steps=2"]
    train(words, tmp_path / "run", resume=True, allow_changes=True)
    seen = past(tmp_path / "run")
    assert seen.holds(sets["a"][1]) and seen.holds(sets["b"][1])
    assert seen.confounders == ("awgn(5)", "awgn(9)")


def test_resuming_as_before_changes_nothing_in_the_record(sets, tmp_path: Path) -> None:
    words = [*NET, *live(sets["a"][0]), "checkpoint.every=1"]
    train(words, tmp_path / "run")
    before = past(tmp_path / "run").to_metadata()
    train([*words[:-1], "checkpoint.every=2"], tmp_path / "run", resume=True, allow_changes=True)
    assert past(tmp_path / "run").to_metadata() == before


def test_images_a_checkpoint_was_selected_by_are_seen(sets, tmp_path: Path) -> None:
    words = [*NET, *live(sets["a"][0]), f"validate.images=[{sets['c'][0]}]", "validate.crop=32"]
    train([*words, "validate.every=1"], tmp_path / "run")
    seen = past(tmp_path / "run")
    assert seen.holds(sets["c"][1]) and not seen.images.holds(sets["c"][1])


def test_weights_of_another_origin_leave_the_past_unknown(sets, tmp_path: Path) -> None:
    train([*NET, *live(sets["a"][0])], tmp_path / "a")
    net = load(tmp_path / "a/checkpoints/last.safetensors").net
    save_file(dict(net.state_dict()), tmp_path / "foreign.safetensors")
    train([*NET, *live(sets["b"][0]), f"init={tmp_path / 'foreign.safetensors'}"], tmp_path / "b")
    seen = past(tmp_path / "b")
    assert seen.unknown == ("parent unknown",)
    assert seen.holds(sets["b"][1]) and seen.holds(sets["a"][1]) is None


def test_any_number_of_images_is_kept() -> None:
    many = SeenImages(np.random.default_rng(0).integers(1, 2**63, 60_000).astype(np.uint64))
    image = np.random.default_rng(1).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    seen = Provenance(images=many) | Provenance(images=SeenImages([perceptual_hash(image)]))
    again = Provenance.from_metadata(seen.to_metadata())
    assert len(again.images) == 60_001 and again.holds(image)


def test_the_record_of_an_earlier_version_is_read() -> None:
    old = {"confounders": "awgn[5, 10] >> clip", "labels": ["awgn(5)>>clip"], "images": None}
    seen = Provenance.from_metadata(old)
    assert seen.confounders == ("awgn(5) >> clip",)
    assert seen.unknown == ("the images it was trained on",)
    listed = Provenance.from_metadata({**old, "images": [f"{77:016x}"]})
    assert listed.unknown == () and len(listed.images) == 1


def test_parts_of_a_checkpoint_and_frozen_parameters(sets, tmp_path: Path) -> None:
    train([*NET, *live(sets["a"][0]), "steps=2"], tmp_path / "a")
    start = load(tmp_path / "a/checkpoints/last.safetensors").net.state_dict()
    words = [*NET, *live(sets["b"][0]), "optim.lr=0.1"]
    init = f"init={{source: {tmp_path / 'a'}, only: [body.0.*]}}"
    train([*words, init, "freeze=[body.0.*]"], tmp_path / "b")
    found = load(tmp_path / "b/checkpoints/last.safetensors").net.state_dict()
    assert torch.equal(found["body.0.weight"], start["body.0.weight"])
    assert not torch.equal(found["body.2.weight"], start["body.2.weight"])
