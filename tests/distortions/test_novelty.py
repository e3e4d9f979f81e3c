"""What counts as seen."""

from __future__ import annotations

import pytest

from dilkit.distortions import confounder_set, parse
from dilkit.distortions.novelty import degree_of, novelty, type_of

CASES = [
    # test word, trained on, verdict
    ("awgn(5)", "awgn[5, 10]", "seen"),
    ("awgn(7)", "awgn[5, 10]", "degree"),
    ("jpeg(30)", "awgn[5, 10]", "type"),
    ("awgn(5) >> clip", "awgn[5, 10]", "seen"),
    ("awgn(5)", "awgn[5, 10] >> clip >> quantize", "seen"),
    ("gaussian_blur(2) >> awgn(5)", "gaussian_blur(2) >> awgn(5)", "seen"),
    ("gaussian_blur(2) >> awgn(5)", "gaussian_blur(3) >> awgn(5)", "degree"),
    ("gaussian_blur(2) >> awgn(5)", "gaussian_blur(2) | awgn(5)", "type"),
    ("awgn(5) >> gaussian_blur(2)", "gaussian_blur(2) >> awgn(5)", "type"),
    ("awgn(5)", "mix(awgn(5), jpeg(30))", "seen"),
    ("mix(awgn(5), jpeg(30))", "awgn(5) | jpeg(30)", "seen"),
    ("mix(awgn(5), jpeg(40))", "awgn(5) | jpeg(30)", "degree"),
    ("mix(awgn(5), speckle(0.02))", "awgn(5) | jpeg(30)", "type"),
    ("awgn(5) >> jpeg(30)", "shuffle(awgn(5), jpeg(30))", "seen"),
    ("awgn(30)", "awgn(uniform(0, 55))", "seen"),
    ("awgn(60)", "awgn(uniform(0, 55))", "degree"),
    ("awgn(uniform(5, 20))", "awgn(uniform(0, 55))", "seen"),
    ("awgn(uniform(5, 20))", "awgn[5, 20]", "degree"),
    ("awgn(5)", "awgn(choice(5, 10))", "seen"),
    ("awgn(7)", "awgn(choice(5, 10))", "degree"),
    ("awgn(7)", "awgn(integers(5, 10))", "seen"),
    ("awgn(7.5)", "awgn(integers(5, 10))", "degree"),
    ("awgn(integers(5, 7))", "awgn(choice(5, 6, 7))", "seen"),
    ("awgn(integers(5, 7))", "awgn(choice(5, 7))", "degree"),
    ("clean", "awgn(5)", "clean"),
    ("clean", "awgn(5) | clean", "seen"),
]


@pytest.mark.parametrize(("test", "trained", "verdict"), CASES)
def test_verdicts(test: str, trained: str, verdict: str) -> None:
    assert novelty(parse(test), confounder_set(trained)) == verdict


def test_without_a_record_nothing_is_claimed() -> None:
    assert novelty(parse("awgn(5)"), None) == "unknown"


def test_types_and_degrees() -> None:
    assert type_of(parse("gaussian_blur(2) >> awgn(5)")) == "gaussian_blur>>awgn"
    assert type_of(parse("clean")) == "clean"
    assert degree_of(parse("awgn(5) >> clip")) == 5
    assert degree_of(parse("gaussian_blur(2) >> awgn(5)")) is None
    assert degree_of(parse("awgn(uniform(1, 2))")) is None
