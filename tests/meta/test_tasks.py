"""Tasks side by side equal tasks one by one, and say why where they cannot be."""

import pytest
import torch
import torch.nn.functional as F
from meta_reference import relative_error
from torch import nn

import dilkit
from dilkit.errors import UsageError

torch.set_num_threads(1)


def net_of(*layers):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), *layers, nn.Linear(8, 2)).double()


def tasks(n=4, size=5):
    rng = torch.Generator().manual_seed(0)

    def batch():
        return (
            torch.randn(size, 3, generator=rng, dtype=torch.float64),
            torch.randn(size, 2, generator=rng, dtype=torch.float64),
        )

    return [(batch(), batch()) for _ in range(n)]


@pytest.mark.parametrize("inner", [0.1, torch.optim.Adam, [0.1, 0.05, 0.02], {"0": 0.1, "*": None}])
@pytest.mark.parametrize("norm", [nn.Tanh, lambda: nn.LayerNorm(8)])
def test_side_by_side_equals_one_by_one(inner, norm):
    net = net_of(norm())
    a = dilkit.meta.of(net).tasks(F.mse_loss, tasks(), inner=inner, steps=3, parallel=True)
    b = dilkit.meta.of(net).tasks(F.mse_loss, tasks(), inner=inner, steps=3, parallel=False)
    assert relative_error(a.grads, b.grads) <= 1e-11 and not a.note and not b.note
    assert a.inner.keys() == b.inner.keys() and a.outer.keys() == b.outer.keys()
    assert float(a.loss) == pytest.approx(float(b.loss), rel=1e-12)
    for x, y in zip(a.phi, b.phi, strict=True):
        assert relative_error(x, y) <= 1e-12


@pytest.mark.parametrize(
    ("layers", "kw", "note"),
    [
        ([nn.BatchNorm1d(8)], {}, "batch norm in training mode"),
        ([nn.Dropout(0.5)], {}, "dropout draws anew"),
        ([nn.Tanh()], {"inner": torch.tensor(0.1, requires_grad=True)}, "the inner optimiser is learnable"),
        ([nn.Tanh()], {"order": "fomaml"}, "order is asked for"),
    ],
)
def test_a_loop_says_why_it_is_one(layers, kw, note):
    net = net_of(*layers)
    got = dilkit.meta.of(net).tasks(F.mse_loss, tasks(), **kw)
    assert note in got.note and len(got.phi) == 4
    with pytest.raises(UsageError, match=note):
        dilkit.meta.of(net).tasks(F.mse_loss, tasks(), parallel=True, **kw)


def test_tasks_of_different_shapes_and_other_mistakes():
    net = net_of(nn.Tanh())
    assert "different shapes" in dilkit.meta.of(net).tasks(F.mse_loss, tasks(2) + tasks(1, size=3)).note
    with pytest.raises(UsageError, match=r"list of \(support, query\)"):
        dilkit.meta.of(net).tasks(F.mse_loss, [])
    held = net[0].weight
    with pytest.raises(UsageError, match="used from outside"):
        dilkit.meta.of(net).tasks(lambda m, b: F.mse_loss(m(b[0]), b[1]) + held.square().sum(), tasks())
