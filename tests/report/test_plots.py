"""Figures say what the rows say."""

from __future__ import annotations

import pandas as pd
import pytest

from dilkit.errors import UsageError
from dilkit.report.plots import psnr_against_degree
from dilkit.report.tables import markdown


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
    assert axes.get_xlabel() == "degree of jpeg"
    with pytest.raises(UsageError, match="nothing to plot"):
        psnr_against_degree(rows(), set="U")


def test_the_markdown_table_marks_what_was_not_trained_on() -> None:
    text = markdown(rows())
    assert "| `awgn(50)` | 10.00 / 0.5000 | 15.00 / 0.9000* | 16.00 / 0.9000* |" in text
    assert "| `awgn(5)` | 32.50 / 0.5000 | 37.50 / 0.9000 | 38.50 / 0.9000 |" in text
    assert "| mean, unseen degrees |  | **15.00** | **16.00** |" in text
