"""`mask_predict` against the specification, by equality, and against a plain float64 softmax, by tolerance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import _core
from reference.draw import predict
from reference.statistics import bounded, plain_statistics

FIELDS = ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current")
FINITE = ("normal", "coarse", "sharp", "all_equal", "huge")
INF = np.inf


def assert_equals_reference(prediction, matrix, settings, *, current=None, seed=0, request=0, positions=None, step=0):
    rows = strategies.widened(matrix)
    each = {"seed": seed, "request": request, "step": step}
    for i, x in enumerate(rows):
        own = {name: value[i] if isinstance(value, list) else value for name, value in each.items()}
        position = i if positions is None else positions[i]
        expected = predict(x, **settings, **own, position=position, current=None if current is None else current[i])
        for field in FIELDS:
            if field == "current" and current is None:
                assert prediction.current is None
                continue
            assert getattr(prediction, field)[i] == getattr(expected, field), (field, i)


@st.composite
def calls(draw, **kinds):
    """A matrix and everything else that a call takes."""
    matrix = draw(strategies.logits(**kinds))
    n, vocabulary = matrix.shape
    settings = {
        "temperature": draw(strategies.temperatures),
        "suppress": draw(strategies.suppressed(matrix)),
        **draw(strategies.filters(vocabulary)),
    }
    words = st.integers(0, 2**32 - 1)
    place = {
        "seed": draw(st.one_of(strategies.seeds, st.lists(strategies.seeds, min_size=n, max_size=n))),
        "request": draw(st.one_of(st.integers(0, 3), st.lists(words, min_size=n, max_size=n))),
        "step": draw(st.one_of(st.integers(0, 9), st.lists(words, min_size=n, max_size=n))),
        "positions": draw(st.one_of(st.none(), st.lists(words, min_size=n, max_size=n))),
        "current": draw(st.one_of(st.none(), st.lists(st.integers(0, vocabulary - 1), min_size=n, max_size=n))),
    }
    return matrix, settings, place


@given(calls())
def test_every_field_equals_the_specification(call):
    matrix, settings, place = call
    prediction = dllm_fast.mask_predict(matrix, **settings, **place)
    assert_equals_reference(prediction, matrix, settings, **place)


@given(calls(vocabularies=(3, 50, 300), max_rows=8))
def test_every_field_equals_the_specification_in_small_vocabularies(call):
    matrix, settings, place = call
    prediction = dllm_fast.mask_predict(matrix, **settings, **place)
    assert_equals_reference(prediction, matrix, settings, **place)


softcaps = st.sampled_from([30.0, 50.0, 1.0, 0.37, 1e-3, 1e3]) | st.floats(1e-3, 1e3)


@given(calls(vocabularies=(1, 3, 50, 300, 4097)), softcaps)
def test_a_softcap_is_taken_before_anything_else(call, cap):
    matrix, settings, place = call
    dtype = str(matrix.dtype).removeprefix("torch.")
    rows = torch.from_numpy(np.stack([bounded(x.astype(np.float32), cap, dtype) for x in strategies.widened(matrix)]))
    prediction = dllm_fast.mask_predict(matrix, softcap=cap, **settings, **place)
    assert_equals_reference(prediction, rows, settings, **place)


@given(strategies.logits(kinds=FINITE), softcaps)
def test_a_softcap_is_the_tanh_that_models_have(matrix, cap):
    """Within the rounding of the dtype, of what Gemma's head computes."""
    exact = cap * np.tanh(strategies.widened(matrix).astype(np.float64) / cap)
    digits = {torch.float32: 23, torch.bfloat16: 8, torch.float16: 11}[matrix.dtype]
    room = cap * 3e-7 + np.abs(exact) * 2.0**-digits + 2.0**-24
    dtype = str(matrix.dtype).removeprefix("torch.")
    ours = bounded(strategies.widened(matrix).astype(np.float32), cap, dtype)
    assert (np.abs(ours[np.isfinite(ours)] - exact[np.isfinite(ours)]) <= room[np.isfinite(ours)]).all()


@pytest.mark.parametrize("cap", [0.0, -30.0, 1e-4, 2e3, np.nan, np.inf])
def test_softcaps_that_bound_nothing_are_refused(cap):
    with pytest.raises(dllm_fast.DllmFastError, match=r"softcap must lie in \[0.001, 1000\], got"):
        dllm_fast.mask_predict(torch.zeros(1, 3), softcap=cap)


