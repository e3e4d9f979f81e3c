"""`dilkit check`: the table a person acts on, and its exit code."""

import json
import subprocess
import sys

import pytest
import torch
from dilkit.cli.app import app
from test_refusals import Counting, InPlace, Listed, Private, Reentrant
from torch import nn
from typer.testing import CliRunner

from dilkit.errors import UsageError
from dilkit.meta.check import examine
from dilkit.meta.footprint import saved_activations

torch.set_num_threads(1)
SMALL = ["--size", "8", "--json"]


def check(*args, code=0):
    result = CliRunner().invoke(app, ["check", *args])
    assert result.exit_code == code, result.output
    return result.stdout


def verdicts(net, shape=(2, 3, 6, 6)):
    return {f.name: f.verdict for f in examine(net, shape)}


def test_a_built_in_is_trusted_and_its_costs_are_measured():
    out = json.loads(check("dncnn", "depth=3", "width=4", "--confounders", "2", *SMALL))
    assert out["trusted"] and out["mode"] == "train"
    found = {f["name"]: f for f in out["findings"]}
    assert found["buffers"]["verdict"] == "note"  # its batch norm
    assert found["adjoint"]["verdict"] == "ok"
    costs = {c["variant"]: c for c in out["costs"]}
    assert costs["erm"]["predicted_time"] == 2 and costs["dil_ps"]["predicted_time"] == 10
    assert costs["erm"]["activations"] == pytest.approx(1.0, abs=0.01)
    assert 1.2 < costs["dil_ss chain"]["activations"] < 2.5
    assert out["units"]["parameters"] > 0


def test_the_table_is_plain_text_and_eval_mode_is_judged_on_request():
    out = check("dncnn", "depth=3", "width=4", "--size", "8", "--eval", "--no-costs")
    assert "none move" in out and "Hessian products" in out


@pytest.mark.parametrize(
    ("cls", "finding"),
    [(Listed, "aliases"), (InPlace, "weights"), (Counting, "replay"), (Private, "replay"),
     (Reentrant, "adjoint")],
)  # fmt: skip
def test_what_cannot_be_trusted_fails(cls, finding):
    assert verdicts(cls())[finding] == "fail"


class SilentCopy(nn.Module):
    """Uses the numbers of a weight behind autograd's back."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        object.__setattr__(self, "held", [self.conv.weight])

    def forward(self, x):
        return torch.conv2d(x, self.held[0].detach()) + self.conv(x)


def test_a_detached_alias_is_found_by_its_values():
    assert verdicts(SilentCopy())["aliases"] == "fail"


def test_the_exit_code_is_one_for_an_untrusted_module():
    out = json.loads(check("test_refusals:Counting", *SMALL, code=1))
    assert not out["trusted"] and out["costs"] == []
    assert any(f["verdict"] == "fail" and f["remedy"] for f in out["findings"])


def test_a_size_the_net_refuses_is_a_finding():
    found = list(examine(nn.Linear(7, 7), (2, 3, 6, 6)))
    assert [f.verdict for f in found] == ["fail"]


def test_the_sizes_a_net_takes_are_found(tmp_path, monkeypatch):
    (tmp_path / "eights.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Conv2d):\n"
        "    def __init__(self):\n        super().__init__(3, 3, 1)\n"
        "    def forward(self, x):\n"
        "        assert not (x.shape[2] % 8 or x.shape[3] % 8)\n        return super().forward(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {f["name"]: f for f in json.loads(check("eights:Net", "--no-costs", *SMALL))["findings"]}
    assert "multiples of 8" in found["sizes"]["found"]
    found = {f["name"]: f for f in json.loads(check("dncnn", "depth=3", "--no-costs", *SMALL))["findings"]}
    assert found["sizes"]["found"] == "images of any size"


@pytest.mark.parametrize("args", [["dncn"], ["dncnn", "depth"], ["dncnn", "dept=3"], ["no.such:Net"]])
def test_mistakes_are_usage_errors(args):
    result = CliRunner().invoke(app, ["check", *args])
    assert isinstance(result.exception, UsageError)


def test_saved_bytes_count_a_storage_once():
    net = nn.Sequential(nn.Tanh(), nn.Tanh())
    x = torch.rand(10, requires_grad=True)
    assert saved_activations(net, lambda: net(x).sum().backward()) == 2 * 40

    def square() -> None:
        y = net[0](x)  # saved by tanh, and twice by the product
        (y * y).sum().backward()

    assert saved_activations(net, square) == 40


def test_help_loads_no_torch():
    code = (
        "import sys; from typer.testing import CliRunner; from dilkit.cli.app import app; "
        "r = CliRunner().invoke(app, ['check', '--help']); assert r.exit_code == 0, r.output; "
        "assert 'torch' not in sys.modules and 'Examples' in r.output"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_example_trains_a_net_that_is_not_ours():
    pytest.importorskip("unet", reason="the example's net comes from the package `unet`")
    from pathlib import Path

    example = Path(__file__).parents[2] / "docs" / "examples" / "foreign_net.py"
    out = subprocess.run(
        [sys.executable, "-W", "ignore", str(example), "--steps", "1"],
        check=True, capture_output=True, text=True, env={"OMP_NUM_THREADS": "1", "PATH": ""},
    ).stdout  # fmt: skip
    assert out.count("(unseen)") == 3


class WrongSecond(torch.autograd.Function):
    """A square whose backward forgets that it depends on the input."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0].detach() * g


