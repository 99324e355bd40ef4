"""The specification itself: its arithmetic against exact arithmetic, its rules against examples checked by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import philox, schedule, select
from reference.arithmetic import (
    F32,
    LANES,
    cos_half_pi,
    exp32,
    exp64,
    fma,
    ln,
    ln_1p,
    tile_sums,
    tree,
)
from reference.draw import draw, kept
from reference.sampler import run, windows
from reference.statistics import UnusableRowError, allowed, plain_statistics, statistics

INF = math.inf


def rounded(exact: Fraction) -> np.float32:
    """The float32 nearest to a fraction, ties to even, by comparing neighbours in exact arithmetic."""
    guess = F32(float(exact))
    neighbours = [np.nextafter(guess, F32(-INF)), guess, np.nextafter(guess, F32(INF))]
    finite = [n for n in neighbours if np.isfinite(n)]
    return min(finite, key=lambda n: (abs(Fraction(float(n)) - exact), int(n.view(np.uint32)) % 2))


moderate = st.floats(-(2.0**40), 2.0**40, width=32)


@given(moderate, moderate, moderate)
def test_fma_rounds_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert fma(F32(a), F32(b), F32(c)) == rounded(exact)


@given(st.floats(1, 2, width=32), st.floats(1, 2, width=32), st.integers(-60, 30), st.booleans())
def test_fma_at_near_ties(a, b, exponent, is_negative):
    """A product far below or above the last bit of `c` is where two roundings would go wrong."""
    c = F32(math.ldexp(-1.0 if is_negative else 1.0, exponent)) * F32(1 + 2**-23)
    exact = Fraction(a) * Fraction(b) + Fraction(float(c))
    assert fma(F32(a), F32(b), c) == rounded(exact)


def test_exp32():
    d = -np.arange(0, 20, 1 / 1024, dtype=F32)
    assert np.all(np.abs(exp32(d) / np.exp(d.astype(np.float64)) - 1) < 1.2e-6)
    assert exp32(F32(0)) == 1
    assert exp32(F32(-60)) == 0
    assert exp32(F32(-INF)) == 0
    assert np.all(np.diff(exp32(-np.arange(0, 60, 1 / 256, dtype=F32))) <= 0)


def test_float64_functions_are_close_to_the_platform():
    for d in np.linspace(-700, 0, 997):
        assert exp64(float(d)) == pytest.approx(math.exp(d), rel=1e-13)
    for r in np.geomspace(1e-300, 1e15, 997):
        assert ln_1p(float(r)) == pytest.approx(math.log1p(r), rel=1e-15)
        assert ln(float(r)) == pytest.approx(math.log(r), rel=1e-14, abs=1e-15)
    for r in np.linspace(0, 1, 997):
        assert cos_half_pi(float(r)) == pytest.approx(math.cos(r * math.pi / 2), abs=3e-16)
    assert (exp64(0.0), exp64(-INF), ln_1p(0.0), cos_half_pi(0.0), cos_half_pi(1.0)) == (1, 0, 0, 1, 0)


def test_the_tree_and_the_accumulators():
    assert tree(np.arange(LANES, dtype=F32)) == LANES * (LANES - 1) / 2
    for n in (1, 255, 256, 257, 4096):
        mass, moment = tile_sums(np.full(n, math.log(0.5), dtype=F32))
        assert mass == pytest.approx(n / 2, rel=1e-6)
        assert moment == pytest.approx(n / 2 * math.log(0.5), rel=1e-6)


def test_philox_known_answers():
    """From the reference library of the paper."""
    full = 0xFFFFFFFF
    answers = {
        ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
        ((full,) * 4, (full,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
            0xD16CFE09,
            0x94FDCCEB,
            0x5001E420,
            0x24126EA1,
        ),
    }
    for (counter, key), expected in answers.items():
        assert philox.philox4x32(counter, key) == expected
    assert philox.bits53(0, 0, 0, 0, 0) == 0xE169C58D6627E8D5 >> 11


def test_schedules_by_hand():
    assert schedule.counts("even", 10, 4) == [3, 3, 2, 2]
    assert schedule.counts("linear", 10, 4) == [2, 3, 2, 3]
    assert schedule.counts("even", 2, 4) == [1, 1, 0, 0]
    assert schedule.counts("dream", 6, 6) == [0, 1, 1, 1, 1, 2], "N = S: the first step commits nothing, the last two"
    assert schedule.counts("dream", 8, 4) == [1, 2, 2, 3]
    assert schedule.counts("maskgit", 16, 4) == [2, 3, 5, 6]
    assert schedule.counts("maskgit", 3, 5) == [1, 1, 0, 0, 1], "one mask remains until the last step"


def test_statistics_by_hand():
    s = statistics(allowed([0.0, math.log(3.0)]))
    assert (s.argmax, s.logsumexp) == (1, pytest.approx(math.log(4), rel=1e-7))
    assert (s.top1, s.top2) == (pytest.approx(0.75, rel=1e-7), pytest.approx(0.25, rel=1e-7))
    assert s.entropy == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25), rel=1e-6)

    equal = statistics(allowed(np.zeros(10_000)))
    assert (equal.argmax, equal.top1, equal.top2) == (0, 1e-4, 1e-4)
    assert equal.entropy == pytest.approx(math.log(10_000), rel=1e-15)

    infinite = statistics(allowed([INF, 0.0, INF, -INF]))
    assert (infinite.argmax, infinite.top1, infinite.top2, infinite.logsumexp) == (0, 0.5, 0.5, INF)
    assert [infinite.probability(v) for v in range(4)] == [0.5, 0, 0.5, 0]

    sure = statistics(allowed([80.0, 40.0]))
    assert sure.top1 == 1.0
    assert sure.entropy == pytest.approx(41 * math.exp(-40), rel=1e-5), "small entropies keep their digits"
    for row in ([math.nan, 1.0], [-INF, -INF]):
        with pytest.raises(UnusableRowError):
            allowed(row)
    assert allowed([math.nan, 1.0], suppress=[0])[1] == 1


@given(st.lists(st.floats(-40, 40, width=32), min_size=1, max_size=600))
def test_statistics_are_those_of_the_textbook(logits):
    exact, plain = statistics(allowed(logits)), plain_statistics(np.array(logits, dtype=F32))
    assert exact.argmax == plain.argmax
    assert exact.top1 == pytest.approx(plain.top1, rel=1e-6)
    assert exact.top2 == pytest.approx(plain.top2, rel=1e-6)
    assert exact.entropy == pytest.approx(plain.entropy, abs=4e-6)
    assert exact.logsumexp == pytest.approx(plain.logsumexp, abs=1e-6)


def test_filters_by_hand():
    x = allowed(np.log([0.1, 0.4, 0.2, 0.2, 0.1]))
    assert kept(x, 1, top_k=3).tolist() == [False, True, True, True, False]
    assert kept(x, 1, top_k=2).tolist() == [False, True, True, False, False], "ties go to lower ids"
    assert kept(x, 1, top_p=0.5).tolist() == [False, True, True, False, False]
    assert kept(x, 1, top_k=4, top_p=0.7).tolist() == [False, True, True, True, False], "of what top-k left: 0.9"
    assert kept(x, 1, min_p=0.4).tolist() == [False, True, True, True, False]
    assert kept(x, 1, top_p=1e-9).tolist() == [False, True, False, False, False]


def test_draws_have_the_law_of_the_softmax():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    x = allowed(np.log(p))
    u = (np.arange(1024) + 0.5) / 1024
    drawn = np.bincount([draw(x, float(v), 1.0) for v in u], minlength=4) / 1024
    np.testing.assert_allclose(drawn, p, atol=2e-3)
    drawn = np.bincount([draw(x, float(v), 0.5) for v in u], minlength=4) / 1024
    np.testing.assert_allclose(drawn, p**2 / (p**2).sum(), atol=2e-3)
    assert draw(allowed([0.0, INF, INF]), 0.75, 1.0) == 2


def test_draws_across_tiles():
    logits = np.full(9000, -INF)
    logits[[5, 4100, 8999]] = np.log([0.2, 0.3, 0.5])
    drawn = [draw(allowed(logits), u, 1.0) for u in (0.0, 0.19, 0.21, 0.49, 0.51, 1 - 2.0**-53)]
    assert drawn == [5, 5, 4100, 4100, 8999, 8999]


def test_select_by_hand():
    confidences = {3: 0.5, 1: 0.9, 2: 0.5, 0: 0.9, 4: 0.1}
    entropies = {p: 1 - c for p, c in confidences.items()}

    def chosen(floor, **cut):
        return select.select(confidences, confidences, entropies, floor, **cut)

    assert chosen(4) == [0, 1, 2, 3], "ties go to lower positions"
    assert chosen(1, threshold=0.9) == [0, 1]
    assert chosen(1, threshold=2.0) == [0]
    assert chosen(1, threshold=0.0) == [0, 1, 2, 3, 4]
    assert chosen(1, factor=0.31) == [0, 1], "2 * 0.1 and 3 * 0.1 are below, 4 * 0.5 is not"
    assert chosen(1, entropy_bound=0.11) == [0, 1]
    assert chosen(9) == [0, 1, 2, 3, 4]


def test_windows_by_hand():
    assert windows(11, 4, 5) == [range(1), range(1, 5), range(5, 9), range(9, 11)]
    assert windows(8, 4, 0) == [range(4), range(4, 8)]
    assert windows(3, 8, 0) == [range(3)]
    assert windows(3, None, 2) == [range(3)]


def test_a_run_by_hand():
    """Logits that prefer token = position, more sure the further left; block of two, one token a forward."""
    table = np.eye(5) * np.array([9, 8, 7, 6, 5])[:, None]
    result = run(lambda _: table, [4, 4, 0, 4, 4], {"mask_token_id": 4, "block_length": 2})
    assert [(e.step, e.position, e.token) for e in result.trajectory] == [(0, 0, 0), (1, 1, 1), (2, 3, 3), (3, 4, 0)]
    assert result.canvas.tolist() == [0, 1, 0, 3, 0]
    assert (result.nfe, result.masks_left) == (4, [3, 2, 1, 0])


def test_a_run_that_ends_early():
    table = np.eye(5) * np.array([9, 8, 7, 6, 5])[:, None]
    config = {"mask_token_id": 4, "eos_token_id": (1, 2), "stop_at_eos": True}
    result = run(lambda _: table, [1, 4, 4, 0, 4], config)
    assert result.canvas.tolist() == [1, 1, 1, 0, 1], "the given 1 ends nothing, the given 0 stays"
    assert [e.kind for e in result.trajectory] == ["commit", "pad", "pad"]
    assert result.nfe == 1


def proposing(*answers):
    """A model of four ids, the last of which is the mask: its answers in turn, a (token, probability) for each position."""
    turns = iter(answers)

    def model(_):
        rows = np.full((len(answers[0]), 4), -INF)
        for row, (token, p) in zip(rows, next(turns), strict=True):
            row[:3] = math.log((1 - p) / 2)
            row[token] = math.log(p)
        return rows

    return model


EDITING = {"mask_token_id": 3, "threshold": 0.7, "edit_threshold": 0.5}


def test_a_run_that_edits():
    """The second forward writes 2 where 0 stood, and the last mask; the third changes nothing, which ends the run."""
    model = proposing(
        [(0, 0.8), (1, 0.6)],
        [(2, 0.6), (1, 0.4)],
        [(2, 0.9), (1, 0.9)],
    )
    result = run(model, [3, 3], EDITING)
    edits = [(e.step, e.position, e.token, e.kind) for e in result.trajectory]
    assert edits == [(0, 0, 0, "commit"), (1, 1, 1, "commit"), (1, 0, 2, "edit")]
    assert [e.probability for e in result.trajectory] == pytest.approx([0.8, 0.4, 0.6])
    assert (result.canvas.tolist(), result.nfe, result.masks_left) == ([2, 1], 3, [1, 0, 0])
    assert result.stable == [0, 0, 2]


def test_an_edit_needs_more_than_its_threshold():
    """Between two equal tokens the lower is proposed, with a probability of exactly a half; given tokens are none of these."""
    both = np.log(np.array([[0.5, 0.5, 0.0, 0.0]] * 3) + 1e-300)
    config = EDITING | {"threshold": 0.2, "suppress_tokens": ()}
    turns = iter([np.eye(4)[[2, 2, 2]] * 9, both, both, both])
    assert run(lambda _: next(turns), [3, 1, 3], config).canvas.tolist() == [2, 1, 2]
    turns = iter([np.eye(4)[[2, 2, 2]] * 9, both, both, both])
    result = run(lambda _: next(turns), [3, 1, 3], config | {"edit_threshold": 0.49})
    assert result.canvas.tolist() == [0, 1, 0]
    assert result.nfe == 3


@pytest.mark.parametrize("most", [0, 1, 2, 5])
def test_a_cycle_ends_with_the_last_post_step(most):
    """Two tokens that take turns for ever: the cap ends each block, which had two forwards with masks."""
    model = proposing(*([(turn % 2, 0.9), (turn % 2, 0.6)] * 2 for turn in range(99)))
    config = EDITING | {"block_length": 2, "max_post_steps": most, "edit_threshold": 0.0}
    result = run(model, [3, 3, 3, 3], config)
    assert result.nfe == 2 * (2 + most)
    kinds = [e.kind for e in result.trajectory]
    assert (kinds.count("commit"), kinds.count("edit")) == (4, 2 * (1 + 2 * most))
    assert result.stable == [0] * (1 + most) + [2] * (2 + most) + [4]


def test_an_end_token_counts_when_its_block_is_finished():
    """It is edited away in the first block; in the second it stays, and the third is not asked for."""
    one, end = [(1, 0.9)], [(2, 0.9)]
    model = proposing(
        end + [(1, 0.6)] * 5,
        one * 6,
        one * 6,
        end * 4 + [(1, 0.6), (1, 0.6)],
        end + one + end + one * 3,
        end + one + end + one * 3,
    )
    config = EDITING | {"block_length": 2, "eos_token_id": 2, "stop_at_eos": True}
    result = run(model, [3] * 6, config)
    assert result.canvas.tolist() == [1, 1, 2, 2, 2, 2]
    assert [(e.step, e.position, e.kind) for e in result.trajectory] == [
        (0, 0, "commit"),
        (1, 1, "commit"),
        (1, 0, "edit"),
        (3, 2, "commit"),
        (3, 3, "commit"),
        (4, 3, "edit"),
        (5, 3, "pad"),
        (5, 4, "pad"),
        (5, 5, "pad"),
    ]
    assert (result.nfe, result.masks_left, result.stable) == (6, [5, 4, 4, 2, 2, 0], [0, 0, 2, 2, 2, 6])
