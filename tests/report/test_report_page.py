"""The report: one file, no network, readable without JavaScript; sorts and slides in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import pandas as pd
import pytest
import torch
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit import evaluate
from dilkit.checkpoint import save_weights
from dilkit.errors import DilkitError, UsageError
from dilkit.evaluation.bootstrap import scores
from dilkit.evaluation.rows import by_distortion, write_rows
from dilkit.evaluation.tables import signed
from dilkit.models import from_config
from dilkit.recipe import Recipe, resolved, to_yaml
from dilkit.report.page import build_report, render, verdict
from dilkit.report.plots import training_curves
from dilkit.report.runfolders import Material, collect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BROWSER = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
DISTORT = "awgn[5, 10, 50] | jpeg(20)"


@pytest.fixture(scope="module")
def pictures(coarse_pictures: Callable[[str, int, int], Path]) -> Path:
    return coarse_pictures("abc", 6, 8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    made = []
    for seed, name in enumerate(("erm", "dil<sf>")):
        model = {"name": "dncnn", "depth": 3, "width": 4, "norm": "none"}
        recipe = Recipe.model_validate({"steps": 3, "seed": seed, "model": model})
        torch.manual_seed(seed)
        run = folder / name
        (run / "checkpoints").mkdir(parents=True)
        notes = {"confounders": "awgn[5, 10]", "labels": ["awgn(5)", "awgn(10)"], "step": 3, "passes": 6}
        save_weights(run / "checkpoints" / "last.safetensors", from_config(recipe.model), None, recipe, notes)
        (run / "recipe.yaml").write_text(to_yaml(resolved(recipe)))
        command = ["dilkit", "train", "tiny", "data.store=a b.h5"]
        (run / "run.json").write_text(json.dumps({"command": command, "versions": {"torch": "2"}}))
        rows = [{"step": i, "passes": 2 * i, "loss": 0.1 / i, "seconds": i} for i in (1, 2, 3)]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
        made.append(run)
    return made


@pytest.fixture(scope="module")
def page(runs: list[Path], pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "report.html"
    args = ["report", *map(str, runs), "--data", str(pictures), "--distort", DISTORT, "--out", str(out),
            "--device", "cpu"]  # fmt: skip
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    return out


class Page(HTMLParser):
    """What a reader meets, and what a browser would fetch."""

    VOID = ("meta", "link", "img", "input", "br", "source")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.labelled: list[dict[str, str | None]] = []
        self.images: list[dict[str, str | None]] = []
        self.heads: list[str] = []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.sources += [found[a] or "" for a in ("src", "href", "srcset") if a in found]
        if tag == "img":
            self.images.append(found)
        if tag in ("input", "select", "svg"):
            self.labelled.append(found)
        if tag == "th":
            self.heads.append(found.get("scope") or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag


def test_one_file_that_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    read = Page(text)
    assert all(source.startswith(("data:", "#")) for source in read.sources)
    assert "http" not in re.sub(r"data:[^\"]*", "", text)
    assert "@import" not in text and "url(" not in text


def test_it_reads_without_javascript_and_to_a_screen_reader(page: Path) -> None:
    read = Page(page.read_text())
    assert all("alt" in image for image in read.images)
    assert all(field.get("aria-label") for field in read.labelled)
    assert set(read.heads) == {"col", "row"}
    text = re.sub(r"<script>.*", "", page.read_text(), flags=re.S)
    for said in ("What was trained on what", "awgn[5, 10]", "To make it again"):
        assert said in text
    assert "dilkit train tiny &#39;data.store=a b.h5&#39;" in text
    assert "dil&lt;sf&gt;" in text and "dil<sf>" not in text


def test_the_numbers_are_those_of_the_rows(page: Path, runs: list[Path], pictures: Path) -> None:
    nets = {"erm": str(runs[0] / "checkpoints/last.safetensors")}
    rows = evaluate(nets, pictures, DISTORT, clip=True, quantize=False, device="cpu")
    text = page.read_text()
    for row in by_distortion(rows).itertuples():
        mark = {"seen": "", "degree": "*", "type": "†"}[row.novelty]
        assert f">{row.psnr:.2f}{mark}<br><small>{row.ssim:.4f}<" in text


def test_the_intervals_are_those_that_eval_prints(page: Path, runs: list[Path], pictures: Path) -> None:
    nets = [str(run) for run in runs]
    rows = evaluate(nets, pictures, DISTORT, clip=True, quantize=False, device="cpu")
    text = " ".join(page.read_text().split())
    for row in scores(rows, baseline="erm").to_dict("records"):
        assert f"{row['value']:.2f} <small>[{row['low']:.2f}, {row['high']:.2f}]</small>" in text
        if row["arm"] != "erm":
            low, high = signed(row["difference_low"]), signed(row["difference_high"])
            assert f"{signed(row['difference'])}</span> <small>[{low}, {high}]" in text


def test_only_what_is_best_is_bold_the_input_included() -> None:
    cells = {("input", 5): 34.0, ("a", 5): 30.004, ("b", 5): 29.996, ("input", 50): 15.0, ("a", 50): 25.0,
             ("b", 50): 20.0}  # fmt: skip
    made = [
        {
            "net": net, "set": "S", "image": "x", "pixels": "", "height": 8, "width": 8,
            "distortion": f"awgn({degree})", "type": "awgn", "degree": float(degree), "draw": 0,
            "novelty": "seen", "seen": True, "leak": False, "psnr": cells[net, degree], "ssim": 0.9,
            "input_psnr": cells["input", degree], "input_ssim": 0.5,
        }
        for net in ("a", "b") for degree in (5, 50)
    ]  # fmt: skip
    text = render(Material([], pd.DataFrame(made)))
    bold = re.findall(r'<td data-value="[\d.]+" class="best">([^<]*)<br>', text)
    assert bold == ["34.00", "25.00"]


def test_the_verdict_says_what_the_rows_say(page: Path) -> None:
    (said,) = re.findall(r'<p class="verdict">(.*?)</p>', page.read_text())
    assert "unseen degrees" in said and "95 %" in said and "3 images" in said
    table = pd.DataFrame(
        [
            {"arm": arm, "set": "S", "score": score, "value": 20 + gain, "low": 19, "high": 22,
             "difference": gain, "difference_low": gain - 0.1, "difference_high": gain + 0.1}
            for arm, score, gain in (
                ("erm", "seen", 0.0), ("dil", "seen", -0.3), ("erm", "unseen degree", 0.0),
                ("dil", "unseen degree", 1.3),
            )
        ]
    )  # fmt: skip
    rows = pd.DataFrame({"set": ["S"] * 4, "image": list("abcd"), "novelty": "seen", "input_psnr": 10.0})
    assert verdict(table, rows, "erm") == [
        "dil is +1.30 dB (+1.20 to +1.40) over erm on unseen degrees, at -0.30 dB (-0.40 to -0.20) on"
        " seen ones (S, 4 images; 95 % intervals)."
    ]
    none = table.assign(difference_low=-1.0, difference=0.0)
    assert verdict(none, rows, "erm")[0].startswith("No arm is better than erm on unseen degrees beyond")


def test_crops_stand_side_by_side_with_the_clean_reference(page: Path) -> None:
    text = page.read_text()
    crops = re.findall(r'<figure class="crop">(.*?)</figure>', text, re.DOTALL)
    assert [re.findall(r"<figcaption>(\w+): ", crop) for crop in crops] == [["best"], ["median"], ["worst"]]
    for crop in crops:
        assert re.findall(r"<p>([^<]*)", crop) == ["clean", "input", "erm", "dil&lt;sf&gt;"]
        assert len(re.findall(r"<span>\d+\.\d\d dB</span>", crop)) == 3


HARNESS = """
<script>
const table = document.querySelectorAll("table.sorts")[1], heads = table.tHead.rows[0].cells;
const column = () => [...table.tBodies[0].rows].map((r) => +r.cells[2].dataset.value);
const said = [heads.length];
heads[2].firstElementChild.click(); said.push(heads[2].getAttribute("aria-sort"), column());
heads[2].firstElementChild.click(); said.push(heads[2].getAttribute("aria-sort"), column());
setTimeout(() => {
said.push([...document.images].every((i) => i.complete && i.naturalWidth > 0));
said.push([...document.querySelectorAll(".chart img")].map((i) => i.getBoundingClientRect().width > 200));
said.push(document.documentElement.clientWidth);
said.push(document.documentElement.scrollWidth - document.documentElement.clientWidth);
document.body.innerHTML = "<pre id=said></pre>";
document.getElementById("said").textContent = JSON.stringify(said);
}, 500);
</script>
"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
               *options, "--virtual-time-budget=4000", page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)


