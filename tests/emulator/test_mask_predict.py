"""The mask-prediction kernels equal the Rust core to the bit: every statistic, every token."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast.kernels import launches
from reference import arithmetic

from . import build
from . import mask_predict as emulated
from .launch import EmulatorError
from .mask_predict import FIELDS, NAN, NOTHING_ALLOWED, mask_predict

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

INF = np.inf
EVERY_SIZE = range(1, 9001)
ORDERS = st.integers(0, 9)
TIES = {"temperature": 9.0, "top_k": 1}
MANY = {"temperature": 9.0, "top_k": 400, "top_p": 0.9}


def assert_equal(kernel, core):
    assert kernel.status.tolist() == [0] * len(core)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(kernel, field), getattr(core, field), err_msg=field)
    if core.current is not None:
        np.testing.assert_array_equal(kernel.current, core.current)


def assert_equals_core(matrix, *, order=0, **settings):
    assert_equal(mask_predict(matrix, order=order, **settings), dllm_fast.mask_predict(matrix, **settings))


@st.composite
def calls(draw, **kinds):
    """A matrix and what else a call takes."""
    matrix = draw(strategies.logits(**kinds))
    n, vocabulary = matrix.shape
    words = st.integers(0, 2**32 - 1)
    return matrix, {
        "temperature": draw(strategies.temperatures),
        "suppress": draw(strategies.suppressed(matrix)),
        "seed": draw(st.one_of(strategies.seeds, st.lists(strategies.seeds, min_size=n, max_size=n))),
        "request": draw(st.lists(words, min_size=n, max_size=n)),
        "step": draw(words),
        "positions": draw(st.lists(words, min_size=n, max_size=n)),
        "current": draw(st.one_of(st.none(), st.lists(st.integers(0, vocabulary - 1), min_size=n, max_size=n))),
        **draw(strategies.filters(vocabulary)),
    }


@st.composite
def mixed_calls(draw):
    """A matrix with settings of its own for each row."""
    matrix = draw(strategies.logits(vocabularies=(3, 300, 4097, 8200), max_rows=5))
    settings = draw(strategies.row_laws(*matrix.shape))
    return matrix, settings | {"suppress": draw(strategies.suppressed(matrix)), "seed": draw(strategies.seeds)}


@given(mixed_calls(), ORDERS)
def test_rows_with_laws_of_their_own_equal_the_core(call, order):
    matrix, settings = call
    assert_equals_core(matrix, order=order, **settings)


def test_one_law_and_the_same_law_for_each_row_are_one_launch_alike():
    """What is launched depends on which laws there are, and a law that is not of a row changes nothing in it."""
    x = torch.from_numpy(np.random.default_rng(5).normal(0, 3, (4, 5000)).astype(np.float32))
    alone = mask_predict(x, temperature=0.7, seed=3)
    same = mask_predict(x, temperature=[0.7] * 4, seed=3)
    beside = mask_predict(x, temperature=[0.7, 0.7, 0.7, 0.0], top_k=[5000, 5000, 5000, 5], top_p=[1.0, 1.0, 1.0, 0.5], seed=3)
    for field in FIELDS:
        np.testing.assert_array_equal(getattr(alone, field), getattr(same, field))
        np.testing.assert_array_equal(getattr(alone, field)[:3], getattr(beside, field)[:3])


@given(calls(), ORDERS)
def test_every_field_equals_the_core(call, order):
    matrix, settings = call
    assert_equals_core(matrix, order=order, **settings)


@given(calls(vocabularies=(1, 255, 4097, 8200)), st.sampled_from([30.0, 1.0, 1e-3, 1e3]), ORDERS)
def test_every_field_equals_the_core_below_a_softcap(call, cap, order):
    matrix, settings = call
    assert_equals_core(matrix, order=order, softcap=cap, **settings)


@given(calls(vocabularies=EVERY_SIZE), ORDERS)
def test_every_field_equals_the_core_at_any_size(call, order):
    matrix, settings = call
    assert_equals_core(matrix, order=order, **settings)


@given(calls(vocabularies=(4096, 8192, 8200, 9000), kinds=("coarse", "all_equal", "with_holes"), max_rows=2), ORDERS)
def test_ties_fall_as_in_the_core(call, order):
    matrix, settings = call
    assert_equals_core(matrix, order=order, **settings)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 1}, {"top_k": 40}, {"top_p": 0.9}, {"min_p": 0.02}, {"top_k": 100, "top_p": 0.5, "min_p": 0.001}],
    ids=str,
)
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_a_large_vocabulary(dtype, filters, temperature):
    """LLaDA's 126,464 ids: 31 tiles, the last one ragged."""
    rng = np.random.default_rng(0)
    matrix = strategies.as_dtype(rng.normal(0, 3, (2, 126_464)), dtype)
    assert_equals_core(matrix, temperature=temperature, suppress=[126_336], seed=5, current=[0, 126_336], **filters)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@given(st.integers(1, 9000), strategies.generators, st.data())
