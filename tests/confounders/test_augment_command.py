"""`dilkit augment` and `dilkit inspect` as people call them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.errors import DilkitError, UsageError

runner = CliRunner()


def dilkit(*words: object) -> str:
    result = runner.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_augment_then_inspect(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "train.h5"
    printed = dilkit(
        "augment", pictures, "-d", "awgn[5, 10]", "-d", "clean", "--tile", 16, "-j", 1, "-o", out
    )
    assert printed == ""
    said = json.loads(dilkit("inspect", out, "--json"))
    assert said["expression"] == "clean | awgn[5, 10]"
    assert said["items"]["images"] == 4 and said["items"]["count"] == 4 * 3 * 3
    assert [view["label"] for view in said["confounders"]] == ["clean", "awgn(5)", "awgn(10)"]
    assert "awgn(10)" in dilkit("inspect", out)


def test_mistakes_are_usage_errors(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    cases = {
        "unknown distortion": ("augment", pictures, "-d", "awgm(5)", "-o", out),
        "sigma": ("augment", pictures, "-d", "awgn(-5)", "-o", out),
        "no such folder": ("augment", tmp_path / "nowhere", "-d", "awgn(5)", "-o", out),
        "exists already": ("augment", pictures, "-d", "awgn(5)", "-o", pictures / "0.png"),
        "cannot write": ("augment", pictures, "-d", "awgn(5)", "-o", pictures / "0.png" / "x.h5"),
        "workers": ("augment", pictures, "-d", "awgn(5)", "-o", out, "-j", -1),
        "no such dataset": ("inspect", out),
        "not a whole HDF5": ("inspect", pictures / "0.png"),
    }
    for message, command in cases.items():
        with pytest.raises(UsageError, match=message):
            dilkit(*command)
        assert not out.exists()


def test_nothing_readable_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    with pytest.raises(DilkitError, match=r"a\.png") as caught:
        dilkit("augment", tmp_path, "-d", "awgn(5)", "-o", tmp_path / "x.h5")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("command", ["augment", "inspect"])
def test_the_examples_in_the_help_parse(command: str) -> None:
    import typer

    from dilkit.distortions import parse

    group = typer.main.get_command(app)
    chosen = group.commands[command]  # type: ignore[attr-defined]
    examples = re.findall(r"`dilkit (.+?)`", chosen.epilog)
    assert examples
    for example in examples:
        name, *words = shlex.split(example)
        context = chosen.make_context(name, words)
        assert name == command
        for expression in context.params.get("distort") or []:
            parse(expression)
