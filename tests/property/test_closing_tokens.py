"""Given tokens behind the masks: the answer is that of `infill` on the same canvas, under every attention rule and cache."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

import checkpoints
import dllm_fast
from families import TWINS

BY_NAME = {twin.name: twin for twin in TWINS}
FULL, BLOCKS = ["llada", "dream"], ["sdar", "fast-dllm-v2"]
CAUSAL = ["nemotron-labs-diffusion"]
MASK = 259
text = st.text("abcdef ", min_size=1, max_size=9)


def closing(count: int) -> tokenizers.Tokenizer:
    """A byte tokenizer that closes a text with some end tokens."""
    made = checkpoints.byte_tokenizer()
    tail = " <|eos|>" * count
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"<|eot|> $A{tail}", special_tokens=[("<|eot|>", 258), ("<|eos|>", 257)]
    )
    return made


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Any] = {}

    def open_one(name: str) -> Any:
        if name not in made:
            made[name] = dllm_fast.load(BY_NAME[name].save(tmp_path_factory.mktemp(name)), mask_token_id=MASK)
        return made[name]

    return open_one


@pytest.mark.parametrize("name", [*FULL, *BLOCKS, *CAUSAL])
@given(
    prompts=st.lists(text, min_size=1, max_size=3),
    case=st.tuples(st.integers(1, 9), st.integers(1, 3), st.booleans()),
)
def test_the_tokens_are_those_of_infill(opened: Any, name: str, prompts: list[str], case: tuple[int, int, bool]) -> None:
    new, count, stop = case
    model, tokenizer = opened(name), closing(count)
    settings: dict[str, Any] = {"preset": "llada", "eos_token_id": 257, "stop_at_eos": stop}
    if name in CAUSAL:
        new = model.info.block_length
    results = {
        cache: dllm_fast.sample(model, prompts, tokenizer=tokenizer, max_new_tokens=new, cache=cache, **settings)
        for cache in ("auto", "none")
    }
    assert [row.tolist() for row in results["auto"].sequences] == [row.tolist() for row in results["none"].sequences]
    sampled = results["none"]
    heads = [tokenizer.encode(prompt).ids[:-count] for prompt in prompts]
    for row, head in zip(sampled.sequences, heads, strict=True):
        assert row.tolist()[: len(head)] == head
        assert row.tolist()[len(head) + new :] == [257] * count
    if name not in CAUSAL:  # whose blocks begin behind the prompt: infill counts them from 0
        canvases = [[*head, *[MASK] * new, *[257] * count] for head in heads]
        filled = dllm_fast.infill(model, canvases, tokenizer=tokenizer, **settings)
        assert [row.tolist() for row in filled.sequences] == [row.tolist() for row in sampled.sequences]
        assert [row.tolist() for row in filled.new_tokens] == [row.tolist() for row in sampled.new_tokens]
    alone = dllm_fast.sample(model, prompts[0], tokenizer=tokenizer, max_new_tokens=new, **settings)
    assert alone.sequences[0].tolist() == sampled.sequences[0].tolist()
