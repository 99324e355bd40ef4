"""Defects of published samplers that touch the rules we have, one regression test each.

A test is named after the project, and the issue where there is one, and its first line says what goes wrong there. What a whole
loop does otherwise stands beside that loop: P2, RemeDi, Saber (`test_revisers.py`), KLASS (`test_memory.py`), DAEDAL, rho-EOS
(`test_length.py`), APD (`test_apd.py`). Not here are the names of dInfer's decoders and other engines' kernels.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.loops import fast_dllm, llada
from parity.models import Model, Table, Transformer
from toys import PACED_BY_THEMSELVES, presets_of_any_model

ALL = tuple(presets_of_any_model())
MASK = 15  # of tables with 16 ids
seeds = st.integers(0, 2**32 - 1)
presets = st.sampled_from(ALL)
prompts = st.lists(st.lists(st.integers(0, MASK - 1), min_size=1, max_size=6), min_size=2, max_size=4)


def table(seed: int, templates: int = 24, **settings) -> Table:
    return Table(np.random.default_rng(seed), 16, templates, **settings)


class Rows(Model):
    """The same rows of logits whatever the canvas holds, repeated if it is longer."""

    def __init__(self, logits):
        self.logits = torch.as_tensor(logits)
        self.vocabulary, self.mask = self.logits.shape[1], self.logits.shape[1] - 1

    def alone(self, tokens):
        return self.logits[torch.arange(len(tokens)) % len(self.logits)]


def sample(model, prompt, **settings):
    return dllm_fast.sample(
        model, prompt, **{"mask_token_id": model.mask, "stop_at_eos": False, "max_new_tokens": 8} | settings
    )


def infill(model, canvas, **settings):
    return dllm_fast.infill(model, canvas, mask_token_id=model.mask, **settings)


# --- LLaDA


@pytest.mark.parametrize("temperature", [0.0, 0.7, 3.0])
@given(seed=seeds)
def test_llada_137_a_suppressed_end_token_is_suppressed_at_every_temperature(temperature, seed):
    """The flag against end tokens edits a tensor that nothing reads again above temperature 0, so they are drawn."""
    model = table(seed, suppressed := 3)
    eos = (0, 1, 2)
    result = sample(
        model, [4] * suppressed, suppress_tokens=eos, temperature=temperature, seed=seed, order="sampled-confidence"
    )
    assert not np.isin(result.new_tokens[0], eos).any()


def test_llada_137_end_tokens_can_be_committed_last():
    """What the flag is for: end tokens are proposed as always and wait until nothing else is left. Here, scores of your own."""
    logits = torch.zeros(6, 16)
    proposed = [0, 3, 0, 4, 5, 0]  # 0 ends an answer
    logits[range(6), proposed] = torch.tensor([9.0, 5, 8, 6, 7, 4])
    config = dllm_fast.SamplerConfig(mask_token_id=MASK)
    sampler = dllm_fast.Sampler(config, [np.full(6, MASK)])
    while (request := sampler.next()) is not None:
        guess = dllm_fast.mask_predict(logits[request.positions[0]], suppress=[MASK])
        sampler.feed(tokens=guess.token, scores=np.where(guess.token == 0, -np.inf, guess.top1))
    assert [edit.token for edit in sampler.trajectory[0]] == [5, 4, 3, 0, 0, 0]


def test_llada_pr_124_no_copy_of_the_logits():
    """A float64 copy of all logits, for noise of their size, runs out of memory. Ours reads them where they are."""
    program = """
