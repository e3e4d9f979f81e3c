"""`dilkit augment` and `dilkit inspect` as people call them."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from dilkit.cli.app import app, main
from dilkit.cli.augment import _make
from PIL import Image
from typer.testing import CliRunner

from dilkit.confounders.store import Store
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


def test_progress_counts_what_the_last_line_counts(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DILKIT_QUIET", raising=False)
    _make([str(pictures)], ["awgn(5)"], tmp_path / "x.h5", tile=16, stride=16)
    said = capsys.readouterr().err
    assert re.search(r"reading: 36/36 items, \d+ items/s\n", said)
    assert re.search(r"distorting: 36/36 items, \d+ items/s\n", said)
    assert "x.h5: 36 items from 4 images, 1 confounder" in said


def test_mistakes_are_usage_errors(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    cases = {
        "unknown distortion": ("augment", pictures, "-d", "awgm(5)", "-o", out),
        "sigma": ("augment", pictures, "-d", "awgn(-5)", "-o", out),
        "no such folder": ("augment", tmp_path / "nowhere", "-d", "awgn(5)", "-o", out),
        "exists already": ("augment", pictures, "-d", "awgn(5)", "-o", pictures / "0.png"),
        "cannot write": ("augment", pictures, "-d", "awgn(5)", "-o", pictures / "0.png" / "x.h5"),
        "workers": ("augment", pictures, "-d", "awgn(5)", "-o", out, "-j", -1),
        "--out is missing": ("augment", pictures, "-d", "awgn(5)"),
        "--distort is missing": ("augment", pictures, "-o", out),
        "such as 3/8": ("augment", pictures, "-d", "awgn(5)", "-o", out, "--shard", "3-8"),
        "change one dataset": ("augment", pictures, out, "--add", "awgn(5)"),
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


def test_shards_merge_and_edit(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "all.h5"
    for shard in ("1/2", "2/2"):
        dilkit("augment", pictures, "-d", "awgn(5)", "--tile", 16, "-j", 1, "-o", out, "--shard", shard)
    assert (tmp_path / "all.2-of-2.h5").exists()
    dilkit("augment", "--merge", "-o", out)
    assert "sound, 36 items" in dilkit("verify", out)
    said = json.loads(dilkit("inspect", out, "--json"))
    assert said["shards"] == ["all.1-of-2.h5", "all.2-of-2.h5"]
    assert said["clean"]["bytes"] == 36 * 16 * 16 * 3 and said["confounders"][0]["bytes"] == 36 * 16 * 16 * 12
    assert "all.2-of-2.h5" in dilkit("inspect", out)
    part = tmp_path / "all.1-of-2.h5"
    dilkit("augment", part, "--add", "jpeg(30)", "--drop", "awgn(5)", "-j", 1)
    assert [v["label"] for v in json.loads(dilkit("inspect", part, "--json"))["confounders"]] == ["jpeg(30)"]
    with pytest.raises(UsageError, match=r"not the file that was joined"):
        dilkit("verify", out)
    part.unlink()
    with pytest.raises(UsageError, match=r"no all.1-of-2.h5"):
        dilkit("inspect", out)


def test_looking_makes_no_dataset(pictures: Path, tmp_path: Path) -> None:
    from PIL import Image

    out, sheet = tmp_path / "x.h5", tmp_path / "sheet.png"
    words = ("augment", pictures, "-d", "awgn[5, 10]", "--tile", 16, "-o", out)
    said = dilkit(*words, "--dry-run")
    assert "36" in said and "awgn(10)" in said and "GB free" in said
    dilkit(*words, "--preview", sheet)
    width, height = Image.open(sheet).size
    assert width == 3 * 166 + 6 and height == 30 + 4 * 2 * 166 + 6
    assert not list(tmp_path.glob("x.h5*"))
    with pytest.raises(UsageError, match="a preview is a picture"):
        dilkit(*words, "--preview", tmp_path / "sheet.txt")


def test_a_sheet_that_is_too_wide_for_its_format_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    words = ("augment", "deadleaves:1@16", "-d", "awgn[1:100:1]", "--tile", 16, "--preview")
    with pytest.raises(DilkitError, match=r"sheet.webp: cannot write(.|\n)*16772 x 368 pixels(.|\n)*a .png"):
        dilkit(*words, tmp_path / "sheet.webp")
    dilkit(*words, tmp_path / "sheet.png")


def test_statistics_say_how_strong_each_distortion_is(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    dilkit("augment", pictures, "-d", "clean | awgn(25) | awgn(25) >> clip", "--tile", 0, "-j", 1, "-o", out)
    said = json.loads(dilkit("inspect", out, "--json", "--preview", tmp_path / "p.png"))
    found = {view["label"]: view["statistics"] for view in said["confounders"]}
    assert found["clean"]["psnr"] is None and found["clean"]["ssim"] == 1
    noisy, clipped = found["awgn(25)"], found["awgn(25)>>clip"]
    assert 24 < noisy["std"] < 26 and abs(noisy["bias"]) < 1 and noisy["outside"] > 0.01
    assert clipped["outside"] == 0 and clipped["std"] < noisy["std"] and clipped["low"] == 0
    assert 20 < noisy["psnr"] < 22
    assert (tmp_path / "p.png").stat().st_size > 1000


def test_verify_fails_on_a_flipped_byte(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    dilkit("augment", pictures, "-d", "awgn(5)", "--tile", 16, "-j", 1, "-o", out)
    data = bytearray(out.read_bytes())
    data[-10] ^= 1
    out.write_bytes(data)
    with pytest.raises(DilkitError, match="1 fault") as caught:
        dilkit("verify", out)
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_says_how_to_go_on(
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
) -> None:
    from dilkit.cli.augment import augment_command

    from dilkit.confounders import build as builder

    def interrupt(*_: object) -> None:
        signal.raise_signal(number)

    before = signal.getsignal(signal.SIGTERM)
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it

    monkeypatch.setattr(builder, "distort", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            augment_command(
                None,  # type: ignore[arg-type]
                [str(pictures)],
                ["awgn(5)"],
                out=tmp_path / "x.h5",
                tile=16,
                workers=1,
            )
    finally:
        signal.signal(signal.SIGINT, ours)
    assert "repeat the command to go on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_nobody_foresaw_is_one_line_not_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("dilkit.cli.app.app", fail)
    with pytest.raises(SystemExit) as stopped:
        main()
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert said.startswith("dilkit: unexpected ZeroDivisionError: by zero\n") and "--debug" in said
    assert "Traceback" not in said


def test_quiet_may_be_said_anywhere(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.environ", dict(os.environ))
    out = str(tmp_path / "x.h5")
    monkeypatch.setattr("sys.argv", ["dilkit", "augment", str(pictures), "-d", "clean", "-o", out, "-q"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert (stopped.value.code, *capsys.readouterr()) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ("--add jpeg(30) --dry-run", "--dry-run"),
        ("--drop awgn(5) --preview x.png", "--preview"),
        ("--add clean -o x.h5", "--out"),
        ("--merge --seed 3", "--seed"),
    ],
)
def test_no_option_is_taken_without_heed(store: Store, words: str, refused: str) -> None:
    before = store.path.read_bytes()
    with pytest.raises(UsageError, match=rf"does not go with it\n  found: +{refused}"):
        dilkit("augment", store.path, *words.split())
    assert store.path.read_bytes() == before


def test_a_dry_run_heeds_the_shard_and_says_why_nothing_can_be_read(pictures: Path, tmp_path: Path) -> None:
    assert "images     2\n" in dilkit("augment", pictures, "-d", "clean", "--shard", "1/2", "--dry-run")
    (tmp_path / "broken.png").write_bytes(b"")
    with pytest.raises(DilkitError, match=r"broken.png: the image file is empty"):
        dilkit("augment", tmp_path / "broken.png", "-d", "clean", "--dry-run")


def test_images_that_are_left_out_make_the_exit_code_1_unless_that_is_allowed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (pictures / "2.png").write_bytes(b"cut short")
    words = ["augment", str(pictures), "-d", "awgn(5)", "--tile", "16", "-j", "1"]
    for extra, code in (([], 1), (["--allow-missing"], 0)):
        out = tmp_path / f"{code}.h5"
        monkeypatch.setattr("sys.argv", ["dilkit", *words, *extra, "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == code
        said = capsys.readouterr().err
        assert "left out: pictures/2.png" in said and ("--allow-missing" in said) == bool(code)
        assert [name for name, _ in Store(out).left_out()] == ["pictures/2.png"]


def test_real_pairs_from_the_command_line(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "noisy").mkdir()
    for k in range(4):
        image = np.asarray(Image.open(pictures / f"{k}.png"))
        noise = np.random.default_rng(k).normal(0, 15, image.shape)
        noisy = np.clip(image + noise, 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / "noisy" / f"{k}.png")
    out = tmp_path / "x.h5"
    pairs = f"camera={pictures}:{tmp_path / 'noisy'}"
    dilkit("augment", "--pairs", pairs, "--tile", 0, "--crop-multiple", 8, "-j", 1, "-o", out)
    assert Store(out).labels == ("camera",)
    dilkit("augment", pictures, "-d", "awgn(5)", "--pairs", pairs, "--draws", 2, "--tile", 16, "-j", 1,
           "-o", tmp_path / "y.h5")  # fmt: skip
    both = Store(tmp_path / "y.h5")
    assert both.labels == ("awgn(5)", "camera") and both.draws("awgn(5)") == 2
    assert "camera" in dilkit("inspect", out) and "sound" in dilkit("verify", tmp_path / "y.h5")
