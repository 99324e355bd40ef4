"""What networks say from behind a mask: the logits of the whole extended sequence, whatever the batch, the cache, the door."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import encoders
from dllm_fast import DllmFastError
from dllm_fast.errors import InvalidValueError
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from dllm_fast.runners.caches import Span
from dllm_fast.runners.layout import Layout
from families import MASK, TWINS
from native_models import MODERN

# Rotary in two halves, by blocks, causal before the block; with experts; with keys for groups of queries.
DECODERS = [twin for twin in TWINS if not twin.shift and twin.attention in ("full", "block_causal", "causal_context")]
# Learned positions, counted ones, rotary ones, none; distances as T5 and as DeBERTa weigh them; layers that see only near.
ENCODERS = [
    twin for twin in encoders.TWINS if twin.name in ("bert", "roberta", "roformer", "esm", "mpnet", "deberta-v3", "modernbert")
]


class Dense(Batch):
    """One sequence, its shadow behind it, in which a mask of Q x K says what sees what: every pair by one sentence."""

    def __init__(self, ids, places, ends):
        length, again = len(ids), torch.tensor(places, dtype=torch.int64)
        positions = torch.cat((torch.arange(length), again))[None]
        super().__init__(ids=torch.cat((torch.tensor(ids), torch.full((len(places),), MASK)))[None], positions=positions)
        self.length, self.ends = length, ends

    def key_positions(self):
        return self.positions

    def row_ids(self):
        return self.ids[:, : self.length]

    def mask(self, reach=None):
        places = self.positions[0].tolist()
        return torch.tensor([[[self.sees(a, b, places, reach) for b in range(len(places))] for a in range(len(places))]])[
            :, None
        ]

    def sees(self, a, b, places, reach):
        if reach is not None and abs(places[a] - places[b]) > reach:
            return False
        if places[b] >= self.ends[places[a]]:
            return False
        if b >= self.length:
            return a >= self.length
        return a < self.length or places[a] != places[b]


def ragged(rng, lengths, block):
    """Canvases, and of each the positions of a block that are asked again, or none."""
    canvases = [rng.integers(0, 100, n) for n in lengths]
    for canvas in canvases:
        canvas[rng.random(len(canvas)) < 0.4] = MASK
    origins = [int(rng.integers(0, n)) // block * block for n in lengths]
    shadows = [np.arange(o, min(o + block, n)) for o, n in zip(origins, lengths, strict=True)]
    return canvases, np.array(origins), [np.zeros(0, dtype=int) if i == 1 else s for i, s in enumerate(shadows)]


@pytest.mark.parametrize("name", [twin.name for twin in (*DECODERS, *ENCODERS)])
@pytest.mark.parametrize("is_cached", [False, True])
def test_the_logits_are_those_of_the_whole_sequence_in_float64(opened, name, is_cached):
    model = opened(name)
    network, rule = model.network, model.info.attention_rule
    block = rule.block_length or 8
    kept = network.state_dict()
    try:
        network.double()
        rng = np.random.default_rng(3)
        lengths = np.array([19, 24, 9, 1])
        canvases, origin, shadows = ragged(rng, lengths.tolist(), block)
        stop = rule.stop(np.minimum(origin + block, lengths), lengths)
        width, masks = int(stop.max()), max(map(len, shadows))
        ids, shadow = np.zeros((4, width), dtype=np.int64), np.full((4, masks), -1, dtype=np.int64)
        for i in range(4):
            ids[i, : stop[i]] = canvases[i][: stop[i]]
            shadow[i, : len(shadows[i])] = shadows[i]
        cache = None
        if is_cached:
            cache = SlotCache(network, 4, 24, dtype=torch.float64, device=torch.device("cpu"))
        layout = Layout(rule, Span(np.zeros_like(stop), stop, origin), lengths, cache, torch.device("cpu"), shadow=shadow)
        shown = torch.from_numpy(np.concatenate((ids, np.full_like(shadow, MASK)), axis=1))
        plain = Layout(rule, Span(np.zeros_like(stop), stop, origin), lengths, None, torch.device("cpu"))
        with torch.inference_mode():
            ours = network.logits(network.hidden(layout.batch(shown, cache)))
            without = network.logits(network.hidden(plain.batch(torch.from_numpy(ids), None)))
            for i in range(4):
                n, places = int(stop[i]), shadows[i].tolist()
                seen = rule.end(np.arange(n)[None], origin[i : i + 1], stop[i : i + 1], lengths[i : i + 1])[0]
                dense = network.logits(network.hidden(Dense(canvases[i][:n].tolist(), places, seen.tolist())))[0]
                found = torch.cat((ours[i, :n], ours[i, width : width + len(places)]))
                torch.testing.assert_close(found, dense, rtol=0, atol=2e-6 * float(dense.abs().max()))
                # What is no shadow is as it is without one.
                torch.testing.assert_close(ours[i, :n], without[i, :n], rtol=0, atol=2e-6 * float(dense.abs().max()))
        assert ours.isfinite().all(), "padding has numbers, too"
    finally:
        network.float()
        network.load_state_dict(kept)


# Models that are never sure: several pass, and some of what stands is doubted.
bars = st.sampled_from([(0.0, 0.004), (0.004, 0.006), (0.005, 0.02), (0.0, 0.9), (0.02, 0.0)])
prompts = st.lists(st.lists(st.integers(2, 400), min_size=1, max_size=9), min_size=1, max_size=3)


@st.composite
def rules(draw, block) -> dict:
    """Settings for a model with blocks of its own, or without."""
    threshold, back = draw(bars)
    block = draw(st.sampled_from([4, 9, 20])) if block is None else block
    return {
        "preset": "wino",
        "threshold": threshold,
        "remask_threshold": back,
        "block_length": block,
        "max_new_tokens": block * draw(st.integers(1, max(20 // block, 1))),
        "temperature": draw(st.sampled_from([0.0, 0.8])),
        "seed": draw(st.integers(0, 1000)),
        "stop_at_eos": False,
    }


def told(result, row=0):
    return result.sequences[row].tolist(), [(e.step, e.position, e.token, e.kind) for e in result.trajectory[row]]


@settings(max_examples=max(settings().max_examples // 3, 10))
@given(twin=st.sampled_from([*DECODERS, *ENCODERS]), prompts=prompts, data=st.data())
def test_a_row_is_the_row_alone_under_every_cache(opened, twin, prompts, data):
    """Ragged rows, some with a shadow in a forward and some without; caches that are exact, or refreshed in every step."""
    model = opened(twin.name)
    rule = data.draw(rules(model.info.block_length))
    plain = dllm_fast.sample(model, prompts, cache="none", **rule)
    rows = [told(plain, row) for row in range(len(prompts))]
    few = dllm_fast.sample(model, prompts, max_batch_rows=1, **rule)
    assert [told(few, row) for row in range(len(prompts))] == rows
    assert few.config.cache == ("exact_block" if model.info.attention_rule.is_exact else "none")
    policy = data.draw(st.sampled_from(["prefix", "dual"]))
    cached = dllm_fast.sample(model, prompts, cache=policy, refresh_every=1, **rule)
    assert [told(cached, row) for row in range(len(prompts))] == rows
    assert plain.stats.nfe == max(plain.stats.nfe_per_row) <= rule["max_new_tokens"]


def test_something_is_taken_back_in_each_family(opened):
    """So that what is compared above is no comparison of nothing; and approximate caches go on with what they hold."""
    for twin in (*DECODERS, *ENCODERS):
        model = opened(twin.name)
        rule = {"preset": "wino", "threshold": 0.0, "remask_threshold": 0.9, "max_new_tokens": 24, "stop_at_eos": False}
        result = dllm_fast.sample(model, [[3, 4, 5]], block_length=model.info.block_length, **rule)
        if (model.info.block_length or 99) >= 8:  # of fewer, five are all but one
            assert any(edit.kind == "remask" for edit in result.trajectory[0]), twin.name
        dual = dllm_fast.sample(model, [[3, 4, 5]], block_length=model.info.block_length, cache="dual", **rule)
        assert dual.stats.nfe <= 24


@pytest.mark.parametrize("guidance", [None, 1.5])
@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_a_class_of_transformers_says_the_same_as_the_folder(tmp_path, opened, name, guidance):
    """Where our attention is in its layers, it has a shadow; positions, distances and heads are its own. Guided rows have one
    on either side."""
    stock = encoders.save(name, tmp_path)
    canvases = [[5, 9, *[MASK] * 11, 11], [8, *[MASK] * 14], [MASK, 5, MASK]]
    rule = {"preset": "wino", "threshold": 0.0, "remask_threshold": 0.9, "block_length": 10, "mask_token_id": MASK}
    ours = dllm_fast.infill(opened(name), canvases, guidance=guidance, **rule)
    if name == "modernbert" and not MODERN:  # its layers had an attention of their own
        with pytest.raises(InvalidValueError, match="cannot be asked that"):
            dllm_fast.infill(stock, canvases, guidance=guidance, **rule)
        return
    theirs = dllm_fast.infill(stock, canvases, guidance=guidance, **rule)
    assert any(edit.kind == "remask" for row in ours.trajectory for edit in row)
    assert [told(ours, row) for row in range(3)] == [told(theirs, row) for row in range(3)]
    assert ours.stats.nfe == theirs.stats.nfe


def behind(ids, shadow=None):
    """A function that says what it can of a position: it hides what stands there, and sees all else."""
    ids = np.asarray(ids)

    def logits(canvas):
        rng = np.random.default_rng(canvas.tolist())
        return rng.normal(0, 3, (len(canvas), 12)).astype(np.float32)

    made = np.stack([logits(canvas) for canvas in ids])
    if shadow is None:
        return made
    again = np.zeros((*shadow.shape, 12), dtype=np.float32)
    for row, places in enumerate(np.asarray(shadow)):
        for i, place in enumerate(places.tolist()):
            if place >= 0:
                hidden = ids[row].copy()
                hidden[place] = 7
                again[row, i] = logits(hidden)[place]
    return np.concatenate((made, again), axis=1)


def test_a_function_that_takes_a_shadow_is_asked_for_it():
    asked = []

    def model(ids, shadow=None):
        asked.append(None if shadow is None else shadow.tolist())
        return behind(ids, shadow)

    canvases = [[1, *[7] * 17], [2, 3, *[7] * 16], [7, 7, 4]]
    rule = {"preset": "wino", "mask_token_id": 7, "threshold": 0.6, "block_length": 9}
    together = dllm_fast.infill(model, canvases, **rule)
    assert asked[0] is None, "nothing stands in the first forward of a block"
    with_shadow = [shadow for shadow in asked if shadow is not None]
    assert with_shadow
    assert all(row == sorted(row, key=lambda p: (p < 0, p)) for shadow in with_shadow for row in shadow)
    assert any(edit.kind == "remask" for row in together.trajectory for edit in row)
    for row, canvas in enumerate(canvases):
        assert told(dllm_fast.infill(model, [canvas], **rule)) == told(together, row)
        assert together.stats.nfe_per_row[row] <= canvas.count(7)
    # By hand: the core, and the function.
    config = dllm_fast.SamplerConfig(
        order="sampled-confidence", remask="verify", mask_token_id=7, threshold=0.6, block_length=9
    )
    sampler = dllm_fast.Sampler(config, [canvases[0]])
    while (request := sampler.next()) is not None:
        canvas, positions = request.canvases[0], request.positions[0]
        assert request.shadow[0] == (~request.open[0][positions]).any()
        made = behind(canvas[None])[0][positions]
        if request.shadow[0]:
            again = behind(canvas[None], positions[None])[0, len(canvas) :]
            made = np.where(request.open[0][positions][:, None], made, again)
        sampler.feed(made)
    assert sampler.canvases[0].tolist() == together.sequences[0].tolist()


def test_a_function_that_leaves_the_shadow_out_is_told_what_is_missing():
    def forgets(ids, shadow=None):
        return behind(ids)

    rule = {"preset": "wino", "mask_token_id": 7, "threshold": 0.6, "block_length": 9}
    with pytest.raises(
        DllmFastError, match=r"shape \[B, L \+ W, V\] of the ids \[1, 18\] and the shadow \[1, 8\], got \[1, 18, 12\]"
    ):
        dllm_fast.infill(forgets, [[1, *[7] * 17]], **rule)


def never(ids):
    raise AssertionError("a forward")


def never_behind(ids, shadow=None):
    raise AssertionError("a forward")


def never_with(ids, **shadow):
    raise AssertionError("a forward")


def never_among(ids, *shadow):
    raise AssertionError("a forward")


def never_by_name(ids, shadow=None, /):
    raise AssertionError("a forward")


def test_a_model_that_cannot_hide_a_token_is_refused_before_any_forward(opened, tmp_path):
    rule = {"preset": "wino", "mask_token_id": MASK, "max_new_tokens": 8, "stop_at_eos": False}
    for model in (never, never_with, never_among, never_by_name):
        refused = (
            rf"remask 'verify' \(WINO\) asks what .* got {model.__name__}, which is only called .* a function with an argument"
        )
        with pytest.raises(DllmFastError, match=refused):
            dllm_fast.sample(model, [1], **rule)
    with pytest.raises(DllmFastError, match=r"remask 'verify' is for models whose position predicts itself: .* got shift=True"):
        dllm_fast.sample(never_behind, [1], shift=True, **rule)
    with pytest.raises(DllmFastError, match=r"remask 'verify' is for models whose position predicts itself: .* got shift=True"):
        dllm_fast.sample(opened("dream"), [1], **rule)
    reordered = next(twin.name for twin in TWINS if twin.attention == "causal_reordered")
    with pytest.raises(DllmFastError, match="hides a token from a mask in its place, got attention 'causal_reordered'"):
        dllm_fast.sample(opened(reordered), [1], **(rule | {"shift": False}))
    stock = encoders.save("mpnet", tmp_path)
    with pytest.raises(
        DllmFastError, match=r"remask 'verify' \(WINO\) asks what .* got MPNetForMaskedLM, which is only called"
    ):
        dllm_fast.sample(stock, [1], **rule)
