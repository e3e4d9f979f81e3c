"""Figures say what the rows say."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from dilkit.errors import UsageError
from dilkit.evaluation.bootstrap import scores
from dilkit.evaluation.references import Printed
from dilkit.evaluation.tables import markdown
from dilkit.report.plots import (
    degree_title,
    figures_of_rows,
    gain_by_distortion,
    psnr_against_degree,
    save_plots,
    scores_of_arms,
)


def rows() -> pd.DataFrame:
    made = [
        {
            "net": net, "set": "S", "image": image, "pixels": "", "height": 8, "width": 8,
            "distortion": f"awgn({degree})", "type": "awgn", "degree": float(degree), "draw": 0,
            "novelty": "seen" if degree <= 20 else "degree", "seen": degree <= 20,
            "psnr": 40 - degree / 2 + bonus, "ssim": 0.9, "input_psnr": 35 - degree / 2, "input_ssim": 0.5,
        }
        for net, bonus in (("a", 0), ("b", 1)) for image in "xy" for degree in (50, 5, 20)
    ]  # fmt: skip
    return pd.DataFrame(made)


def test_a_curve_per_net_the_input_and_the_seen_range() -> None:
    figure = psnr_against_degree(rows())
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {"input", "a", "b"}
    assert lines["b"].get_xdata().tolist() == [5, 20, 50]
    assert lines["b"].get_ydata().tolist() == [38.5, 31, 16]
    (shade,) = axes.patches
    assert (shade.get_x(), shade.get_x() + shade.get_width()) == (5, 20)


def test_a_panel_per_set_and_type() -> None:
    two = pd.concat([rows(), rows().assign(type="jpeg", distortion="jpeg(5)"), rows().assign(set="T")])
    assert len(psnr_against_degree(two).axes) == 3
    (axes,) = psnr_against_degree(two, type="jpeg").axes
    assert axes.get_xlabel() == "quality of jpeg"
    with pytest.raises(UsageError, match="nothing to plot"):
        psnr_against_degree(rows(), set="U")


def test_the_axis_names_the_unit_and_the_stronger_end() -> None:
    means = pd.DataFrame({"degree": [5.0, 50.0], "input_psnr": [34.0, 15.0]})
    assert degree_title("awgn", means) == "sigma of awgn (1/255), stronger to the right"
    weak = pd.DataFrame({"degree": [10.0, 90.0], "input_psnr": [26.0, 36.0]})
    assert degree_title("jpeg", weak) == "quality of jpeg, stronger to the left"
    said = "degree of gaussian_blur>>awgn, stronger to the right"
    assert degree_title("gaussian_blur>>awgn", means) == said


def test_lines_that_would_cover_the_input_are_drawn_as_gains() -> None:
    close = rows().assign(psnr=lambda x: x["input_psnr"] + 0.2)
    (axes,) = psnr_against_degree(close).axes
    assert axes.get_ylabel() == "gain over the input (dB)"
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert lines["input"] == pytest.approx([0, 0, 0]) and lines["a"] == pytest.approx([0.2, 0.2, 0.2])


def test_a_plot_without_an_ending_is_written_for_screen_and_for_print(tmp_path: Path) -> None:
    paths = save_plots({"": psnr_against_degree(rows())}, tmp_path / "d" / "psnr")
    assert [path.name for path in paths] == ["psnr.png", "psnr.svg"] and all(p.stat().st_size for p in paths)
    two = {"": psnr_against_degree(rows()), "-more": gain_by_distortion(rows())}
    assert save_plots(two, tmp_path / "p.pdf") == [tmp_path / "p.pdf", tmp_path / "p-more.pdf"]
    with pytest.raises(UsageError, match="not a format"):
        save_plots(two, tmp_path / "psnr.gif")


def test_every_distortion_is_in_one_of_the_figures() -> None:
    jpeg = rows().query("degree == 5").assign(type="jpeg", distortion="jpeg(5)")
    chain = rows().query("degree == 5").assign(type="a>>b", distortion="a>>b", degree=float("nan"))
    figures = figures_of_rows(pd.concat([rows(), jpeg, chain], ignore_index=True))
    assert list(figures) == ["", "-distortions"]
    (axes,) = figures["-distortions"].axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["jpeg(5)", "a>>b"]
    assert "better to the right" in axes.get_xlabel()
    assert list(figures_of_rows(chain)) == [""]
    with pytest.raises(UsageError, match="nothing to plot"):
        figures_of_rows(rows().assign(net="input", degree=5.0))


def test_scores_of_arms_are_drawn_with_their_intervals() -> None:
    table = scores(rows().assign(leak=False), baseline="a")
    figure = scores_of_arms(table)
    assert [axes.get_xlabel().split(" (")[0] for axes in figure.axes] == list(dict.fromkeys(table["score"]))


def test_printed_numbers_stand_in_columns_of_their_own() -> None:
    printed = Printed("paper", "DIL", "denoise-awgn", "A paper", "a net", {"S": {"awgn(50)": 26.64}})
    text = markdown(rows(), [printed])
    assert "| distortion | input | a | b | DIL [paper] |" in text
    assert "| 16.00 / 0.9000* | 26.64 |" in text
    assert "[paper] A paper: a net; protocol denoise-awgn; printed there, not measured here" in text


def test_the_markdown_table_marks_what_was_not_trained_on() -> None:
    text = markdown(rows())
    assert "| `awgn(50)` | 10.00 / 0.5000 | 15.00 / 0.9000* | 16.00 / 0.9000* |" in text
    assert "| `awgn(5)` | 32.50 / 0.5000 | 37.50 / 0.9000 | 38.50 / 0.9000 |" in text
    assert "| mean, unseen degrees |  | 15.00 | **16.00** |" in text
