"""Indices of invariance, where the answer is known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dilkit.distortions import confounder_set
from dilkit.errors import UsageError
from dilkit.evaluation.invariance import (
    calinski_harabasz,
    cka,
    equivariance_defect,
    features_of,
    gradient_agreement,
    indices,
    invariance,
    probe_accuracy,
    rank_correlations,
)
from dilkit.inference.nets import Net
from dilkit.models.equivariant import Contrast
from dilkit.report.plots import indices_over_layers

RANDOM = np.random.default_rng(0)


def made(content: float, distortion: float, noise: float = 0.1) -> np.ndarray:
    """(12 contents, 3 distortions, 20 features) with effects of given strength."""
    return (
        content * RANDOM.normal(size=(12, 1, 20))
        + distortion * RANDOM.normal(size=(1, 3, 20))
        + noise * RANDOM.normal(size=(12, 3, 20))
    )


def test_indices_tell_invariant_features_from_others() -> None:
    invariant, distorted = indices(made(1, 0)), indices(made(0, 1))
    assert invariant["cosine"] > 0.95 > 0.5 > distorted["cosine"]
    assert invariant["cka"] > 0.9 > 0.8 > distorted["cka"]
    assert invariant["by_content"] > 50 > 2 > invariant["by_distortion"]
    assert distorted["by_distortion"] > 50 > 2 > distorted["by_content"]
    assert invariant["probe"] < 0.6
    assert distorted["probe"] == 1


def test_a_collapsed_layer_looks_perfectly_invariant() -> None:
    collapsed = indices(np.ones((6, 3, 4)))
    assert collapsed["cosine"] == pytest.approx(1)
    assert collapsed["cka"] == 1
    assert collapsed["probe"] <= 0.34


def test_cka_does_not_see_rotations_and_scale() -> None:
    x = RANDOM.normal(size=(30, 5))
    q, _ = np.linalg.qr(RANDOM.normal(size=(5, 5)))
    assert cka(x, 3 * x @ q + 7) == pytest.approx(1)
    assert cka(x, RANDOM.normal(size=(30, 5))) < 0.6


def test_calinski_harabasz_by_its_definition() -> None:
    x = np.array([[0.0], [2.0], [10.0], [12.0]])
    # between: 2 (6-1)^2 + 2 (6-11)^2 = 100, one degree of freedom; within: 4, two degrees
    assert calinski_harabasz(x, np.array([0, 0, 1, 1])) == pytest.approx(100 / (4 / 2))


def test_the_probe_is_tested_on_contents_it_has_not_met() -> None:
    """A content's own features leak nothing about its distortion."""
    x = np.repeat(RANDOM.normal(size=(16, 1, 50)), 2, axis=1)
    assert probe_accuracy(x) == pytest.approx(0.5, abs=0.01)


class Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


def test_gradients_agree_or_not() -> None:
    clean = torch.full((2, 3, 8, 8), 0.5)
    brighter, darker = clean * 2, clean / 2
    assert gradient_agreement(Scale(), {"a": brighter, "b": brighter}, clean) == pytest.approx(1)
    assert gradient_agreement(Scale(), {"a": brighter, "b": darker}, clean) == pytest.approx(-1)


def test_the_equivariance_defect_is_nought_for_an_equivariant_net() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1))
    y = torch.rand(2, 3, 32, 32)
    assert equivariance_defect(Contrast(inner), y) < 1e-4
    assert equivariance_defect(inner, y) > 0.01


def test_features_come_in_the_order_they_say() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 3, 1))
    views = {"a": torch.rand(5, 3, 16, 16), "b": torch.rand(5, 3, 16, 16)}
    features, outputs = features_of(net, views, batch=2)
    assert list(features) == ["0", "2"]
    assert features["0"].shape == (5, 2, 2 * 16)
    pooled = nn.functional.adaptive_avg_pool2d(net[0](views["b"][3:4]), 4).flatten()
    np.testing.assert_allclose(features["0"][3, 1], pooled.detach().numpy(), rtol=1e-5)
    assert outputs["a"].shape == (5, 3, 16, 16)
    assert not net[0]._forward_hooks


def pictures() -> dict[str, np.ndarray]:
    coarse = RANDOM.integers(0, 256, (4, 5, 5, 3)).astype(np.uint8)
    return {f"{i}": x.repeat(8, 0).repeat(8, 1) for i, x in enumerate(coarse)}


def test_the_whole_table_and_its_correlations() -> None:
    torch.manual_seed(0)
    nets = [
        Net(f"n{k}", nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 3, padding=1)),
            confounder_set("awgn[5, 10]"))
        for k in range(4)
    ]  # fmt: skip
    found = invariance(nets, pictures(), "awgn[5, 10, 50]", crop=32, device="cpu")
    assert len(found.layers) == 4 * 2
    assert found.nets["seen_psnr"].notna().all() and found.nets["unseen_psnr"].notna().all()
    ranks = rank_correlations(found.layers, found.nets)
    defined = ranks["correlation"].dropna()  # an index that is equal for all nets has no rank correlation
    assert len(defined) >= 10
    assert defined.between(-1, 1).all()
    assert (ranks["nets"] == 4).all()
    assert len(indices_over_layers(found.layers).axes) == 5


def test_rank_correlation_of_an_order_that_is_known() -> None:
    layers = pd.DataFrame(
        [
            {"net": f"n{k}", "depth": d, "layer": f"{d}", "cosine": k, "cka": -k, "by_distortion": k == 2,
             "by_content": k, "probe": k}
            for k in range(6) for d in range(2)
        ]
    )  # fmt: skip
    nets = pd.DataFrame(
        {"net": [f"n{k}" for k in range(6)], "unseen_psnr": np.arange(6.0) ** 2, "seen_psnr": -np.arange(6.0),
         "gradient_cosine": 0.1 * np.arange(6), "equivariance_defect": 1.0 / (1 + np.arange(6))}
    )  # fmt: skip
    found = rank_correlations(layers, nets).set_index(["index", "layer"])["correlation"]
    assert found["cosine", "mean"] == pytest.approx(1)
    assert found["cka", "last but one"] == pytest.approx(-1)
    assert found["equivariance_defect", "net"] == pytest.approx(-1)


def test_too_little_is_refused() -> None:
    net = {"m": nn.Conv2d(3, 3, 3, padding=1)}
    with pytest.raises(UsageError, match="two distortions"):
        invariance(net, pictures(), "awgn(5)", crop=32)
    with pytest.raises(UsageError, match="0 images"):
        invariance(net, pictures(), "awgn[5, 10]", crop=64)
