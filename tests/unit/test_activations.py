"""Every activation that transformers knows is computed here with the same numbers, or named as one that is not."""

from __future__ import annotations

import pytest
import torch
from transformers.activations import ACT2FN

from dllm_fast.errors import CheckpointError
from dllm_fast.networks.activations import ACTIVATIONS, activation

LEARNED = {"prelu", "xielu"}


def test_every_name_is_known():
    assert set(ACT2FN) - LEARNED <= set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(set(ACT2FN) & set(ACTIVATIONS)))
def test_the_numbers_of_transformers(name, dtype):
    x = torch.cat([torch.linspace(-12, 12, 4097), torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 3]).to(dtype)
    ours, theirs = ACTIVATIONS[name](x), ACT2FN[name](x)
    assert ours.dtype == dtype
    assert torch.equal(ours, theirs)


def test_a_setting():
    assert activation({}, "hidden_act", "silu") == activation({"hidden_act": None}, "hidden_act", "silu") == "silu"
    assert activation({"hidden_act": "mish"}, "hidden_act", "silu") == "mish"
    for junk in ("prelu", "nothing", 3, [], {}):
        with pytest.raises(CheckpointError, match=r"hidden_act in config.json must be one of gelu, .* got "):
            activation({"hidden_act": junk}, "hidden_act", "silu")
