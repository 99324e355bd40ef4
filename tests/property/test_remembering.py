"""Rules that remember distributions: KLASS (2511.05664) and CreditDecoding (2510.06133)."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dllm_fast
import strategies
import toys
from dllm_fast.errors import InvalidValueError
from driving import assert_equals_reference, assert_neighbours_do_not_matter, batches, drive, edits_of, lines, same, tables
from reference import arithmetic, memory
from reference.statistics import allowed, statistics
from strategies import MASK, VOCABULARY


class Slow:
    """Logits that change little from one canvas to the next: some of a table, most of the position."""

    def __init__(self, seed: int, share: float, vocabulary: int = VOCABULARY):
        self.table = toys.HashTable(vocabulary, seed=seed, grid=1.0, infinities=False)
        self.share, self.vocabulary = share, vocabulary

    def alone(self, canvas):
        canvas = np.asarray(canvas)
        still = self.table.alone(np.zeros_like(canvas))
        return (still * 2 + self.table.alone(canvas) * self.share).astype(np.float32)


models = st.one_of(tables, st.builds(Slow, st.integers(0, 2**32), st.sampled_from([0.0, 0.05, 0.3])))


def follows(sampler, other) -> bool:
    return all(same(edits_of(a), edits_of(b)) for a, b in zip(sampler.trajectory, other.trajectory, strict=True))


@settings(max_examples=3 * settings().max_examples)
@given(strategies.remembering(), batches(), models)
def test_equals_the_reference_token_for_token(config, batch, model):
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


class Wide(Slow):
    """A vocabulary of which a head holds less than half the mass."""

    def alone(self, canvas):
        return super().alone(canvas) * np.float32(0.2)


@given(
    st.builds(Wide, st.integers(0, 2**32), st.sampled_from([0.3, 1.0, 2.0]), vocabulary=st.sampled_from([100, 400])),
    batches(),
    st.sampled_from([1e-4, 3e-3, 0.03, 0.3]),
    st.integers(1, 3),
)
def test_equals_the_reference_where_a_head_is_not_the_whole(model, batch, kl_threshold, steps):
    config = {"mask_token_id": MASK, "threshold": 0.0, "kl_threshold": kl_threshold, "kl_steps": steps}
    canvases, seeds, requests, starts = batch
    sampler = drive(config, canvases, model, seed=seeds, request=requests, block_start=starts)
    assert_equals_reference(sampler, config, batch, model)


def test_the_ids_that_are_not_in_a_head_count_as_one():
    """What tokens beyond the first 64 take from each other is not seen; what they give to the head is, as one."""
    level = np.zeros(200, dtype=np.float32)
    level[MASK] = -np.inf
    level[10:74] = 2.0
    within, beyond, given_ = level.copy(), level.copy(), level.copy()
    within[10:42] += 1.0  # the head grows, the others shrink as one
    beyond[100:130] += np.float32(0.5)
    beyond[130:160] -= np.float32(np.log(1 / (2 - np.exp(0.5))))  # what those lose
    given_[10:74] += 0.13  # the head alone would be 0.02 from what it was; what the others have less of makes it 0.001
    before, *after = (memory.head(statistics(allowed(x, [MASK]))) for x in (level, within, beyond, given_))
    divergences = [memory.divergence(before, now) for now in after]
    assert divergences[0] > 0.02
    assert divergences[1] < 1e-9
    assert divergences[2] == pytest.approx(0.8 * np.log(0.8 / 0.778) + 0.2 * np.log(0.2 / 0.222), abs=3e-4)
    for logits, is_close in zip((within, beyond, given_), (False, True, True), strict=True):
        config = dllm_fast.SamplerConfig(mask_token_id=MASK, threshold=0.0, kl_threshold=0.01, kl_steps=1)
        sampler = dllm_fast.Sampler(config, [[MASK] * 9])
        for shown in (level, logits):
            sampler.feed(np.tile(shown, (len(sampler.next().positions[0]), 1)))
        assert len([edit for edit in sampler.trajectory[0] if edit.step == 1]) == (8 if is_close else 1)


@given(strategies.remembering(), batches(), models, st.randoms(use_true_random=False))
def test_all_ways_to_answer_are_one(config, batch, model, random):
    """Logits, or what `predict` made of them, pickled; all rows at once or in parts; asked twice; all positions scored."""
    canvases, seeds, requests, starts = batch
    arguments = {"seed": seeds, "request": requests, "block_start": starts}
    base = drive(config, canvases, model, **arguments)
    shift = config.get("shift", False)
    assert follows(drive(config, canvases, model, score_all=True, **arguments), base)

    told = dllm_fast.Sampler(dllm_fast.SamplerConfig(**config), canvases, **arguments)
    while (request := told.next()) is not None:
        parts = list(zip(request.rows.tolist(), lines(model, request, shift), strict=True))
        random.shuffle(parts)
        for row, logits in parts:
            first = told.predict(logits, rows=[row])
            again = pickle.loads(pickle.dumps(told.predict(logits, rows=[row])))
            for name in ("token", "top1", "head_ids", "head_probabilities", "head_counts", "leader", "leader_probability"):
                np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
            told.feed(prediction=again, rows=[row])
    assert follows(told, base)


@given(strategies.remembering(), batches(), models, st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_its_neighbours(config, batch, model, random):
    assert_neighbours_do_not_matter(config, batch, model, random)


@given(strategies.remembering(), strategies.canvases(), models, st.integers(1, 3))
def test_rows_of_other_rules_change_nothing(config, canvas, model, others):
    """A prediction of rows with and without memory: each is what it is alone."""
    plain = dllm_fast.SamplerConfig(mask_token_id=MASK, temperature=1.0, shift=config.get("shift", False))
    sampler = dllm_fast.Sampler(plain, [np.full(4, MASK)] * others, request=list(range(others)))
    sampler.add(canvas, dllm_fast.SamplerConfig(**config), seed=7)
    while (request := sampler.next()) is not None:
        sampler.feed(prediction=sampler.predict(np.concatenate(lines(model, request, plain.shift))))
    assert same(edits_of(sampler.trajectory[others]), edits_of(drive(config, [canvas], model, seed=7).trajectory[0]))


@given(st.data(), strategies.canvases(), models, st.sampled_from([1, 2, 3]), st.sampled_from([None, 3, 5]))
def test_nothing_rests_before_it_could(data, canvas, model, steps, block_length):
    """In the first forwards of each block only the floor commits; and a divergence of 0 is not below a threshold of 0."""
    base = {"mask_token_id": MASK, "block_length": block_length, "min_commit": data.draw(st.integers(1, 2))}
    rule = {"threshold": data.draw(strategies.thresholds), "kl_steps": steps}
    rested = drive({**base, **rule, "kl_threshold": math.inf}, [canvas], model)
    blocks: dict[int, dict[int, int]] = {}
    for edit in rested.trajectory[0]:
        block = blocks.setdefault(edit.position // (block_length or len(canvas)), {})
        block[edit.step] = block.get(edit.step, 0) + 1
    for block in blocks.values():
        first = min(block)
        assert all(count <= base["min_commit"] for step, count in block.items() if step < first + steps)
    fallback = drive(base, [canvas], model)
    for never in (
        {"kl_threshold": 0.0},
        {"kl_threshold": math.inf, "threshold": 1.5},
        {"kl_steps": 99, "kl_threshold": math.inf},
    ):
        assert follows(drive({**base, **rule, **never}, [canvas], model), fallback)


@given(strategies.settings(orders=("confidence", "margin", "sampled-confidence"), schedules=["even"]), batches(), models)
def test_credit_without_weight_is_none(config, batch, model):
    canvases, seeds, requests, starts = batch
    arguments = {"seed": seeds, "request": requests, "block_start": starts}
    with_credit = drive({**config, "credit": 0.0, "credit_decay": 1.0}, canvases, model, **arguments)
    assert follows(with_credit, drive(config, canvases, model, **arguments))


def test_credit_is_earned_decays_and_ends_with_the_block():
    """By hand: a model whose first id is ahead of the second by a little, at four positions in two blocks."""
    config = dllm_fast.SamplerConfig(mask_token_id=MASK, credit=2.0, credit_power=0.5, credit_decay=0.5, block_length=2)
    sampler = dllm_fast.Sampler(config, [[MASK] * 4])
    logits = np.full(VOCABULARY, -np.inf, dtype=np.float32)
    logits[:2] = 0.5, 0.0
    p = 1 / (1 + math.exp(-0.5))
    credit = 0.0
    for forward in range(4):
        credit = credit * 0.5 if forward % 2 else 0.0
        credit += math.sqrt(p)
        made = sampler.predict(np.tile(logits, (len(sampler.next().positions[0]), 1)))
        assert made.leader.tolist() == [0] * len(made)
        np.testing.assert_allclose(made.leader_probability, p, rtol=1e-6)
        np.testing.assert_allclose(made.top1, 1 / (1 + math.exp(-0.5 - 2 * math.log1p(credit))), rtol=1e-6)
        sampler.feed(prediction=made)
    assert sampler.next() is None


def test_credit_lets_a_token_pass_that_stands_first_again_and_again():
    logits = np.full(VOCABULARY, 0.0, dtype=np.float32)
    logits[4] = 4.0
    model = toys.Constant(logits)
    base = {"mask_token_id": MASK, "threshold": 0.9}
    plain = drive(base, [np.full(12, MASK)], model)
    credit = drive({**base, "credit": 0.7}, [np.full(12, MASK)], model)
    assert plain.nfe_per_row == [12]
    assert credit.nfe_per_row[0] < 6


def test_a_distribution_that_rests_is_committed_at_once():
    """Kim et al.'s own values: nothing in the first two forwards but one each, all in the third."""
    logits = np.full(VOCABULARY, 0.0, dtype=np.float32)
    logits[4] = 9.0
    config = {"mask_token_id": MASK, "threshold": 0.9, "kl_threshold": 0.01}
    sampler = drive(config, [np.full(9, MASK)], toys.Constant(logits))
    steps = [edit.step for edit in sampler.trajectory[0]]
    assert steps == [0, 1, *[2] * 7]


