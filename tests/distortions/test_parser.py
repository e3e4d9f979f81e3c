"""The text form: round trip, errors that point, bounded time, no evaluation."""

from __future__ import annotations

import contextlib
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import Word, awgn, clean, clip, mix, parse, prob, shuffle
from dilkit.distortions.algebra import MAX_STEPS, Weighted
from dilkit.distortions.grammar import MAX_TEXT, ExpressionError
from dilkit.errors import UsageError

SHORTEST = [
    "clean",
    "none",
    "awgn(25)",
    "awgn(0.5)",
    "clip",
    "quantize",
    "quantize(bits=4)",
    "awgn(5, channels='grey')",
    "awgn(uniform(1, 30))",
    "jpeg(choice(30, 50, 90))",
    "jpeg(integers(30, 95))",
    "gaussian_blur(2) >> awgn(25) >> clip",
    "awgn(5) ** 3 >> jpeg(30)",
    "awgn[5, 10, 15, 20]",
    "awgn[5:50:5]",
    "clean | awgn[5, 10] | jpeg(30)",
    "awgn[5, 10, 15, 20] >> clip",
    "awgn(5) | awgn(5) >> clip | awgn(10) ** 2 >> clip | awgn(10) >> clip",
    "gaussian_blur[1:5:1] >> awgn(5) ** 2 >> clip",
    "gaussian_blur(2) ** 2 >> awgn[5:30:5] >> clip",
    "awgn(5) >> jpeg[10, 30] | awgn(10) >> jpeg[10, 30]",
    "generalised_blur(2, beta=2) | generalised_blur(3, beta=2)",
    "mix(awgn(5), clip) >> awgn[5, 10] | mix(awgn(6), clip) >> awgn(5)",
    "mix(awgn(5), jpeg(30))",
    "mix(3*awgn(5), 7*(jpeg(30) >> clip))",
    "prob(0.1, jpeg(30))",
    "prob(1e-09, jpeg(30))",
    "mix(9999999999*clean, awgn(5))",
    "prob(0.9999999999, awgn(5))",
    "shuffle(awgn(5), jpeg(30) >> clip)",
    "interleave(awgn(5), jpeg(30) >> clip)",
    "awgn(inverse_uniform(0.5, 1))",
    "awgn(root_uniform(0, 2))",
    "awgn(loguniform(0.1, 2))",
    "alb('MotionBlur', blur_limit=[3, 15])",
]


@pytest.mark.parametrize("text", SHORTEST)
def test_the_shortest_text_is_printed(text):
    assert str(parse(text)) == text
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("(awgn(5)) >> ((clip))", "awgn(5) >> clip"),
        ("awgn( sigma = 5 )", "awgn(5)"),
        ("awgn(+5)", "awgn(5)"),
        ("awgn(5)\n  | awgn(10)", "awgn[5, 10]"),
        ("  awgn(5)", "awgn(5)"),
        ("awgn(5)  # don't stop\n| awgn(10) # (", "awgn[5, 10]"),
        ("awgn[5.0, 10]", "awgn[5, 10]"),
        ("jpeg(30) | awgn(5)", "awgn(5) | jpeg(30)"),
        ("awgn[5, 10] - awgn(5) - none", "awgn(10)"),
        ("awgn(5) | jpeg(30) >> clip", "awgn(5) | (jpeg(30) >> clip)"),
        ("prob(0.1, clean)", "clean"),
    ],
)
def test_other_writings(text, same):
    assert parse(text) == parse(same)