@example(1, np.random.default_rng(0), None)
@example(4097, np.random.default_rng(0), None)
def test_a_single_id_above_minus_infinity(dtype, vocabulary, rng, data):
    x = np.full((1, vocabulary), -INF)
    x[0, rng.integers(vocabulary)] = rng.normal()
    for temperature in (0.0, 1.0, 0.3):
        assert_equals_core(strategies.as_dtype(x, dtype), temperature=temperature, top_p=0.5)


@pytest.mark.parametrize("vocabulary", [2, 300, 5000])
def test_a_first_logit_of_minus_infinity(vocabulary):
    x = np.random.default_rng(1).normal(0, 2, (3, vocabulary))
    x[:, 0] = -INF
    for settings in ({}, {"temperature": 1.0}, {"temperature": 0.5, "top_k": 7}):
        assert_equals_core(strategies.as_dtype(x, "bfloat16"), **settings)


@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e3, 1e30, 1e39, 1e300])
@pytest.mark.parametrize("filters", [{}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.3}], ids=str)
def test_extreme_temperatures(temperature, filters):
    x = np.array([[-INF, 0.0, 1.0, -INF, 1.0]] * 20, dtype=np.float32)
    assert_equals_core(torch.from_numpy(x), temperature=temperature, seed=1, **filters)


@given(strategies.logits(max_rows=3), st.data())
def test_rows_are_scored_by_index_and_may_lie_apart(matrix, data):
    n, vocabulary = matrix.shape
    index = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=5))
    gap = data.draw(st.integers(0, 9))
    wide = torch.full((n, vocabulary + gap), 3.0, dtype=matrix.dtype)
    wide[:, gap:] = matrix  # starts at any multiple of the size of a logit, so the rows are not aligned
    settings = {"temperature": 0.9, "seed": 2, "top_k": data.draw(st.sampled_from([None, 3]))}
    kernel = mask_predict(wide[:, gap:], index=index, **settings)
    assert_equal(kernel, dllm_fast.mask_predict(matrix[index].contiguous(), **settings))


@pytest.mark.parametrize("order", range(8))
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, TIES, MANY], ids=str)
def test_the_order_of_the_threads_changes_nothing(settings, order):
    """The maximum in each of three tiles, ties across tiles, and ids at +inf: every barrier is needed by some of these rows."""
    x = np.random.default_rng(2).normal(0, 2, (5, 9000))
    for row, place in enumerate((17, 4100, 8999)):
        x[row, place] = 12.0
    x[3, [5000, 8500]] = 12.0
    x[4, [4097, 8300, 8301]] = INF
    assert_equals_core(strategies.as_dtype(x, "float32"), order=order, seed=3, **settings)


def _tile_rows(dtype, distances, vocabulary):
    """Rows whose largest logit lies in each of two tiles, and whose smallest lies so far below."""
    x = np.random.default_rng(4).normal(0, 0.5, (2 * len(distances), vocabulary))
    for row, distance in zip(x, np.repeat(distances, 2), strict=True):
        row[[7, 4100]] = 12.0, 11.5
        row[[1000, 4095, 4096, 5000]] = 12.0 - distance, 11.5 - distance, 11.5 - distance, 11.0 - distance
    x[1::2, 7] = 11.0
    return strategies.as_dtype(x, dtype)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.7}, {"temperature": 0.25}, {"temperature": 4.0, "min_p": 1e-30}], ids=str
)
def test_tiles_with_and_without_weights_near_the_floor_equal_the_core(dtype, settings):
    """Where all distances are small the kernel leaves out two steps of each weight; the bounds are -42 and -60."""
    distances = [10, 41.5, 41.9, 42, 42.1, 42.5, 59.9, 60, 60.1, 70, 85, 100]
    assert_equals_core(_tile_rows(dtype, distances, 8192), seed=6, **settings)
    if settings.get("temperature") == 0.7:
        assert_equals_core(_tile_rows(dtype, [d * 0.7 for d in distances], 8192), seed=6, **settings)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("offset", range(1, 9))