@given(strategies.logits(vocabularies=(50, 4097), dtypes=("float32", "float16")), strategies.seeds)
def test_numpy_and_torch_are_read_alike(matrix, seed):
    ours = dllm_fast.mask_predict(matrix, temperature=1.0, seed=seed)
    assert_same(ours, dllm_fast.mask_predict(matrix.numpy(), temperature=1.0, seed=seed))


def assert_same(a, b):
    for field in FIELDS[:-1]:
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field), err_msg=field)


@given(strategies.logits(max_rows=6), strategies.seeds, st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours(matrix, seed, random):
    n = len(matrix)
    order = list(range(n))
    random.shuffle(order)
    settings = {"temperature": 0.8, "top_p": 0.9, "seed": seed}
    together = dllm_fast.mask_predict(matrix[order].contiguous(), positions=order, **settings)
    for place, i in enumerate(order):
        alone = dllm_fast.mask_predict(matrix[i : i + 1], positions=[i], **settings)
        for field in FIELDS[:-1]:
            assert getattr(alone, field)[0] == getattr(together, field)[place]


@st.composite
def mixed_calls(draw):
    """A matrix, settings of which some are lists, one for each row, and everything else that is the same for all."""
    matrix = draw(strategies.logits(vocabularies=(3, 50, 300, 4097), max_rows=6))
    n, vocabulary = matrix.shape
    settings = draw(strategies.row_laws(n, vocabulary))
    return matrix, settings, {"suppress": draw(strategies.suppressed(matrix)), "seed": draw(strategies.seeds), "step": 2}


@given(mixed_calls())
def test_rows_with_settings_of_their_own_equal_each_row_alone(call):
    matrix, settings, same = call
    together = dllm_fast.mask_predict(matrix, **settings, **same)
    for row in range(len(matrix)):
        own = strategies.of_row(settings, row)
        alone = dllm_fast.mask_predict(matrix[row : row + 1], **own, **same, positions=[row])
        expected = predict(
            strategies.widened(matrix)[row], **own, suppress=same["suppress"], seed=same["seed"], position=row, step=2
        )
        for field in FIELDS[:-1]:
            assert getattr(together, field)[row] == getattr(alone, field)[0] == getattr(expected, field), (field, row)


@pytest.mark.parametrize("convert", [list, tuple, np.array, torch.tensor])
def test_settings_for_each_row_may_be_any_array(convert):
    matrix = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (3, 50)).astype(np.float32))
    settings = {"temperature": [0.0, 0.5, 2.0], "top_k": [50, 3, 7], "top_p": [1.0, 0.9, 0.5], "min_p": [0.0, 0.1, 0.0]}
    given = {name: convert(values) for name, values in settings.items()}
    assert_same(dllm_fast.mask_predict(matrix, **given), dllm_fast.mask_predict(matrix, **settings))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": [1.0, -1.0, 0.0]}, "temperature must be at least 0 and finite, got -1 for row 1; 0 is greedy"),
        ({"temperature": [1.0, np.nan, 0.0]}, "temperature must be at least 0 and finite, got NaN for row 1"),
        ({"top_k": [1, 2, 0]}, "top_k must be at least 1, got 0 for row 2; the size of the vocabulary keeps every id of a row"),
        ({"top_k": [1, 2, -3]}, "top_k must hold whole numbers from 0, got -3"),
        ({"top_k": [1.0, 2.0, 3.0]}, "top_k must hold integers"),
        ({"top_k": [None, 2, 3]}, "top_k must hold integers, .*; pass the size of the vocabulary for a row that has no cut"),
        ({"positions": [0.5, 1.5, 2.5]}, "positions must hold integers, .*; pass indices"),
        ({"top_p": [1.0, 0.0, 1.0]}, r"top_p must lie in \(0, 1\], got 0 for row 1"),
        ({"min_p": [2.0, 0.0, 1.0]}, r"min_p must lie in \[0, 1\], got 2 for row 0"),
        ({"temperature": [1.0, 0.5]}, "temperature must be one number, or one for each of 3 rows, got 2"),
        ({"temperature": [[1.0], [0.5], [0.0]]}, "temperature must be numbers"),
        ({"temperature": [1.0, None, 0.0]}, "temperature must be numbers"),
        ({"temperature": [1.0, True, 0.0]}, "temperature must be numbers"),
    ],
)
def test_what_is_wrong_in_one_row_is_named(settings, words):
    with pytest.raises(dllm_fast.DllmFastError, match=words):
        dllm_fast.mask_predict(torch.zeros(3, 5), **settings)


