"""IDF: its block against one written pixel by pixel from the paper's equations."""

import numpy as np
import pytest
import torch

from dilkit.errors import UsageError
from dilkit.meta.check import examine
from dilkit.models import build
from dilkit.models.idf import IDF, MEAN, SPREAD


def by_pixel(net: IDF, y: np.ndarray) -> np.ndarray:
    """One image (3, H, W), iteration by iteration and pixel by pixel."""
    mean, spread = np.array(MEAN)[:, None, None], np.array(SPREAD)[:, None, None]
    x, removed = (y - mean) * 0.5 / spread, None
    _, h, w = x.shape

    def unit(a: np.ndarray) -> np.ndarray:
        return a / (np.sqrt(np.mean(a**2)) + 1e-4)

    def conv(layer: torch.nn.Module, a: np.ndarray) -> np.ndarray:
        return layer(torch.from_numpy(a)[None])[0].detach().numpy()

    for k in range(net.iterations):
        reach = 2 - k % 2
        padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach)), "reflect" if reach == 2 else "constant")
        near = np.zeros((3, 9, h, w))
        for n, (i, j) in enumerate((i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
            a, b = reach * (1 + i), reach * (1 + j)
            near[:, n] = padded[:, a : a + h, b : b + w]
        alike = np.zeros((9, h, w))
        for n in range(9):
            for i in range(h):
                for j in range(w):
                    u, v = near[:, n, i, j], near[:, 4, i, j]
                    alike[n, i, j] = np.dot(
                        (u - u.mean()) / (u.std(ddof=1) + 1e-4), (v - v.mean()) / (v.std(ddof=1) + 1e-4)
                    )
        features = conv(net.features, unit(x))
        if removed is not None:
            moments = np.concatenate([removed.mean((1, 2)), removed.std((1, 2), ddof=1)])[:, None, None]
            features = features * conv(net.attention, unit(conv(net.statistics, moments)))
        logits = conv(net.predict, unit(np.concatenate([features, alike])))
        weights = np.abs(logits) ** net.power
        weights /= weights.sum(0) + 1e-4
        out = (near * weights).sum(1)
        removed, x = x - out, out
    return x * spread / 0.5 + mean


def test_it_is_the_published_iteration() -> None:
    torch.manual_seed(0)
    net = IDF(width=5, iterations=3).double().eval()
    y = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        found = net(y).numpy()
    for image, want in zip(found, y.numpy(), strict=True):
        np.testing.assert_allclose(image, by_pixel(net, want), rtol=1e-6, atol=1e-9)


def test_it_has_the_published_size_and_filters_with_weights_that_sum_to_one() -> None:
    net = build("idf").double()
    assert sum(p.numel() for p in net.parameters()) == 49_021  # "about 0.04 M"
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    weights = net.weights(x, net._patches(x, 1), None)
    assert (weights >= 0).all()
    assert weights.sum(1).max() <= 1 and weights.sum(1).mean() > 0.9


def test_in_training_each_step_keeps_a_random_share_and_in_use_none() -> None:
    net = build("idf", iterations=2, width=4)
    x = torch.rand(1, 3, 8, 8)
    torch.manual_seed(0)
    a, b = net(x), net(x)
    assert not torch.equal(a, b)
    net.eval()
    assert torch.equal(net(x), net(x))
    with pytest.raises(UsageError, match="middle"):
        build("idf", kernel=4)


def test_its_check_says_that_no_gradient_goes_through_the_correlation() -> None:
    torch.manual_seed(0)
    found = {f.name: f.verdict for f in examine(build("idf", width=4, iterations=2), (1, 3, 8, 8))}
    assert found.pop("derivatives") == "fail"
    assert "fail" not in found.values()