def in_browser(page: Path, folder: Path, width: int) -> list[Any]:
    copy = folder / "page.html"
    copy.write_text(page.read_text().replace("</body>", HARNESS + "</body>"))
    result = browse(copy, "--dump-dom", f"--window-size={width},1200")
    assert "CONSOLE" not in result.stderr, result.stderr
    (said,) = re.findall(r'<pre id="said">(.*?)</pre>', result.stdout)
    found: list[Any] = json.loads(said.replace("&lt;", "<").replace("&gt;", ">"))
    return found


@BROWSER
def test_it_renders_and_sorts_in_a_browser(page: Path, tmp_path: Path) -> None:
    columns, first, down, second, up, loaded, charts, _, beyond = in_browser(page, tmp_path, 1200)
    assert columns == 4
    assert (first, second) == ("descending", "ascending")
    assert down == sorted(down, reverse=True) and up == sorted(up)
    assert loaded and charts == [True] * 3
    assert beyond == 0


@BROWSER
def test_a_narrow_screen_does_not_scroll_sideways(page: Path, tmp_path: Path) -> None:
    *_, charts, width, beyond = in_browser(page, tmp_path, 390)
    assert width <= 500  # what a browser makes of the 390 asked for
    assert charts == [True] * 3 and beyond == 0