class Misled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return WrongSecond.apply(self.conv(x))


def test_a_wrong_second_derivative_of_a_custom_function_is_found():
    assert verdicts(Misled())["derivatives"] == "fail"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dncnn", {"depth": 6, "width": 12}),
        ("dncnn", {}),
        ("unet", {"width": 6, "depth": 2}),
        ("nafnet", {"width": 4, "middle": 1, "encoder": (1, 1), "decoder": (1, 1)}),
        ("rrdb", {"width": 8, "growth": 4, "blocks": 1}),
        ("resunet", {"widths": (4, 6), "down": (1, 1), "up": (1,)}),
        ("swinir", {"width": 12, "depths": [2], "heads": [2], "window": 4}),
    ],
)
def test_every_built_in_model_passes(name, settings):
    from dilkit.models import MODELS
    from dilkit.models import build as build_model

    assert name in MODELS
    torch.manual_seed(0)
    net = build_model(name, **settings)
    found = list(examine(net.train(), (1, 3, 8, 8) if settings else (1, 3, 4, 4)))
    assert all(f.verdict != "fail" for f in found), [f for f in found if f.verdict == "fail"]


@pytest.mark.parametrize(
    "recipe",
    ["demo", "denoise-degrees", "denoise-ood-15"]
    + [
        f"{t}-small"
        for t in ("denoise-gaussian", "deblur-gaussian", "derain", "hybrid", "real-denoise", "real-sr")
    ],
)
def test_the_net_of_every_recipe_for_a_cpu_passes(recipe):
    from dilkit.models import from_config
    from dilkit.recipe import compose

    torch.manual_seed(0)
    net = from_config(compose([recipe, "data.store=some.h5"]).recipe.model)
    found = list(examine(net.train(), (1, 3, 8, 8)))
    assert all(f.verdict != "fail" for f in found), [f for f in found if f.verdict == "fail"]


def test_batch_norm_over_two_values_is_explained():
    """Why nets with 1 x 1 features under batch norm give a noisy meta-gradient, by any method."""

    class Squeezed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)
            self.out = nn.Conv2d(6, 3, 1)

        def forward(self, x):
            return x + self.out(self.norm(self.conv(x.mean((2, 3), keepdim=True))).tanh())

    found = {f.name: f for f in examine(Squeezed().train(), (2, 3, 6, 6))}
    assert found["batch norm"].verdict == "note" and "2 values a channel" in found["batch norm"].found
    assert all(f.verdict != "fail" for f in found.values())
    assert {f.name: f for f in examine(Squeezed().eval(), (2, 3, 6, 6))}["batch norm"].verdict == "ok"
