"""What guidance takes and refuses, and what a run under it tells."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import dllm_fast
from dllm_fast import DllmFastError, SamplerConfig
from dllm_fast._core import Twin
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from strategies import MASK, VOCABULARY
from toys import HashTable

ASKED = {"mask_token_id": MASK, "max_new_tokens": 3, "stop_at_eos": False}
model = HashTable(VOCABULARY, 2)


def never(ids):
    raise AssertionError("a forward")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"guidance": -0.5}, r"guidance must lie in \[0, 2\^20\], got -0\.5; 0 is none"),
        ({"guidance": float("nan")}, "guidance must lie in .*, got nan"),
        ({"guidance": float("inf")}, "guidance must lie in .*, got inf"),
        ({"guidance": 10**400}, "guidance must lie in"),
        ({"guidance": "much"}, "guidance must be a number, got 'much'"),
        ({"guidance": True}, "guidance must be a number, got True"),
        ({"guidance": 1.0, "max_batch_rows": 1}, "max_batch_rows must be at least 2 beside guidance, .* got 1; raise it"),
        ({"guidance_scale": 0.5}, r"guidance must lie in .*, got -0\.5"),
    ],
)
def test_what_is_no_weight_is_refused_before_any_forward(settings, says):
    with pytest.raises(DllmFastError, match=says):
        dllm_fast.sample(never, [1, 2], **ASKED, **settings)


@pytest.mark.parametrize(
    ("prompts", "given", "says"),
    [
        (
            [1, 2],
            {"negative_prompt": [3]},
            "what guidance leads away from, .* without guidance; pass guidance=1",
        ),
        ([[1], [2], [4]], {"guidance": 1.0, "negative_prompt": [[3], [4]]}, "must be one, or one for each of 3 prompts, got 2"),
        ([1], {"guidance": 1.0, "negative_prompt": []}, "negative_prompt must hold at least one row|must not be empty"),
        ([1], {"guidance": 1.0, "negative_prompt": [-1]}, "ids of the negative_prompt must lie in .*, got -1 in row 0"),
        ([1], {"guidance": 1.0, "negative_prompt": "text"}, "a negative_prompt of text needs a tokenizer"),
        ([1], {"guidance": 1.0, "negative_prompt": 3.5}, "negative_prompt must be a string"),
    ],
)
def test_negative_prompts_that_cannot_be_are_refused_before_any_forward(prompts, given, says):
    with pytest.raises(DllmFastError, match=says):
        dllm_fast.sample(never, prompts, **ASKED, **given)


def test_a_canvas_has_no_negative_prompt():
    with pytest.raises(DllmFastError, match=r"negative_prompt stands in place of a prompt, got .* beside a canvas"):
        dllm_fast.stream(never, canvas=[1, MASK], mask_token_id=MASK, guidance=1.0, negative_prompt=[1])
    with pytest.raises(
        DllmFastError, match=r"got \[1\] beside a canvas, whose given tokens guidance shows as masks; leave it out"
    ):
        dllm_fast.infill(never, [1, MASK], mask_token_id=MASK, guidance=1.0, **{"negative_prompt": [1]})


def test_a_weight_of_zero_may_stand_beside_a_negative_prompt():
    """So that a sweep over weights can begin with it."""
    plain = dllm_fast.sample(model, [1, 2], **ASKED)
    assert dllm_fast.sample(model, [1, 2], guidance=0, negative_prompt=[3], **ASKED).trajectory == plain.trajectory


def test_the_context_holds_the_longer_of_the_two_prompts():
    class Short(HashTable):
        config = type("Config", (), {"max_position_embeddings": 8, "vocab_size": VOCABULARY})()

    short = Short(VOCABULARY)
    assert len(dllm_fast.sample(short, [1], guidance=1.0, negative_prompt=[1] * 5, **ASKED).new_tokens[0]) == 3
    with pytest.raises(
        DllmFastError, match=r"negative_prompt and new tokens must fit .* of 8 tokens, got 6 \+ 3; shorten the negative"
    ):
        dllm_fast.sample(short, [1], guidance=1.0, negative_prompt=[1] * 6, **ASKED)
    with pytest.raises(DllmFastError, match=r"^prompt and new tokens must fit .* of 8 tokens, got 6 \+ 3; shorten the prompt"):
        dllm_fast.sample(short, [1] * 6, guidance=1.0, negative_prompt=[1], **ASKED)


def test_twins_count_among_the_positions_of_a_run():
    with pytest.raises(DllmFastError, match=r"at most 2\^27 positions in all, got 167772170"):
        dllm_fast.sample(never, [[1]] * 5, mask_token_id=MASK, max_new_tokens=2**24, threshold=0.9, guidance=1.0)


class Exported(nn.Module):
    vocabulary = VOCABULARY

    def __init__(self):
        super().__init__()
        self.tokens, self.head = nn.Embedding(VOCABULARY, 8), nn.Linear(8, VOCABULARY)

    def forward(self, ids):
        seen = self.tokens(ids)
        return self.head(seen + seen.mean(dim=1, keepdim=True))


@pytest.mark.filterwarnings("ignore")  # of torch, about itself
def test_a_callable_that_takes_no_other_batch_is_refused_by_name():
    rows = torch.export.Dim("rows", min=1, max=64)
    example, length = (torch.zeros(2, 5, dtype=torch.int64),), 5
    fixed = torch.export.export(Exported(), example).module()
    free = torch.export.export(Exported(), example, dynamic_shapes=({0: rows},)).module()
    asked = {**ASKED, "max_new_tokens": length - 2, "block_length": length - 2}
    with pytest.raises(DllmFastError, match=r"other batches, got GraphModule\S* for 2 rows, and 2 with their twins are 4"):
        dllm_fast.sample(fixed, [[1, 2], [4, 5]], guidance=1.0, **asked)
    assert ("other batches", "exported for 2 rows, which guidance doubles") in dllm_fast.explain(fixed).refused
    assert dllm_fast.sample(fixed, [1, 2], guidance=1.0, **asked).stats.nfe == 6
    assert dllm_fast.sample(free, [[1, 2], [4, 5]], guidance=1.0, **asked).stats.nfe == 6


def test_forwards_count_two_where_a_row_and_its_twin_are_in_one():
    """Of other lengths, a row and its twin are in two forwards of a callable, which count as what they are."""
    for negative, shapes in ((None, {(2, 5)}), ([4, 5], {(2, 5)}), ([4], {(1, 5), (1, 4)})):
        seen = []

        def watched(ids, seen=seen):
            seen.append(tuple(ids.shape))
            return model(ids)

        result = dllm_fast.sample(watched, [1, 2], guidance=1.0, negative_prompt=negative, **ASKED)
        assert set(seen) == shapes
        assert (result.stats.nfe, result.stats.nfe_per_row) == (6, [6])


def test_as_many_rows_ride_together_as_were_asked_for():
    seen = []

    def watched(ids):
        seen.append(len(ids))
        return model(ids)

    dllm_fast.sample(watched, [[1], [2], [3]], guidance=1.0, max_batch_rows=5, **ASKED)
    assert set(seen) == {4, 2}


def test_an_error_of_the_model_says_what_its_rows_are():
    def fails(ids):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as caught:
        dllm_fast.sample(fails, [1, 2], guidance=1.0, **ASKED)
    assert any("the rows of a forward, here 2, are the run's and their twins" in note for note in caught.value.__notes__)


def test_a_model_whose_rows_have_other_ids_in_another_batch_is_refused():
    def odd(ids):
        return model(ids)[..., : VOCABULARY - (ids.shape[1] == 4)]

    with pytest.raises(DllmFastError, match=r"a row and its twin must have logits of the same tokens, got \[10, 11\] columns"):
        dllm_fast.sample(odd, [1, 2], guidance=1.0, negative_prompt=[1], **ASKED)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int64])
def test_logits_of_another_dtype_are_refused_as_without_guidance(dtype):
    for given in ({}, {"guidance": 1.0}):
        with pytest.raises(DllmFastError, match="logits must be float32, float16 or bfloat16"):
            dllm_fast.sample(lambda ids: model(ids).to(dtype), [1, 2], **ASKED, **given)


def test_infinities_of_both_stay_and_those_of_one_decide():
    """A model that leaves an id out leaves it out under guidance; one that only a row without its prompt leaves out is sure."""
    rows = torch.tensor([[0.0, 1.0, -torch.inf, 0.5], [0.0, 2.0, -torch.inf, 0.0]])

    def table(ids):
        return rows[(ids[:, 0] == 3).long()][:, None].expand(-1, ids.shape[1], -1)

    asked = {"mask_token_id": 3, "max_new_tokens": 1, "stop_at_eos": False}
    # u + 2 (c - u): [0, 0, -inf, 1], of which 3 is the mask; the first of those that tie.
    assert dllm_fast.sample(table, [1], guidance=1.0, **asked).new_tokens[0].tolist() == [0]
    rows[0, 2] = 0.0  # only u has none of it: infinitely more probable with the prompt than without
    assert dllm_fast.sample(table, [1], guidance=1.0, **asked).new_tokens[0].tolist() == [2]


def test_a_distribution_may_be_guided():
    found = dllm_fast.distributions(model, [1, MASK, 2], mask_token_id=MASK, guidance=1.0, top=3)
    plain = dllm_fast.distributions(model, [1, MASK, 2], mask_token_id=MASK, top=3)
    assert found[0].ids.tolist() != plain[0].ids.tolist() or not np.allclose(found[0].probabilities, plain[0].probabilities)
    chosen = dllm_fast.infill(model, [1, MASK, 2], mask_token_id=MASK, guidance=1.0)
    assert chosen.sequences[0][1] == found[0].ids[0]


def test_a_run_tells_what_it_cost_before_it_is_over():
    with dllm_fast.stream(model, [1, 2], guidance=1.0, **ASKED) as run:
        next(run)
        assert "2 forwards" in repr(run)


def test_a_config_keeps_the_weight():
    config = SamplerConfig(guidance=np.float32(1.5))
    assert SamplerConfig.from_dict(config.to_dict()) == config
    assert SamplerConfig(guidance=None).guidance == 0


def test_what_closes_a_text_stays_in_the_twin():
    canvas = np.array([1, 2, MASK, MASK, 9])
    twin = Twin(hidden=np.arange(2), mask=MASK)
    assert (twin.canvas(canvas).tolist(), twin.moves) == ([MASK, MASK, MASK, MASK, 9], 0)
    longer = Twin(prompt=np.array([4, 5, 6]), start=2)
    assert (longer.canvas(canvas).tolist(), longer.moves) == ([4, 5, 6, MASK, MASK, 9], 1)


def test_a_twin_is_one_of_two_kinds_and_fits_its_row():
    for given in ({}, {"hidden": [0]}, {"prompt": [1]}, {"hidden": [0], "mask": 3, "prompt": [1], "start": 1}):
        with pytest.raises(InvalidValueError, match="a twin hides positions or has another prompt"):
            Twin(**given)
    for twin in (Twin(hidden=[4], mask=MASK), Twin(prompt=[], start=5)):
        with pytest.raises(InvalidValueError, match="a canvas must hold the prompt that its twin replaces, got 3 tokens for 5"):
            twin.canvas([1, 2, 3])
    request = dllm_fast.Sampler(SamplerConfig(mask_token_id=MASK), [[1, MASK]]).next()
    with pytest.raises(InvalidValueError, match="places, rows and twins must be as many"):
        request.with_rows([0], [0], [None, None])
    with pytest.raises(InvalidTypeError, match="twins must be a list of Twin or None"):
        request.with_rows([0], [0], [[1, MASK]])
    beside = request.with_rows([0, 0], [4, 5], [None, Twin(prompt=[7, 7], start=1)])
    assert [canvas.tolist() for canvas in beside.canvases] == [[1, MASK], [7, 7, MASK]]
    assert [positions.tolist() for positions in beside.positions] == [[1], [2]]


def test_weights_move_the_answer():
    """The table is no constant: guidance of different weights writes different tokens."""
    answers = [dllm_fast.sample(model, [1, 2], guidance=w, **{**ASKED, "max_new_tokens": 12}).sequences[0] for w in (0, 1, 4)]
    assert all(not np.array_equal(a, b) for a, b in itertools.combinations(answers, 2))
