"""Words and confounder sets: what they equal, how they are called, what they refuse."""

from __future__ import annotations

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

from dilkit.distortions import (
    GLOBAL,
    ConfounderSet,
    KindError,
    Locality,
    Param,
    PrimitiveKind,
    SampleKey,
    Window,
    Word,
    awgn,
    choice,
    clean,
    clip,
    confounder_set,
    gaussian_blur,
    integers,
    jpeg,
    mix,
    none,
    parse,
    prob,
    quantize,
    shuffle,
    uniform,
)
from dilkit.errors import UsageError


def test_numbers_are_exact():
    same = [
        awgn(25),
        awgn(25.0),
        awgn(sigma=25),
        awgn(np.float64(25)),
        awgn(25, channels="colour"),
        parse("awgn(25)"),
    ]
    assert len({word.json for word in same}) == 1
    assert awgn(25) != awgn(25.000001)
    assert jpeg(30) == jpeg(30.0)
    assert awgn(0.0) == awgn(-0.0)


@pytest.mark.parametrize("number", [np.int64, np.float32, np.float64])
def test_numbers_of_numpy_are_numbers(number):
    one, five, ten = number(1), number(5), number(10)
    assert mix(one * awgn(5), number(2) * jpeg(30)) == mix(awgn(5), 2 * jpeg(30))
    assert prob(one, awgn(5)) == awgn(5)
    assert awgn[five:ten:five] == awgn[tuple(np.array([five, ten]))] == awgn[5, 10]
    assert awgn(uniform(one, ten)) == awgn(uniform(1, 10))
    assert jpeg(integers(five, ten)) == jpeg(integers(5, 10))
    assert awgn(choice(five, ten)) == awgn(choice(5, 10))
    if number is np.int64:
        assert awgn(5) ** five == awgn(5) ** 5


def test_a_negative_zero_is_a_zero():
    [(_, sigma)] = [pair for pair in awgn(-0.0).sequence[0].values if pair[0] == "sigma"]
    assert math.copysign(1, sigma) == 1
    assert math.copysign(1, awgn(uniform(-0.0, 1)).sequence[0].params["sigma"].args[0]) == 1


def test_a_choice_is_of_plain_values():
    for wrong in (None, uniform(1, 2), [1], b"1"):
        with pytest.raises(UsageError, match="plain values"):
            choice(wrong, 3)


def test_a_repeated_choice_has_few_corners():
    many = choice(*["colour", "grey"] * 500)
    assert many.extremes == ("colour", "grey")
    assert choice(True, False, True).extremes == (False, True)
    assert awgn(choice(1, 2, 3), channels=many).locality.halo == 0


def test_a_set_takes_whole_numbers_and_slices():
    words = awgn[5, 10, 15]
    assert words[np.int64(1)] == words[1] == awgn(10)
    assert words[1:] == words[:0:-1] == awgn[10, 15]
    assert words[5:] == none
    for wrong in (1.5, None):
        with pytest.raises(UsageError, match="no confounder is called"):
            words[wrong]


@pytest.mark.parametrize("locality", [3, Locality(3), lambda params: Locality(3)])
def test_a_locality_may_be_a_number_or_itself(locality):
    kind = PrimitiveKind("k", "test", "", "", (), lambda image, params, draw: image, locality)
    assert (kind >> kind()).locality.halo == 6
    assert replace(kind, locality=GLOBAL)().locality.halo is None
    image = np.ones((9, 9, 3), np.float32)
    assert kind().apply(image, SampleKey(0, b""), Window(2, 2, 3, 3)).shape == (3, 3, 3)


@pytest.mark.parametrize("locality", [-1, True, 1.5, "global", None])
def test_a_locality_that_is_none_is_refused(locality):
    with pytest.raises(UsageError, match="k has no valid locality"):
        PrimitiveKind("k", "test", "", "", (), lambda image, params, draw: image, locality)


def test_python_and_text_say_the_same():
    assert gaussian_blur(2) >> awgn[5, 10] | clean == parse("gaussian_blur(2) >> awgn[5, 10] | clean")
    assert awgn(5) >> clip >> quantize == parse("awgn(5) >> clip >> quantize")
    assert clip >> quantize == parse("clip() >> quantize(bits=8)")
    assert mix(0.3 * awgn(5), 0.7 * jpeg(30)) == parse("mix(0.3*awgn(5), 0.7*jpeg(30))")
    assert prob(0.5, jpeg(30)) == parse("prob(0.5, jpeg(30))") == mix(clean, jpeg(30))
    assert awgn(uniform(1, 30)) ** 2 == parse("awgn(uniform(1, 30)) ** 2")


