"""What is suggested in place of a misspelt name."""

from __future__ import annotations

import pytest

from dilkit.errors import nearest

OBJECTIVES = ["erm", "dil_sf", "dil_pf", "dil_ss", "dil_ps"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("dil_fs", "dil_sf"),
        ("dil_sp", "dil_ps"),
        ("dil_sff", "dil_sf"),
        ("emr", "erm"),
        ("nothing", None),
        ("DIL_SF", "dil_sf"),
    ],
)
def test_swapped_letters_come_before_others(name: str, meant: str | None) -> None:
    assert nearest(name, OBJECTIVES) == meant


def test_a_name_in_other_letters_case_is_the_nearest() -> None:
    assert nearest("AWGN", ["jpeg", "awgn", "poisson"]) == "awgn"
