"""Nets that ship with dilkit: each is whole, opens without code of its own, and does what its card says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from dilkit.cli.app import app
from typer.testing import CliRunner

import dilkit
from dilkit import checkpoint
from dilkit.checkpoint import find_checkpoint
from dilkit.confounders.images import expand
from dilkit.distortions import SampleKey, as_float, confounder_set, parse
from dilkit.errors import UsageError
from dilkit.inference.nets import open_net, open_nets
from dilkit.metrics import psnr
from dilkit.models import from_config
from dilkit.recipe import compose, resolved, validate
from dilkit.recipe.layers import read_layer
from dilkit.training.assemble import initialise
from dilkit.zoo import DEFAULT, PREFIX, resolve, shipped_net, shipped_nets

ROOT = Path(__file__).resolve().parents[2]
FILES = {"net.safetensors", "recipe.yaml", "rows.csv", "log.csv", "card.md"}
NETS = sorted(shipped_nets())
MARGINS = {
    "denoise": ("awgn(25) >> clip", 4.0),
    "artifacts": ("jpeg(15)", 0.3),
    "deblur": ("gaussian_blur(1.5) >> clip >> quantize", 1.0),
    "derain": ("rain_heavy", 2.0),
    "real": ("awgn(10) >> clip >> jpeg(70)", 0.45),
}
"""A distortion for each net, and decibels that it gains at the least: about half of what was measured."""


def photograph() -> np.ndarray:
    """A crop of a photograph that no net of the zoo has seen."""
    [image] = [each for each in expand(["samples:test"]) if "chelsea" in each.name]
    return np.ascontiguousarray(as_float(image.load("refuse"))[60:188, 120:248])


@pytest.mark.skipif(not NETS, reason="no net ships yet")
def test_the_net_that_restores_by_default_is_there() -> None:
    assert DEFAULT in NETS


@pytest.mark.parametrize("name", NETS)
def test_every_net_is_whole(name: str) -> None:
    net = shipped_net(name)
    assert {path.name for path in net.folder.iterdir()} == FILES
    assert checkpoint.digest(net.checkpoint) == net.weights
    for word in ("## What it saw", "## Where it fails", "## Licence", "## How it was made", "dilkit train"):
        assert word in net.card, word
    assert net.licence in net.card
    assert len(pd.read_csv(net.folder / "log.csv")) > 10


@pytest.mark.parametrize("name", NETS)
def test_it_opens_without_trust_in_code_and_has_the_size_it_says(name: str) -> None:
    loaded = dilkit.load(PREFIX + name)
    assert sum(p.numel() for p in loaded.net.parameters()) == shipped_net(name).parameters
    assert all(torch.isfinite(p).all() for p in loaded.net.parameters())
    assert open_net(PREFIX + name).trained is not None


@pytest.mark.parametrize("name", NETS)
def test_its_recipe_makes_it_again(name: str) -> None:
    kept = validate(read_layer((shipped_net(name).folder / "recipe.yaml").read_text(), name).tree, name)
    assert resolved(kept) == resolved(dilkit.load(PREFIX + name).recipe)
    assert resolved(kept) == resolved(compose([f"zoo/{name}"]).recipe)


@pytest.mark.parametrize("name", NETS)
def test_it_was_trained_on_images_that_may_be_given_away(name: str) -> None:
    sources = dilkit.load(PREFIX + name).recipe.data.sources
    assert sources
    for image in expand(sources, limit=12):
        assert image.licence.startswith(("CC0", "public domain")), image.name
    assert not {i.stamp for i in expand(["samples:test"])} & {i.stamp for i in expand(["samples:free"])}


@pytest.mark.parametrize("name", NETS)
def test_its_rows_are_of_its_test_and_beat_every_other_method(name: str) -> None:
    rows = pd.read_csv(shipped_net(name).folder / "rows.csv")
    labels = set(confounder_set(shipped_net(name).test).labels)
    tested = rows[rows["distortion"].isin(labels)]
    means = tested.pivot_table("psnr", "distortion", "net")
    assert set(means.index) == labels
    assert not means.isna().any(axis=None)
    assert "input" in means
    assert tested.groupby(["net", "distortion"])["image"].agg(frozenset).nunique() == 1
    assert (means.idxmax(axis=1) == PREFIX + name).all(), means


@pytest.mark.parametrize("name", NETS)
def test_it_restores(name: str) -> None:
    text, margin = MARGINS[name]
    clean = photograph()
    bad = np.clip(parse(text).apply(clean, SampleKey(3, b"zoo" * 6)), 0, 1)
    with torch.no_grad():
        out = dilkit.load(PREFIX + name).net(torch.from_numpy(bad.transpose(2, 0, 1)[None].copy()))
    better = psnr(np.clip(out[0].numpy().transpose(1, 2, 0), 0, 1), clean) - psnr(bad, clean)
    assert better > margin


def test_a_name_of_the_zoo_stands_wherever_a_checkpoint_does() -> None:
    if not NETS:
        pytest.skip("no net ships")
    named = PREFIX + NETS[0]
    assert find_checkpoint(named) == resolve(named) == shipped_net(NETS[0]).checkpoint
    assert find_checkpoint(Path(named)) == resolve(named)
    assert set(checkpoint.read(named)[0]) == set(dilkit.load(named).net.state_dict())
    [net] = open_nets(named)
    assert net.label == named


@pytest.mark.parametrize("name", NETS)
def test_a_net_starts_from_one_of_the_zoo_and_keeps_its_past(name: str) -> None:
    recipe = compose([f"zoo/{name}", f"init={PREFIX}{name}"]).recipe
    net, shipped = from_config(recipe.model), dilkit.load(PREFIX + name)
    past = initialise(net, recipe.init)
    assert all((value == net.state_dict()[key]).all() for key, value in shipped.net.state_dict().items())
    assert past.images is not None
    assert not past.unknown
    [astronaut] = expand(["samples:free"], limit=1)
    assert past.holds(astronaut.load("refuse")) is True
    [chelsea] = [each for each in expand(["samples:test"]) if "chelsea" in each.name]
    assert past.selection is not None
    assert past.selection.holds(chelsea.load("refuse"))
    assert not past.images.holds(chelsea.load("refuse"))


def test_what_is_not_of_the_zoo_is_left_alone(tmp_path: Path) -> None:
    assert resolve("runs/denoise") == Path("runs/denoise")
    assert resolve(tmp_path / "zoo") == tmp_path / "zoo"


def test_a_name_that_the_zoo_has_not_is_told_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="no net called 'denoize'") as caught:
        dilkit.load("zoo:denoize")
    assert "dilkit ls nets" in str(caught.value.remedy)
    if "denoise" in NETS:
        assert caught.value.nearest == "denoise"


def test_the_whole_zoo_is_small() -> None:
    files = [path for path in (ROOT / "dilkit" / "zoo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix != ".pyc") < 6e6


def test_names_are_resolved_without_torch() -> None:
    script = "import sys; from dilkit.zoo import shipped_nets; shipped_nets(); print('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def run(*words: str) -> str:
    result = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    noisy = np.clip(parse("awgn(25)").apply(photograph(), SampleKey(3, b"zoo" * 6)), 0, 1)
    cv2.imwrite("photo.png", np.rint(255 * noisy[..., ::-1]))
    return Path("photo.png")


@pytest.mark.skipif(DEFAULT not in NETS, reason="the default net does not ship")
def test_restore_needs_no_net_and_shows_before_and_after(photo: Path) -> None:
    lines = run("restore", str(photo), "--preview", "--device", "cpu").splitlines()
    assert lines == ["restored/photo.png", "restored/preview/photo.denoise.png"]
    restored = cv2.imread(lines[0])[..., ::-1] / 255
    assert psnr(restored, photograph()) > psnr(cv2.imread(str(photo))[..., ::-1] / 255, photograph()) + 4
    sheet = cv2.imread(lines[1])
    assert sheet.shape == (150, 264, 3)
    assert (sheet[22:, :128] == cv2.imread(str(photo))).all()
    assert (sheet[22:, 136:] == cv2.imread(lines[0])).all()


@pytest.mark.skipif(DEFAULT not in NETS, reason="the default net does not ship")
def test_restore_takes_a_net_by_name_in_front_or_by_option(photo: Path) -> None:
    run("restore", str(photo), "--device", "cpu", "--out", "a")
    run("restore", f"zoo:{DEFAULT}", str(photo), "--device", "cpu", "--out", "b")
    run("restore", str(photo), "--net", DEFAULT, "--device", "cpu", "--out", "c")
    whole = [Path(f"{folder}/photo.png").read_bytes() for folder in "abc"]
    assert whole[0] == whole[1] == whole[2]


def test_ls_nets_lists_and_explains_them() -> None:
    listed = json.loads(run("ls", "nets", "--json"))
    assert [net["name"] for net in listed] == [PREFIX + name for name in shipped_nets()]
    for name in NETS:
        assert run("ls", "nets", name) == shipped_net(name).card
