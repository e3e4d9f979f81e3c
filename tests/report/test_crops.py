"""Crops beside each other: those of an unseen degree and of an unseen type, chosen by a rule."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dilkit
from dilkit.errors import UsageError
from dilkit.inference.nets import open_nets
from dilkit.models.noise_map import NoiseMap
from dilkit.report.crops import choose_crops, crop_pixels, unseen_crops
from dilkit.report.plots import crops_side_by_side, save_plots


def test_one_crop_of_an_unseen_degree_and_one_of_an_unseen_type_are_shown(tmp_path: Path) -> None:
    images = {name: dilkit.dead_leaves(0, k, 48) for k, name in enumerate("abc")}
    nets = {"a": torch.nn.Identity(), "b": torch.nn.Identity()}
    rows = dilkit.evaluate(nets, images, "awgn[5, 50] | jpeg(30)", clip=True, quantize=False, device="cpu")
    rows["novelty"] = rows["distortion"].map({"awgn(5)": "seen", "awgn(50)": "degree", "jpeg(30)": "type"})
    crops = unseen_crops(rows, open_nets(nets), images, rows.attrs["settings"], side=16)
    assert [crop.distortion for crop in crops] == ["awgn(50)", "jpeg(30)"]
    assert [name for name, *_ in crops[0].tiles] == ["clean", "input", "a", "b"]
    pixels = crop_pixels(crops[0].tiles[0][1])
    image = images[crops[0].image.rpartition("/")[2]]
    found = np.lib.stride_tricks.sliding_window_view(image, pixels.shape)
    assert pixels.shape == (16, 16, 3) and (found == pixels).all(axis=(-3, -2, -1)).any()
    figure = crops_side_by_side(crops)
    assert len(figure.axes) == 8 and figure.axes[3].get_title() == "clean"
    [path] = save_plots({"": figure}, tmp_path / "crops.png")
    assert path.stat().st_size > 1000


def test_a_net_that_is_told_the_degree_is_told_that_of_its_crop() -> None:
    class Told(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :3] * 0 + x[:, 3:]

    images, nets = {"a": dilkit.dead_leaves(0, 1, 48)}, {"told": NoiseMap(Told())}
    rows = dilkit.evaluate(nets, images, "awgn[0, 51]", clip=True, quantize=False, device="cpu")
    strong = rows[rows["degree"] == 51]
    nets["told"].degree = 0.0
    crop = choose_crops(strong, open_nets(nets), images, rows.attrs["settings"], side=16)[0]
    assert (crop_pixels(crop.tiles[2][1]) == 51).all()


def test_nothing_to_show_is_said() -> None:
    with pytest.raises(UsageError, match="nothing to show"):
        crops_side_by_side([])
