"""`stop_at_eos=True` needs no end token from the caller where the model names its own, at every door."""

from __future__ import annotations

import pytest
import torch

import dllm_fast
from dllm_fast import SamplerConfig, cli, demo
from dllm_fast.errors import InvalidValueError

PROMPT, ANSWER = "sort:hagbd=", "abdgh"
STOP = SamplerConfig(stop_at_eos=True)


@pytest.mark.parametrize("door", ["folder", "loaded", "config"])
def test_sample_and_infill(door):
    model = demo.FOLDER / "text" if door == "folder" else demo.load_text()[0]
    rule = {"config": STOP} if door == "config" else {"stop_at_eos": True}
    assert dllm_fast.sample(model, PROMPT, **rule, **({} if door == "config" else {"max_new_tokens": 9})).text == ANSWER
    assert dllm_fast.infill(model, PROMPT + "[MASK]" * 9, **rule).text == PROMPT + ANSWER


def test_generate():
    model, tokenizer = demo.load_text()
    ids = torch.tensor([tokenizer.encode(PROMPT).ids])
    written = dllm_fast.generate(model, ids, max_new_tokens=9, stop_at_eos=True)[0, ids.shape[1] :]
    assert tokenizer.decode(written.tolist()) == ANSWER


def test_command(capsys):
    folder = str(demo.FOLDER / "text")
    assert cli.main(["generate", folder, "--prompt", PROMPT, "--max-new-tokens", "9", "--stop-at-eos"]) == 0
    assert capsys.readouterr().out.split() == [ANSWER]


def test_a_model_in_memory_and_one_that_names_none():
    def unnamed(ids):
        return torch.nn.functional.one_hot(torch.full_like(ids, 3), 6).float()

    class Named(torch.nn.Module):
        eos_token_id = 3

        def forward(self, ids):
            return unnamed(ids)

    result = dllm_fast.sample(Named(), [1, 2], mask_token_id=5, max_new_tokens=4, stop_at_eos=True, order="left-to-right")
    assert (result.new_tokens[0].tolist(), result.stats.nfe) == ([3], 1)
    with pytest.raises(InvalidValueError, match="stop_at_eos needs an eos_token_id, got none"):
        dllm_fast.sample(unnamed, [1, 2], mask_token_id=5, max_new_tokens=4, stop_at_eos=True)