@BROWSER
def test_it_prints_on_a4_with_no_column_cut(page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "page.pdf"
    browse(page, f"--print-to-pdf={pdf}", "--no-pdf-header-footer")
    held = pdf.read_bytes()
    boxes = {
        tuple(round(float(v)) for v in box.split()) for box in re.findall(rb"/MediaBox \[([^\]]*)\]", held)
    }
    assert boxes == {(0, 0, 595, 842)} or boxes == {(0, 0, 594, 841)}
    copy = tmp_path / "printed.html"
    css = page.read_text().replace("@media print", "@media screen").replace("</body>", HARNESS + "</body>")
    copy.write_text(css)
    result = browse(copy, "--dump-dom", "--window-size=688,1000")  # A4 less 14 mm on either side
    (said,) = re.findall(r'<pre id="said">(.*?)</pre>', result.stdout)
    assert json.loads(said)[-1] == 0


@BROWSER
def test_light_and_dark_differ(page: Path, tmp_path: Path) -> None:
    shots = []
    for name, options in (
        ("light", ()),
        ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0")),
    ):
        shot = tmp_path / f"{name}.png"
        browse(page, f"--screenshot={shot}", "--window-size=800,900", *options)
        shots.append(cv2.imread(str(shot)).mean())
    assert shots[0] > 180
    assert shots[1] < 90


def test_a_report_of_rows_measured_before(runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    nets = {run.name: str(run / "checkpoints/last.safetensors") for run in runs}
    rows = evaluate(nets, pictures, "awgn[5, 50]", clip=True, quantize=False, device="cpu")
    path = tmp_path / "rows.json"
    write_rows(rows, path)
    args = [
        "report",
        *map(str, runs),
        "--rows",
        str(path),
        "--baseline",
        "erm",
        "--out",
        str(tmp_path / "r.html"),
    ]
    assert CliRunner().invoke(app, args, catch_exceptions=False).exit_code == 0
    assert "difference to erm" in (tmp_path / "r.html").read_text()
    assert "Before and after</h2>" not in (tmp_path / "r.html").read_text()
    assert "Pictures: crops are made from test images" in (tmp_path / "r.html").read_text()


def test_a_report_without_measurements_says_so_and_fails(runs: list[Path], tmp_path: Path) -> None:
    made = build_report(runs, tmp_path / "r.html")
    assert not made.measured
    text = made.path.read_text()
    assert "What was trained on what" in text and "Nothing was measured" in text
    assert "Measurements: no rows lie beside the runs" in text
    Page(text)
    with pytest.raises(DilkitError, match="holds no measurement"):
        CliRunner().invoke(
            app, ["report", str(runs[0]), "--out", str(tmp_path / "s.html")], catch_exceptions=False
        )
    assert (tmp_path / "s.html").is_file()


def test_a_comparison_shows_the_scores_it_computed(runs: list[Path], pictures: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compare"
    shutil.copytree(runs[0], folder / "erm")
    nets = {run.name: str(run) for run in runs}
    rows = evaluate(nets, pictures, "awgn[5, 50]", clip=True, quantize=False, device="cpu")
    write_rows(rows.assign(arm=rows["net"], train_seed=0), folder / "rows.csv")
    table = scores(rows, baseline="erm").assign(value=12.34)
    table.to_csv(folder / "scores.csv", index=False)
    write_rows(rows[rows["net"] == "erm"], folder / "erm" / "rows.json")
    out = tmp_path / "r.html"
    text = build_report([folder], out, data=pictures, baseline="erm").path.read_text()
    assert "Before and after</h2>" in text and "How the rows were measured is not recorded" not in text
    assert "--noise keyed --draws 1 --channel rgb --border 0 --measure uint8" in text
    assert "12.34 <small>" in text


def test_a_run_of_one_point_is_drawn() -> None:
    (axes,) = training_curves({"one": [(1, 0.5)], "nothing": [(1, float("nan"))]}).axes
    (line,) = axes.lines
    assert line.get_marker() not in ("None", "", None)
    assert training_curves({"nothing": [(1, float("nan"))]}) is None


def test_what_is_no_run_is_refused(tmp_path: Path, runs: list[Path]) -> None:
    with pytest.raises(UsageError, match="neither a run"):
        collect([tmp_path])
    with pytest.raises(UsageError, match="given twice"):
        collect([runs[0], runs[0]])
    with pytest.raises(UsageError, match="HTML"):
        args = ["report", str(runs[0]), "--out", str(tmp_path / "r.pdf")]
        CliRunner().invoke(app, args, catch_exceptions=False)


def test_parameters_are_counted_without_the_average_and_without_buffers(tmp_path: Path) -> None:
    model = {"name": "dncnn", "depth": 4, "width": 4, "norm": "batch"}
    recipe = Recipe.model_validate({"steps": 1, "model": model})
    net = from_config(recipe.model)
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    checkpoint = tmp_path / "run" / "checkpoints" / "last.safetensors"
    save_weights(checkpoint, net, torch.optim.swa_utils.AveragedModel(net), recipe, {"step": 1})
    (tmp_path / "run" / "recipe.yaml").write_text(to_yaml(resolved(recipe)))
    assert collect([tmp_path / "run"]).runs[0].parameters == sum(p.numel() for p in net.parameters())
