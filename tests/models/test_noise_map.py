"""The non-blind ceiling is told the true degree, in training and in every measurement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dilkit.confounders.episodes import EpisodeSampler
from dilkit.confounders.live import LiveStore
from dilkit.errors import UsageError
from dilkit.evaluation.grid import evaluate
from dilkit.inference.nets import Net
from dilkit.models import build
from dilkit.models.noise_map import NoiseMap
from dilkit.recipe import compose
from dilkit.training import train
from dilkit.training.assemble import open_store
from dilkit.training.validation import Validation

WORDS = [
    "dncnn", "data.sources=['deadleaves:4@48']", "data.tile=48", "data.crop=16", "data.batch=1",
    "model.depth=3", "model.width=4", "model.norm=none", "hardware.device=cpu", "hardware.threads=1",
    "model.noise_map=true",
    "steps=2", "validate.every=1", "validate.images=['deadleaves:2@32']",
]  # fmt: skip


class Echo(torch.nn.Module):
    """Adds to the image what its fourth channel says."""

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y[:, :3] + y[:, 3:]


def test_in_training_each_view_comes_with_its_degree() -> None:
    store = LiveStore(["deadleaves:2@32"], "awgn[5, 20]", tile=32, stride=32)
    plain = EpisodeSampler(store, batch=2, crop=16).episode(3)
    told = EpisodeSampler(store, batch=2, crop=16, maps={"awgn(5)": 5.0, "awgn(20)": 20.0}).episode(3)
    for label, degree in (("awgn(5)", 5.0), ("awgn(20)", 20.0)):
        assert torch.equal(told.views[label][:, :3], plain.views[label])
        assert torch.equal(told.views[label][:, 3:], torch.full((2, 1, 16, 16), degree / 255))
    assert torch.equal(told.clean, plain.clean)


def test_in_a_measurement_each_input_comes_with_its_degree() -> None:
    rows = evaluate(
        Net("echo", NoiseMap(Echo())), "deadleaves:1@32", "awgn[0, 51]", clip=False, quantize=False
    )
    zero, strong = rows.sort_values("degree")["psnr"]
    assert zero == float("inf")
    assert strong < rows["input_psnr"].min()  # 51 / 255 was added everywhere


def test_in_validation_each_input_comes_with_its_degree() -> None:
    words = ["steps=1", "data.distort=strong = awgn(51) | clean", "validate.pictures=false"]
    recipe = compose([*WORDS[:-3], *words, "validate.images=['deadleaves:1@32']"]).recipe
    with open_store(recipe) as store:
        validation = Validation.of(recipe, store, store.labels)
    row, _ = validation.measure(NoiseMap(Echo()), torch.device("cpu"), torch.float32)
    assert row["val/clean"] == float("inf")
    assert row["val/strong"] < 13  # 51 / 255 of noise and the same again


def test_who_is_not_told_is_refused(tmp_path: Path) -> None:
    net = build("dncnn", depth=3, width=4, noise_map=True)
    with pytest.raises(UsageError, match="must be told"):
        net(torch.rand(1, 3, 8, 8))
    with pytest.raises(UsageError, match="noise_map goes without"):
        build("dncnn", noise_map=True, equivariant=True)
    with pytest.raises(UsageError, match="no one degree"):
        train(compose([*WORDS, "data.distort=awgn(uniform(5, 20))"]), tmp_path)


def test_a_held_out_distortion_of_no_one_degree_is_refused_before_a_step(tmp_path: Path) -> None:
    words = [*WORDS, "data.distort=awgn[5, 20]", "validate.held_out=awgn(uniform(30, 40))"]
    with pytest.raises(UsageError, match="no one degree"):
        train(compose(words), tmp_path)
    assert not (tmp_path / "run.json").exists()


def test_it_trains_and_is_validated(tmp_path: Path) -> None:
    train(compose([*WORDS, "data.distort=weak = awgn(5) >> clip | awgn(20) | clean"]), tmp_path)
    rows = evaluate(str(tmp_path), "deadleaves:1@32", "awgn[5, 50]", clip=True, quantize=False)
    assert rows["psnr"].notna().all()
