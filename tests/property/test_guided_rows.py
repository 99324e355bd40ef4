"""Guidance equals its reference, under every rule, runner and cache; and rows without it are as they were."""

from __future__ import annotations

import functools
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import prepare
from dllm_fast.open import open_runner
from dllm_fast.ops import guide
from dllm_fast.runners.guided import GuidedSession
from dllm_fast.runners.predictor import Predictor
from dllm_fast.runners.runner import Task
from dllm_fast.settings.resolve import resolve
from dllm_fast.text import prompts as text
from driving import edits_of, same
from engines import Recorder, with_engine
from families import MASK as TWIN_MASK
from families import TWINS
from joining import carried_out
from reference import sampler as reference
from reference.guidance import Guided, mixed
from strategies import MASK, VOCABULARY
from toys import HashTable

weights = st.one_of(st.sampled_from([0.5, 1.0, 1.5, 3.0, 1e-9]), st.floats(1e-3, 20))


# --- the arithmetic


@given(data=st.data(), weight=weights, piece=st.sampled_from([1, 7, 600, 2**22]), as_published=st.booleans())
def test_the_mix_is_that_of_the_reference_to_the_bit(data, weight, piece, as_published):
    """In any dtype, also of infinities, a line of a matrix that the others are in, in pieces of any size."""
    logits = data.draw(strategies.logits(max_rows=6, vocabularies=(1, 3, 255, 600)))
    count, dtype = len(logits), str(logits.dtype).removeprefix("torch.")
    order = data.draw(st.permutations(range(count)))
    pairs = count // 2
    lines, others = np.array(order[:pairs], dtype=np.int64), np.array(order[pairs : 2 * pairs], dtype=np.int64)
    scales = np.full(pairs, weight + 1, dtype=np.float32)
    before = strategies.widened(logits).copy()
    whole, guide._PIECE = guide._PIECE, piece
    try:
        at, other, scale = map(torch.from_numpy, (lines, others, scales))
        guide.guide_(logits, at, logits, other, scale, as_published=as_published)
    finally:
        guide._PIECE = whole
    expected = before.copy()
    expected[lines] = mixed(before[lines], before[others], weight, dtype, as_published=as_published)
    assert np.array_equal(strategies.widened(logits), expected, equal_nan=True)


@given(generator=strategies.generators, gamma=st.floats(1, 8))
def test_gamma_is_one_more_than_the_weight(generator, gamma):
    """UDLM's `gamma log p_c + (1 - gamma) log p_u` is the same distribution (2412.10193)."""
    c, u = generator.normal(0, 3, (2, 50))

    def log_p(x):
        return x - np.logaddexp.reduce(x)

    theirs = gamma * log_p(c) + (1 - gamma) * log_p(u)
    ours = mixed(c, u, gamma - 1).astype(np.float64)
    np.testing.assert_allclose(log_p(ours), log_p(theirs), atol=2e-4)


# --- rows of a callable, under every rule


# Whatever a rule remembers, takes back or reaches, it does with what both branches say together.
rules = st.one_of(
    strategies.settings(),
    strategies.editing(),
    strategies.placed(),
    strategies.remembering(),
    strategies.remasking(kinds=tuple(kind for kind in strategies.REMASKS if kind != "verify")),
)


@st.composite
def calls(draw):
    """A call of `sample` with guidance; rules of all kinds."""
    prompts = draw(st.lists(st.lists(strategies.tokens, min_size=1, max_size=6), min_size=1, max_size=3))
    negative = draw(st.sampled_from([None, "one", "each"]))
    other = st.lists(st.one_of(strategies.tokens, st.just(MASK)), min_size=1, max_size=8)
    count = {None: 0, "one": 1, "each": len(prompts)}[negative]
    return SimpleNamespace(
        prompts=prompts,
        negatives=[draw(other) for _ in range(count)] or None,
        config=draw(rules),
        weight=draw(weights),
        new=draw(st.integers(1, 8)),
        seed=draw(strategies.seeds),
        shift=draw(st.booleans()),
        rows=draw(st.sampled_from([None, 2, 3, 5])),
        samples=draw(st.sampled_from([1, 1, 2])),
    )


def model_of(seed: int) -> HashTable:
    return HashTable(VOCABULARY, seed % 2**32)


def settings_of(config):
    """What the reference knows of the settings of a run."""
    return {name: getattr(config, name) for name in reference.DEFAULTS}


@pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")
@given(call=calls())
def test_guided_rows_equal_the_reference(call):
    model = model_of(call.seed)
    config = {**call.config, "shift": call.shift}
    if config.get("block_length") and call.new % config["block_length"]:
        del config["block_length"]
    result = dllm_fast.sample(
        model,
        call.prompts,
        guidance=call.weight,
        negative_prompt=call.negatives,
        max_new_tokens=call.new,
        max_batch_rows=call.rows,
        seed=call.seed,
        num_samples=call.samples,
        **config,
    )
    used = settings_of(result.config)
    negatives = call.negatives or [None]
    for row, number in enumerate(n for n in range(len(call.prompts)) for _ in range(call.samples)):
        prompt = call.prompts[number]
        canvas = [*prompt, *[MASK] * call.new]
        asked = Guided(
            model, canvas, call.weight, MASK, start=len(prompt), negative=negatives[number if len(negatives) > 1 else 0]
        )
        expected = reference.run(
            asked.alone,
            canvas,
            used,
            seed=call.seed,
            request=row % call.samples,
            block_start=len(prompt),
        )
        ours = edits_of(result.trajectory[row])
        assert same(ours, edits_of(expected.trajectory)), row
        assert result.stats.nfe_per_row[row] == 2 * expected.nfe
    gained = {"commit": 1, "remask": -1}
    committed = sum(gained.get(edit.kind, 0) for row in result.trajectory for edit in row)
    assert result.stats.tokens_per_forward == committed / result.stats.nfe
    assert result.stats.nfe >= max(result.stats.nfe_per_row)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_step_that_scores_nothing_spends_its_forward(rows):
    """Dream's schedule spends forwards in which nothing is written, and the reverse process scores what it writes alone."""
    model, canvas, steps = model_of(1), [1, 2, MASK, MASK], 12
    idle = 0
    for seed in range(4):
        result = dllm_fast.sample(
            model,
            [[1, 2]] * rows,
            preset="dream-origin",
            steps=steps,
            max_new_tokens=2,
            mask_token_id=MASK,
            seed=seed,
            guidance=1.0,
        )
        idle += result.stats.nfe_per_row[0] // 2 - len({edit.step for edit in result.trajectory[0]})
        asked = Guided(model, canvas, 1.0, MASK, start=2)
        expected = reference.run(asked.alone, canvas, settings_of(result.config), seed=seed, block_start=2)
        assert all(same(edits_of(row), edits_of(expected.trajectory)) for row in result.trajectory)
        assert result.stats.nfe_per_row == [2 * expected.nfe] * rows
    assert idle > 0


@given(batch=strategies.batches, config=rules, weight=weights, seed=strategies.seeds)
def test_a_canvas_that_is_filled_in_place_equals_the_reference(batch, config, weight, seed):
    """All that is given is the condition, on both sides of a mask."""
    model = model_of(seed)
    batch = [canvas for canvas in batch if len(canvas)] or [np.array([MASK, 1])]
    result = dllm_fast.infill(model, batch, guidance=weight, seed=seed, **config)
    used = settings_of(result.config)
    for row, canvas in enumerate(batch):
        expected = reference.run(Guided(model, canvas, weight, MASK).alone, canvas, used, seed=seed)
        assert same(edits_of(result.trajectory[row]), edits_of(expected.trajectory))


@given(call=calls(), off=st.sampled_from([0, 0.0, None, -0.0, np.float32(0)]))
@pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")
def test_a_weight_of_zero_is_none(call, off):
    """The same tokens after the same forwards, of the same batches."""
    seen = []

    def watched(ids):
        seen[-1].append(ids.tolist())
        return model_of(call.seed)(ids)

    config = {name: value for name, value in call.config.items() if name != "block_length"}
    results = []
    for given_ in ({}, {"guidance": off}):
        seen.append([])
        results.append(
            dllm_fast.sample(
                watched,
                call.prompts,
                max_new_tokens=call.new,
                max_batch_rows=call.rows,
                seed=call.seed,
                num_samples=call.samples,
                **config,
                **given_,
            )
        )
    assert seen[0] == seen[1]
    assert results[0].trajectory == results[1].trajectory
    assert results[0].stats.nfe == results[1].stats.nfe


def test_both_branches_ride_in_one_forward_and_the_row_is_shown_what_it_was():
    """The conditional rows of a forward are what the model is shown without guidance."""
    seen = []

    def model(ids):
        seen.append(ids.clone())
        return HashTable(VOCABULARY, 5)(ids)

    result = dllm_fast.sample(model, [[1, 2], [4, 5]], guidance=1.0, max_new_tokens=3, mask_token_id=MASK, seed=1)
    assert [tuple(ids.shape) for ids in seen] == [(4, 5)] * 3
    assert (result.stats.nfe, result.stats.nfe_per_row, result.stats.tokens_per_forward) == (6, [6, 6], 1.0)
    for ids in seen:
        assert ids[0, :2].tolist() == [1, 2]
        assert ids[2, :2].tolist() == [4, 5]
        assert ids[1, :2].tolist() == ids[3, :2].tolist() == [MASK, MASK]
        assert ids[::2, 2:].tolist() == ids[1::2, 2:].tolist()
    events = list(dllm_fast.stream(model, [[1, 2]], guidance=1.0, max_new_tokens=3, mask_token_id=MASK, seed=1))
    assert [event.step for event in events] == [0, 1, 2]