@given(strategies.logits(vocabularies=(3, 50, 65, 300, 5000)))
def test_heads_are_the_reference(matrix):
    x = strategies.widened(matrix)
    rows, vocabulary = x.shape
    config = dllm_fast.SamplerConfig(mask_token_id=vocabulary - 1, threshold=0.9, kl_threshold=0.01)
    allowed_ids = x[:, :-1]
    if not (allowed_ids.max(axis=1) > -np.inf).all():
        return
    sampler = dllm_fast.Sampler(config, [[vocabulary - 1] * rows])
    sampler.next()
    made = sampler.predict(matrix)
    assert made.leader is None
    first = 0
    for row, count in zip(x, made.head_counts, strict=True):
        cells = dict(
            zip(
                made.head_ids[first : first + count].tolist(),
                made.head_probabilities[first : first + count].tolist(),
                strict=True,
            )
        )
        assert cells == memory.head(statistics(allowed(row, [vocabulary - 1])))
        assert list(cells) == sorted(cells)
        first += count
    assert first == len(made.head_ids)


@given(strategies.logits(max_rows=2, vocabularies=(3, 50, 64)), st.floats(0, 1))
def test_a_whole_distribution_diverges_as_the_textbook_says(matrix, share):
    x = strategies.widened(matrix)
    x = np.where(np.isfinite(x), x, -40).clip(-40, 40)
    now, before = x[0], share * x[-1] + (1 - share) * x[0]
    p, q = (np.exp(a - a.max(), dtype=np.float64) for a in (now, before))
    p, q = p / p.sum(), q / q.sum()
    textbook = float((p * (np.log(p) - np.log(q))).sum())
    heads = [memory.head(statistics(allowed(a))) for a in (before, now)]
    # The cell of all others holds nothing here but what the roundings of the probabilities leave: 1e-7 beside 0 weighs 1e-5.
    q_rest, p_rest = (max(1.0 - sum(head.values()), 0.0) for head in heads)
    rest = p_rest * (np.log(p_rest) - np.log(max(q_rest, arithmetic.SMALLEST_NORMAL))) if p_rest else 0.0
    assert p_rest < 4e-7 > q_rest
    assert memory.divergence(*heads) == pytest.approx(max(textbook + rest, 0.0), rel=1e-4, abs=1e-6)