def test_threads_change_nothing():
    matrix = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (64, 9000)).astype(np.float32))
    results = []
    try:
        for n in (1, 2, 3):
            _core.set_threads(n)
            results.append(dllm_fast.mask_predict(matrix, temperature=1.0, top_k=100, seed=3))
    finally:
        _core.set_threads(None)
    for other in results[1:]:
        assert_same(results[0], other)


@given(strategies.logits(kinds=FINITE, dtypes=("float32",), max_rows=2))
def test_statistics_are_accurate(matrix):
    """Against the textbook in float64: the sums are made in float32, with about seven digits."""
    prediction = dllm_fast.mask_predict(matrix)
    for i, x in enumerate(strategies.widened(matrix)):
        plain = plain_statistics(x)
        assert prediction.token[i] == plain.argmax
        assert prediction.top1[i] == pytest.approx(plain.top1, rel=2e-6)
        assert prediction.top2[i] == pytest.approx(plain.top2, rel=2e-6, abs=1e-300)
        assert prediction.entropy[i] == pytest.approx(plain.entropy, rel=2e-6, abs=2e-6)
        assert prediction.logsumexp[i] == pytest.approx(plain.logsumexp, rel=1e-15, abs=2e-6)


def test_small_doubts_keep_their_digits():
    """Two positions that are both sure are still told apart: 1 - top1 and the entropy are known relatively."""
    for gap in (20.0, 25.0, 30.0):
        prediction = dllm_fast.mask_predict(np.array([[gap, 0.0, 0.0, -1.0]], dtype=np.float32))
        rest = (2 + np.exp(-1)) * np.exp(-gap)
        assert 1 - prediction.top1[0] == pytest.approx(rest, rel=1e-6, abs=2.3e-16)
        exact = rest * (1 + gap) + np.exp(-1 - gap)
        assert prediction.entropy[0] == pytest.approx(exact, rel=2e-6)


@given(
    strategies.logits(kinds=("coarse", "with_holes", "infinite"), dtypes=("float32",)),
    st.integers(-40, 40),
    strategies.filters(),
    strategies.temperatures,
)
def test_a_constant_changes_nothing(matrix, shift, filters, temperature):
    """I10. On this grid adding a whole number is exact, so nothing may change but the log-sum-exp."""
    base = dllm_fast.mask_predict(matrix, temperature=temperature, **filters)
    moved = dllm_fast.mask_predict(matrix + shift, temperature=temperature, **filters)
    for field in ("token", "probability", "top1", "top2", "entropy"):
        np.testing.assert_array_equal(getattr(base, field), getattr(moved, field), err_msg=field)
    np.testing.assert_allclose(moved.logsumexp, base.logsumexp + shift, rtol=1e-14, atol=1e-13)


@given(strategies.logits(max_rows=3), strategies.seeds)
def test_filters_and_temperature_touch_the_token_alone(matrix, seed):
    base = dllm_fast.mask_predict(matrix)
    drawn = dllm_fast.mask_predict(matrix, temperature=2.0, top_k=3, top_p=0.8, min_p=0.01, seed=seed)
    for field in ("top1", "top2", "entropy", "logsumexp"):
        np.testing.assert_array_equal(getattr(base, field), getattr(drawn, field), err_msg=field)


@given(strategies.logits(max_rows=3), strategies.seeds)
def test_top_1_is_the_argmax_at_any_temperature(matrix, seed):
    finite = torch.where(matrix == INF, torch.zeros_like(matrix), matrix)
    greedy = dllm_fast.mask_predict(finite)
    for settings in ({"top_k": 1}, {"top_p": 1e-9}):
        drawn = dllm_fast.mask_predict(finite, temperature=5.0, seed=seed, **settings)
        np.testing.assert_array_equal(drawn.token, greedy.token)


@given(strategies.logits(), strategies.seeds, st.data())
def test_suppressed_ids_are_never_drawn(matrix, seed, data):
    ids = data.draw(strategies.suppressed(matrix))
    prediction = dllm_fast.mask_predict(matrix, suppress=ids, temperature=3.0, seed=seed, current=[0] * len(matrix))
    assert not set(prediction.token.tolist()) & set(ids)
    assert np.all(prediction.probability > 0) or np.isinf(strategies.widened(matrix)).any()
    if 0 in ids:
        assert np.all(prediction.current == 0)


