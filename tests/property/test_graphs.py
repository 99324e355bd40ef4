"""Steps through fixed buffers give the tokens of eager ones. Here a "graph" is the function that CUDA would capture."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from dllm_fast.runners import graphs
from dllm_fast.runners.graphs import Engine
from dllm_fast.runners.shapes import Inputs, Shape, below, room
from encoders import TWINS as ENCODERS
from engines import Recorder, with_engine
from families import MASK, TWINS, Twin

# Samples of rules that draw nothing are compared on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")

prompts = st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=20), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    made = {}

    def get(twin: Twin):
        if twin.name not in made:
            made[twin.name] = dllm_fast.load(twin.save(tmp_path_factory.mktemp(twin.name)))
        made[twin.name].engine = None
        return made[twin.name]

    return get


def tokens(result) -> list[list[int]]:
    return [row.tolist() for row in result.sequences]


@given(
    twin=st.sampled_from([*TWINS, *ENCODERS]),
    prompts=prompts,
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 0.8]),
    approximate=st.sampled_from([None, "prefix", "dual", "none"]),
    rows=st.sampled_from([None, 2]),
    edits=st.sampled_from([{}, {}, {"edit_threshold": 0.0, "max_post_steps": 2}]),
)
def test_replayed_steps_give_the_tokens_of_eager_ones(*, opened, twin, prompts, seed, temperature, approximate, rows, edits):
    model = opened(twin)
    cache = "none" if twin.attention == "causal_reordered" or approximate is None else approximate
    cache = "auto" if approximate is None else cache
    rule = {"temperature": temperature, "seed": seed, "num_samples": 2, "cache": cache, "max_batch_rows": rows}
    rule |= {"preset": "fast-dllm", "threshold": 0.02, "max_new_tokens": 12, "stop_at_eos": False, **edits}
    eager = dllm_fast.sample(model, prompts, **rule)
    recorder = Recorder()
    engine = with_engine(model, recorder)
    # The second run finds the graphs and the cache of the first.
    for _ in range(2):
        replayed = dllm_fast.sample(model, prompts, **rule)
        assert tokens(replayed) == tokens(eager)
        assert replayed.stats.nfe == eager.stats.nfe
    if engine.trouble is None and twin.attention != "causal_reordered" and eager.stats.nfe:
        assert recorder.replayed >= recorder.captured > 0


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("twin", ENCODERS, ids=lambda twin: twin.name)
def test_replayed_steps_of_every_encoder(opened, twin, cache):
    model = opened(twin)
    canvases = [[0, 9, *[MASK] * 7, 11], [1, 1, 8, *[MASK] * 12], [MASK, 5, MASK]]
    rule = {"preset": "fast-dllm", "threshold": 0.02, "block_length": 5, "cache": cache}
    eager = dllm_fast.infill(model, canvases, **rule)
    recorder = Recorder()
    with_engine(model, recorder)
    for _ in range(2):
        assert tokens(dllm_fast.infill(model, canvases, **rule)) == tokens(eager)
    assert recorder.replayed >= recorder.captured > 0


def test_a_capture_that_fails_is_said_once_and_the_run_goes_on(opened):
    twin = next(twin for twin in TWINS if twin.name in {"llada", "dream"})
    model = opened(twin)
    eager = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8)

    def refuse(body):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    engine = with_engine(model, refuse)
    with pytest.warns(UserWarning, match="without CUDA graphs.*operation not permitted when stream is capturing$"):
        replayed = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8)
    assert tokens(replayed) == tokens(eager)
    assert engine.trouble == "RuntimeError: operation not permitted when stream is capturing"
    assert engine.captured == 0
    assert "Traceback" in engine.traceback
    assert engine.traceback.count("operation not permitted when stream is capturing") == 2, "the line that raised, and its text"
    assert tokens(dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8)) == tokens(eager), "and is silent from then on"
    assert ("CUDA graphs", engine.trouble) in dllm_fast.explain(model).refused


def test_a_second_run_at_the_same_time_runs_eagerly(opened):
    model = opened(TWINS[0])
    plain = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8)
    recorder = Recorder()
    engine = with_engine(model, recorder)
    inner = []

    def nested(event):
        if event.step == 1:
            before = recorder.replayed
            inner.append(tokens(dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8)))
            assert recorder.replayed == before

    outer = dllm_fast.sample(model, [1, 2, 3], max_new_tokens=8, on_step=nested)
    assert tokens(outer) == tokens(plain) == inner[0]
    assert engine.acquire("me"), "it is free again"
    engine.release("me")


def test_a_longer_run_gets_a_longer_cache(opened):
    model = opened(next(twin for twin in TWINS if twin.attention == "block_causal"))
    engine = with_engine(model, Recorder())
    first = engine.cache(2, 20)
    assert (first.spare, first.lines) == (256, 2)
    assert engine.cache(1, 256) is first
    assert engine.cache(3, 20) is not first


def test_what_is_queued_is_done_before_memory_goes_to_others(opened, monkeypatch):
    waited = []
    monkeypatch.setattr(graphs, "finish", waited.append)
    engine = with_engine(opened(TWINS[0]), Recorder())
    engine.cache(1, 20)
    assert len(waited) == 1
    engine.cache(1, 20)
    assert len(waited) == 1, "nothing is dropped"
    assert engine.acquire("me")
    engine.release("me")
    assert len(waited) == 2, "the next run may be on another stream"
    monkeypatch.setattr(graphs, "_MOST_GRAPHS", 1)
    for width in (16, 32):
        engine.run(inputs(1, width, [0], slots=False), is_cached=False, scoring=None, carried=None, repeats=False)
    assert len(waited) == 3


def inputs(rows, width, scored, keys=40, slots=True) -> Inputs:
    one = np.arange(rows * width).reshape(rows, width)
    return Inputs(
        ids=one + 1,
        positions=one + 2,
        end=one + 3,
        slots=one + 4 if slots else None,
        keys=keys,
        lines=np.array(scored, dtype=np.int64),
    )


def test_shapes_are_rounded_up_to_a_few():
    shapes = {Shape.around(inputs(rows, width, [0]), None, None) for rows in (5, 6, 7, 8) for width in (17, 25, 32)}
    assert shapes == {Shape(rows=8, width=32, keys=32, scored=16, kind=None)}


def test_rows_are_filled_up_by_three_at_most():
    rounded = {rows: Shape.around(inputs(rows, 16, [0]), None, None).rows for rows in range(1, 41)}
    assert [rounded[rows] for rows in (1, 2, 3, 4, 5, 8, 9, 12, 13, 17, 33)] == [1, 2, 4, 4, 8, 8, 12, 12, 16, 20, 36]
    assert all(rows <= rounded[rows] <= rows + 3 for rows in rounded)


def test_a_shape_has_no_more_rows_than_the_cache(opened):
    engine = with_engine(opened(TWINS[0]), Recorder())
    assert Shape.around(inputs(9, 16, [0]), engine.cache(9, 20), None).rows == 9


def test_scored_lines_are_rounded_to_powers_of_two_and_above_128_to_halves_of_them():
    assert [room(n) for n in (0, 16, 17, 100, 128, 129, 192, 193, 257, 385, 2048)] == [
        *(16, 16, 32, 128, 128, 192, 192, 256, 384, 512, 2048)
    ]


def test_the_most_lines_that_have_less_room():
    for n in range(1, 3000):
        assert room(below(room(n)) + 1) == room(n)
        assert below(room(n)) == 0 or room(below(room(n))) < room(n)


def test_features_are_kept_only_where_somebody_reads_them(opened):
    engine = with_engine(opened(TWINS[0]), Recorder())
    for _ in range(2):
        answer = engine.run(inputs(1, 16, [0], slots=False), is_cached=False, scoring=None, carried=None, repeats=False)
        assert answer.hidden is None


def test_the_filling_of_a_shape_is_seen_by_nobody():
    # Line 7 is query 2 of row 1; line 10 is the tail of row 0.
    given_ = inputs(2, 5, [0, 7, 10])
    shape = Shape.around(given_, None, None)
    packed = shape.pack(given_, spare=99)
    ids, positions, end, slots = packed[: 4 * 2 * 16].reshape(4, 2, 16)
    np.testing.assert_array_equal(ids[:, :5], given_.ids)
    np.testing.assert_array_equal(positions[:, :5], given_.positions)
    np.testing.assert_array_equal(end[:, :5], given_.end)
    np.testing.assert_array_equal(slots[:, :5], given_.slots)
    assert (slots[:, 5:] == 99).all()
    assert (end[:, 5:] == 1).all()
    lines = packed[4 * 2 * 16 :]
    assert lines.tolist() == [0, 16 + 2, 2 * 16] + [0] * 13


def test_large_steps_are_left_to_eager_launches():
    engine = Engine(torch.nn.Module(), dtype=torch.float32, where=torch.device("cpu"), capture=Recorder())  # type: ignore[arg-type]
    for _ in range(3):
        large = inputs(8, 300, [0], slots=False)
        assert engine.run(large, is_cached=False, scoring=None, carried=None, repeats=False) is None


def test_the_oldest_graph_makes_room_for_a_new_one(opened, monkeypatch):
    monkeypatch.setattr(graphs, "_MOST_GRAPHS", 2)
    model = opened(TWINS[0])
    lengths = (3, 20, 40, 60, 3)
    eager = [tokens(dllm_fast.sample(model, list(range(n)), max_new_tokens=4, cache="none")) for n in lengths]
    engine = with_engine(model, Recorder())
    assert [tokens(dllm_fast.sample(model, list(range(n)), max_new_tokens=4, cache="none")) for n in lengths] == eager
    assert len(engine._graphs) == 2


def test_memory_is_free_as_soon_as_graphs_are_dropped(opened):
    """Not when Python looks for cycles: a longer cache is made when the one before has been let go."""
    model = opened(TWINS[0])
    engine = with_engine(model, Recorder())
    dllm_fast.sample(model, [[1, 2, 3]], max_new_tokens=8, cache="prefix", stop_at_eos=False, steps=1)
    (graph,) = engine._graphs.values()
    assert graph.captured is None
    cache = engine._cache
    held = [weakref.ref(tensor) for tensor in (*cache._buffers, *cache.keys, *cache.values, graph.inputs)]
    del graph, cache
    gc.disable()
    try:
        engine.forget()
        assert [tensor() for tensor in held] == [None] * len(held)
    finally:
        gc.enable()


def test_weights_that_were_replaced_are_captured_anew(opened):
    """Graphs know addresses: those of weights that are gone belong to somebody else by then."""
    model = opened(TWINS[0])
    rule = {"max_new_tokens": 8, "stop_at_eos": False}
    recorder = Recorder()
    engine = with_engine(model, recorder)
    for _ in range(2):
        dllm_fast.sample(model, [[1, 2, 3]], **rule)
    captured, kept = recorder.captured, model.network.embed.weight
    assert captured > 0
    try:
        model.network.embed.weight = torch.nn.Parameter(-kept.detach(), requires_grad=False)
        ours = tokens(dllm_fast.sample(model, [[1, 2, 3]], **rule))
        assert recorder.captured > captured
        model.engine = None
        assert ours == tokens(dllm_fast.sample(model, [[1, 2, 3]], **rule))
        assert engine.acquire("me"), "it is free"
    finally:
        model.network.embed.weight = kept


def test_a_copy_of_a_loaded_model_has_no_graphs_of_the_first(opened):
    model = opened(TWINS[0])
    with_engine(model, Recorder())
    rule = {"max_new_tokens": 8, "stop_at_eos": False}
    ours = tokens(dllm_fast.sample(model, [[1, 2, 3]], **rule))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.engine is None, "there are none on a CPU"
        assert tokens(dllm_fast.sample(other, [[1, 2, 3]], **rule)) == ours