@given(strategies.logits(max_rows=2, vocabularies=(300, 5000), kinds=("normal", "sharp")), st.floats(0, 0.3))
def test_a_head_never_says_much_less_than_the_whole(matrix, share):
    """Cells taken together diverge less than the whole; what left the head is counted with the others, which adds to it."""
    x = strategies.widened(matrix).clip(-40, 40)
    now, before = x[0], share * x[-1] + (1 - share) * x[0]
    heads = [memory.head(statistics(allowed(a))) for a in (before, now)]
    p, q = (np.exp(a - a.max(), dtype=np.float64) for a in (now, before))
    p, q = p / p.sum(), q / q.sum()
    inside = sorted(heads[0])
    cells = [np.append(d[inside], d.sum() - d[inside].sum()).clip(1e-300) for d in (p, q)]
    coarse = float((cells[0] * (np.log(cells[0]) - np.log(cells[1]))).sum())
    whole = float((p * (np.log(p) - np.log(q))).sum())
    assert coarse <= whole + 1e-9
    assert memory.divergence(*heads) >= coarse - 2e-6 * (1 + abs(coarse))


def test_what_earns_and_what_diverges_is_our_own_arithmetic():
    p = 0.1234567
    rule = memory.Memory(type("Rule", (), {"credit": 1.0, "credit_power": 0.2, "credit_decay": 0.8})())
    logits = np.log(np.array([p, 1 - p])).astype(np.float32)[::-1].copy()
    raised = rule.raised(0, logits, ())
    top1 = statistics(allowed(logits)).top1
    earned = arithmetic.exp64(0.2 * arithmetic.ln(top1))
    assert rule.credits[0] == {0: earned}
    assert raised[0] == np.float32(float(logits[0]) + arithmetic.ln_1p(earned))