import resource
import numpy as np
import dllm_fast
logits = np.full((64, 100_000), 0.25, dtype=np.float32)
logits[:, ::7] = 1
dllm_fast.mask_predict(logits[:2], temperature=1.0, top_p=0.9)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
dllm_fast.mask_predict(logits, temperature=1.0, top_p=0.9)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, logits.nbytes // 1024)
"""
    output = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    growth, logits = map(int, output.split())
    assert growth < logits / 4


def test_llada_guidance_needs_no_attention_mask():
    """Guidance without a padding mask reads a variable that was never set, in the middle of a run."""
    result = sample(table(0), [1], cfg_scale=1.5)
    assert result.stats.nfe == 2 * len(result.new_tokens[0])
    assert result.config.guidance == 1.5


@given(seed=seeds, block_length=st.integers(1, 5), per_block=st.integers(1, 6), holes=st.sets(st.integers(0, 9), min_size=1))
def test_llada_dllm_reason_holes_in_the_prompt_are_filled_in_blocks_of_their_own(seed, block_length, per_block, holes):
    """Masks inside the prompt take part in the quota of the first block after it, which is then left with masks."""
    model = table(seed, 16)
    canvas = np.array([3] * 10 + [MASK] * 6)
    canvas[list(holes)] = MASK
    result = infill(model, canvas, preset="llada", block_length=block_length, steps_per_block=per_block)
    assert not (result.sequences[0] == MASK).any()
    order = [edit.position // block_length for edit in result.trajectory[0]]
    assert order == sorted(order), "blocks are finished from left to right"
    assert np.bincount(order).tolist() == [(canvas[i:][:block_length] == MASK).sum() for i in range(0, 16, block_length)]
    assert result.stats.nfe <= per_block * len(set(order))
    with pytest.raises(dllm_fast.DllmFastError, match="a prompt must hold no mask tokens"):
        sample(model, canvas)


# --- Fast-dLLM


@given(seed=seeds, preset=st.sampled_from(["fast-dllm", "fast-dllm-factor", "entropy-bound"]))
def test_fast_dllm_42_a_bound_that_nothing_meets_still_ends(seed, preset):
    """Without a floor the loop never commits and never ends."""
    bound = {"fast-dllm": {"threshold": 2.0}, "fast-dllm-factor": {"factor": 0.0}, "entropy-bound": {"entropy_bound": 0.0}}
    result = sample(table(seed), [1], preset=preset, block_length=4, **bound[preset])
    assert result.stats.nfe == 8
    assert not (result.sequences[0] == MASK).any()


@pytest.mark.parametrize("preset", ALL)
def test_fast_dllm_pr_33_a_row_without_masks_beside_others(preset):
    """A row that is finished, or never had a mask, is an index error in the factor rule."""
    model = table(3)
    full, open_ = np.array([1, 2, 3, 4]), np.array([1, MASK, MASK, 4])
    together = infill(model, [full, open_, full], preset=preset)
    assert together.stats.nfe_per_row[0] == together.stats.nfe_per_row[2] == 0
    assert together.sequences[0].tolist() == full.tolist()
    assert together.sequences[1].tolist() == infill(model, open_, preset=preset).sequences[0].tolist()


@pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal")  # compared on purpose
@given(seed=seeds, preset=presets, prompts=prompts, temperature=st.sampled_from([0.0, 1.0]))
def test_fast_dllm_39_64_and_others_neighbours_do_not_matter(seed, preset, prompts, temperature):
    """Accuracy moves with the batch size (39); above temperature 0 only row 0 is drawn, for all (64); engines that ignore the
    seed in a batch (dlmserve), key randomness by the row of the batch (TensorRT-Edge-LLM), or mix rows (longdllm)."""
    model = table(seed)
    settings = {"preset": preset, "temperature": temperature}
    of_rows = [seed + 7 * i for i in range(len(prompts))]
    together = sample(model, prompts, seed=of_rows, num_samples=2, **settings)
    for i, prompt in enumerate(prompts):
        alone = sample(model, prompt, seed=of_rows[i], num_samples=2, **settings)
        for j in range(2):
            assert together.sequences[2 * i + j].tolist() == alone.sequences[j].tolist()
            assert together.stats.nfe_per_row[2 * i + j] == alone.stats.nfe_per_row[j]
    backwards = sample(model, prompts[::-1], seed=of_rows[::-1], num_samples=2, **settings)
    shuffled = [tokens.tolist() for pair in range(len(prompts)) for tokens in backwards.sequences[-2 * pair - 2 :][:2]]
    assert shuffled == [tokens.tolist() for tokens in together.sequences]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_fast_dllm_pr_17_pr_57_a_cache_of_rows_of_other_lengths(cache):
    """Keys of a batch are cut and written at the places of one row, so that the others see what is not theirs."""
    prompts = [prompt for prompt, _ in dllm_fast.demo.text_problems(6, seed=9)]
    model = dllm_fast.demo.load_text()[0]
    assert len({*map(len, prompts)}) > 2
    rule = {"preset": "fast-dllm", "threshold": 0.99, "block_length": 4, "max_new_tokens": 24, "cache": cache}
    together = dllm_fast.sample(model, prompts, **rule)
    for row, prompt in enumerate(prompts):
        alone = dllm_fast.sample(model, prompt, **rule)
        assert together.sequences[row].tolist() == alone.sequences[0].tolist()
        assert together.stats.nfe_per_row[row] == alone.stats.nfe_per_row[0]


def test_fast_dllm_factor_the_last_one_is_not_taken_along():
    """The published search for the first that fails stops at the last one as if it had passed."""
    c = [0.9, 0.8, 0.1]
    assert fast_dllm.factor(1.0)(c) == 2
    assert fast_dllm.factor_as_published(1.0)(c) == 3
    assert committed(c, factor=1.0) == [0, 1]
    assert committed(c, factor=1.0, as_published=True) == [0, 1, 2]


def committed(confidences, **settings) -> list[int]:
    """Positions that one step commits, given the confidences."""
    config = dllm_fast.SamplerConfig(mask_token_id=0, **settings)
    sampler = dllm_fast.Sampler(config, [[0] * len(confidences)])
    sampler.next()
    sampler.feed(tokens=[1] * len(confidences), scores=confidences)
    return [edit.position for edit in sampler.trajectory[0]]


# --- Dream


@given(seed=seeds, steps=st.integers(1, 12), preset=st.sampled_from(["dream-maskgit-plus", "dream-entropy", "dream-margin"]))
@pytest.mark.parametrize("as_published", [False, True])
def test_dream_batch_mean_rows_with_fewer_masks_keep_their_tokens(as_published, seed, steps, preset):
    """The count of a step is that of the mean row, so rows with fewer masks write masks over prompt and committed tokens."""
    rng = np.random.default_rng(seed)
    canvases = [np.where(rng.random(10) < share, MASK, rng.integers(0, MASK, 10)) for share in (0.1, 0.5, 1.0)]
    result = infill(table(seed), canvases, preset=preset, steps=steps, as_published=as_published)
    for canvas, tokens, edits in zip(canvases, result.sequences, result.trajectory, strict=True):
        assert not (tokens == MASK).any()
        assert (tokens == canvas)[canvas != MASK].all()
        assert sorted(edit.position for edit in edits) == np.flatnonzero(canvas == MASK).tolist()


@given(n=st.integers(2, 200))
def test_dream_eps_costs_one_forward_and_no_token(n):
    """With as many steps as masks the first step is 0.999 of a mask: none. Kept as published, and nothing is lost."""
    counts = dllm_fast.schedule("dream", n, n)
    assert counts.tolist() == [0] + [1] * (n - 2) + [2]
    assert dllm_fast.schedule("even", n, n).tolist() == [1] * n


def test_dream_73_masks_in_the_middle_and_nothing_appended():
    """How to fill masks inside a text: the published entry point appends tokens, and refuses to append none."""
    model = table(1, 12)
    canvas = np.array([1, MASK, 3, MASK, MASK, 2, 7])
    result = infill(model, canvas, preset="dream-entropy", shift=True)
    assert len(result.sequences[0]) == len(canvas)
    assert [edit.position for edit in sorted(result.trajectory[0], key=lambda e: e.position)] == [1, 3, 4]


# --- SDAR, ollada


@given(seed=seeds, preset=presets, block=st.integers(2, 6), steps=st.integers(1, 6), inside=st.integers(1, 5), data=st.data())
def test_sdar_ollada_a_prompt_that_ends_inside_a_block_is_safe(*, seed, preset, block, steps, inside, data):
    """With fewer steps than the block is long, a step takes more positions than the block has masks, and prompt tokens are
    overwritten by proposals."""
    inside = min(inside, block - 1)
    before = data.draw(st.integers(0, 2)) * block
    prompt = np.arange(before + inside) % MASK
    canvas = np.concatenate([prompt, np.full(2 * block - inside, MASK)])
    settings = {} if preset in PACED_BY_THEMSELVES else {"steps_per_block": min(steps, block - 1)}
    result = infill(table(seed, 18), canvas, preset=preset, block_length=block, **settings)
    assert result.sequences[0][: len(prompt)].tolist() == prompt.tolist()
    assert not (result.sequences[0] == MASK).any()
    if settings and preset not in {"mdlm", "dream-origin"}:
        rule = dllm_fast.presets()[preset]
        behind = 0 if rule.edit_threshold is None else rule.max_post_steps
        assert result.stats.nfe <= 2 * (settings["steps_per_block"] + behind)


@pytest.mark.parametrize("preset", ALL)
def test_ollada_temperature_0(preset):
    """Division by temperature 0."""
    result = sample(table(5), [1, 2], preset=preset, temperature=0.0)
    assert not (result.sequences[0] == MASK).any()


def test_sdar_entropies_are_of_whole_distributions():
    """Entropy is computed of the probability of the proposed token alone, which calls an unlikely token sure."""
    flat, sure = torch.zeros(16), torch.zeros(16)
    sure[3] = 9.0
    model = Rows(torch.stack([flat, sure, flat]))
    result = infill(model, [MASK] * 3, preset="entropy-bound", entropy_bound=0.1)
    assert [edit.position for edit in result.trajectory[0]] == [1, 0, 2]
    prediction = dllm_fast.mask_predict(model.logits, suppress=[MASK])
    assert prediction.entropy[0] == pytest.approx(math.log(15), rel=1e-6)


# --- dInfer, d2Cache, KLASS and others


def test_dinfer_near_ties_are_not_committed_together():
    """Everything within 1e-5 of the best is committed when nothing reaches the threshold."""
    assert committed([0.500000, 0.500004, 0.499999], threshold=0.9) == [1]
    assert committed([0.5, 0.5, 0.5], threshold=0.9) == [0]


@given(seed=seeds, preset=presets, temperature=st.sampled_from([0.0, 1.0]))
def test_dinfer_diffulex_39_dlmserve_a_mask_that_is_the_best_guess(seed, preset, temperature):
    """A model whose most probable token is the mask: the loop stalls (dInfer), or the answer is all masks (Diffulex 39)."""
    loud, quiet = (table(seed, 16, mask_logit=logit) for logit in (60.0, -60.0))
    result = sample(loud, [1, 2], preset=preset, temperature=temperature)
    assert not (result.sequences[0] == MASK).any()
    # As if the model did not know of the mask at all.
    assert result.sequences[0].tolist() == sample(quiet, [1, 2], preset=preset, temperature=temperature).sequences[0].tolist()
    assert all(0 < edit.probability <= 1 for edit in result.trajectory[0] if edit.kind != "remask")


def test_d2cache_factor_takes_all_when_all_pass():
    """The last is dropped when all pass."""
    assert committed([0.9, 0.99, 0.95], factor=1.0) == [1, 2, 0]


def test_d2cache_entropy_bound_is_of_its_own_row():
    """The running maximum of the entropies is taken over the rows of the batch."""
    sure, flat = torch.zeros(16), torch.zeros(16)
    sure[3] = 9.0
    logits = torch.stack([torch.stack([flat, sure, sure, sure]), torch.stack([flat] * 4)])

    def model(ids):
        return logits[ids[:, 0]]

    canvases = [[0, MASK, MASK, MASK], [1, MASK, MASK, MASK]]
    result = dllm_fast.infill(model, canvases, mask_token_id=MASK, preset="entropy-bound", entropy_bound=0.2)
    assert result.stats.nfe_per_row == [1, 3]


def test_d2cache_wino_takes_back_fewer_than_the_forward_before_wrote():
    """Its bound counts what the same forward writes, so that one token may be written and taken back without end."""
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, remask="verify", threshold=0.6)
    sampler = dllm_fast.Sampler(config, [[MASK] * 10])
    counts = []
    for first in (1, 10, 10):
        (positions,), (is_open,) = sampler.next().positions, sampler.next().open
        sure = np.where(positions < first, 0.9, 0.1)
        current = np.where(is_open[positions], np.nan, 0.0)  # whatever stands there is doubted
        sampler.feed(
            prediction=dllm_fast.Prediction(
                token=0 * positions, probability=sure, top1=sure, top2=0 * sure, entropy=1 - sure, current=current
            )
        )
        kinds = [edit.kind for edit in sampler.trajectory[0] if edit.step == len(counts)]
        counts.append((kinds.count("commit"), kinds.count("remask")))
    assert counts == [(1, 0), (6, 0), (3, 5)]


def test_klass_the_sure_go_first():
    """The entropy has the wrong sign, so that the least sure positions are committed first."""
    logits = torch.zeros(4, 16)
    logits[range(4), range(4)] = torch.tensor([1.0, 4.0, 2.0, 3.0])
    for order in ("entropy", "confidence", "margin", "sampled-confidence"):
        result = infill(Rows(logits), [MASK] * 4, order=order)
        assert [edit.position for edit in result.trajectory[0]] == [1, 3, 2, 0]


@given(seed=seeds, temperature=st.sampled_from([0.2, 1.0, 5.0]))
def test_klass_confidence_is_of_the_model_not_of_the_noise(seed, temperature):
    """Above temperature 0 the softmax is taken of logits that noise was already added to."""
    logits = table(seed).alone(np.arange(10))
    drawn = dllm_fast.mask_predict(logits, temperature=temperature, seed=seed, suppress=[MASK])
    greedy = dllm_fast.mask_predict(logits, suppress=[MASK], current=drawn.token)
    for field in ("top1", "top2", "entropy", "logsumexp"):
        assert (getattr(drawn, field) == getattr(greedy, field)).all()
    assert (drawn.probability == greedy.current).all()


@given(seed=seeds, preset=presets)
def test_remedi_a_constant_added_to_logits_changes_nothing(seed, preset):
    """Raw logits are taken for confidences, so a position that is loud in all its logits goes first."""
    quiet = table(seed)

    def loud(ids):
        return quiet(ids) + torch.arange(ids.shape[1])[:, None] * 0.25

    expected = sample(quiet, [1, 2], preset=preset, seed=3)
    result = dllm_fast.sample(loud, [1, 2], preset=preset, seed=3, mask_token_id=MASK, stop_at_eos=False, max_new_tokens=8)
    assert result.sequences[0].tolist() == expected.sequences[0].tolist()


def test_apd_noise_on_the_order_is_used():
    """Noise is drawn and dropped."""
    model = table(2)
    orders = {
        tuple(edit.position for edit in sample(model, [1], order_temperature=t, seed=seed).trajectory[0])
        for t in (0.0, 3.0)
        for seed in range(8)
    }
    assert len(orders) > 4


def test_diffusers_13598_no_padding_reaches_the_model():
    """Prompts of different length are padded, and the padding mask is lost on the way to attention."""
    network = Transformer(16, 0, 32)
    seen = []

    def model(ids):
        seen.append(ids.clone())
        return network(ids)

    prompts = [[1], [2, 3, 4], [5, 6, 7, 8, 9], [4, 3, 2]]
    result = dllm_fast.sample(model, prompts, mask_token_id=MASK, max_new_tokens=4, stop_at_eos=False)
    assert {ids.shape[1] for ids in seen} == {5, 7, 9}
    assert max(len(ids) for ids in seen) == 2, "rows of equal length share a forward"
    for prompt, tokens in zip(prompts, result.sequences, strict=True):
        alone = dllm_fast.sample(network, prompt, mask_token_id=MASK, max_new_tokens=4, stop_at_eos=False)
        assert tokens.tolist() == alone.sequences[0].tolist()


def test_vmlx_swift_169_seeds_are_used():
    """The seed is ignored: all answers are the same, or none can be had again."""
    model = table(4)
    draw = [sample(model, [1], temperature=2.0, seed=seed).sequences[0].tolist() for seed in (0, 0, *range(1, 6))]
    assert draw[0] == draw[1]
    assert len({tuple(tokens) for tokens in draw}) == 6
    several = sample(model, [1], temperature=2.0, num_samples=6).sequences
    assert len({tuple(tokens.tolist()) for tokens in several}) == 6
    assert several[0].tolist() == draw[0]


@pytest.mark.parametrize("preset", ALL)
def test_mlxcel_218_nan_is_an_error_that_says_where(preset):
    """A NaN in the sort of entropies puts positions in any order."""
    logits = torch.zeros(8, 16)
    logits[:, 0] = torch.arange(8)
    logits[5, 3] = torch.nan
    with pytest.raises(dllm_fast.DllmFastError, match=r"row 0, position 5, must not hold NaN"):
        infill(Rows(logits), [MASK] * 8, preset=preset, temperature=0.0)


def test_tensorrt_edge_llm_an_infinite_first_logit():
    """The entropy is NaN when the first logit that a thread reads is -inf."""
    logits = torch.full((1, 5000), -torch.inf)
    logits[0, [4096, 4999]] = 1.0
    prediction = dllm_fast.mask_predict(logits)
    assert prediction.entropy[0] == pytest.approx(math.log(2), rel=1e-7)
    assert (prediction.token[0], prediction.top1[0], prediction.top2[0]) == (4096, 0.5, 0.5)


# --- packages


@given(seed=seeds, data=st.data())
def test_dlmserve_neighbours_with_other_temperature_and_steps_share_a_forward(seed, data):
    """All rows of a batch get the temperature of row 0. A loop of your own can mix samplers: each row keeps its settings."""
    model = table(seed)
    choices = [{"temperature": 0.0}, {"temperature": 1.5}, {"temperature": 0.5, "top_k": 2}, {"threshold": 0.5}, {"steps": 2}]
    chosen = [data.draw(st.sampled_from(choices)) for _ in range(3)]
    canvases = [np.array([*range(i + 1), *[MASK] * (7 - i)]) for i in range(3)]

    def samplers():
        for i, (settings, canvas) in enumerate(zip(chosen, canvases, strict=True)):
            yield dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK, **settings), [canvas], seed=i)

    alone = []
    for sampler in samplers():
        while (request := sampler.next()) is not None:
            sampler.feed(model.alone(request.canvases[0])[request.positions[0]])
        alone.append(sampler.canvases[0].tolist())

    together = list(samplers())
    while waiting := [(sampler, request) for sampler in together if (request := sampler.next()) is not None]:
        logits = model(torch.from_numpy(np.stack([request.canvases[0] for _, request in waiting])))
        for row, (sampler, request) in zip(logits, waiting, strict=True):
            sampler.feed(row[request.positions[0]])
    assert [sampler.canvases[0].tolist() for sampler in together] == alone


@given(seed=seeds, steps=st.integers(1, 8), schedule=st.sampled_from(["even", "linear", "cosine", "maskgit"]))
def test_dllm_reason_every_row_has_its_own_count(seed, steps, schedule):
    """Rows share the count of row 0."""
    canvases = [[MASK] * n + [1] * (12 - n) for n in (3, 12, 7)]
    result = infill(table(seed), canvases, steps=steps, schedule=schedule)
    for n, edits in zip((3, 12, 7), result.trajectory, strict=True):
        counts = np.bincount([edit.step for edit in edits])
        expected = dllm_fast.schedule(schedule, n, steps)
        assert counts.tolist() == expected[expected > 0].tolist()


@given(masks=st.integers(1, 300), steps=st.integers(1, 30))
def test_dllm_reason_maskgit_is_not_inverted(masks, steps):
    """The schedule runs backwards: most tokens are committed in the first step, where least is known."""
    counts = dllm_fast.schedule("maskgit", masks, steps)
    assert counts[0] <= -(-masks // steps)
    assert counts[: steps // 2].sum() <= max(masks / 2, (counts[: steps // 2] > 0).sum())


@given(seed=seeds, preset=presets, steps=st.integers(1, 12), temperature=st.sampled_from([0.0, 1.0]))
def test_dfastllm_no_mask_is_left(seed, preset, steps, temperature):
    """Adaptive steps return before all masks are filled."""
    settings = {} if preset in PACED_BY_THEMSELVES else {"steps_per_block": steps}
    result = sample(table(seed), [[1], [2, 3]], preset=preset, temperature=temperature, seed=seed, **settings)
    assert all(len(tokens) == 8 and not (tokens == MASK).any() for tokens in result.new_tokens)


def test_dfastllm_more_than_64_positions():
    """At most 64 positions are filled."""
    result = sample(table(0), [1], preset="fast-dllm", max_new_tokens=200, threshold=0.1)
    assert len(result.new_tokens[0]) == 200
    assert not (result.new_tokens[0] == MASK).any()


@pytest.mark.parametrize("name", ["confidence_treshold", "gama", "block_len", "kv_cache", "cuda_graphs"])
def test_dlmserve_dfastllm_a_setting_that_does_nothing_is_refused(name):
    """Settings are accepted and ignored."""
    with pytest.raises(dllm_fast.DllmFastError, match=f"{name} is not a setting"):
        sample(table(0), [1], **{name: 1})


def test_turbo_dllm_the_end_of_one_row_does_not_stop_the_others():
    """One row's end token stops the whole batch."""
    logits = torch.zeros(2, 6, 16)
    logits[0, :, 0] = 9.0  # row 0 ends at once
    logits[1, :, 5] = 9.0

    def model(ids):
        return logits[ids[:, 0]]

    canvases = [[0, *[MASK] * 5], [1, *[MASK] * 5]]
    result = dllm_fast.infill(model, canvases, mask_token_id=MASK, eos_token_id=0, stop_at_eos=True, order="left-to-right")
    assert result.sequences[0].tolist() == [0] * 6
    assert result.sequences[1].tolist() == [1, 5, 5, 5, 5, 5]
    assert result.stats.nfe_per_row == [1, 5]


def test_llada_bf16_the_softmax_in_the_dtype_of_the_logits_ties():
    """In bfloat16 all that is surer than 0.998 is 1.0, so what goes first is chance; the default orders by float32."""
    ahead = torch.tensor([10.0, 14.0, 12.0, 16.0, 11.0, 15.0, 13.0])
    logits = torch.zeros(7, 16, dtype=torch.bfloat16)
    logits[range(7), range(7)] = ahead.bfloat16()
    assert (torch.softmax(logits, -1).max(-1).values == 1).all()
    model = Rows(logits)
    ours = infill(model, [MASK] * 7, preset="llada")
    assert [edit.position for edit in ours.trajectory[0]] == torch.argsort(ahead, descending=True).tolist()
    published = infill(model, [MASK] * 7, preset="llada", as_published=True)
    assert [edit.position for edit in published.trajectory[0]] == [0, 1, 2, 3, 4, 5, 6]
    # torch.topk, as published, has an order of its own among ties, and not the float32 one either.
    loop = llada.generate(model.alone, [], mask=MASK, gen_length=7, steps=7, block_length=7, dtype=torch.bfloat16)
    assert [position for _, position, _ in loop.edits] == [0, 1, 2, 3, 4, 5, 6]
