"""Plain mistakes with a net of one's own are told as such."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from dilkit.cli.app import main

from dilkit.errors import UsageError
from dilkit.models import build

NET = """
from torch import nn

class MyNet(nn.Conv2d):
    def __init__(self, width=8):
        super().__init__(3, 3, 1)
        if width == 13:
            raise TypeError("got an unexpected keyword from inside")

def nothing():
    return None

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "ownnet.py").write_text(NET)
    (tmp_path / "leaning.py").write_text("import no_such_package_here\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in ("ownnet", "leaning"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "ownnet:MyNet"


def refused(name: str, **args: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        build(name, args=args)
    return caught.value


def test_a_misspelt_argument_names_the_signature_and_the_nearest(own: str) -> None:
    error = refused(own, widht=4)
    assert (error.where, error.nearest, error.found) == ("model.args", "width", "widht=4")
    assert error.expected == "MyNet(width=8)"


def test_a_missing_argument_is_named() -> None:
    error = refused("torch.nn:Linear", out_features=3)
    assert "'in_features'" in error.message
    assert str(error.expected).startswith("Linear(in_features")
    assert "model.args.NAME=VALUE" in str(error.remedy)


def test_an_error_inside_the_constructor_is_not_swallowed(own: str) -> None:
    with pytest.raises(TypeError, match="from inside"):
        build(own, args={"width": 13})


def test_what_makes_no_net_is_refused(own: str) -> None:
    assert "not a torch.nn.Module" in refused("ownnet:number").message
    assert "has not been called" in refused("ownnet:nothing").message
    for name, message in (("number", "not a class or function"), ("nothing", "did not make")):
        with pytest.raises(UsageError, match=message):
            build(f"ownnet:{name}", args={}, trust_code=True)


def test_a_module_that_is_not_found_says_how_it_would_be(own: str) -> None:
    assert "PYTHONPATH=. dilkit" in str(refused("no_such_module_here:Net").remedy)
    assert "no_such_package_here" in str(refused("leaning:Net").remedy)
    assert "PYTHONPATH" not in str(refused("leaning:Net").remedy)


@pytest.mark.parametrize(
    "words",
    [
        ["check", "torch.nn:Linear"],
        ["train", "demo", "synthetic", "model.name=ownnet:MyNet", "model.args.widht=4"],
    ],
)
def test_the_commands_exit_2(
    words: list[str],
    own: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dilkit", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "model.args" in said
    assert "unexpected TypeError" not in said
