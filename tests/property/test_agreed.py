"""Drafts that a second model agrees with (APD): by the core, in runs of two models, and what is promised of the answer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast import SamplerConfig, _core
from dllm_fast.ops.mix import mix
from families import MASK as TWIN_MASK
from families import TWINS
from reference import agreed, verify
from strategies import MASK, VOCABULARY
from toys import HashTable

SUPPRESSED = 5


class Causal(HashTable):
    """Logits of a position depend on what is before it and on itself."""

    def row(self, canvas):
        canvas = np.asarray(canvas)
        rows = [super(Causal, self).row(np.concatenate([[0], canvas[: p + 1]]))[-1] for p in range(len(canvas))]
        return np.array(rows).reshape(-1, VOCABULARY)


class Led(HashTable):
    """Sees both ways; says at a share of the positions what a causal model says, and where `is_sure` at the first open one."""

    def __init__(self, causal: Causal, seed: int, share: float, *, is_sure: bool = False):
        super().__init__(VOCABULARY, seed)
        self.causal, self.share, self.is_sure = causal, share, is_sure

    def row(self, canvas):
        logits = np.array(super().row(canvas))
        rng = np.random.default_rng([self.seed, *np.asarray(canvas).tolist()])
        led = rng.random(len(canvas)) < self.share
        first = np.flatnonzero(np.asarray(canvas) == MASK)[:1]
        led[first] |= self.is_sure
        led[0] = False
        places = np.flatnonzero(led)
        logits[places] = self.causal.row(canvas)[places - 1]
        return logits


weights = st.one_of(st.sampled_from([0.0, 0.3, 0.7, 1.0]), st.floats(0, 1))
temperatures = st.sampled_from([0.0, 0.0, 0.2, 1.0, 5.0])
filters = st.one_of(
    st.just({}),
    st.fixed_dictionaries({}, optional={"top_k": st.integers(1, 8), "top_p": st.floats(0.1, 1), "min_p": st.floats(0, 0.5)}),
)
spans = st.fixed_dictionaries(
    {"window_length": st.sampled_from([None, 1, 2, 3, 20]), "block_length": st.sampled_from([None, 1, 3, 5, 20])}
)


@st.composite
def drawn(draw, least=0):
    prompt = draw(st.lists(strategies.tokens, min_size=least, max_size=5))
    rest = draw(st.lists(st.one_of(st.just(MASK), st.just(MASK), strategies.tokens), min_size=1, max_size=12))
    return np.array([*prompt, *rest]), len(prompt)


def config_of(weight, **more):
    settings = {"order": "left-to-right", "mask_token_id": MASK, "suppress_tokens": (SUPPRESSED,), "verifier_mixture": weight}
    return SamplerConfig(**(settings | more))


def driven(config, rows, models, *, score_all=False, most=None):
    """A sampler driven by hand: each row's drafts are kept, and mixed with what the other model says."""
    (canvases, starts, seeds), (model, causal) = zip(*rows, strict=True), models
    sampler = dllm_fast.Sampler(config, [*canvases], seed=[*seeds], block_start=[*starts], score_all=score_all, max_rows=most)
    kept = {}
    while (request := sampler.next()) is not None:
        assert len({*request.causal.tolist()}) == 1, "both models are asked about all rows, in turn"
        lines = []
        for i, row in enumerate(request.rows.tolist()):
            shown, positions = request.canvases[i], request.positions[i]
            if request.causal[i]:
                shown[positions] = request.proposed[i]
                others = causal(shown)[np.maximum(positions - 1, 0)]
                lines.append(agreed.mixed(kept.pop(row), others, config.verifier_mixture))
            else:
                kept[row] = model(shown)[positions]
                lines.append(kept[row])
        sampler.feed(np.concatenate(lines))
    return sampler


@given(
    rows=st.lists(st.tuples(drawn(), st.integers(0, 2**64 - 1)), min_size=1, max_size=3),
    weight=weights,
    temperature=temperatures,
    cut=filters,
    span=spans,
    share=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    score_all=st.booleans(),
    most=st.sampled_from([None, 1, 2]),
)
def test_the_core_equals_the_reference(*, rows, weight, temperature, cut, span, share, seed, score_all, most):
    causal = Causal(VOCABULARY, seed)
    model = Led(causal, seed, share)
    config = config_of(weight, temperature=temperature, **cut, **span)
    canvases, starts = [canvas for (canvas, _), _ in rows], [start for (_, start), _ in rows]
    seeds = [own for _, own in rows]
    sampler = driven(
        config, [*zip(canvases, starts, seeds, strict=True)], (model.alone, causal.alone), score_all=score_all, most=most
    )
    for row, canvas in enumerate(canvases):
        expected, edits, forwards = agreed.run(
            model.alone,
            causal.alone,
            canvas,
            MASK,
            weight=weight,
            temperature=temperature,
            start=starts[row],
            banned=[SUPPRESSED],
            seed=seeds[row],
            **cut,
            **span,
        )
        found = sampler.trajectory[row]
        assert [(edit.step, edit.position, edit.token) for edit in found] == [edit[:3] for edit in edits]
        assert [edit.probability for edit in found] == [edit[3] for edit in edits]
        assert sampler.nfe_per_row[row] == forwards
        assert sampler.canvases[row].tolist() == expected.tolist()
        masks = int((canvas == MASK).sum())
        assert forwards <= _core.most_forwards(config, masks, min(masks, 1)) <= (2 if weight < 1 else 1) * masks


