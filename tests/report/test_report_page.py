"""The report: one file, no network, readable without JavaScript; sorts and slides in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import cv2
import pytest
import torch
from dilkit.cli.app import app
from typer.testing import CliRunner

from dilkit.checkpoint import save_weights
from dilkit.errors import UsageError
from dilkit.models import from_config
from dilkit.recipe import Recipe, resolved, to_yaml
from dilkit.report.page import Line, build_report, chart
from dilkit.report.runfolders import collect

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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

    VOID = ("meta", "link", "img", "input", "br", "rect", "line", "circle", "polyline", "polygon")

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
        self.sources += [found[a] or "" for a in ("src", "href") if a in found]
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
    assert set(read.heads) == {"col"}
    text = re.sub(r"<script>.*", "", page.read_text(), flags=re.S)
    for said in ("What was trained on what", "awgn[5, 10]", "seen in training", "To make it again"):
        assert said in text
    assert "dilkit train tiny &#x27;data.store=a b.h5&#x27;" in text
    assert "dil&lt;sf&gt;" in text and "dil<sf>" not in text


def test_the_numbers_are_those_of_the_rows(page: Path, runs: list[Path], pictures: Path) -> None:
    from dilkit.evaluation import evaluate
    from dilkit.evaluation.rows import by_distortion

    nets = {"erm": str(runs[0] / "checkpoints/last.safetensors")}
    rows = evaluate(nets, pictures, DISTORT, clip=True, quantize=False, device="cpu")
    text = page.read_text()
    for row in by_distortion(rows).itertuples():
        mark = {"seen": "", "degree": "*", "type": "†"}[row.novelty]
        assert f">{row.psnr:.2f} / {row.ssim:.4f}{mark}<" in text


def test_crops_are_chosen_by_rule(page: Path) -> None:
    text = page.read_text()
    assert [text.count(f"<figcaption>{rank}: ") for rank in ("best", "median", "worst")] == [1, 1, 1]
    assert text.count("<template") == 6


HARNESS = """
<script>
const heads = document.querySelectorAll("table.sorts")[1].tHead.rows[0].cells;
const body = document.querySelectorAll("table.sorts")[1].tBodies[0];
const column = () => [...body.rows].map((r) => +r.cells[2].dataset.value);
const said = [heads.length];
heads[2].firstElementChild.click(); said.push(heads[2].getAttribute("aria-sort"), column());
heads[2].firstElementChild.click(); said.push(heads[2].getAttribute("aria-sort"), column());
const figure = document.querySelector("figure.before-after");
const range = figure.querySelector("input"); range.value = 20; range.dispatchEvent(new Event("input"));
said.push(figure.querySelector(".pair").style.getPropertyValue("--at"));
const choice = figure.querySelector("select"), was = figure.querySelectorAll(".pair img")[1].src;
choice.selectedIndex = 1; choice.dispatchEvent(new Event("change"));
said.push(figure.querySelectorAll(".pair img")[1].src !== was, figure.querySelector("output").textContent);
const charts = [...document.querySelectorAll("svg")].map((s) => s.getBoundingClientRect().width > 200);
said.push(charts.length > 1 && charts.every(Boolean));
setTimeout(() => {
const loaded = [...document.images].every((i) => i.complete && i.naturalWidth > 0);
said.push(loaded, getComputedStyle(document.querySelector(".only-js")).display);
document.body.innerHTML = "<pre id=said></pre>";
document.getElementById("said").textContent = JSON.stringify(said);
}, 500);
</script>
"""


def browse(page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
               *options, "--virtual-time-budget=4000", page.as_uri()]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_it_renders_sorts_and_slides_in_a_browser(page: Path, tmp_path: Path) -> None:
    copy = tmp_path / "page.html"
    copy.write_text(page.read_text().replace("</body>", HARNESS + "</body>"))
    result = browse(copy, "--dump-dom")
    assert "CONSOLE" not in result.stderr, result.stderr
    (said,) = re.findall(r'<pre id="said">(.*?)</pre>', result.stdout)
    columns, first, down, second, up, at, changed, name, charts, loaded, shown = json.loads(
        said.replace("&lt;", "<").replace("&gt;", ">")
    )
    assert columns == 4
    assert (first, second) == ("descending", "ascending")
    assert down == sorted(down, reverse=True) and up == sorted(up)
    assert at == "20"
    assert changed and name.startswith("dil<sf>: ")
    assert charts and loaded
    assert shown == "block"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
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
    from dilkit.evaluation import evaluate, write_rows

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
    assert "minus erm" in (tmp_path / "r.html").read_text()
    assert "Before and after" not in (tmp_path / "r.html").read_text()


def test_a_report_without_rows_still_says_what_was_trained(runs: list[Path], tmp_path: Path) -> None:
    text = build_report(runs, tmp_path / "r.html").read_text()
    assert "What was trained on what" in text and "Results" not in text
    Page(text)


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


def test_charts_survive_odd_values() -> None:
    assert chart([Line("a", [1, 2], [float("nan"), float("inf")])], title="t", x="x", y="y") == ""
    one = chart([Line("a", [1], [5.0])], title="t", x="x", y="y", shaded=(1, 1))
    assert "NaN" not in one and "nan" not in one
    assert "<circle" in chart([Line("a", [1, 2], [0.001, 10.0])], title="t", x="x", y="y", log=True)
