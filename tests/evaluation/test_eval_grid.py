"""The grid: rows first, the same for any threads and batches, and honest about what was trained on."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from dilkit import evaluate
from dilkit.distortions import SampleKey, confounder_set, parse, pixel_hash
from dilkit.errors import DilkitError, UsageError
from dilkit.evaluation.rows import (
    COLUMNS,
    KEY,
    SETTINGS,
    as_json,
    by_distortion,
    by_novelty,
    read_rows,
    write_rows,
)
from dilkit.evaluation.tables import markdown, remarks
from dilkit.inference.nets import Net
from dilkit.metrics import psnr, ssim


class Blur(nn.Module):
    """A net without weights: the mean over 3x3."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(nn.functional.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)


@pytest.fixture(scope="module")
def pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def smooth(h: int, w: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (h // 8 + 1, w // 8 + 1, 3)).astype(np.uint8)
        return coarse.repeat(8, 0).repeat(8, 1)[:h, :w]

    return {"a": smooth(32, 48), "b": smooth(48, 32), "c": smooth(32, 48)}


def nets() -> dict[str, Net]:
    trained = confounder_set("awgn[5, 10]")
    return {"blur": Net("blur", Blur(), trained), "input": Net("input", None)}


def run(pictures: dict, distort: str = "awgn[10, 50] | jpeg(10)", **change: object) -> pd.DataFrame:
    return evaluate(nets(), pictures, distort, **{"clip": True, "quantize": False, "device": "cpu", **change})


def test_a_row_per_net_image_distortion_and_draw(pictures: dict) -> None:
    rows = run(pictures, draws=2)
    assert list(rows.columns) == list(COLUMNS)
    assert len(rows) == 2 * 3 * 3 * 2
    assert not rows.duplicated(list(KEY)).any()
    assert rows["net"].unique().tolist() == ["blur", "input"]
    assert rows["image"].unique().tolist() == ["a", "b", "c"]


def test_every_number_can_be_made_again_by_hand(pictures: dict) -> None:
    rows = run(pictures, seed=3, draws=2)
    word = parse("awgn(50)")
    row = rows.query("net == 'blur' and image == 'b' and distortion == @word.label and draw == 1").iloc[0]
    clean = pictures["b"]
    key = SampleKey(3, pixel_hash(clean), 1)
    given = word.apply(clean.astype(np.float32) / np.float32(255), key).clip(0, 1)
    restored = Blur()(torch.from_numpy(given).permute(2, 0, 1)[None])[0].permute(1, 2, 0).numpy()
    assert row["input_psnr"] == psnr(given, clean)
    assert row["input_ssim"] == ssim(given, clean)
    assert row["psnr"] == psnr(restored, clean)
    assert row["ssim"] == ssim(restored, clean)
    assert (row["height"], row["width"], row["degree"]) == (48, 32, 50)


@pytest.mark.parametrize("change", [{"workers": 5}, {"batch": 4}, {"batch": 3, "workers": 1}])
def test_threads_and_batches_change_nothing(pictures: dict, change: dict) -> None:
    pd.testing.assert_frame_equal(run(pictures, draws=2), run(pictures, draws=2, **change))


def test_seed_and_draw_change_the_noise_and_nothing_else(pictures: dict) -> None:
    first, other = run(pictures, "awgn(50)", draws=2), run(pictures, "awgn(50)", draws=2, seed=1)
    assert (first["input_psnr"] != other["input_psnr"]).all()
    values = first.query("net == 'input'").pivot(index="image", columns="draw", values="psnr")
    assert (values[0] != values[1]).all()
    fixed = run(pictures, "jpeg(10)"), run(pictures, "jpeg(10)", seed=1)
    assert fixed[0]["psnr"].equals(fixed[1]["psnr"])


def test_clip_and_quantize_are_done_when_said(pictures: dict) -> None:
    given = {"distort": "awgn(50)", "measure": "float"}
    as_is = run(pictures, clip=False, **given)["input_psnr"].mean()
    clipped = run(pictures, **given)["input_psnr"].mean()
    rounded = run(pictures, quantize=True, **given)["input_psnr"].mean()
    assert as_is < clipped - 0.3
    assert 0 < abs(rounded - clipped) < 0.01


def test_seen_and_unseen_come_from_the_training_set(pictures: dict) -> None:
    rows = run(pictures, "awgn[10, 50] | jpeg(10) | clean")
    blur = rows[rows["net"] == "blur"].drop_duplicates("distortion").set_index("distortion")
    assert blur["novelty"].to_dict() == {
        "awgn(10)": "seen", "awgn(50)": "degree", "jpeg(10)": "type", "clean": "clean",
    }  # fmt: skip
    assert blur["seen"].to_dict() == {
        "awgn(10)": True, "awgn(50)": False, "jpeg(10)": False, "clean": False,
    }  # fmt: skip
    assert rows[rows["net"] == "input"]["seen"].isna().all()


def test_means_follow_from_rows(pictures: dict) -> None:
    rows = run(pictures)
    means = by_distortion(rows).set_index(["net", "distortion"])
    part = rows.query("net == 'blur' and distortion == 'awgn(50)'")
    cell = means.loc[("blur", "awgn(50)")]
    assert cell["psnr"] == pytest.approx(np.mean(part["psnr"]), abs=1e-12)
    assert cell["gain"] == pytest.approx(np.mean(part["psnr"] - part["input_psnr"]), abs=1e-12)
    assert cell["images"] == 3
    assert by_novelty(rows)["unseen degrees"]["blur"] == cell["psnr"]


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_rows_survive_a_file(pictures: dict, tmp_path: object, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    rows = run(pictures)
    path = tmp_path / f"deep/rows{suffix}"
    write_rows(rows, path)
    again = read_rows(path)
    pd.testing.assert_frame_equal(rows, again, check_exact=True)
    if suffix != ".csv":
        assert again.attrs[SETTINGS]["distort"] == rows.attrs[SETTINGS]["distort"]


def test_json_is_strict(pictures: dict) -> None:
    import json

    rows = run(pictures, "clean")
    assert np.isinf(rows["input_psnr"]).all()
    text = json.dumps(as_json(rows), allow_nan=False)
    assert json.loads(text)["rows"][0]["input_psnr"] == "inf"
    assert json.loads(text)["rows"][0]["degree"] is None


def test_wrong_input_is_refused(pictures: dict, tmp_path: object) -> None:
    with pytest.raises(UsageError, match="unknown distortion"):
        run(pictures, "agwn(5)")
    with pytest.raises(UsageError, match="awgn of a fixed sigma"):
        run(pictures, "speckle(0.02)", noise="legacy-numpy")
    with pytest.raises(UsageError, match="nothing to evaluate"):
        run({})
    with pytest.raises(UsageError, match="shape"):
        run({"grey": np.zeros((20, 20), np.uint8)})
    with pytest.raises(UsageError, match="no such"):
        evaluate({"m": Blur()}, tmp_path / "nowhere", "awgn(5)", clip=True, quantize=False)
    with pytest.raises(UsageError, match="evaluation rows"):
        (tmp_path / "x.csv").write_text("a,b\n1,2\n")
        read_rows(tmp_path / "x.csv")
    with pytest.raises(UsageError, match="not a format"):
        write_rows(run(pictures, "clean"), tmp_path / "rows.xlsx")


def test_a_net_that_fails_is_named_by_the_shape_it_failed_on(pictures: dict) -> None:
    with pytest.raises(DilkitError, match=r"\(1, 3, 32, 48\)"):
        evaluate({"m": nn.Conv2d(4, 4, 3)}, pictures, "awgn(5)", clip=True, quantize=False, device="cpu")
    with pytest.raises(DilkitError, match="RGB"):
        evaluate({"m": nn.Conv2d(3, 1, 3)}, pictures, "awgn(5)", clip=True, quantize=False, device="cpu")


def test_an_evaluation_cut_short_goes_on(pictures: dict, tmp_path: object) -> None:
    journal = tmp_path / "rows.part"

    def stop(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pictures, journal=journal, progress=stop)
    lines = journal.read_text().splitlines()
    assert len(lines) == 1 + 5 * 2
    journal.write_text("\n".join(lines)[:-30])  # as a kill would leave it

    seen: list[tuple[int, int]] = []
    again = run(pictures, journal=journal, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (5, 9)
    pd.testing.assert_frame_equal(again, run(pictures))
    assert not journal.exists()


def test_a_journal_of_another_evaluation_is_not_believed(pictures: dict, tmp_path: object) -> None:
    journal = tmp_path / "rows.part"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(pictures, journal=journal, progress=stop, seed=1)
    pd.testing.assert_frame_equal(run(pictures, journal=journal), run(pictures))


def test_further_metrics_are_columns(pictures: dict) -> None:
    pytest.importorskip("torchmetrics")
    large = {"a": np.tile(pictures["a"], (6, 4, 1))}
    rows = run(large, "awgn(50)", metrics=["ms_ssim"])
    assert list(rows.columns)[-2:] == ["ms_ssim", "input_ms_ssim"]
    assert ((rows["ms_ssim"] > 0.3) & (rows["ms_ssim"] < 1)).all()
    assert by_distortion(rows)["ms_ssim"].notna().all()
    with pytest.raises(UsageError, match="did you mean: ms_ssim"):
        run(pictures, metrics=["msssim"])
    with pytest.raises(UsageError, match=r"too small for ms_ssim(.|\n)*at least 176"):
        run(pictures, metrics=["ms_ssim"])
    edge = {name: np.tile(pictures["a"], (6, 4, 1))[:176, :side] for name, side in (("a", 176), ("b", 175))}
    assert run({"a": edge["a"]}, "awgn(5)", metrics=["ms_ssim"])["ms_ssim"].notna().all()
    with pytest.raises(UsageError, match="175x176"):
        run({"b": edge["b"]}, "awgn(5)", metrics=["ms_ssim"])


@pytest.mark.parametrize("metric", ["lpips", "dists"])
def test_a_metric_without_its_library_says_what_to_install(
    pictures: dict, metric: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UsageError, match="pip install torchvision"):
        run(pictures, metrics=[metric])


def test_a_net_that_never_fits_is_refused_and_one_that_sometimes_does_not_is_noted(pictures: dict) -> None:
    double = {"double": nn.Upsample(scale_factor=2)}
    settings = {"clip": True, "quantize": False, "device": "cpu"}
    with pytest.raises(UsageError, match=r"double: no output(.|\n)*64x96x3(.|\n)*32x48x3(.|\n)*downsample"):
        evaluate(double, pictures, "awgn(5)", **settings)
    rows = evaluate({**double, "input": "input"}, pictures, "awgn(5) | downsample(2)", **settings)
    note = "double: no value for 3 of 6 outputs, which are not finite or not of the clean image's size"
    assert note in remarks(rows)
    assert note in markdown(rows)


def test_large_images_are_restored_in_tiles(pictures: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    from dilkit.evaluation import grid
    from dilkit.inference.forward import Tiling

    whole = run(pictures, "awgn(50)")
    monkeypatch.setattr(grid, "LARGE", 100)
    monkeypatch.setattr(grid, "_LARGE_TILES", Tiling(16, 2, 2))
    pd.testing.assert_frame_equal(run(pictures, "awgn(50)"), whole, check_exact=False, atol=1e-3)


def test_a_larger_output_is_compared_with_the_clean_image(pictures: dict) -> None:
    from dilkit.evaluation.grid import Measurement
    from dilkit.metrics import Reference

    compare = Measurement("rgb", 0, "uint8", {})
    small = pictures["a"][::2, ::2].astype(np.float32) / 255
    assert np.isnan(compare.values(Reference(pictures["a"]), small)["psnr"])
    assert compare.values(Reference(pictures["a"]), small.repeat(2, 0).repeat(2, 1))["psnr"] > 10
