"""The same seed gives the same answer whatever runs beside it; different samples and seeds give independent answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import assert_follows, assert_independent, draws
from scipy import stats

import dllm_fast
from dllm_fast import Sampler, SamplerConfig, _core
from toys import HashTable

TESTS = Path(__file__).resolve().parent.parent
MASK = 7
# Large enough that a step is worth threads: 15 rows of equal length, 24 masks and 1,000 ids.
MODEL = HashTable(1000, seed=5)
PROMPTS = [[1, 2, 3], [2, 4, 6], [4], [5, 6, 8], [1, 2, 3], [11] * 3]

RULES = {
    "threshold": {"threshold": 0.05, "temperature": 0.8, "top_p": 0.9},
    "random order": {"order": "random", "steps": 8, "temperature": 1.0},
    "noisy order": {"order": "margin", "order_temperature": 0.5, "steps": 8, "temperature": 1.0, "min_p": 0.01},
    "sampled confidence": {"order": "sampled-confidence", "block_length": 6, "steps_per_block": 2, "temperature": 1.3},
    "ancestral": {"preset": "mdlm", "steps": 8, "top_k": 100},
    "dream": {"preset": "dream-origin", "steps": 8, "temperature": 1.0},
    "first-hitting": {"preset": "first-hitting"},
}


def answers(rule: str, prompts=PROMPTS, *, seed=11, num_samples=3, model=MODEL) -> list[list[int]]:
    result = dllm_fast.sample(
        model, prompts, seed=seed, num_samples=num_samples, max_new_tokens=24, mask_token_id=MASK, **RULES[rule]
    )
    return [sequence.tolist() for sequence in result.sequences]


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    return {rule: answers(rule) for rule in RULES}


@pytest.mark.parametrize("rule", RULES)
def test_answers_differ_between_samples_and_prompts(rule, expected):
    """So that the equalities below are not trivial. Prompts 0 and 4 are equal and so are their answers."""
    rows = expected[rule]
    assert rows[:3] == rows[12:15]
    distinct = {tuple(row) for row in rows}
    assert len(distinct) == len(rows) - 3


@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("rule", RULES)
def test_thread_counts(rule, threads, expected):
    _core.set_threads(threads)
    try:
        assert answers(rule) == expected[rule]
    finally:
        _core.set_threads(None)


@pytest.mark.parametrize("rule", RULES)
def test_batch_sizes(rule, expected):
    """Every prompt alone, in pairs, and every sample alone by its own index."""
    for size in (1, 2):
        parts = [answers(rule, PROMPTS[i : i + size]) for i in range(0, len(PROMPTS), size)]
        assert [row for part in parts for row in part] == expected[rule]
    assert answers(rule, num_samples=1) == expected[rule][::3]
    assert answers(rule, num_samples=2) == [row for i, row in enumerate(expected[rule]) if i % 3 < 2]


@pytest.mark.parametrize("rule", RULES)
def test_row_orders(rule, expected):
    for order in ([5, 4, 3, 2, 1, 0], [2, 5, 0, 3, 1, 4]):
        found = answers(rule, [PROMPTS[i] for i in order])
        assert found == [row for i in order for row in expected[rule][3 * i : 3 * i + 3]]


def test_a_seed_for_each_prompt_is_that_prompts_seed():
    seeds = [3, 2**64 - 1, 0, 5, 7, 2**32]
    found = answers("random order", seed=seeds)
    alone = [answers("random order", [prompt], seed=seed) for prompt, seed in zip(PROMPTS, seeds, strict=True)]
    assert found == [row for part in alone for row in part]


@pytest.mark.parametrize("environment", [{"RAYON_NUM_THREADS": "1"}, {"RAYON_NUM_THREADS": "7", "PYTHONHASHSEED": "1"}])
def test_processes(environment, expected):
    program = "import json, test_seeds; print(json.dumps({rule: test_seeds.answers(rule) for rule in test_seeds.RULES}))"
    path = [str(TESTS), str(TESTS / "law"), *filter(None, sys.path)]
    environment = os.environ | environment | {"PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected


def test_the_step_by_step_interface_has_the_same_answers(expected):
    """A caller's own loop, row by row in falling order, without `infill`."""
    config = SamplerConfig(mask_token_id=MASK, **RULES["threshold"])
    canvases = [np.array(prompt + [MASK] * 24) for prompt in PROMPTS]
    sampler = Sampler(config, canvases, seed=11, request=2, block_start=[len(prompt) for prompt in PROMPTS])
    while (request := sampler.next()) is not None:
        parts = list(zip(request.rows.tolist(), request.canvases, request.positions, strict=True))
        for row, canvas, positions in reversed(parts):
            sampler.feed(torch.from_numpy(MODEL.alone(canvas)), rows=[row], index=positions)
    assert [canvas.tolist() for canvas in sampler.canvases] == expected["threshold"][2::3]


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_mask_predict_and_threads(threads):
    rng = np.random.default_rng(3)
    logits = torch.from_numpy(rng.normal(0, 3, (48, 20_000)).astype(np.float32)).bfloat16()
    settings = {"temperature": 0.9, "top_p": 0.95, "seed": list(range(48)), "positions": rng.permutation(48)}
    serial = [
        dllm_fast.mask_predict(logits[i : i + 1], **settings | {"seed": i, "positions": settings["positions"][i : i + 1]})
        for i in range(48)
    ]
    _core.set_threads(threads)
    try:
        together = dllm_fast.mask_predict(logits, **settings)
    finally:
        _core.set_threads(None)
    for field in ("token", "probability", "top1", "top2", "entropy", "logsumexp"):
        assert getattr(together, field).tolist() == [getattr(one, field)[0] for one in serial], field