@pytest.mark.parametrize("as_numpy", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_logits_of_the_caller_stay_as_they_are(dtype, as_numpy):
    """A model may return a table of its own, again and again, or one that nobody may write to."""
    if as_numpy and dtype == "bfloat16":
        return  # of which NumPy knows none
    table = torch.from_numpy(np.random.default_rng(0).normal(0, 3, (4, 6, VOCABULARY))).to(getattr(torch, dtype))
    before = table.clone()
    shown = table.numpy() if as_numpy else table
    if as_numpy:
        shown.flags.writeable = False

    def model(ids):
        return shown[: len(ids), : ids.shape[1]]

    kwargs = {"max_new_tokens": 4, "mask_token_id": MASK, "stop_at_eos": False}
    first = dllm_fast.sample(model, [[1, 2], [3, 4]], guidance=1.5, **kwargs)
    assert torch.equal(table, before)
    wide = strategies.widened(before)
    for row in range(2):
        expected = mixed(wide[2 * row], wide[2 * row + 1], 1.5, dtype)[2:]
        expected[:, MASK] = -np.inf
        assert first.new_tokens[row].tolist() == expected.argmax(axis=1).tolist()


# --- networks, their caches and graphs


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    @functools.cache
    def get(name: str):
        twin = next(twin for twin in TWINS if twin.name == name)
        model = dllm_fast.load(twin.save(tmp_path_factory.mktemp(name)))
        model.engine = None
        return model

    return get


BLOCKS = [twin.name for twin in TWINS if twin.attention in ("block_causal", "causal_context")]
twin_prompts = st.lists(st.lists(st.integers(0, TWIN_MASK - 1), min_size=1, max_size=20), min_size=1, max_size=3)


# Of each kind of rule one, with bars that a random model passes.
KINDS = (
    {"preset": "klass", "threshold": 0.02, "kl_threshold": 0.05},
    {"preset": "credit", "threshold": 0.03, "credit": 3.0},
    {"preset": "local-leap", "threshold": 0.05, "neighbour_threshold": 0.02},
    {"preset": "remdm-cap", "remask_eta": 0.3, "steps_per_block": 6},
    {"preset": "p2", "steps_per_block": 3},
    {"preset": "saber"},
    {"preset": "revise-low-confidence", "threshold": 0.02, "remask_budget": 3},
    {"preset": "dus"},
    {"preset": "fast-dllm-v2", "threshold": 0.02, "sub_block_length": 2},
    {"preset": "d2f", "threshold": 0.03, "activate_block_at": 0.5},
    {"preset": "wedlm", "window_length": 5, "entropy_threshold": 4.0},
)


@st.composite
def guided_rules(draw) -> dict:
    preset = draw(st.sampled_from(["llada", "fast-dllm", "left-to-right"]))
    rule = {"preset": preset}
    rule |= {"threshold": 0.02} if preset == "fast-dllm" else {"steps_per_block": draw(st.sampled_from([2, 4]))}
    if draw(st.booleans()):
        rule |= {"edit_threshold": 0.0, "max_post_steps": 2}
    return {
        **draw(st.one_of(st.just(rule), st.sampled_from(KINDS))),
        "guidance": draw(st.sampled_from([0.5, 2.0])),
        "temperature": draw(st.sampled_from([0.0, 0.8])),
        "max_new_tokens": draw(st.integers(1, 4)) * 4,
        "seed": draw(st.integers(0, 1000)),
        "num_samples": draw(st.sampled_from([1, 1, 2])),
        "stop_at_eos": False,
    }


def tokens(result) -> list[list[int]]:
    return [row.tolist() for row in result.sequences]


pytestmark = pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")


@st.composite
def questions(draw, names):
    """A model, prompts, negative prompts of other lengths, a rule and how many rows ride together."""
    prompts = draw(twin_prompts)
    rule = draw(guided_rules())
    lengths = st.lists(st.integers(0, TWIN_MASK), min_size=1, max_size=45)
    rule["negative_prompt"] = draw(st.one_of(st.none(), lengths, st.just(prompts)))
    return draw(st.sampled_from(names)), prompts, rule, draw(st.sampled_from([None, 2, 4]))


@given(question=questions(BLOCKS))
def test_the_exact_cache_gives_the_tokens_of_none(opened, question):
    name, prompts, rule, rows = question
    plain = dllm_fast.sample(opened(name), prompts, cache="none", **rule)
    exact = dllm_fast.sample(opened(name), prompts, max_batch_rows=rows, **rule)
    assert exact.config.cache == "exact_block"
    assert tokens(plain) == tokens(exact)
    assert plain.stats.nfe_per_row == exact.stats.nfe_per_row


@given(question=questions(["llada", "dream", "sdar"]), policy=st.sampled_from(["prefix", "dual"]))
def test_a_refresh_every_step_gives_the_tokens_of_no_cache(opened, question, policy):
    name, prompts, rule, rows = question
    plain = dllm_fast.sample(opened(name), prompts, cache="none", **rule)
    cached = dllm_fast.sample(opened(name), prompts, cache=policy, refresh_every=1, max_batch_rows=rows, **rule)
    assert tokens(plain) == tokens(cached)


@given(question=questions([twin.name for twin in TWINS]))
def test_a_guided_row_is_the_row_alone(opened, question):
    name, prompts, rule, rows = question
    model, negative = opened(name), rule.pop("negative_prompt")
    each = prompts if negative is prompts else [negative] * len(prompts)
    together = tokens(dllm_fast.sample(model, prompts, max_batch_rows=rows, negative_prompt=negative, **rule))
    alone = [
        row
        for prompt, other in zip(prompts, each, strict=True)
        for row in tokens(dllm_fast.sample(model, prompt, negative_prompt=other, **rule))
    ]
    assert together == alone


@given(question=questions([*BLOCKS, "llada", "dream"]), cache=st.sampled_from(["none", "auto", "prefix", "dual"]))
def test_replayed_forwards_give_the_tokens_of_eager_ones(opened, question, cache):
    """The forward comes from a graph, and what is decided is not decided in it: that would not know the twin."""
    name, prompts, rule, rows = question
    model = opened(name)
    eager = dllm_fast.sample(model, prompts, cache=cache, max_batch_rows=rows, **rule)
    recorder = Recorder()
    engine = with_engine(model, recorder)
    try:
        for _ in range(2):
            found = dllm_fast.sample(model, prompts, cache=cache, max_batch_rows=rows, **rule)
            assert tokens(found) == tokens(eager)
            assert found.stats.nfe == eager.stats.nfe
        assert engine.trouble is not None or recorder.replayed
        assert found.stats.replayed <= found.stats.nfe
    finally:
        model.engine = None


# --- rows that join, guided and not


@given(data=st.data(), name=st.sampled_from([*BLOCKS, "llada", "dream", "callable"]))
def test_guided_rows_beside_others_write_what_each_writes_alone(opened, data, name):
    """A session whose rows come one by one, each with a weight of its own, some with none: in view of a server."""
    model = opened("llada") if name == "callable" else opened(name)
    model = model.__call__ if name == "callable" else model
    runner, _ = open_runner(model)
    drawn = [
        SimpleNamespace(
            prompt=data.draw(st.lists(st.integers(0, TWIN_MASK - 1), min_size=1, max_size=20)),
            negative=data.draw(st.one_of(st.none(), st.lists(st.integers(0, TWIN_MASK), min_size=1, max_size=20))),
            settings={
                **data.draw(guided_rules()),
                "mask_token_id": TWIN_MASK,
                "guidance": data.draw(st.sampled_from([0, 2.0])),
            },
            comes=comes,
        )
        for comes in sorted(data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=4)))
    ]
    for row in drawn:
        row.settings.pop("num_samples")
        row.settings["mask_token_id"] = TWIN_MASK
        row.negative = row.negative if row.settings["guidance"] else None
    alone = [tokens(dllm_fast.sample(model, row.prompt, negative_prompt=row.negative, **row.settings))[0] for row in drawn]
    assert _together(runner, drawn) == alone