@given(canvas=drawn(least=1), temperature=temperatures, cut=filters, seed=st.integers(0, 2**32 - 1), window=st.integers(1, 9))
def test_without_weight_the_answer_is_the_verifiers_where_the_model_knows_the_next_token(
    *, canvas, temperature, cut, seed, window
):
    """The first token of a step is the model's; all others are those of a stock loop over the verifier, with the same noise."""
    canvas, start = canvas
    causal = Causal(VOCABULARY, seed)
    model = Led(causal, seed, 0.5, is_sure=True)
    config = config_of(0.0, temperature=temperature, window_length=window, **cut)
    sampler = driven(config, [(canvas, start, seed)], (model.alone, causal.alone))
    drawn_alike = agreed.ancestral(causal.alone, canvas, MASK, temperature=temperature, banned=[SUPPRESSED], seed=seed, **cut)
    assert sampler.canvases[0].tolist() == drawn_alike.tolist()
    if temperature == 0:
        assert drawn_alike.tolist() == verify.greedy(causal.alone, canvas, MASK, banned=[SUPPRESSED]).tolist()


@given(canvas=drawn(least=1), temperature=temperatures, seed=st.integers(0, 2**32 - 1))
def test_without_weight_only_the_first_token_of_a_step_is_not_the_verifiers(canvas, temperature, seed):
    canvas, start = canvas
    causal, model = Causal(VOCABULARY, seed), HashTable(VOCABULARY, seed + 1)
    config = config_of(0.0, temperature=temperature)
    sampler = driven(config, [(canvas, start, seed)], (model.alone, causal.alone))
    answer = sampler.canvases[0]
    steps = [edit.step for edit in sampler.trajectory[0]]
    for i, edit in enumerate(sampler.trajectory[0]):
        if i and steps[i - 1] == edit.step:
            x = agreed.allowed(causal.alone(answer)[edit.position - 1], [MASK, SUPPRESSED])
            assert edit.token == agreed.draw(x, temperature, (seed, 0, edit.position))


@given(canvas=drawn(), temperature=temperatures, seed=st.integers(0, 2**32 - 1), window=st.sampled_from([None, 1, 3]))
def test_with_all_the_weight_it_is_the_models_own_prefix(canvas, temperature, seed, window):
    canvas, start = canvas

    def nobody(_):
        raise AssertionError("the verifier was asked")

    model = HashTable(VOCABULARY, seed)
    config = config_of(1.0, temperature=temperature, window_length=window)
    sampler = driven(config, [(canvas, start, seed)], (model.alone, nobody))
    masks = int((canvas == MASK).sum())
    if window is None:
        assert sampler.nfe_per_row == [min(masks, 1)]
    assert {edit.step for edit in sampler.trajectory[0]} == {*range(sampler.nfe_per_row[0])}


