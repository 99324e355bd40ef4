"""Where the kernels cut a row is where the reference does, to the id: for rows like those of models, and for awkward ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast.kernels import launches
from reference import draw as reference
from reference.arithmetic import TILE, tile_sums
from reference.statistics import allowed, bounded, distances

from . import build
from .launch import EmulatorError
from .mask_predict import mask_predict

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

INF = np.inf


def _like_a_model(rng, v):
    """Most ids in a heap, one in seven of nearly the same logit, a few far above."""
    x = rng.normal(-1, 2.5, v)
    x[rng.random(v) < 0.15] = 2 + rng.normal(0, 0.02)
    x[rng.integers(0, v, 5)] += rng.choice([4, 10, 20])
    return x


def _any_magnitude(rng, v):
    """Logits of both signs far outside of the window of the bins, and zeros of both signs."""
    x = np.exp2(rng.uniform(-160, 9, v)) * rng.choice([-1, 1], v)
    x[rng.random(v) < 0.1] = 0.0
    x[rng.random(v) < 0.1] = -0.0
    return x


_KINDS = {
    "normal": lambda rng, v: rng.normal(0, rng.choice([1, 3]), v),
    "like a model": _like_a_model,
    "far below zero": lambda rng, v: rng.normal(-110, 4, v),
    "any magnitude": _any_magnitude,
    "tiny": lambda rng, v: rng.normal(0, 1, v) * np.exp2(rng.integers(-145, -15)),
    "huge": lambda rng, v: rng.normal(0, 1, v) * 1e4,
    "few values": lambda rng, v: rng.integers(-3, 4, v) / 2,
    "one value": lambda rng, v: np.full(v, rng.choice([0.0, -0.0, 7.5, -100, 1e-30])),
    "holes": lambda rng, v: np.where(rng.random(v) < 0.7, -INF, rng.normal(0, 2, v)),
}


def _kept(cut, x, scale):
    """The ids that a cut of the kernels keeps."""
    ids = np.arange(len(x))
    return ((x > cut["x"]) | ((x == cut["x"]) & (ids <= cut["id"]))) & (distances(x, x.max(), scale) >= cut["floor"])


def _masses(x, scale):
    """What the kept ids of each tile weigh, relative to the largest."""
    tiles = [x[start : start + TILE] for start in range(0, len(x), TILE)]
    return [tile_sums(distances(tile, tile.max(), scale))[0] if tile.max() > -INF else 0.0 for tile in tiles]


def assert_cuts_equal_the_reference(
    matrix, *, temperature, suppress=(), softcap=None, order=0, library=build.library, **filters
):
    prediction = mask_predict(
        matrix, temperature=temperature, suppress=suppress, softcap=softcap, order=order, library=library, **filters
    )
    scale = reference.inverse(temperature)
    is_cut = filters.get("top_k", matrix.shape[1]) < matrix.shape[1] or "top_p" in filters or "min_p" in filters
    dtype = str(matrix.dtype).removeprefix("torch.")
    for i, row in enumerate(strategies.widened(matrix)):
        x = allowed(row if softcap is None else bounded(row, softcap, dtype), suppress)
        expected = reference.kept(x, scale, **filters)
        kept = _kept(prediction.cuts[i], x, scale) if is_cut else np.ones(len(x), dtype=bool)
        np.testing.assert_array_equal(kept, expected, err_msg=f"row {i}, {filters}")
        if is_cut:
            records = prediction.records.reshape(len(matrix), -1)[i]
            np.testing.assert_array_equal(records["draw_mass"], _masses(np.where(kept, x, -INF), scale), err_msg=f"row {i}")


@st.composite
def cuts(draw):
    """Rows of a vocabulary and what they are cut by."""
    rng = draw(strategies.generators)
    vocabulary = draw(st.sampled_from([1, 2, 9, 255, 4096, 4097, 8200, 12_300]))
    kinds = draw(st.lists(st.sampled_from(sorted(_KINDS)), min_size=1, max_size=3))
    rows = np.stack([_KINDS[kind](rng, vocabulary) for kind in kinds])
    rows[rows.max(axis=1) == -INF, 0] = 0.0
    counts = st.one_of(st.sampled_from([1, 2, 50, max(1, vocabulary - 1)]), st.integers(1, vocabulary))
    filters = st.fixed_dictionaries(
        {"temperature": st.sampled_from([1.0, 0.2, 0.7, 5.0, 1e-3, 1e3])},
        optional={"top_k": counts, "top_p": st.sampled_from([1e-9, 0.3, 0.9, 0.95, 0.999999]), "min_p": st.just(0.02)},
    )
    return strategies.as_dtype(rows, draw(st.sampled_from(strategies.DTYPES))), draw(filters)


@given(cuts(), st.sampled_from([None, None, 30.0]), st.booleans(), st.integers(0, 7), st.integers(0, 9))
def test_every_cut_equals_the_reference(call, softcap, suppresses, offset, order):
    matrix, settings = call
    apart = torch.full((len(matrix), matrix.shape[1] + 8), 99.0, dtype=matrix.dtype)  # at most addresses not aligned
    rows = apart[:, offset : offset + matrix.shape[1]]
    rows[:] = matrix
    suppress = [i for i in (1, 5, matrix.shape[1] - 1) if 0 < i < matrix.shape[1]] if suppresses else ()
    assert_cuts_equal_the_reference(rows, suppress=suppress, softcap=softcap, order=order, **settings)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
@pytest.mark.parametrize("kind", _KINDS)
def test_each_kind_of_row(kind, dtype):
    rng = np.random.default_rng(3)
    matrix = strategies.as_dtype(np.stack([_KINDS[kind](rng, 9001) for _ in range(2)]), dtype)
    for temperature in (1.0, 0.2):
        for filters in ({"top_p": 0.9}, {"top_k": 50}, {"top_k": 3000, "top_p": 0.95}):
            assert_cuts_equal_the_reference(matrix, temperature=temperature, **filters)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_a_row_that_eight_blocks_share(dtype):
    """LLaDA's vocabulary: 31 tiles, seven chunks of four and one of three, the last tile ragged; cuts in every chunk."""
    rng = np.random.default_rng(4)
    rows = strategies.as_dtype(np.stack([_like_a_model(rng, 126_464), np.zeros(126_464)]), dtype)
    for filters in ({"top_p": 0.9}, {"top_k": 60_001}, {"top_k": 126_463, "top_p": 0.37}):
        assert_cuts_equal_the_reference(rows, temperature=1.0, suppress=[126_336], **filters)