ERRORS = [
    ("awng(25)", 1, "unknown distortion 'awng'", "did you mean: awgn?"),
    ("clip >> awng(25)", 9, "unknown distortion 'awng'", "did you mean: awgn?"),
    ("awgn(-1)", 6, "sigma=-1", "from 0 to 255"),
    ("awgn(sigm=3)", 6, "no parameter 'sigm'", "did you mean: sigma?"),
    ("awgn(5, channels='gray')", 9, "channels='gray'", "did you mean: grey?"),
    ("awgn(5, 6)", 9, "by position", "channels"),
    ("awgn(5, sigma=6)", 9, "sigma twice", ""),
    ("awgn('a')", 6, "sigma='a'", "a number"),
    ("awgn(True)", 6, "sigma=True", "a number"),
    ("awgn(1e999)", 6, "sigma=inf", "a number"),
    ("jpeg(30.5)", 6, "quality=30.5", "a whole number from 1 to 100"),
    ("clip | awgn", 8, "needs sigma", "a number"),
    ("awgn[5:1:1]", 1, "is empty", "first:last:step"),
    ("awgn[:5]", 1, "needs numbers", ""),
    ("awgn[5, -5]", 6, "sigma=-5", ""),
    ("clip[3]", 1, "no degree", ""),
    ("mix(awgn[5, 6])", 5, "must be one word", "`mix` draws one branch"),
    ("mix(0.3*awgn(5) >> clip)", 5, "before a whole branch", "0.3*a"),
    ("2*awgn(5)", 1, "before a whole branch", ""),
    ("mix", 1, "cannot stand here", ""),
    ("mix(w=3)", 5, "no named arguments", ""),
    ("uniform(1, 2)", 1, "a law of chance", "inside one"),
    ("awgn(uniform(0, 300))", 6, "sigma=300", ""),
    ("awgn(uniform(3, 1))", 6, "is empty", ""),
    ("awgn(uniform(1))", 6, "takes two numbers", ""),
    ("awgn(choice())", 6, "at least one value", ""),
    ("awgn(uniform(choice(1, 2), 3))", 14, "plain values", ""),
    ("awgn(5) >> 5", 12, "5 is not a distortion", "such as"),
    ("awgn(5) + clip", 9, "`+` does not join distortions", "`|` (or)"),
    ("awgn(5) > (clip)", 9, "`>` does not join distortions", "did you mean: >>?"),
    ("jpeg(30) | ((awgn(5)) not in (clip))", 23, "`not in` does not join distortions", "`-` (without)"),
    ("awgn(5)**2.5", 1, "power", ""),
    ("awgn(**{})", 6, "not allowed", ""),
    ("awgn(*[1])", 6, "is not a value", ""),
    ("awgn(1+1)", 6, "is not a value", ""),
    ("awgn(", 5, "not an expression", ""),
    ("awgn(5) >> é(3)", 12, "unknown distortion 'é'", ""),
    ("clip >> é.x", 9, "é.x is not a distortion", ""),
    ("prob(0.5)", 1, "a probability and a word", ""),
    ("prob(1.5, clip)", 6, "1.5 is not a probability", "from 0 to 1"),
    ("mix(1e300*awgn(5), clip)", 5, "out of range", "from 1e-9 to 1e30"),
    ("awgn(unifrm(1, 3))", 6, "is not a value", "did you mean: uniform?"),
    ("awgn(sigma=1, sigma=2)", 1, "an argument is given twice", ""),
    ("bsrgan(scale=2, scale=4)", 1, "an argument is given twice", ""),
    ("awgn(5, sigma=5)", 9, "awgn is given sigma twice", ""),
    ("clip | real-esrgan-3", 8, "unknown distortion 'real'", "did you mean: real-esrgan-2?"),
    ("awgn[5..50]", 6, "not an expression", "awgn[5:50:STEP]"),
    ("bsrgan(5)", 8, "a preset takes its parameters by name", ""),
    ("bsrgan(scal=2)", 8, "bsrgan has no parameter 'scal'", "scale"),
    ("bsrgan(scale=9)", 8, "bsrgan cannot take scale=9", ""),
    ("dil-denoise(scale=2)", 13, "dil-denoise has no parameter", ""),
    ("bsrgan[5]", 1, "a preset takes no degrees", ""),
    ("alb('BasicTransfrm')", 5, "no transform", ""),
    ("alb('MotionBlur', blur_limit=-3)", 1, "refuses MotionBlur", "automatically adjusted"),
    ("alb('MotionBlr')", 5, "no transform 'MotionBlr'", "did you mean: MotionBlur?"),
    ("alb('MotionBlur', blur_limt=3)", 19, "no parameter 'blur_limt'", "did you mean: blur_limit?"),
    ("alb('MotionBlur', p=0.3)", 19, "always applied", "prob(0.3, alb"),
]


@pytest.mark.parametrize(("text", "column", "says", "helps"), ERRORS)
def test_errors_point_at_the_place(text, column, says, helps):
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    shown = str(caught.value)
    assert caught.value.column == column
    assert says in shown
    assert helps in shown
    line, carets = next(
        (a, b) for a, b in zip(shown.split("\n"), shown.split("\n")[1:], strict=False) if "^" in b
    )
    assert carets.index("^") - 2 == column - 1
    assert line.strip() == text.strip()


def test_a_set_inside_a_mix_is_a_type_error_in_text_too():
    with pytest.raises(TypeError, match="must be one word"):
        parse("mix(awgn[5, 6])")


def test_a_long_expression_is_shown_around_the_mistake():
    text = " | ".join(["awgn(5)"] * 50 + ["jpg(30)"] + ["awgn(6)"] * 50)
    with pytest.raises(ExpressionError) as caught:
        parse(text)
    _, line, carets, *_ = str(caught.value).split("\n")
    assert line[carets.index("^") : carets.rindex("^") + 1] == "jpg"
    assert len(line) < 120