def test_nan_at_a_suppressed_id_is_replaced_before_anything_else():
    x = np.array([[np.nan, 0.0, 1.0]], dtype=np.float32)
    assert dllm_fast.mask_predict(x, suppress=[0]).token[0] == 2


def test_what_is_returned():
    prediction = dllm_fast.mask_predict(np.zeros((3, 4), dtype=np.float32), current=[0, 1, 2])
    for field in FIELDS:
        array = getattr(prediction, field)
        assert isinstance(array, np.ndarray)
        assert array.shape == (3,)
        assert array.dtype == (np.int64 if field == "token" else np.float64)
    assert dllm_fast.mask_predict(np.zeros((3, 4), dtype=np.float32)).current is None
    assert len(dllm_fast.mask_predict(np.zeros((0, 4), dtype=np.float32)).token) == 0


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e3, 1e30, 1e39, 1e300])
def test_extreme_temperatures(temperature):
    """Cold draws the argmax, hot draws evenly among what is allowed; neither draws an id at -inf."""
    x = np.array([[-INF, 0.0, 1.0, -INF]] * 200, dtype=np.float32)
    tokens = dllm_fast.mask_predict(x, temperature=temperature, seed=1).token
    if temperature < 0.01:
        assert np.all(tokens == 2)
    else:
        assert set(tokens.tolist()) == {1, 2}
        assert 60 < (tokens == 1).sum() < 140