def test_the_largest_vocabulary():
    row = strategies.as_dtype(_like_a_model(np.random.default_rng(5), 1_048_576)[None], "bfloat16")
    assert_cuts_equal_the_reference(row, temperature=1.0, top_k=400_000, top_p=0.8)


@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_the_number_of_blocks_changes_nothing(monkeypatch, dtype):
    rows = strategies.as_dtype(_KINDS["few values"](np.random.default_rng(6), (2, 40_000)), dtype)
    for chunks in (1, 2, 3, 5, 10):
        monkeypatch.setattr(launches, "_chunks", lambda *_, chunks=chunks: chunks)
        assert_cuts_equal_the_reference(rows, temperature=1.3, top_k=17_000, top_p=0.7, order=chunks)


def test_blocks_of_a_row():
    """They fill a GPU where rows are few; every block has a tile."""
    found = {n: launches._chunks(n, 126_464) for n in (1, 32, 48, 64, 100, 128, 192, 193, 2048)}
    assert found == {1: 8, 32: 8, 48: 8, 64: 6, 100: 3, 128: 3, 192: 2, 193: 1, 2048: 1}
    for sites in (1, 50, 1000):
        for tiles in range(1, launches.MAX_TILES + 1):
            chunks = launches._chunks(sites, tiles * launches.TILE)
            assert (chunks - 1) * -(-tiles // chunks) < tiles


@pytest.mark.parametrize("dtype", strategies.DTYPES)
def test_bins_are_as_large_as_the_kernel_fills_them(monkeypatch, dtype):
    """What the host allocates ends with the last counter of the last block."""
    made = []
    full = np.full

    def watched(shape, *arguments, **named):
        made.append(full(shape, *arguments, **named))
        return made[-1]

    size = launches.bins_bytes(dtype=dtype, sites=2, vocabulary=9000)
    monkeypatch.setattr(np, "full", watched)
    mask_predict(strategies.as_dtype(np.zeros((2, 9000)), dtype), temperature=1.0, top_p=0.5)
    (bins,) = (array for array in made if array.nbytes == size)
    assert bins[-4:].tolist() == [0] * 4
    assert bins[:8].tolist() != [0xFF] * 8


@pytest.mark.parametrize("order", range(8))
def test_the_order_of_the_threads_changes_no_cut(order):
    rng = np.random.default_rng(7)
    rows = np.stack([_like_a_model(rng, 9001), _KINDS["few values"](rng, 9001), _any_magnitude(rng, 9001)])
    for dtype in ("float32", "bfloat16"):
        assert_cuts_equal_the_reference(strategies.as_dtype(rows, dtype), temperature=1.0, top_k=5000, top_p=0.9, order=order)


def test_a_cut_of_what_weighs_nothing_keeps_the_lowest_ids():
    """Dream's temperature: nearly all weights are 0, and top-k still counts them."""
    x = np.full((1, 9001), -40.0)
    x[0, [4, 5000]] = 20.0, 19.0
    for dtype in strategies.DTYPES:
        assert_cuts_equal_the_reference(strategies.as_dtype(x, dtype), temperature=0.2, top_k=4100)


# What is wrong, in which file, and what it is seen in: a dtype and settings.
_MANY = {"top_k": 5000, "top_p": 0.9}
PLANTED = {
    "a carry that is lost": ("bins.cuh", "> 0xffffffffu - part ? 1 : 0", "> 0xffffffffu - part ? 0 : 0", "float32", _MANY),
    "weights close to 0": ("bins.cuh", "bin == ZERO - 1 ? 0 :", "", "bfloat16", {"top_p": 0.53}),
    "bins that are not cleared": (
        "mask_filter.cu",
        "    __syncthreads();\n    const Map map",
        "    const Map map",
        "bfloat16",
        _MANY,
    ),
    "counts that are not waited for": (
        "mask_filter.cu",
        "    __syncthreads();\n    Bins<T>& out",
        "    Bins<T>& out",
        "bfloat16",
        _MANY,
    ),
    "a tile that weighs nothing": ("mask_filter.cu", "(has_top_k || view", "(view", "bfloat16", {"top_k": 8000}),
    "ties of the chunks before": ("mask_filter.cu", "ties -= b->counts[bin];", "", "bfloat16", {"top_k": 4880}),
    "ids on the wrong side of the cut's": (
        "mask_filter.cu",
        "uint32_t(start) > cut.id",
        "uint32_t(start) >= 0",
        "bfloat16",
        {"top_k": 4880},
    ),
    "parts that are not waited for": (
        "prefix.cuh",
        "        __syncthreads();\n        Sums<PER> sums;",
        "        Sums<PER> sums;",
        "float32",
        _MANY,
    ),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_faults_in_the_cut_are_seen(what):
    name, old, new, dtype, filters = PLANTED[what]
    source = build.KERNELS / "mask_filter.cu"
    header = build.KERNELS / "include" / "dllm" / name
    text = (header if header.exists() else source).read_text(encoding="utf-8")
    assert text.count(old) == 1
    planted = text.replace(old, new)

    def library(path):
        if path != source:
            return build.library(path)
        return build.library(path, replaced={f"dllm/{name}": planted}) if header.exists() else build.library(path, text=planted)

    rng = np.random.default_rng(8)
    x = np.stack([_like_a_model(rng, 9001), _KINDS["few values"](rng, 9001), rng.normal(0, 1e-6, 9001)])
    x[1, 4096:8192] = -90.0
    rows = strategies.as_dtype(x, dtype)

    def is_seen(order):
        try:
            assert_cuts_equal_the_reference(rows, temperature=1.0, order=order, library=library, **filters)
        except (AssertionError, EmulatorError):
            return True
        return False

    assert any(map(is_seen, range(4)))
    assert_cuts_equal_the_reference(rows, temperature=1.0, order=3, **filters)


def test_draws_behind_a_cut_equal_the_core():
    rng = np.random.default_rng(9)
    for dtype in strategies.DTYPES:
        rows = strategies.as_dtype(np.stack([_KINDS[kind](rng, 9001) for kind in _KINDS]), dtype)
        settings = {"temperature": 1.0, "top_k": 700, "top_p": 0.9, "seed": 1}
        np.testing.assert_array_equal(mask_predict(rows, **settings).token, dllm_fast.mask_predict(rows, **settings).token)