# --- independence: many rows with three masks each, a flat model, and what they drew

N = draws(50_000, 1_000_000)
LOGITS = torch.zeros(1, 5)  # four ids and the mask


def drawn(*, seed, request, **settings) -> tuple[np.ndarray, np.ndarray]:
    """Tokens `[rows, 3]`, and the position that each row committed first."""
    rows = len(seed) if isinstance(seed, list) else len(request)
    config = SamplerConfig(mask_token_id=4, temperature=1.0, **settings)
    tokens, first = [], []
    for some in (slice(i, i + 2000) for i in range(0, rows, 2000)):
        ours = {
            "seed": seed[some] if isinstance(seed, list) else seed,
            "request": request[some] if isinstance(request, list) else request,
        }
        count = len(range(rows)[some])
        sampler = Sampler(config, [np.full(3, 4)] * count, **ours)
        while (asked := sampler.next()) is not None:
            sampler.feed(LOGITS, index=np.zeros(sum(map(len, asked.positions)), dtype=np.int64))
        tokens += [canvas.tolist() for canvas in sampler.canvases]
        first += [edits[0].position for edits in sampler.trajectory]
    return np.array(tokens), np.array(first)


RANDOM = {"order": "random"}
WAYS = {
    "sample indices of one seed": lambda: drawn(seed=9, request=list(range(N)), **RANDOM),
    "seeds that count up": lambda: drawn(seed=list(range(N)), request=0, **RANDOM),
    "seeds that differ in high bits": lambda: drawn(seed=[i << 40 for i in range(N)], request=0, **RANDOM),
}


@pytest.mark.parametrize("way", WAYS)
def test_rows_are_independent(way):
    tokens, first = WAYS[way]()
    answer = tokens @ [1, 4, 16]
    assert_follows(np.bincount(answer, minlength=64), np.full(64, 1 / 64), f"{way}: answers")
    assert_follows(np.bincount(first, minlength=3), np.full(3, 1 / 3), f"{way}: orders")
    for apart in (1, 2, 64):
        assert_independent(answer[:-apart], answer[apart:], (64, 64), f"{way}: rows {apart} apart")
        assert_independent(first[:-apart], first[apart:], (3, 3), f"{way}: orders {apart} apart")
    for p in range(3):
        assert_independent(tokens[:, p], first, (4, 3), f"{way}: token {p} and the order")


def test_equal_answers_are_as_rare_as_chance_has_it():
    """Of pairs of neighbouring samples with 64 possible answers, one in 64 agrees."""
    tokens, _ = drawn(seed=21, request=list(range(N)), **RANDOM)
    equal = int((tokens[::2] == tokens[1::2]).all(axis=1).sum())
    assert stats.binomtest(equal, N // 2, 1 / 64).pvalue > 1e-4


def test_seed_and_sample_index_do_not_stand_for_each_other():
    """Seed 3, sample 5 is not seed 5, sample 3, nor seed 8, sample 0."""
    pairs = [drawn(seed=[s] * 64, request=list(range(64)))[0] for s in range(64)]
    table = np.stack(pairs) @ [1, 4, 16]
    assert_follows(np.bincount(table.ravel(), minlength=64), np.full(64, 1 / 64))
    upper = np.triu_indices(64, 1)
    same = int((table[upper] == table.T[upper]).sum())
    assert stats.binomtest(same, len(upper[0]), 1 / 64).pvalue > 1e-4
