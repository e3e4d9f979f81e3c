"""Protocols: named, versioned, printable, and flags for what must not be overlooked."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from dilkit.cli.app import app
from torch import nn
from typer.testing import CliRunner

from dilkit import evaluate
from dilkit.confounders.duplicates import SeenImages, perceptual_hash
from dilkit.distortions import confounder_set, parse
from dilkit.distortions.novelty import reached
from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import scores
from dilkit.evaluation.protocols import (
    PROTOCOLS,
    Protocol,
    check_manifest,
    check_protocol,
    find_protocol,
    find_sets,
    manifest,
    protocol_yaml,
    read_protocol,
    shipped_manifests,
    table,
)
from dilkit.evaluation.references import all_references, find_references
from dilkit.evaluation.tables import markdown, short_labels
from dilkit.inference.nets import Net
from dilkit.recipe import compose


@pytest.mark.parametrize("protocol", [PROTOCOLS.get(name) for name in PROTOCOLS], ids=PROTOCOLS.names)
def test_every_protocol_prints_parses_and_names_its_source(protocol: Protocol, tmp_path: Path) -> None:
    assert protocol.summary and protocol.source and protocol.sets
    for expression in filter(None, (protocol.distort, protocol.trained)):
        assert len(confounder_set(expression))
    path = tmp_path / "p.yaml"
    path.write_text(protocol_yaml(protocol))
    assert read_protocol(path) == protocol


HASHES = {
    "bsrgan": "0d78b64f",
    "corruptions-blur": "5becb4d0",
    "corruptions-noise": "999b84f0",
    "deblur-gaussian": "7d8a4547",
    "denoise-awgn": "08bbb773",
    "denoise-classic": "1d81cf37",
    "denoise-ood-15": "8ab9be2e",
    "denoise-types": "28a540a2",
    "denoise-unclipped": "1f409c19",
    "derain": "8b3d69f1",
    "hybrid": "459ccc17",
    "jpeg": "ba2cafdc",
    "real-denoise": "bb5c6db9",
    "real-esrgan": "d0629ab3",
    "real-polyu": "a7bc67d3",
    "real-sr": "67f414af",
    "unseen-40": "bd4c7237",
}


def test_numbers_do_not_change_without_a_version() -> None:
    """If this fails, raise the version of the protocol that changed, and note its new hash here."""
    ours = [PROTOCOLS.get(name) for name in PROTOCOLS if PROTOCOLS.origin(name) == "dilkit"]
    assert {p.name: p.hash for p in ours} == HASHES
    versions = {p.name: p.version for p in ours if p.version > 1}
    assert versions == {"bsrgan": 2, "denoise-awgn": 2, "hybrid": 3, "real-esrgan": 2}


def test_hybrid_degrees_are_defined_once() -> None:
    hybrid = PROTOCOLS.get("hybrid")
    assert hybrid.distort and hybrid.trained
    named = confounder_set("hybrid_mild | hybrid_moderate | hybrid_severe")
    assert confounder_set(hybrid.distort).hash == named.hash
    assert confounder_set(hybrid.trained).hash == parse("hybrid_severe").hash
    recipe = compose(["hybrid"]).recipe
    tested = confounder_set(recipe.test.distort)
    assert tested.hash == confounder_set("hybrid_mild | hybrid_moderate").hash


def test_forty_distortions_keep_the_size_and_none_is_a_change_of_nothing() -> None:
    from dilkit.evaluation.degrade import Degradation
    from dilkit.metrics import psnr

    words = confounder_set(PROTOCOLS.get("unseen-40").distort)
    assert len(words) == 40
    clean = np.random.default_rng(0).integers(40, 216, (24, 32, 3)).astype(np.uint8).repeat(7, 0).repeat(7, 1)
    degrade = Degradation(0, True, True)
    found = [degrade(clean, word) for word in words]
    assert all(image.shape == clean.shape and psnr(image, clean) < 60 for image in found)


def test_the_conformance_check_accepts_ours_and_refuses_a_silent_one() -> None:
    for name in PROTOCOLS:
        check_protocol(PROTOCOLS.get(name))
    with pytest.raises(UsageError, match="no source"):
        check_protocol(Protocol(name="mine", summary="mine", sets=("Set5",), distort="awgn(5)"))


def test_an_image_seen_in_selection_or_mirrored_is_a_leak_too() -> None:
    data = pictures()
    seen = SeenImages([perceptual_hash(np.ascontiguousarray(data["1.png"][:, ::-1]))]).to_json()
    none, own = SeenImages([]).to_json(), {"confounders": "awgn(5)", "labels": ["awgn(5)"]}
    words = confounder_set("awgn(5)")
    nets = [
        Net("trained", nn.Identity(), words, metadata={**own, "images": seen}),
        Net("selected", nn.Identity(), words, metadata={**own, "images": none, "selection": seen}),
        Net("unrecorded", nn.Identity(), words, metadata={**own, "images": None, "selection": none}),
    ]
    rows = evaluate(nets, data, "awgn(5)", clip=True, quantize=False, device="cpu")
    found = {(row.net, row.image): row.leak for row in rows.itertuples()}
    assert found["trained", "1.png"] and found["selected", "1.png"] and not found["selected", "2.png"]
    assert pd.isna(found["unrecorded", "1.png"])
    said = markdown(rows)
    assert "LEAK: selected has seen 1 of the test images in training or selection: 1.png" in said
    assert "PAST NOT KNOWN: what unrecorded saw" in said


def test_the_past_of_a_net_stands_under_its_table() -> None:
    none = SeenImages([]).to_json()
    own = {"confounders": "awgn(5)", "labels": ["awgn(5)"]}
    past = {**own, "images": none, "parents": ["old.safetensors 0a1b"], "unknown": ["parent unknown"]}
    nets = [
        Net("tuned", nn.Identity(), confounder_set("awgn(5)"), metadata=past),
        Net("plain", nn.Identity(), confounder_set("awgn(5)"), metadata={**own, "images": none}),
    ]
    said = markdown(evaluate(nets, pictures(), "awgn(5)", clip=True, quantize=False, device="cpu"))
    assert "tuned: initialised from old.safetensors 0a1b" in said
    assert "tuned: not known: parent unknown" in said
    assert "PAST NOT KNOWN: what tuned saw" in said and "plain: " not in said


def test_what_a_symmetry_reaches_has_a_word_of_its_own() -> None:
    none = SeenImages([]).to_json()
    recipe = {"model": {"equivariant": "contrast"}}
    nets = [
        Net("plain", nn.Identity(), confounder_set("awgn(5)"), metadata={"images": none}),
        Net(
            "symmetric", nn.Identity(), confounder_set("awgn(5)"), metadata={"images": none, "recipe": recipe}
        ),
    ]
    rows = evaluate(nets, pictures(), "awgn[5, 50] | jpeg(30)", clip=True, quantize=False, device="cpu")
    words = {(row.net, row.distortion): row.novelty for row in rows.itertuples()}
    assert words["plain", "awgn(50)"] == "degree" and words["symmetric", "awgn(50)"] == "reached"
    assert words["symmetric", "awgn(5)"] == "seen" and words["symmetric", "jpeg(30)"] == "type"
    assert set(rows.loc[rows["novelty"] == "reached", "reached_by"]) == {"contrast"}
    said = markdown(rows)
    assert "^ degree not trained on, reached from one that was by a symmetry (contrast)." in said
    assert "| mean, unseen degrees that are reached |" in said
    found = scores(rows, baseline="plain").set_index(["arm", "score"])["value"]
    assert found["symmetric", "reached"] == found["symmetric", "unseen degree"]
    assert ("plain", "reached") not in found.index


def test_a_net_has_the_symmetries_of_its_wrapper_its_orbits_and_its_turned_crops() -> None:
    data = {"symmetry": True, "orbit": [{"name": "gain"}, {"name": "contrast"}]}
    recipe = {"model": {"equivariant": "both"}, "data": {**data, "correlate": {"pixels": 0.5}}}
    net = Net("net", nn.Identity(), confounder_set("motion_blur(9)"), metadata={"recipe": recipe})
    assert net.symmetries == ("contrast", "scale", "gain", "square")
    words = {
        "motion_blur(15)": "scale",
        "motion_blur(9, angle=90)": "square",
        "motion_blur(9, angle=30)": None,
    }
    assert {w: reached(parse(w), net.trained, net.symmetries) for w in words} == words
    assert Net("other", nn.Identity(), net.trained).symmetries == ()


def test_real_pairs_are_measured_by_name(shared_data: Path) -> None:
    if not (shared_data / "real" / "PolyU").is_dir():
        pytest.skip("the real pairs of PolyU are not there")
    protocol = PROTOCOLS.get("real-polyu")
    rows = evaluate("input", find_sets(protocol, shared_data), **protocol.settings())
    assert len(rows) == 100 and set(rows["set"]) == {"PolyU"} and set(rows["distortion"]) == {"given"}
    assert rows["input_psnr"].mean() == pytest.approx(35.97, abs=0.005)
    assert check_manifest(rows)["PolyU"] == "100 of 100 images as in the manifest"


def test_printed_numbers_belong_to_protocols_and_are_found_by_what_was_tested() -> None:
    for printed in all_references():
        protocol = PROTOCOLS.get(printed.protocol)
        assert set(printed.values) <= set(protocol.sets)
        labels = ["given"] if protocol.distort is None else confounder_set(protocol.distort).labels
        assert all(set(own) <= set(labels) for own in printed.values.values())
    found = find_references("paper", ["CBSD68"], ["awgn(50)"])
    assert [(p.net, p.values["CBSD68"]["awgn(50)"]) for p in found] == [
        ("ERM", 18.96), ("DIL_sf", 26.64), ("DIL_pf", 26.61), ("DIL_ss", 24.63), ("DIL_ps", 23.34),
    ]  # fmt: skip
    (idf,) = (p for p in find_references("idf", ["PolyU"], ["given"]) if p.net == "IDF")
    assert idf.values["PolyU"]["given"] == 37.93
    with pytest.raises(UsageError, match="did you mean: paper"):
        find_references("papre", ["CBSD68"], ["awgn(50)"])


def test_a_changed_protocol_does_not_keep_its_name() -> None:
    protocol = PROTOCOLS.get("denoise-awgn")
    assert protocol.changed({"clip": True, "seed": None}) is protocol
    other = protocol.changed({"clip": False})
    assert other.name == "denoise-awgn-changed"
    assert other.hash != protocol.hash
    assert other.changed({"seed": 3}).name == "denoise-awgn-changed"


def test_sets_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test" / "Set5").mkdir(parents=True)
    (tmp_path / "CBSD68").mkdir()
    assert find_sets(PROTOCOLS.get("jpeg"), tmp_path) == [tmp_path / "test" / "Set5", tmp_path / "CBSD68"]
    with pytest.raises(UsageError, match="none of the sets"):
        find_sets(PROTOCOLS.get("derain"), tmp_path)
    monkeypatch.delenv("DILKIT_DATA", raising=False)
    with pytest.raises(UsageError, match="DILKIT_DATA"):
        find_sets(PROTOCOLS.get("jpeg"))


def pictures(count: int = 3) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (count, 6, 6, 3)).astype(np.uint8)
    return {f"{i}.png": np.ascontiguousarray(x.repeat(8, 0).repeat(8, 1)) for i, x in enumerate(coarse)}


def test_a_long_distortion_has_a_short_label_that_is_spelt_out_below() -> None:
    long = "gaussian_blur(1.5) >> awgn(25) >> clip >> jpeg(30) >> quantize"
    rows = evaluate("input", pictures(1), f"awgn(5) | {long}", clip=True, quantize=False)
    short = short_labels(rows)
    assert short["awgn(5)"] == "awgn(5)" and all(len(text) <= 28 for text in short.values())
    (label,) = set(short) - {"awgn(5)"}
    table = markdown(rows)
    assert f"| `{short[label]}` |" in table and f"{short[label]}: {label}." in table


def test_a_manifest_tells_the_same_set_from_another() -> None:
    rows = evaluate("input", pictures(), "awgn(5)", clip=True, quantize=False)
    known = manifest(rows)
    assert list(known["memory"]) == ["0.png", "1.png", "2.png"]
    assert check_manifest(rows, known) == {"memory": "3 of 3 images as in the manifest"}
    rows.loc[0, "pixels"] = "00"
    assert check_manifest(rows, known)["memory"].endswith("1 missing, 1 strange")
    assert check_manifest(rows, {}) == {"memory": "no manifest"}


def test_the_shipped_manifests_are_those_of_the_sets(shared_data: Path) -> None:
    assert {name: len(images) for name, images in shipped_manifests().items()} == {
        "CBSD68": 68,
        "PolyU": 100,
        "Set5": 5,
    }
    rows = evaluate("input", shared_data / "test" / "Set5", "clean", clip=True, quantize=False)
    assert check_manifest(rows) == {"Set5": "5 of 5 images as in the manifest"}


def test_a_test_image_that_was_in_training_is_flagged() -> None:
    data = pictures()
    resaved = np.clip(data["1.png"].astype(int) + 1, 0, 255).astype(np.uint8)
    hashes = [f"{perceptual_hash(resaved):016x}"]
    own = {"confounders": "awgn(5)", "labels": ["awgn(5)"]}
    nets = [
        Net("leaky", nn.Identity(), confounder_set("awgn(5)"), metadata={**own, "images": hashes}),
        Net("fair", nn.Identity(), confounder_set("awgn(5)"), metadata={**own, "images": []}),
        Net("silent", nn.Identity()),
    ]
    rows = evaluate(nets, data, "awgn(5)", clip=True, quantize=False, device="cpu")
    leaks = rows.pivot(index="image", columns="net", values="leak")
    assert leaks["leaky"].tolist() == [False, True, False]
    assert not leaks["fair"].any()
    assert leaks["silent"].isna().all()


def test_real_pairs_are_measured_as_they_are(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name, image in pictures().items():
        for folder, noise in (("clean", 0), ("noisy", 20)):
            (tmp_path / folder).mkdir(exist_ok=True)
            values = np.clip(image + random.normal(0, 1, image.shape) * noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(tmp_path / folder / name.replace("png", "bmp" if noise else "png")), values)
    known = Net("m", nn.Identity(), confounder_set("awgn(5)"))
    rows = evaluate(
        [known], tmp_path / "clean", inputs=tmp_path / "noisy", clip=True, quantize=False, device="cpu"
    )
    assert rows["distortion"].unique().tolist() == ["given"]
    assert rows["novelty"].unique().tolist() == ["type"]
    assert rows["psnr"].between(20, 25).all()
    (tmp_path / "noisy" / "1.bmp").unlink()
    with pytest.raises(UsageError, match="no distorted one"):
        evaluate([known], tmp_path / "clean", inputs=tmp_path / "noisy", clip=True, quantize=False)


def test_mistakes_in_protocols_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean: denoise-awgn"):
        find_protocol("denoise-agwn")
    for text, message in (
        ("name: x\ndistrot: awgn(5)\n", "did you mean: distort"),
        ("name: x\ndraws: 0\n", "draws"),
        ("- 1\n", "keys and values"),
        ("a: [\n", "not a YAML file"),
    ):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            find_protocol(str(tmp_path / "p.yaml"))


def test_the_command_lists_prints_and_uses_protocols(tmp_path: Path) -> None:
    def dilkit(*args: object) -> str:
        result = CliRunner().invoke(app, [str(a) for a in args], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    listed = dilkit("ls", "protocols")
    assert all(name in listed for name in PROTOCOLS)
    assert "awgn[5, 10, 15, 20, 30, 40, 50]" in dilkit("ls", "protocols", "denoise-awgn")
    sets = [tmp_path / name for name in PROTOCOLS.get("jpeg").sets]
    for folder in sets:
        folder.mkdir()
        cv2.imwrite(str(folder / "a.png"), pictures(1)["0.png"])
    whole = [x for folder in reversed(sets) for x in ("--data", folder)]
    out = dilkit("eval", "--protocol", "jpeg", *whole)
    assert f"protocol {PROTOCOLS.get('jpeg').title}" in out
    assert out.count("jpeg(") == 3 * 4
    assert "jpeg-changed" in dilkit("eval", "--protocol", "jpeg", *whole, "--quantize")
    assert "jpeg-changed" in dilkit("eval", "--protocol", "jpeg", "--data", sets[0])


def test_sets_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Set5").mkdir()
    cv2.imwrite(str(tmp_path / "Set5" / "a.png"), pictures(1)["0.png"])
    monkeypatch.setenv("DILKIT_DATA", str(tmp_path))
    made, rows = tmp_path / "table.md", tmp_path / "rows.json"
    args = ["eval", "--protocol", "jpeg", "--table", str(made), "--json", str(rows)]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    title = PROTOCOLS.get("jpeg").title
    assert "dilkit: not there, so not measured of jpeg: LIVE1, CBSD68" in result.stderr
    assert f"not measured of protocol {title}: LIVE1, CBSD68" in result.stdout.splitlines()
    assert f"not measured of protocol {title}: LIVE1, CBSD68" in made.read_text()
    assert json.loads(rows.read_text())["settings"]["not_measured"] == ["LIVE1", "CBSD68"]


def test_the_listing_is_short_where_presets_are_long() -> None:
    by_name = {line[0]: line for line in table(map(PROTOCOLS.get, PROTOCOLS))}
    assert by_name["real-esrgan"][3] == "real-esrgan-1 | real-esrgan-2"
    assert by_name["denoise-awgn"][3] == PROTOCOLS.get("denoise-awgn").distort
    listed = CliRunner().invoke(app, ["ls", "protocols"], catch_exceptions=False).stdout
    assert max(map(len, listed.splitlines())) < 300


@pytest.mark.parametrize("what", ["distortions", "metrics", "models", "objectives", "protocols"])
def test_everything_can_be_listed(what: str) -> None:
    result = CliRunner().invoke(app, ["ls", what], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 2


def test_scores_are_printed_against_a_baseline(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), pictures(1)["0.png"])
    args = ["eval", "input", "--data", str(tmp_path), "--distort", "awgn(5)", "--baseline", "input"]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert "worst 10 %, input" in result.stdout


def test_rows_keep_what_is_known_about_leaks(tmp_path: Path) -> None:
    from dilkit.evaluation.rows import read_rows, write_rows

    rows = evaluate("input", pictures(), "awgn(5)", clip=True, quantize=False)
    write_rows(rows, tmp_path / "rows.csv")
    pd.testing.assert_frame_equal(read_rows(tmp_path / "rows.csv"), rows)