def test_a_range_includes_its_last_degree_where_a_step_meets_it():
    assert awgn[5:50:5] == awgn[5, 10, 15, 20, 25, 30, 35, 40, 45, 50]
    assert jpeg[30:90:20] == jpeg[30, 50, 70, 90]
    assert jpeg[30:80:20] == jpeg[30, 50, 70]
    assert jpeg[90:30:-20] == jpeg[30:90:20]
    assert jpeg[30:32] == jpeg[30, 31, 32]
    assert gaussian_blur[0.1:0.7:0.1].words[5] == gaussian_blur(0.6)  # and not 0.6000000000000001
    assert awgn[1, 5:15:5] == awgn[1, 5, 10, 15]


def test_hold_outs():
    assert awgn[5:50:5] - awgn[30, 40, 50] == awgn[5, 10, 15, 20, 25, 35, 45]
    assert awgn[5, 10] - awgn(5) == awgn(10)
    assert awgn(5) - awgn(5) == none


def test_a_set_has_one_order():
    written = confounder_set(["jpeg(30)", "awgn(10)", "clean", "awgn(5)", "awgn(5) >> clip", "awgn(10)"])
    assert written.labels == ("clean", "awgn(5)", "awgn(5)>>clip", "awgn(10)", "jpeg(30)")
    assert written["awgn(10)"] == awgn(10)
    assert len(written) == 5
    assert awgn(10) in written
    with pytest.raises(UsageError, match=r"did you mean: awgn\(10\)"):
        written["awgn(1O)"]


def test_labels_are_short_unique_and_without_a_slash():
    assert (gaussian_blur(2) >> awgn(25)).label == "gaussian_blur(2)>>awgn(25)"
    assert awgn(5, channels="grey").label == "awgn(5,channels=grey)"
    long = [mix(*(awgn(s) >> jpeg(q) for s in range(1, 20))) for q in (30, 40)]
    assert len({word.label for word in long}) == 2
    assert all(len(word.label) <= 72 and "/" not in word.label for word in long)
    kind = PrimitiveKind(
        "tape", "", "", "", (Param("brand", str), Param("side", str, "a")), np.copy, degree="brand"
    )
    told_apart = [kind("x"), kind("None"), kind("x", side="b"), kind("x,side=b"), kind("5"), kind("a b")]
    assert [word.label for word in told_apart[:3]] == [
        "tape(x)",
        "tape(None)~" + told_apart[1].hash[:8],
        "tape(x,side=b)",
    ]
    assert len({word.label for word in told_apart}) == 6


def test_one_word_and_the_set_of_it_alone_are_equal():
    assert awgn(5) | awgn(5) == awgn(5)
    assert (awgn(5) | awgn(5)).hash == awgn(5).hash
    assert isinstance(awgn[5], ConfounderSet)
    assert isinstance(parse(str(awgn[5])), Word)
    assert parse(str(awgn[5])) == awgn[5]


KIND = PrimitiveKind(
    name="fog", family="test", summary="", source="", params=(Param("depth"), Param("tint", str, "grey")),
    apply=lambda image, params, draw: image, degree="depth",
)  # fmt: skip


def test_the_hash_is_of_the_canonical_form():
    assert KIND(0.5).canonical() == {"name": "fog", "params": {"depth": 0.5, "tint": "grey"}, "version": 1}
    assert KIND(25).json == '{"name":"fog","params":{"depth":25,"tint":"grey"},"version":1}'
    assert KIND(25).hash == "a0a6e7c1bb02467db9cfe2ea9b623b0a"
    assert mix(KIND(1), 3 * (KIND(2) >> KIND(3))).canonical() == {
        "mix": [
            [1, KIND(1).canonical()],
            [3, {"then": [KIND(2).canonical(), KIND(3).canonical()]}],
        ]
    }
    assert (KIND(1) | clean).canonical() == {"or": [{"then": []}, KIND(1).canonical()]}


