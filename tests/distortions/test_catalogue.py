"""`dilkit ls distortions|presets` and what they say."""

from __future__ import annotations

import json
import re

import pytest
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.distortions import REGISTRY, confounder_set, distortions, parse
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError


def dilkit(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize("name", REGISTRY.names)
def test_every_distortion_is_explained(name):
    kind = REGISTRY.get(name)
    said = kind.describe()
    assert said["summary"].endswith(".")
    assert said["source"]
    assert all(row["meaning"] and row["takes"] for row in said["parameters"])
    assert parse(said["write"]).steps[0].name == name
    assert set(kind.localities.split(" or ")) <= {"point", "halo", "global"}
    json.dumps(said)


@pytest.mark.parametrize("kind", distortions(), ids=str)
def test_the_set_of_an_example_has_a_text(kind):
    alone = confounder_set(kind(**kind.example()))
    assert confounder_set(str(alone)) == alone


def test_the_lists():
    said = dilkit("ls", "distortions")
    assert all(re.search(rf"^{name} ", said, re.M) for name in REGISTRY.names)
    said = dilkit("ls", "presets")
    assert all(re.search(rf"^{name} ", said, re.M) for name in PRESETS)
    assert {row["name"] for row in json.loads(dilkit("ls", "distortions", "--json"))} == set(REGISTRY.names)


def test_one_is_explained():
    said = dilkit("ls", "distortions", "awgn")
    for part in ("sigma", "a number from 0 to 255", "default 'colour'", "locality   point", "0..255"):
        assert part in said
    said = json.loads(dilkit("ls", "presets", "hybrid-mild", "--json"))
    assert parse(said["expression"]) == parse("hybrid-mild").named("")
    assert "RL-Restore" in said["source"]
    assert "expression speckle(0.024, law='uniform')" in dilkit("ls", "presets", "masked_speckle")
    assert dilkit("ls", "distortions", "bsrgan") == dilkit("ls", "presets", "bsrgan")


def test_what_there_is_not():
    with pytest.raises(UsageError, match=r"did you mean: awgn\?"):
        dilkit("ls", "distortions", "awng")
    with pytest.raises(UsageError, match=r"did you mean: bsrgan\?"):
        dilkit("ls", "presets", "bsrgam")
    with pytest.raises(UsageError, match="none is explained"):
        dilkit("ls", "models", "dncnn")


def test_the_examples_of_the_help_work():
    from dilkit.cli import ls

    examples = re.findall(r"`dilkit (.+?)`", ls.EPILOG)
    assert len(examples) > 3
    for words in examples:
        assert dilkit(*words.split())