def _planned(runner, row):
    settings = {name: value for name, value in row.settings.items() if name != "seed"}
    read = functools.partial(text.prompts, row.prompt, name="prompt")
    negative = functools.partial(text.prompts, row.negative, name="negative_prompt") if row.negative else None
    resolved = resolve(settings.pop("preset"), None, settings, runner.info)
    return prepare.plan(
        runner, None, resolved, read, seed=row.settings["seed"], num_samples=1, is_infilling=False, negative=negative
    )


def _together(runner, drawn):
    plans = [_planned(runner, row) for row in drawn]
    first = plans[0]
    sampler = dllm_fast.Sampler(
        first.rule, first.canvases, seed=first.seeds, request=first.requests, block_start=first.block_starts
    )
    predictor = Predictor(sampler, first.rule, first.special)
    task = Task(
        lengths=[len(first.canvases[0])],
        starts=first.starts,
        prompts=[0],
        mask_token_id=TWIN_MASK,
        shift=first.config.shift,
        predictor=predictor,
    )
    session = GuidedSession(runner, task, first.guides)

    def told(plan):
        return lambda number: {"prompt": number, "guide": plan.guides[0]}

    waiting = [(row.comes, plan, told(plan)) for row, plan in zip(drawn[1:], plans[1:], strict=True)]
    return carried_out(sampler, session, predictor, waiting)