@given(
    prompts=st.lists(st.lists(strategies.tokens, min_size=1, max_size=5), min_size=1, max_size=3),
    weight=weights,
    temperature=temperatures,
    span=spans,
    new=st.integers(1, 4),
    rows=st.sampled_from([None, 1, 2]),
    seed=st.integers(0, 2**32 - 1),
    as_numpy=st.booleans(),
)
def test_a_run_of_two_models_equals_the_reference(*, prompts, weight, temperature, span, new, rows, seed, as_numpy):
    """Ragged rows, some at a time; and every row as if it were alone. The verifier is given nothing that it must not read."""
    causal = Causal(VOCABULARY, seed)
    model = Led(causal, seed, 0.7)
    new *= min(span["block_length"] or 2, 5)
    span = span | {"block_length": span["block_length"] and min(span["block_length"], 5)}
    calls = []

    def verifier(ids):
        calls.append(ids.shape)
        assert not (ids == MASK).any()
        found = causal(ids)
        return found.numpy() if as_numpy else found

    result = dllm_fast.sample(
        model,
        prompts,
        preset="apd",
        verifier=verifier,
        verifier_mixture=weight,
        temperature=temperature,
        mask_token_id=MASK,
        suppress_tokens=[SUPPRESSED],
        max_new_tokens=new,
        max_batch_rows=rows,
        stop_at_eos=False,
        seed=seed,
        **span,
    )
    for row, prompt in enumerate(prompts):
        canvas = np.array([*prompt, *[MASK] * new])
        expected, edits, forwards = agreed.run(
            model.alone,
            causal.alone,
            canvas,
            MASK,
            weight=weight,
            temperature=temperature,
            start=len(prompt),
            banned=[SUPPRESSED],
            seed=seed,
            **span,
        )
        assert result.sequences[row].tolist() == expected.tolist()
        assert [(edit.step, edit.position, edit.token) for edit in result.trajectory[row]] == [edit[:3] for edit in edits]
        assert result.stats.nfe_per_row[row] == forwards
    assert result.config.verifier_mixture == weight
    assert (len(calls) > 0) == (weight < 1)
    assert len(calls) < result.stats.nfe, "both count"


@given(
    seed=st.integers(0, 2**32 - 1),
    weight=weights,
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    columns=st.integers(1, 9),
)
def test_logits_are_mixed_to_the_bit(seed, weight, dtype, columns):
    rng = np.random.default_rng(seed)
    values = [-np.inf, np.inf, 0.0, *rng.normal(0, 3, 5)]
    d = torch.from_numpy(rng.choice(values, (4, 6))).to(dtype)
    a = torch.from_numpy(rng.choice(values, (5, columns))).to(dtype)
    lines = torch.from_numpy(rng.integers(0, 5, 4))
    found = mix(d, a, lines, weight)
    width = min(6, columns)
    expected = np.full((4, 6), -np.inf, dtype=np.float32)
    expected[:, :width] = agreed.mixed(d.float().numpy()[:, :width], a.float().numpy()[lines.numpy(), :width], weight)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), expected)


# Networks, with caches on both sides.

DRAFTING = [twin.name for twin in TWINS if twin.name in {"llada", "dream", "sdar"}]
VERIFYING = [twin.name for twin in TWINS if twin.attention == "causal_context" and not twin.shift][:1]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    @functools.cache
    def get(name: str):
        twin = next(twin for twin in TWINS if twin.name == name)
        return dllm_fast.load(twin.save(tmp_path_factory.mktemp(name), 7 if name in VERIFYING else 0))

    return get


@functools.cache
def stock(name: str):
    return next(twin for twin in TWINS if twin.name == name).model(7)


@given(
    name=st.sampled_from(DRAFTING),
    prompts=st.lists(st.lists(st.integers(0, TWIN_MASK - 1), min_size=1, max_size=9), min_size=1, max_size=3),
    weight=st.sampled_from([0.0, 0.5, 0.9]),
    temperature=st.sampled_from([0.0, 0.7]),
    window=st.sampled_from([None, 3]),
    cache=st.sampled_from(["none", "prefix", "dual"]),
    rows=st.sampled_from([None, 2]),
)
def test_networks_on_both_sides(*, opened, name, prompts, weight, temperature, window, cache, rows):
    """A verifier with a cache of its own writes what the stock class writes that is called; rows do as they do alone."""
    model, kind = opened(name), VERIFYING[0]
    if model.info.attention_rule.is_exact and cache != "none":
        cache = "exact_block"
    asked = {
        "preset": "apd",
        "verifier_mixture": weight,
        "temperature": temperature,
        "window_length": window,
        "block_length": 4,
        "max_new_tokens": 8,
        "cache": cache,
        "stop_at_eos": False,
    }
    result = dllm_fast.sample(model, prompts, verifier=opened(kind), max_batch_rows=rows, **asked)
    whole = dllm_fast.sample(model, prompts, verifier=Rightward(stock(kind)), max_batch_rows=rows, **asked)
    assert [row.tolist() for row in whole.sequences] == [row.tolist() for row in result.sequences]
    assert whole.stats.nfe_per_row == result.stats.nfe_per_row
    alone = dllm_fast.sample(model, prompts[-1], verifier=opened(kind), **asked)
    assert alone.sequences[0].tolist() == result.sequences[-1].tolist()


class Rightward(torch.nn.Module):
    """A stock class with a causal mask, which makes only the logits that are wanted."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, ids, logits_to_keep=0, use_cache=True):
        assert not use_cache
        length = ids.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
        return self.model(ids, attention_mask=seen, use_cache=False, logits_to_keep=logits_to_keep)
