"""Figures say what the rows say."""

from __future__ import annotations

import pandas as pd
import pytest

from dilkit.errors import UsageError
from dilkit.report.plots import psnr_against_degree


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


def test_what_to_plot_is_asked_where_it_is_not_clear() -> None:
    two = pd.concat([rows(), rows().assign(type="jpeg", distortion="jpeg(5)")])
    with pytest.raises(UsageError, match="choose the type"):
        psnr_against_degree(two)
    assert "jpeg" in psnr_against_degree(two, type="jpeg").axes[0].get_xlabel()
    with pytest.raises(UsageError, match="choose the set"):
        psnr_against_degree(rows(), set="T")