def waiting(**settings):
    sampler = dllm_fast.Sampler(dllm_fast.SamplerConfig(mask_token_id=MASK, **settings), [[MASK] * 2])
    sampler.next()
    return sampler


@pytest.mark.parametrize(
    ("settings", "missing"),
    [({"threshold": 0.9, "kl_threshold": 0.01}, "the head of each distribution"), ({"credit": 0.7}, "the leader of each")],
)
def test_an_answer_without_what_is_remembered_is_refused(settings, missing):
    sampler = waiting(**settings)
    logits = np.zeros((2, VOCABULARY), dtype=np.float32)
    with pytest.raises(InvalidValueError, match=f"a prediction needs {missing}.* row 0, position 0; predict with Sampler"):
        sampler.feed(prediction=dllm_fast.mask_predict(logits, suppress=[MASK]))
    with pytest.raises(dllm_fast.DllmFastError, match="need more than scores of the distributions"):
        sampler.feed(tokens=[1, 1], scores=[0.5, 0.5])
    sampler.feed(logits)
    sampler.next()
    assert sampler.pace([0])[1] is None


def prediction(**more):
    half = [0.5, 0.5]
    return dllm_fast.Prediction(token=[1, 2], probability=half, top1=half, top2=half, entropy=half, **more)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"head_ids": [1, 2]}, "head_ids, head_probabilities and head_counts belong together"),
        ({"head_ids": [1, 2], "head_probabilities": [0.5, 0.5], "head_counts": [2]}, "head_counts must have an entry for each"),
        ({"head_ids": [1, 2], "head_probabilities": [0.5, 0.5], "head_counts": [1, 2]}, "head_counts must have an entry"),
        ({"head_ids": [2, 1], "head_probabilities": [0.5, 0.5], "head_counts": [2, 0]}, "the ids of each head must rise"),
        ({"head_ids": [1, 2], "head_probabilities": [0.5, 1.5], "head_counts": [1, 1]}, "must lie in .0, 1., got 1.5"),
        ({"head_ids": [1, 2], "head_probabilities": [0.5, math.nan], "head_counts": [1, 1]}, "must lie in .0, 1., got NaN"),
        ({"leader": [1, 2]}, "leader and leader_probability belong together"),
        ({"leader": [1], "leader_probability": [0.5]}, "leader and leader_probability must have an entry for each of 2"),
    ],
)
def test_what_is_told_must_fit(more, text):
    with pytest.raises(InvalidValueError, match=text):
        prediction(**more)


def test_what_is_told_comes_back():
    more = {"head_ids": [1, 2, 5], "head_probabilities": [0.5, 0.5, 1.0], "head_counts": [2, 1]}
    made = prediction(**more, leader=[3, 4], leader_probability=[0.5, 0.25])
    for name, values in {**more, "leader": [3, 4], "leader_probability": [0.5, 0.25]}.items():
        assert getattr(made, name).tolist() == values
        assert getattr(made.rounded("bfloat16"), name).tolist() == values
    sampler = waiting(threshold=0.9, kl_threshold=0.01, credit=0.7)
    sampler.feed(prediction=made)
    assert prediction().head_ids is None


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kl_threshold": 0.01}, "kl_threshold is for positions that pass the threshold, got no threshold; KLASS's is 0.9"),
        ({"threshold": 0.9, "kl_threshold": -1.0}, "kl_threshold must be a number, at least 0, got -1; 0.01 is KLASS's"),
        ({"threshold": 0.9, "kl_threshold": math.nan}, "kl_threshold must be a number, at least 0, got NaN"),
        ({"kl_steps": 0}, "kl_steps must be at least 1, got 0; 2 is KLASS's"),
        (
            {"threshold": 0.9, "kl_threshold": 0.1, "run_threshold": 0.4},
            "at most one of neighbour_threshold, run_threshold and kl_",
        ),
        ({"factor": 1.0, "kl_threshold": 0.1}, "kl_threshold is for positions that pass the threshold"),
        ({"credit": -0.1}, "credit must lie in .0, 1000., got -0.1; 0.7 is CreditDecoding's"),
        ({"credit": math.nan}, "credit must lie in .0, 1000., got NaN"),
        ({"credit_power": -0.1}, "credit_power must lie in .0, 1000., got -0.1"),
        ({"credit_decay": 1.1}, "credit_decay must lie in .0, 1., got 1.1; 0.8 is"),
        ({"credit": 0.7, "order": "ancestral"}, "credit changes the distributions, got it beside order 'ancestral'"),
        ({"credit": 0.7, "schedule": "first-hitting"}, "credit changes the distributions"),
    ],
)
def test_what_cannot_be(settings, text):
    with pytest.raises(InvalidValueError, match=text):
        dllm_fast.SamplerConfig(**settings)