def test_the_law_of_the_draws():
    """Chi-square of 20,000 draws against the softmax, for a row with a heavy head and a row over three tiles."""
    rng = np.random.default_rng(0)
    n = 20_000
    for x in (np.log([0.5, 0.2, 0.1, 0.1, 0.06, 0.04]), np.repeat([0.0, -1.0, 0.5], 4096)):
        p = np.exp(x) / np.exp(x).sum()
        groups = np.arange(len(x)) if len(x) < 10 else rng.integers(0, 8, len(x))
        rows = np.broadcast_to(x.astype(np.float32), (500, len(x))).copy()
        tokens = np.concatenate(
            [dllm_fast.mask_predict(rows, temperature=1.0, seed=5, step=step).token for step in range(n // 500)]
        )
        observed = np.bincount(groups[tokens], minlength=groups.max() + 1)
        expected = np.bincount(groups, weights=p) * n
        chi_square = ((observed - expected) ** 2 / expected).sum()
        assert chi_square < 30, "7 degrees of freedom: less than one in ten thousand"


# --- what is refused


ROWS = np.zeros((3, 5), dtype=np.float32)


def with_value(row, column, value):
    x = ROWS.copy()
    x[row, column] = value
    return x


def dead_row():
    x = ROWS.copy()
    x[1] = -INF
    return x


BAD_VALUES = {
    "nan": (with_value(2, 3, np.nan), {}, ["NaN", "row 2", "id 3"]),
    "all -inf": (dead_row(), {}, ["row 1", "-inf"]),
    "everything suppressed": (ROWS, {"suppress": range(5)}, ["row 0", "-inf", "suppress"]),
    "negative temperature": (ROWS, {"temperature": -0.5}, ["temperature", "at least 0", "-0.5"]),
    "temperature nan": (ROWS, {"temperature": np.nan}, ["temperature", "NaN"]),
    "temperature inf": (ROWS, {"temperature": INF}, ["temperature", "inf"]),
    "top_p 0": (ROWS, {"top_p": 0.0}, ["top_p", "(0, 1]", "got 0"]),
    "top_p above 1": (ROWS, {"top_p": 1.5}, ["top_p", "(0, 1]", "1.5"]),
    "top_p nan": (ROWS, {"top_p": np.nan}, ["top_p", "(0, 1]", "NaN"]),
    "top_k 0": (ROWS, {"top_k": 0}, ["top_k", "at least 1", "got 0"]),
    "top_k negative": (ROWS, {"top_k": -1}, ["top_k", "-1"]),
    "min_p negative": (ROWS, {"min_p": -0.1}, ["min_p", "[0, 1]", "-0.1"]),
    "min_p above 1": (ROWS, {"min_p": 1.1}, ["min_p", "[0, 1]", "1.1"]),
    "suppress out of range": (ROWS, {"suppress": [1, 5]}, ["suppress", "5"]),
    "suppress negative": (ROWS, {"suppress": [-1]}, ["suppress", "-1"]),
    "current out of range": (ROWS, {"current": [0, 0, 5]}, ["current", "5"]),
    "current too short": (ROWS, {"current": [0, 0]}, ["current", "3", "2"]),
    "positions too short": (ROWS, {"positions": [0, 0]}, ["positions", "3", "2"]),
    "positions negative": (ROWS, {"positions": [0, 0, -1]}, ["positions", "-1"]),
    "seed negative": (ROWS, {"seed": -1}, ["seed", "-1", "2^64"]),
    "seed too large": (ROWS, {"seed": 2**64}, ["seed", str(2**64), "2^64"]),
    "seeds too short": (ROWS, {"seed": [1, 2]}, ["seed", "3", "2"]),
    "request negative": (ROWS, {"request": -1}, ["request", "-1"]),
    "step negative": (ROWS, {"step": -1}, ["step", "-1"]),
    "one dimension": (ROWS[0], {}, ["[N, V]", "[5]"]),
    "three dimensions": (ROWS[None], {}, ["[N, V]", "[1, 3, 5]"]),
    "no vocabulary": (ROWS[:, :0], {}, ["[N, V]", "[3, 0]"]),
    "strided": (np.zeros((3, 10), dtype=np.float32)[:, ::2], {}, ["contiguous", "ascontiguousarray"]),
    "strided tensor": (torch.zeros(5, 3).T, {}, ["contiguous", "contiguous()"]),
}


@pytest.mark.parametrize("case", BAD_VALUES)
def test_bad_values_are_refused(case):
    matrix, settings, words = BAD_VALUES[case]
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.mask_predict(matrix, **settings)
    assert isinstance(caught.value, ValueError)
    assert_explains(caught, words)


def assert_explains(caught, words):
    """The text states the rule and the value (`words`), and after a semicolon a remedy."""
    message = str(caught.value)
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in: {message}"
    assert "; " in message, f"no remedy in: {message}"


BAD_TYPES = {
    "float64": (ROWS.astype(np.float64), {}, ["float32", "float64", "logits.float()"]),
    "float64 tensor": (torch.zeros(2, 3, dtype=torch.float64), {}, ["float32", "float64", "logits.float()"]),
    "int64": (ROWS.astype(np.int64), {}, ["float32", "int64"]),
    "list": ([[0.0, 1.0]], {}, ["logits", "list"]),
    "none": (None, {}, ["logits", "NoneType"]),
    "temperature text": (ROWS, {"temperature": "hot"}, ["temperature", "hot"]),
    "top_k fraction": (ROWS, {"top_k": 1.5}, ["top_k", "1.5"]),
    "suppress fraction": (ROWS, {"suppress": [1.5]}, ["suppress", "integers", "1.5"]),
    "current fraction": (ROWS, {"current": [0.5, 1.0, 2.0]}, ["current", "integers"]),
    "positions text": (ROWS, {"positions": ["a", "b", "c"]}, ["positions", "integers"]),
}


@pytest.mark.parametrize("case", BAD_TYPES)
def test_wrong_types_are_refused(case):
    matrix, settings, words = BAD_TYPES[case]
    with pytest.raises(dllm_fast.DllmFastError) as caught:
        dllm_fast.mask_predict(matrix, **settings)
    assert isinstance(caught.value, TypeError)
    assert_explains(caught, words)


# Any NaN: x86 makes ffc00000 of an operation, a GPU 7fffffff, and others come from files.
NAN_BITS = [0x7FC00000, 0xFFC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF812345]


@pytest.mark.parametrize("softcap", [None, 30.0])
@pytest.mark.parametrize("bits", NAN_BITS, ids=hex)
@pytest.mark.parametrize("place", [0, 7, 4095, 5000])
def test_every_nan_is_found(bits, place, softcap):
    matrix = np.zeros((2, 5001), dtype=np.float32)
    matrix[1].view(np.uint32)[place] = bits
    with pytest.raises(dllm_fast.DllmFastError, match=rf"row 1 must not hold NaN, got one at id {place}"):
        dllm_fast.mask_predict(matrix, softcap=softcap)