def test_rows_that_are_not_aligned(dtype, softcap, offset):
    """Every distance of a row from a multiple of 16 bytes, whole tiles and ragged ones, with and without ids left out."""
    x = strategies.as_dtype(np.random.default_rng(offset).normal(0, 3, (2, 8192 + offset)), dtype)
    rows = torch.full((3, 8192 + offset + 8), 50.0, dtype=x.dtype)[:2, 8:]
    for vocabulary in (8192, 8192 + offset, 4096, offset):
        part = rows[:, -offset - vocabulary : x.shape[1] + 8 - offset]
        part = part[:, :vocabulary]
        part[:] = x[:, :vocabulary]
        for suppress in ((), (0, vocabulary - 1, vocabulary // 2)) if vocabulary > 3 else ((),):
            kernel = mask_predict(part, order=offset, suppress=suppress, softcap=softcap)
            assert_equal(kernel, dllm_fast.mask_predict(part.contiguous(), suppress=list(suppress), softcap=softcap))


def test_bits_of_ids_that_are_left_out_at_any_address(monkeypatch):
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (2, 12_300)).astype(np.float32))
    aligned = emulated.suppressed_bits
    for offset in (0, 1, 16):

        def bits(ids, vocabulary, offset=offset):
            found = aligned(ids, vocabulary)
            room = np.full(len(found) + 48, 0xFF, dtype=np.uint8)
            begin = -room.ctypes.data % 16 + offset
            room[begin : begin + len(found)] = found
            return room[begin : begin + len(found)]

        monkeypatch.setattr(emulated, "suppressed_bits", bits)
        # None in the first tile, the ends of the second, one in the last.
        assert_equals_core(x, suppress=[4096, 8191, 12_299], temperature=0.9, seed=1)
        assert_equals_core(x, suppress=[int(x[0].argmax())])


def test_sites_beyond_one_dimension_of_the_grid(monkeypatch):
    assert launches._grid_of_tiles(1, 1) == (1, 1, 1)
    assert launches._grid_of_tiles(65_535, 12_289) == (2, 65_535, 1)
    assert launches._grid_of_tiles(65_536, 8193) == (2, 65_535, 2)
    monkeypatch.setattr(launches, "_GRID_LIMIT", 2)
    x = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (5, 12_300)).astype(np.float32))
    for settings in ({}, {"temperature": 0.8, "top_k": 50, "seed": 3}):
        assert_equals_core(x, **settings)


@pytest.mark.parametrize("top_k", [1, 2, 3])
@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_a_cut_at_the_first_id_of_a_tile(dtype, top_k):
    """Tiles that keep nothing are not read; of equal logits the lowest ids are kept, each the first of its tile."""
    x = np.random.default_rng(3).normal(0, 2, (1, 8200))
    x[0, [0, 4096, 8192]] = 12.0
    rows = strategies.as_dtype(np.repeat(x, 12, axis=0), dtype)
    settings = {"temperature": 9.0, "top_k": top_k, "seed": 2}
    assert set(dllm_fast.mask_predict(rows, **settings).token.tolist()) == set([0, 4096, 8192][:top_k])
    assert_equals_core(rows, **settings)


def test_unusable_rows_have_a_status():
    matrix = torch.zeros(6, 9001)
    matrix[1, 8999] = matrix[1, 9000] = torch.nan
    matrix[2] = -INF
    matrix[3, 0] = INF
    matrix[3, 5000] = torch.nan
    matrix[4, :] = -INF
    matrix[4, 77] = torch.nan
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for settings in ({}, {"temperature": 0.5}, {"temperature": 1.0, "top_p": 0.5, "top_k": 5}):
            prediction = mask_predict(matrix.to(dtype), **settings)
            assert prediction.status.tolist() == [0, NAN, NOTHING_ALLOWED, NAN, NAN, 0]
            assert prediction.token[[1, 3, 4]].tolist() == [8999, 5000, 77]
    # As in the core, what is suppressed is replaced before anything else is looked at.
    prediction = mask_predict(matrix, suppress=[77, 5000, 8999, 9000])
    assert prediction.status.tolist() == [0, 0, NOTHING_ALLOWED, 0, NOTHING_ALLOWED, 0]


