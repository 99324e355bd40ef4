"""Block refinement without editing: the installed pipeline of diffusers, its restatement, and our sampler, on one model.

The pipeline is that of the development dependency `diffusers`, asked with the same table or transformer as we are.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
from parity.llada2_pipeline import infill, pipeline
from parity.loops import block_refinement
from parity.models import Model, Table, Transformer

EOS = 0
VOCABULARY = 16
LONGEST = 64


class BlockCausal(Model):
    """A transformer whose logits depend on the canvas up to the end of their block, and which never proposes the mask."""

    def __init__(self, seed: int, block: int):
        self.network, self.block = Transformer(VOCABULARY, seed, LONGEST), block
        self.vocabulary, self.mask = VOCABULARY, self.network.mask

    def alone(self, tokens):
        ends = range(self.block, len(tokens) + 1, self.block)
        logits = torch.cat([self.network.alone(tokens[:end])[-self.block :] for end in ends])
        logits[:, self.mask] = -torch.inf
        return logits


@st.composite
def models(draw, block: int, ties: bool):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()) and not ties:
        return BlockCausal(int(rng.integers(2**32)), block)
    return Table(rng, VOCABULARY, 2 if ties else block, block=block, mask_logit=-np.inf)


@st.composite
def lengths(draw) -> tuple[int, dict, dict]:
    """Length of the prompt, settings of the pipeline, and ours for the same quotas.

    The pipeline shares out the length of a block where we share out its masks. That is the same for prompts of whole blocks and
    for one mask a step; a prompt that ends inside a block needs a quota that is the same in all steps.
    """
    block = draw(st.integers(1, 8))
    gen_length = draw(st.integers(1, 3 * block))
    steps = draw(st.integers(1, min(block + 2, gen_length)))
    prompt = draw(st.integers(1, 2 * block))
    ours = {"steps_per_block": steps}
    if steps < block and block % steps == 0:
        ours = {"min_commit": block // steps}
    elif steps < block:
        prompt = -(-prompt // block) * block
    theirs = {"gen_length": gen_length, "block_length": block, "num_inference_steps": steps}
    return prompt, theirs, ours | {"block_length": block}


def threshold(draw, model) -> float:
    """Between confidences, since the pipeline commits what is above it and we what is not below."""
    if not isinstance(model, Table):
        return draw(st.floats(0.05, 1.1))
    c = [1.2, *model.confidences().tolist(), 0.0]
    i = draw(st.integers(0, len(c) - 2))
    return (c[i] + c[i + 1]) / 2


@given(st.data(), lengths(), st.sampled_from([None, EOS]))
def test_the_pipeline_itself(data, lengths, eos):
    """Without ties, which `torch.topk` breaks as it likes."""
    length, theirs, ours = lengths
    model = data.draw(models(theirs["block_length"], ties=False))
    prompts = data.draw(
        st.lists(st.lists(st.integers(0, model.mask - 1), min_size=length, max_size=length), min_size=1, max_size=3)
    )
    tau = threshold(data.draw, model)

    published, forwards = pipeline(model, prompts, eos=eos, threshold=tau, **theirs)
    result = infill(model, prompts, gen_length=theirs["gen_length"], eos=eos, threshold=tau, **ours)

    for row, expected in enumerate(published):
        end = expected.index(eos) + 1 if eos in expected else len(expected)
        assert result.sequences[row][length : length + end].tolist() == expected[:end], f"row {row}"
    assert result.stats.nfe <= forwards


@given(st.data(), lengths(), st.booleans())
def test_the_restatement(data, lengths, ties):
    length, theirs, ours = lengths
    model = data.draw(models(theirs["block_length"], ties))
    prompt = data.draw(st.lists(st.integers(0, model.mask - 1), min_size=length, max_size=length))
    tau = threshold(data.draw, model)

    canvas = block_refinement.refine(
        model.alone,
        prompt,
        mask=model.mask,
        gen_length=theirs["gen_length"],
        block_length=theirs["block_length"],
        steps=theirs["num_inference_steps"],
        threshold=tau,
    )
    result = infill(model, [prompt], gen_length=theirs["gen_length"], threshold=tau, **ours)
    assert [(edit.step, edit.position, edit.token) for edit in result.trajectory[0]] == canvas.edits
    assert result.stats.nfe == canvas.forwards
    if not ties:
        published, forwards = pipeline(model, [prompt], threshold=tau, **theirs)
        assert published == [canvas.tokens[length : length + theirs["gen_length"]].tolist()]
        blocks = len(canvas.tokens) // theirs["block_length"] - length // theirs["block_length"]
        assert canvas.forwards <= forwards <= canvas.forwards + blocks


@pytest.mark.parametrize("names", [("num_inference_steps", "confidence_threshold"), ("denoising_steps", "threshold")])
def test_their_names_are_understood(names):
    rng = np.random.default_rng(0)
    model = Table(rng, VOCABULARY, 4, block=4, mask_logit=-np.inf)
    steps, tau = names
    settings = {steps: 2, tau: 0.4}
    result = dllm_fast.sample(
        model, [1, 2, 3, 4], gen_length=8, block_length=4, mask_token_id=model.mask, stop_at_eos=False, **settings
    )
    published, _ = pipeline(model, [[1, 2, 3, 4]], gen_length=8, block_length=4, num_inference_steps=2, threshold=0.4)
    assert [tokens.tolist() for tokens in result.new_tokens] == published
    assert result.aliases[steps] == "steps_per_block"


def test_their_whole_call_is_understood():
    """Every argument of the pipeline by its name, to the pipeline and to `sample`."""
    model = Table(np.random.default_rng(0), VOCABULARY, 4, block=4, mask_logit=-np.inf)
    call = {
        **{"use_chat_template": False, "add_generation_prompt": True, "gen_length": 8, "block_length": 4},
        **{"num_inference_steps": 2, "temperature": 0.0, "top_p": None, "top_k": None, "sampling_method": "multinomial"},
        **{"threshold": 0.4, "editing_threshold": None, "max_post_steps": 16, "minimal_topk": 1, "eos_early_stop": False},
        **{"eos_token_id": None, "mask_token_id": model.mask, "generator": None, "output_type": "seq", "return_dict": True},
        **{"callback_on_step_end": None, "callback_on_step_end_tensor_inputs": None},
    }
    published, _ = pipeline(model, [[1, 2, 3, 4]], **call)
    assert [tokens.tolist() for tokens in dllm_fast.sample(model, [1, 2, 3, 4], **call).new_tokens] == published
