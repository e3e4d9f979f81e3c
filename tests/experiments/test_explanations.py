"""What could explain who generalises is measured as its definition says, over the nets of a study."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dilkit.distortions import confounder_set
from dilkit.errors import UsageError
from dilkit.evaluation.grid import evaluate
from dilkit.evaluation.rows import write_rows
from dilkit.experiments.compare import compare
from dilkit.experiments.explanations import LANDSCAPE, explain_study, landscape
from dilkit.experiments.runs import TestPlan
from dilkit.inference.nets import Net, open_net
from dilkit.recipe import compose, resolved
from dilkit.training import train

WORDS = [
    "dncnn", "data.sources=['deadleaves:4@48']", "data.distort=awgn[5, 20]", "data.tile=48", "data.crop=16",
    "data.batch=1", "model.depth=3", "model.width=4", "model.norm=none", "hardware.device=cpu",
    "hardware.threads=1", "optim.name=sgd", "optim.schedule.name=constant",
]  # fmt: skip
IMAGES = "deadleaves:4@40"


def test_a_quadratic_in_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """f(y) = w y under L2: gradient, curvature, noise and distance follow by hand."""

    class Scale(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(torch.tensor([0.5]))

        def forward(self, y: torch.Tensor) -> torch.Tensor:
            return self.w * y

    def start(recipe: object) -> torch.nn.Module:
        made = Scale()
        made.w.data.fill_(2.0)
        return made

    monkeypatch.setattr("dilkit.experiments.explanations._start", start)
    recipe = compose([*WORDS, "loss=l2", "passes=2"]).recipe
    net = Net("scale", Scale(), confounder_set("awgn(0)"), metadata={"recipe": resolved(recipe)})
    found = landscape(net, IMAGES, crop=32, limit=3, clip=False, radius=0.1)
    from dilkit.distortions import as_float
    from dilkit.evaluation.testsets import find_images

    clean = torch.stack([torch.from_numpy(as_float(i.read())) for i in find_images(IMAGES)[:3]]).double()
    clean = clean[:, 4:36, 4:36]
    power = clean.square().mean((1, 2, 3))  # of an image; its loss is (w - 1)^2 power
    each, base, up = -power, 0.25 * power.mean(), 0.55**2 * power.mean()  # up: against the gradient's sign
    assert found["loss"] == pytest.approx(float(base), rel=1e-5)
    assert found["gradient_norm"] == pytest.approx(float(each.mean().abs()), rel=1e-5)
    assert found["step_noise"] == pytest.approx(float(each.var() / each.mean() ** 2), rel=1e-4)
    assert found["sharpness_ascent"] == pytest.approx(float(up / base - 1), rel=1e-4)
    assert found["distance"] == pytest.approx(0.75)
    assert math.isnan(found["gradient_cosine"])  # of one distortion
    assert net.module.w.item() == 0.5


def test_the_distance_is_from_where_the_run_began(tmp_path: Path) -> None:
    train(compose([*WORDS, "optim.lr=1e-30", "passes=4"]), tmp_path / "still")
    still = landscape(open_net(tmp_path / "still" / "checkpoints" / "last.safetensors"), IMAGES, crop=32)
    assert still["distance"] == 0.0
    train(compose([*WORDS, "optim.lr=0.01", "passes=4"]), tmp_path / "moved")
    moved = landscape(open_net(tmp_path / "moved" / "checkpoints" / "last.safetensors"), IMAGES, crop=32)
    assert moved["distance"] > 0.0


def test_along_a_run_the_distance_grows(tmp_path: Path) -> None:
    words = [*WORDS, "optim.lr=0.01", "passes=24", "checkpoint.every=4", "checkpoint.archive=4"]
    train(compose(words), tmp_path)
    found = explain_study(tmp_path, IMAGES, "awgn[5, 50]", crop=32, limit=3)
    assert found.nets["net"].is_monotonic_increasing
    assert found.nets["distance"].is_monotonic_increasing
    with pytest.raises(UsageError, match="no net to measure"):
        explain_study(tmp_path, IMAGES)


def test_rows_of_an_evaluation_beside_a_run_are_not_those_of_a_comparison(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(compose([*WORDS, "passes=4", "checkpoint.every=2", "checkpoint.archive=2"]), run)
    write_rows(evaluate(str(run), IMAGES, "awgn[5, 50]", clip=True, quantize=False), run / "rows.json")
    assert len(explain_study(run, IMAGES, "awgn[5, 50]", crop=32, limit=3).nets) == 1
    with pytest.raises(UsageError, match="no net to measure"):
        explain_study(tmp_path, IMAGES)


def test_a_loss_that_a_recipe_names_loads_no_weights_unless_it_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(compose([*WORDS, "passes=4"]), tmp_path)
    net = open_net(tmp_path)
    net.metadata["recipe"]["loss"] = "l1 + 0.1*perceptual"
    asked: list[object] = []
    monkeypatch.setattr("dilkit.losses._vgg", lambda device: asked.append(device) or torch.nn.Identity())
    with pytest.raises(UsageError, match="548 MB"):
        landscape(net, IMAGES, crop=32)
    assert not asked
    assert landscape(net, IMAGES, crop=32, trust_code=True)["loss"] > 0
    assert asked


def test_every_net_of_a_comparison_has_a_row_with_the_psnr_of_its_test(
    tmp_path: Path, coarse_pictures: Callable[[str, int, int], Path]
) -> None:
    test = TestPlan(str(coarse_pictures("ab", 6, 6)), "awgn[5, 50]")
    compared = compare(
        [*WORDS, "passes=4"], ["erm", "dil_sf"], tmp_path / "tier", test, seeds=5, device="cpu"
    )
    found = explain_study(tmp_path, IMAGES, crop=32, limit=3, device="cpu")
    assert found.nets.groupby("arm").size().to_dict() == {"erm": 5, "dil_sf": 5}
    means = compared.rows.query("distortion == 'awgn(50)'").groupby(["arm", "train_seed"])["psnr"].mean()
    for line in found.nets.to_dict("records"):
        seed = int(str(line["net"]).rpartition("-")[2])
        assert line["unseen_psnr"] == pytest.approx(means[line["arm"], seed])
    assert set(LANDSCAPE) <= set(found.correlations["index"])
    assert (found.correlations["p_holm"] >= found.correlations["p"]).all()
