"""What is tested on is neither trained on nor selected by, by the rule that evaluation has."""

from __future__ import annotations

import subprocess
import sys

import pytest

from dilkit.errors import UsageError
from dilkit.recipe import compose, refuse_leaks

SAME = [
    ("awgn(5)>>clip", "awgn(5)"),
    ("awgn(5)", "awgn(5)>>clip>>quantize"),
    ("awgn(uniform(0,10))", "awgn(5)>>clip"),
    ("mix(awgn(5),poisson(1))>>clip", "poisson(1)"),
    ("awgn[5,10]", "awgn[10,50]"),
]
OTHER = [
    ("awgn(5)>>clip", "awgn(6)"),
    ("awgn(5)", "awgn(uniform(0,10))"),
    ("awgn(5)", "gaussian_blur(1)>>awgn(5)"),
    ("awgn(5)", "poisson(1)"),
]


@pytest.mark.parametrize(("trained", "tested"), SAME)
def test_what_evaluation_calls_seen_is_refused(trained: str, tested: str) -> None:
    recipe = compose(["demo", f"test.distort={tested}"]).recipe
    with pytest.raises(UsageError, match="unseen and trained on") as caught:
        refuse_leaks(recipe, trained)
    assert caught.value.where == "test.distort"
    held = ["demo", "validate.every=5", f"validate.held_out={trained}", f"test.distort={tested}"]
    with pytest.raises(UsageError, match="select on the test"):
        compose(held)


@pytest.mark.parametrize(("trained", "tested"), OTHER)
def test_what_evaluation_calls_new_is_not(trained: str, tested: str) -> None:
    refuse_leaks(compose(["demo", f"test.distort={tested}"]).recipe, trained)


def test_a_held_out_value_that_the_test_can_draw_is_refused() -> None:
    with pytest.raises(UsageError, match="select on the test") as caught:
        compose(
            ["demo", "validate.every=5", "validate.held_out=awgn(5)", "test.distort=awgn(uniform(0, 10))"]
        )
    assert "awgn(5)" in str(caught.value.found)


def test_comparing_does_not_load_torch() -> None:
    code = (
        "import sys\nfrom dilkit.recipe import compose\n"
        "compose(['demo', 'validate.every=5', 'validate.held_out=poisson(1)', 'test.distort=awgn(5)'])\n"
        "assert 'dilkit.distortions.novelty' in sys.modules\n"
        "print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