def test_another_version_is_another_hash():
    newer = replace(KIND, version=2)
    assert newer(25) != KIND(25)
    assert newer(25).hash != KIND(25).hash
    assert newer(25).label == KIND(25).label


def test_laws_of_chance_are_checked_and_ordered():
    assert awgn(uniform(5, 5)) == awgn(5)
    assert awgn(choice(9, 5)) == awgn(choice(5.0, 9))
    with pytest.raises(UsageError, match="cannot take sigma=300"):
        awgn(uniform(1, 300))
    with pytest.raises(UsageError, match="quality=uniform"):
        jpeg(uniform(30, 95))
    with pytest.raises(UsageError, match="is empty"):
        uniform(3, 1)


@pytest.mark.parametrize(
    "wrong", [lambda: mix(awgn[5, 10]), lambda: prob(0.5, awgn[5, 10]), lambda: shuffle(none)]
)
def test_a_set_inside_a_word_is_a_type_error(wrong):
    with pytest.raises(TypeError, match="must be one word"):
        wrong()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: awgn(5) ** -1,
        lambda: awgn(5) ** 1.5,
        lambda: mix(True * awgn(5)),
        lambda: clip[3],
        lambda: mix("awgn(5)"),
    ],
)
def test_wrong_kinds_are_type_errors(wrong):
    with pytest.raises(KindError):
        wrong()


def test_other_operands_are_pythons_own_type_error():
    for wrong in (lambda: awgn(5) >> 5, lambda: awgn(5) | "jpeg(30)", lambda: 3 - awgn(5)):
        with pytest.raises(TypeError, match="unsupported operand"):
            wrong()


def test_sizes_are_bounded():
    for wrong in (
        lambda: awgn(5) ** 5000,
        lambda: awgn[1:250:0.1],
        lambda: awgn[0:200:2] >> awgn[0:200:2],
        lambda: (awgn(5) ** 1000) ** 1000,
        lambda: (awgn(5) | jpeg(30)) ** 11,
    ):
        with pytest.raises(UsageError, match=r"too (long|large)"):
            wrong()


def test_everything_is_picklable():
    word = mix(awgn(uniform(1, 9)), jpeg(30)) >> shuffle(clip, awgn(3))
    for value in (word, word | clean, none, clean):
        assert pickle.loads(pickle.dumps(value)) == value  # noqa: S301


def test_locality_is_the_widest_that_can_be_drawn():
    assert awgn(5).locality == Locality(0)
    blur = gaussian_blur(choice(1, 2, 3), radius=0).locality.halo
    assert blur == gaussian_blur(3).locality.halo
    assert (gaussian_blur(3) ** 2 >> awgn(5)).locality.halo == 2 * blur
    assert mix(gaussian_blur(1), gaussian_blur(3)).locality.halo == blur
    assert shuffle(gaussian_blur(3), awgn(5), gaussian_blur(3, radius=4)).locality.halo == blur + 4
    assert (gaussian_blur(3) >> parse("resize(0.5)")).locality.name == "global"
    assert prob(0.5, parse("poisson(1, legacy=True)")).locality.name == "global"


def test_weights():
    assert mix(0.1 * awgn(1), 0.2 * awgn(2)) == mix(1 * awgn(1), 2 * awgn(2))  # 0.1 is a tenth
    assert mix(awgn(1), 3 * awgn(1), awgn(2)) == mix(4 * awgn(1), awgn(2))
    assert mix(0 * awgn(1), awgn(2)) == awgn(2)
    assert (prob(0, awgn(1)), prob(1, awgn(1))) == (clean, awgn(1))
    for wrong in (-1, 1e-20, 1e40):
        with pytest.raises(UsageError, match="out of range"):
            mix(wrong * awgn(1))
    with pytest.raises(UsageError, match="above 0"):
        mix(0 * awgn(1))
    fine = mix((10**9 + 7) * awgn(1), (10**9 + 9) * awgn(2))
    assert parse(str(fine)) == fine
    with pytest.raises(UsageError, match="too finely"):
        nested = awgn(1)
        for prime in (10**9 + 7, 10**9 + 9, 10**9 + 21, 10**9 + 33):
            nested = mix(prime * nested, awgn(2))
    with pytest.raises(UsageError, match="not a probability"):
        prob(1.5, awgn(1))