def test_the_law_of_the_draws():
    """Chi-square of 1,000 draws against the softmax: the one check that does not go through the core."""
    x = np.log(np.array([0.5, 0.2, 0.1, 0.1, 0.06, 0.04], dtype=np.float32))
    rows = np.broadcast_to(x, (1000, 6)).copy()
    observed = np.bincount(mask_predict(rows, temperature=1.0, seed=5).token, minlength=6)
    expected = np.exp(x, dtype=np.float64) * 1000
    assert ((observed - expected) ** 2 / expected).sum() < 26, "5 degrees of freedom: less than one in ten thousand"


def test_near_the_largest_taking_the_floor_away_changes_no_bit():
    """`NEAR` of arithmetic.cuh: from there on the kernel may leave the step out."""
    header = (build.KERNELS / "include" / "dllm" / "arithmetic.cuh").read_text(encoding="utf-8")
    near = np.float32(re.search(r"NEAR = (\S+)f;", header)[1])
    bits = near.view(np.uint32) - np.arange(1 << 18, dtype=np.uint32)  # the next floats, up to half of it
    d = np.concatenate([bits.view(np.float32), np.linspace(near / 2, 0, 10_001, dtype=np.float32)])
    weights = arithmetic.exp32(d)
    np.testing.assert_array_equal(weights + arithmetic._EXP_AT_FLOOR, weights)
    above_floor = arithmetic.exp32(np.float32(-43)) + arithmetic._EXP_AT_FLOOR
    assert above_floor != arithmetic.exp32(np.float32(-43)), "further away it counts"


# What is wrong about the laws.
PLANTED_LAWS = {
    "the law of another site": ("sites.law(site) : 0", "sites.law(0) : 0"),
    "the first law for all": ("is_mixed != 0 ?", "is_mixed > 1 ?"),
    "ids that the first leaves out": (
        "sites.line(site) * stride, law.suppressed",
        "sites.line(site) * stride, laws->suppressed",
    ),
    "greedy rows draw": ("draws = choice != CHOICE_ARGMAX", "draws = true"),
    "rows without filters are cut": ("choice == CHOICE_BY_FILTERED_DRAW ? &cuts[site]", "true ? &cuts[site]"),
    "the temperature of the first": ("IS_TEMPERED ? law.inverse_temperature", "IS_TEMPERED ? matrix.laws->inverse_temperature"),
}


@pytest.mark.parametrize("what", PLANTED_LAWS)
def test_planted_faults_in_the_laws_are_seen(what):
    old, new = PLANTED_LAWS[what]
    source, header = build.KERNELS / "mask_predict.cu", "dllm/prediction.cuh"
    texts = [source.read_text("utf-8"), (build.KERNELS / "include" / header).read_text("utf-8")]
    assert sum(text.count(old) for text in texts) == 1
    kernels, shared = (text.replace(old, new) for text in texts)

    def library(path):
        return build.library(path, text=kernels, replaced={header: shared}) if path == source else build.library(path)

    # Rows of one kind each, of which no two share a law; several ids are left out by one of them.
    matrix = strategies.as_dtype(np.random.default_rng(0).normal(0, 2, (5, 4500)), "float32")
    settings = {"temperature": [0.0, 0.5, 1.0, 3.0, 0.0], "top_k": [4500, 4500, 40, 4500, 4500], "seed": 3}
    suppress = [(), (), (), tuple(range(0, 4500, 2)), (int(matrix[4].argmax()),)]
    alone = [
        dllm_fast.mask_predict(matrix[i : i + 1], positions=[i], suppress=suppress[i], **strategies.of_row(settings, i))
        for i in range(5)
    ]

    def differs(library):
        made = mask_predict(matrix, suppress_each=suppress, library=library, **settings)
        return any(getattr(made, field)[i] != getattr(alone[i], field)[0] for i in range(5) for field in FIELDS)

    assert not differs(build.library)
    assert differs(library)


# What is wrong in the tiles, and settings that show it.
PLANTED = {
    "wait for a copy": ("        async_copy_wait<0>();\n", "", {}),
    "wait of two threads for each other": (
        "            Group::wait();  // whoever reads what is written now has read it\n",
        "",
        {},
    ),
    "a floor": ("is_near = d >= NEAR", "is_near = d >= -1000.0f", {}),
    "a bit of an id": ("gone >> (w * COUNT)", "gone", {"suppress": [5, 4100, 8500]}),
    "a slot": ("(u * PER_VECTOR + k) % SLOTS", "k % SLOTS", {}),
}