def test_carets_stand_under_wide_characters_and_controls_are_not_shown():
    with pytest.raises(ExpressionError) as caught:
        parse("alb('漢字e\u0301') >> awng(5)")
    assert str(caught.value).split("\n")[2] == " " * 2 + " " * 4 + "^" * 7
    with pytest.raises(ExpressionError) as caught:
        parse("awgn(5)\x1b[31m")
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["awgn[5, 10] ** 9", "real-esrgan-2 | bsrgan ** 20", "awgn[0:255:0.5] >> alb('Blur')"]
)
def test_large_sets_have_a_text_too(text):
    assert parse(str(parse(text))) == parse(text)


@pytest.mark.parametrize(
    "text", ["", "   ", "#", "x" * (MAX_TEXT + 1), "(" * 500, "-" * 5000 + "1", "\0", "awgn(5) ]\0"]
)
def test_texts_that_are_no_expression(text):
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch HERE')",
        "(lambda: 1)()",
        "[x for x in ().__class__.__bases__]",
        "awgn(open('HERE', 'w'))",
        "f'{open(1)}'",
        "awgn(5) if 1 else clip",
        "awgn.apply",
        "(x := awgn(5))",
    ],
)
def test_nothing_is_evaluated(text):
    with pytest.raises(ExpressionError):
        parse(text)


@pytest.mark.parametrize(
    "word",
    [
        prob(0.00001, prob(0.00001, awgn(5))),
        mix(Weighted.of(10**30, clean), awgn(5)),
        Word(tuple(awgn(i / 8).sequence[0] for i in range(MAX_STEPS))),
        Word(tuple(awgn(i / 8).sequence[0] for i in range(MAX_STEPS // 2))) ** 2,
        shuffle(*(awgn(i / 8) >> clip for i in range(MAX_STEPS // 2))),
        mix(Word(tuple(awgn(i / 8).sequence[0] for i in range(MAX_STEPS - 1))), clip),
    ],
    ids=range(6),
)
def test_rare_and_long_words_have_a_text_too(word):
    assert parse(str(word)) == word


BOMBS = [
    "((((awgn(5)**64)**64)**64)**64)",
    "(awgn(5)|clip)**64",
    ">>".join(["(awgn(5)|clip)"] * 9) + ">>clip" * 1500,
    ">>".join(["awgn[1:250]"] * 20),
    "|".join(f"awgn({i})" for i in range(1100)),
    "awgn[0:255:0.0001]",
    "mix(" + ",".join(f"awgn(1)**{900 + i % 100}" for i in range(500)) + ")",
    "mix(" * 400 + "clip" + ")" * 400,
    "clip**1000" + ">>clean" * 12_000,
    "|".join([">>".join(["clip"] * 1000)] * 12),
    "shuffle(awgn(1)," * 60 + "clip" + ")" * 60,
    ">>".join(["clip"] * 1600),
    "awgn(" + "9" * 9000 + ")",
    "awgn(5)" + "**9" * 900,
    "mix(" + "+".join(["1"] * 2000) + "*clip)",
    "awgn[0:255:0.25] >> awgn(5)**1000",
    "awgn[0:255:0.25]|" * 4000 + "clip",
    "awgn(" + "5," * 40_000 + ")",
]


@pytest.mark.parametrize("text", BOMBS, ids=range(len(BOMBS)))
def test_large_expressions_end_soon(text):
    start = time.process_time()
    with contextlib.suppress(UsageError):
        parse(text)
    assert time.process_time() - start < 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("awgn[0:255:0.1]", "a range of 2551 degrees is too long"),
        (
            "awgn[0:255:0.5] | awgn[0.25:255:0.5] | clip | jpeg[95:99]",
            "a set of 1027 distortions is too large",
        ),
        ("awgn[1:100] >> jpeg[1:100]", "a set of 10000 distortions is too large"),
        ("awgn[0:255:0.25] >> awgn(5)**1000", "a set with 1022021 primitives is too large"),
        (">>".join(["clip"] * 1025), "a word of 1025 distortions is too long"),
        ("clip ** 1025", "a word of 1025 distortions is too long"),
        ("(awgn(5) | clip) ** 1025", "the power 1025 is too high"),
        ("shuffle(awgn(1)," * 17 + "clip" + ")" * 17, "mix and shuffle are nested too deeply"),
    ],
    ids=lambda text: text[:20],
)
def test_each_limit_is_named(text, says):
    with pytest.raises(UsageError, match=re.escape(says)):
        parse(text)


WORDS = """awgn clip jpeg mix shuffle prob uniform choice clean none channels sigma lambda None True é . ...
( ) [ ] { } , : >> | - ** * = @ # \\ 5 0.3 -1 1e999 'grey' ' """
TOKENS = [*WORDS.split(), " ", "\n", "\x00"]


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(TOKENS), max_size=40).map("".join)))
@settings(max_examples=400, deadline=None)
def test_any_text_is_parsed_or_refused(text):
    try:
        made = parse(text)
    except UsageError as error:
        assert str(error)
    else:
        assert parse(str(made)) == made
        assert isinstance(made, Word) or made.labels is not None
