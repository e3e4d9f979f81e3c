"""Whatever text is given: a value that comes back from its own text, or one error that says where; and soon.

`DILKIT_FUZZ=50000 pytest tests/security/test_fuzz_expressions.py` tries as many.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dilkit.distortions import distortions, parse
from dilkit.distortions.params import LAWS
from dilkit.distortions.presets import PRESETS
from dilkit.errors import UsageError

TRIES = settings(
    max_examples=int(os.environ.get("DILKIT_FUZZ", "300")),
    deadline=None,
    derandomize="DILKIT_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(
    st.integers(-3, 300).map(str),
    st.floats(allow_nan=True, allow_infinity=True).map(repr),
    st.sampled_from(["1e999", "-0.0", "0x10", "1_000", "9" * 400, "1j", "True", "None", "'grey'", "[1, 2]"]),
)
OWN = [kind for kind in distortions() if kind.family not in ("albumentations", "real")]
KINDS = st.sampled_from([kind.name for kind in OWN])


def joined(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(parts, min_size=0, max_size=3).map(", ".join)
    return st.one_of(
        st.builds(
            "{} {} {}".format, parts, st.sampled_from([">>", "|", "-", "**", "*", "@", "=", "=="]), parts
        ),
        st.builds("({})".format, parts),
        st.builds("{}({})".format, st.sampled_from(["mix", "shuffle", "interleave", "prob"]), several),
        st.builds("{}={}".format, st.sampled_from(["a", "hard", "b-1", "clean", "x" * 50]), parts),
        st.builds("{}**{}".format, parts, st.integers(-1, 2000)),
    )


PRIMITIVES = st.one_of(
    KINDS,
    st.builds("{}({})".format, KINDS, NUMBERS),
    st.builds("{}[{}:{}:{}]".format, KINDS, NUMBERS, NUMBERS, NUMBERS),
    st.builds("{}[{}, {}]".format, KINDS, NUMBERS, NUMBERS),
    st.builds("{}({}({}, {}))".format, KINDS, st.sampled_from(sorted(LAWS)), NUMBERS, NUMBERS),
    st.sampled_from([*PRESETS, "clean", "none", "bsrgan(scale=2)"]),
)
EXPRESSIONS = st.recursive(PRIMITIVES, joined, max_leaves=8)


def words_of(parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("({}) >> ({})".format, parts, parts),
        st.builds("{}({}, {})".format, st.sampled_from(["mix", "shuffle", "interleave"]), parts, parts),
        st.builds("mix({}*({}), {})".format, st.integers(1, 5), parts, parts),
        st.builds("prob({}, {})".format, st.sampled_from(["0.3", "1e-05", "1"]), parts),
        st.builds("({}) ** {}".format, parts, st.integers(0, 2)),
    )


WORDS = st.recursive(
    st.sampled_from(
        [*(str(kind(**kind.example())) for kind in OWN), *(f"awgn({k})" for k in range(5)), "clean"]
    ),
    words_of,
    max_leaves=6,
)
ALPHABET = "abgnw()[]|>-=*,.:'\"0123456789 \n\t#\\{}@_é\u202e\x00\x1b"


def check(text: str) -> None:
    try:
        made = parse(text)
    except UsageError as error:
        shown = str(error)
        assert shown
        assert "\x1b" not in shown
        assert "\x00" not in shown
        return
    again = parse(str(made))
    assert again == made
    assert again.hash == made.hash
    assert str(again) == str(made)


@given(EXPRESSIONS)
@TRIES
def test_expressions_of_real_words(text: str) -> None:
    check(text)


@given(st.lists(WORDS, min_size=1, max_size=4).map(" | ".join))
@TRIES
def test_expressions_without_a_mistake(text: str) -> None:
    check(text)


@given(st.text(ALPHABET, max_size=80) | st.text(max_size=80))
@TRIES
def test_any_text(text: str) -> None:
    check(text)


@given(EXPRESSIONS, st.integers(0, 10**6), st.text(ALPHABET, max_size=3))
@TRIES
def test_expressions_with_a_slip_of_the_keyboard(text: str, place: int, slip: str) -> None:
    place %= len(text) + 1
    check(text[:place] + slip + text[place + 1 :])


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "(lambda: 1)()",
        "[x for x in ()]",
        "awgn(().__class__)",
        "awgn(f'{1}')",
        "awgn((yield))",
        "(" * 5000 + "clip" + ")" * 5000,
        "awgn" + "[5]" * 2000,
        "clip|" * 60_000 + "clip",
        "-" * 50_000 + "clip",
        "awgn(" + "9" * 5000 + ")",
        "clip ** 10 ** 10 ** 10",
        "(awgn[1:1000] >> awgn[1:1000]) >> awgn[1:1000]",
        "a = " * 1000 + "clip",
    ],
    ids=lambda text: text[:20],
)
def test_what_was_written_to_harm_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)