def _is_seen(core, matrix, **settings):
    """Do the kernels give something else than the core, or stop?"""
    try:
        assert_equal(mask_predict(matrix, **settings), core)
    except (AssertionError, EmulatorError):
        return True
    return False


@pytest.mark.parametrize("what", PLANTED)
def test_planted_faults_in_a_tile_are_seen(what):
    old, new, settings = PLANTED[what]
    source, header = build.KERNELS / "mask_predict.cu", "dllm/tile.cuh"
    kernels = source.read_text(encoding="utf-8")
    tile = (build.KERNELS / "include" / header).read_text(encoding="utf-8")
    assert kernels.count(old) + tile.count(old) == 1

    def library(path):
        if path != source:
            return build.library(path)
        return build.library(path, text=kernels.replace(old, new), replaced={header: tile.replace(old, new)})

    x = np.random.default_rng(0).normal(0, 3, (5, 9004))
    x[:, [77, 6000]] = -150.0
    x[:, [78, 6001]] = 7.0
    rows = strategies.as_dtype(x, "float32")[:, 1:-2]  # not aligned
    core = dllm_fast.mask_predict(rows.contiguous(), **settings)

    assert any(_is_seen(core, rows, order=order, library=library, **settings) for order in range(4))
    assert_equal(mask_predict(rows, order=3, **settings), core)


# What stands before a barrier of the kernel `rows`.
BARRIERS = {
    "accumulators": "        sums_of_others(shared, max, peak.first);\n",
    "chosen tile": "                choose_tile(shared, tiles, u);\n            }\n        }\n",
    "second tile": "            shared.tile.template finish<RowsBlock>(row, chosen * TILE);\n",
}


@pytest.mark.parametrize("what", BARRIERS)
def test_planted_missing_barrier_in_the_kernel_is_seen(what):
    """Without it some order of the threads gives another answer, or threads that read outside."""
    source = build.KERNELS / "mask_predict.cu"
    planted, count = re.subn(re.escape(BARRIERS[what]) + r" *__syncthreads\(\);\n", BARRIERS[what], source.read_text("utf-8"))
    assert count == 1

    def library(path):
        return build.library(path, text=planted) if path == source else build.library(path)

    matrix = strategies.as_dtype(np.random.default_rng(0).normal(0, 3, (5, 9000)), "float32")
    settings = {"temperature": 9.0, "seed": 3}
    core = dllm_fast.mask_predict(matrix, **settings)

    assert any(_is_seen(core, matrix, order=order, library=library, **settings) for order in range(4))
    assert_equals_core(matrix, order=3, **settings)


def test_the_command_compares_with_the_core(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.normal(0, 3, (3, 5000)).astype(np.float32)
    bits = (rows.view(np.uint32) >> 16).astype(np.uint16)
    np.savez(tmp_path / "in.npz", logits=bits, temperature=0.8, seed=7, request=[0, 1, 2], positions=[4, 5, 6], step=3)
    command = [sys.executable, "-m", "tests.emulator", "mask_predict", str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(command, check=True, cwd=build.ROOT)
    tensor = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    place = {"seed": 7, "request": [0, 1, 2], "positions": [4, 5, 6], "step": 3}
    core = dllm_fast.mask_predict(tensor, temperature=0.8, **place)
    with np.load(tmp_path / "out.npz") as out:
        assert set(out) == set(FIELDS)
        for field in FIELDS:
            np.testing.assert_array_equal(out[field], getattr(core, field), err_msg=field)


def test_the_command_refuses_what_it_does_not_know(tmp_path):
    np.savez(tmp_path / "in.npz", logits=np.zeros((1, 5), dtype=np.float32), temprature=1.0)
    command = [sys.executable, "-m", "tests.emulator", "mask_predict", str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    result = subprocess.run(command, check=False, cwd=build.ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "temprature is not an argument" in result.stderr


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"temperature": 1.0, "top_k": 3}, {"softcap": 30.0}], ids=str)
@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], ids=hex)
@pytest.mark.parametrize("infinite", [False, True])
def test_every_nan_is_found(bits, settings, infinite):
    """A GPU makes 7fffffff of all of them, whose bits an exponential turns into a number."""
    matrix = np.zeros((2, 5001), dtype=np.float32)
    matrix[1].view(np.uint32)[4500] = bits
    if infinite:
        matrix[1, 4600] = INF
    kernel = mask_predict(matrix, **settings)
    assert kernel.status.tolist() == [0, NAN]
    assert kernel.token[1] == 4500
