"""The laws of the algebra, on the canonical form and bit for bit on pixels."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dilkit.distortions import (
    SampleKey,
    Window,
    awgn,
    clean,
    clip,
    confounder_set,
    gaussian_blur,
    integers,
    interleave,
    jpeg,
    mix,
    none,
    parse,
    pixel_hash,
    poisson,
    prob,
    quantize,
    shuffle,
    speckle,
    uniform,
)
from dilkit.distortions.algebra import ConfounderSet, Weighted, Word

IMAGE = np.random.default_rng(3).random((13, 11, 3), dtype=np.float32)
PIXELS = pixel_hash(IMAGE)

leaves = st.sampled_from(
    [
        clean,
        clip(),
        quantize(bits=4),
        awgn(5),
        awgn(25),
        awgn(5, channels="grey"),
        awgn(uniform(1, 30)),
        poisson(2),
        speckle(0.1),
        gaussian_blur(0.5),
        gaussian_blur(2),
        jpeg(30),
        jpeg(integers(10, 90)),
    ]
)
weights = st.fractions(min_value=Fraction(1, 50), max_value=9, max_denominator=50)


def _grown(inner):
    pair = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        pair.map(lambda words: _sequence(words)),
        st.lists(st.tuples(weights, inner), min_size=1, max_size=3).map(_mixed),
        pair.map(lambda words: shuffle(*words)),
        pair.map(lambda words: interleave(*words)),
        st.tuples(inner, st.integers(0, 3)).map(lambda pair: pair[0] ** pair[1]),
        st.tuples(st.sampled_from([0.3, 1e-5]), inner).map(lambda pair: prob(*pair)),
    )


def _sequence(words):
    result = clean
    for word in words:
        result = result >> word
    return result


def _mixed(branches):
    return mix(*(Weighted(weight, word) for weight, word in branches))


words = st.recursive(leaves, _grown, max_leaves=6)
sets = st.lists(words, max_size=4).map(confounder_set)
seeds = st.integers(0, 2**64)
law = settings(max_examples=60, deadline=None)


def pixels(expression, seed):
    """Every word's image by label, or the one image of a word."""
    key = SampleKey(seed, PIXELS)
    if isinstance(expression, Word):
        return {expression.label: expression.apply(IMAGE, key).tobytes()}
    return {word.label: word.apply(IMAGE, key).tobytes() for word in expression}


def same(left, right, seed):
    """Equal as values, in every identity that follows, and in all pixels."""
    assert left == right
    assert left.json == right.json
    assert left.hash == right.hash
    assert hash(left) == hash(right)
    assert str(left) == str(right)
    assert pixels(left, seed) == pixels(right, seed)


@given(words, words, words, seeds)
@law
def test_then_is_associative_with_unit_clean(a, b, c, seed):
    same((a >> b) >> c, a >> (b >> c), seed)
    same(clean >> a, a, seed)
    same(a >> clean, a, seed)


@given(sets, sets, sets, seeds)
@settings(max_examples=30, deadline=None)
def test_sets_are_a_semiring(a, b, c, seed):
    same((a >> b) >> c, a >> (b >> c), seed)
    same(a >> (b | c), (a >> b) | (a >> c), seed)
    same((a | b) >> c, (a >> c) | (b >> c), seed)
    same(none >> a, none, seed)
    same(a >> none, none, seed)
    same(clean >> a, a, seed)


@given(sets, sets, sets, seeds)
@law
def test_or_is_associative_commutative_and_idempotent(a, b, c, seed):
    same((a | b) | c, a | (b | c), seed)
    same(a | b, b | a, seed)
    same(a | a, a, seed)
    same(a | none, a, seed)
    same(none | a, a, seed)


@given(sets, sets, seeds)
@law
def test_difference(a, b, seed):
    same((a | b) - b, a - b, seed)
    same(a - a, none, seed)
    same(a - none, a, seed)
    same((a - b) | b, a | b, seed)
    assert not set(a - b) & set(b)


@given(words, st.integers(0, 3), st.integers(0, 3), seeds)
@law
def test_powers_add(d, m, n, seed):
    same(d**m >> d**n, d ** (m + n), seed)
    same(d**0, clean, seed)
    same(d**1, d, seed)


@given(sets, st.integers(0, 2), st.integers(0, 2), seeds)
@settings(max_examples=20, deadline=None)
def test_powers_of_sets_add(d, m, n, seed):
    d = ConfounderSet(d.words[:2])
    same(d**m >> d**n, d ** (m + n), seed)


branches = st.lists(st.tuples(weights, words), min_size=1, max_size=4)


@given(branches, st.randoms(use_true_random=False), weights, seeds)
@law
def test_mix_does_not_depend_on_order_or_scale(drawn, random, scale, seed):
    shuffled = random.sample(drawn, len(drawn))
    same(_mixed(drawn), _mixed(shuffled), seed)
    same(_mixed(drawn), _mixed([(weight * scale, word) for weight, word in drawn]), seed)


@given(words, branches, branches, weights, seeds)
@law
def test_mix_of_one_and_of_mixes(a, first, second, weight, seed):
    same(mix(a), a, seed)
    same(mix(a, a), a, seed)
    total = sum(w for w, _ in first)
    flat = [(weight * w / total, word) for w, word in first] + second
    same(_mixed([(weight, _mixed(first)), *second]), _mixed(flat), seed)


@given(words, weights.filter(lambda w: w <= 1), seeds)
@law
def test_prob_is_a_mix_with_clean(a, p, seed):
    same(prob(p, a), _mixed([(p, a), (1 - p, clean)]), seed)
    same(prob(1, a), a, seed)
    same(prob(0, a), clean, seed)


@given(
    st.sampled_from([shuffle, interleave]),
    st.lists(words, max_size=4),
    st.randoms(use_true_random=False),
    seeds,
)
@law
def test_shuffle_and_interleave_do_not_depend_on_order(form, drawn, random, seed):
    same(form(*drawn), form(*random.sample(drawn, len(drawn))), seed)
    same(form(*drawn, clean), form(*drawn), seed)
    same(form(*drawn[:1]), drawn[0] if drawn else clean, seed)


@given(st.one_of(words, sets), seeds)
@law
def test_the_text_form_keeps_everything(x, seed):
    same(parse(str(x)), x, seed)
    same(confounder_set(str(x)), confounder_set(x), seed)
    labels = confounder_set(x).labels
    assert len(set(labels)) == len(labels)
    assert all("/" not in label and len(label) <= 72 for label in labels)


@given(words, words)
@law
def test_unequal_words_have_unequal_hashes_and_labels(a, b):
    assert (a == b) == (a.json == b.json) == (a.hash == b.hash) == (a.label == b.label) == (str(a) == str(b))


windows = st.tuples(st.integers(0, 12), st.integers(0, 10), st.integers(1, 13), st.integers(1, 11)).map(
    lambda w: Window(w[0], w[1], min(w[2], 13 - w[0]), min(w[3], 11 - w[1]))
)


@given(words, windows, seeds)
@settings(max_examples=150, deadline=None)
def test_a_window_is_the_cut_of_the_whole(word, window, seed):
    key = SampleKey(seed, PIXELS)
    whole = word.apply(IMAGE, key)
    part = word.apply(IMAGE, key, window)
    assert part.tobytes() == whole[window.y : window.y + window.h, window.x : window.x + window.w].tobytes()
