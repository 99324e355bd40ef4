"""What is asked from behind a mask, beside the emulated kernels: attention is torch's there, and nothing else changes hands."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import dllm_fast
from checkpoints import redraw
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.decoder import Decoder, DecoderConfig
from dllm_fast.networks.rotary import Rotary
from dllm_fast.networks.slots import SlotCache
from emulator import build
from emulator.operations import emulated
from engines import info, with_engine

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

MASK, VOCABULARY = 41, 300


@pytest.fixture
def network():
    rotary = Rotary(width=64, theta=1e4)
    sizes = {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "head_dim": 64, "inner": 32}
    config = DecoderConfig(vocabulary=VOCABULARY, context=None, norm_eps=1e-6, rotary=rotary, qk_norm=True, **sizes)
    return redraw(Decoder(config)).bfloat16()


@pytest.mark.parametrize("is_cached", [False, True])
def test_the_attention_kernel_is_never_given_a_mask_that_it_would_not_heed(network, is_cached):
    exact = copy.deepcopy(network).double()
    ids = torch.randint(0, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(2, 6)
    shadow = torch.tensor([[2, 3, 4], [5, -1, -1]])
    shared = {"ids": ids, "positions": torch.cat((positions, shadow.clamp(min=0)), dim=1), "shadow": shadow}

    def run_on(net):
        cache = SlotCache(net, 2, 9, dtype=net.norm.weight.dtype, device=torch.device("cpu")) if is_cached else None
        batch = Batch(**shared, cache=cache, slots=positions if is_cached else None, keys=6 if is_cached else None)
        again = batch.with_ids(ids)  # a step later
        return torch.cat([net.hidden(batch), net.hidden(again)]).double(), cache

    with torch.inference_mode():
        (plain, _), (best, held) = run_on(network), run_on(exact)
        with emulated() as launched:
            ours, cache = run_on(network)
    layer = ["fused_add_norm", "fused_qkv", "fused_add_norm", "fused_swiglu"]
    assert launched == [f"dllm_{name}_bf16" for name in (*layer, *layer, layer[0])] * 2
    assert (ours - best).norm() <= 2 * (plain - best).norm()
    if is_cached:
        for found, right in zip((*cache.keys, *cache.values), (*held.keys, *held.values), strict=True):
            torch.testing.assert_close(found.double(), right, rtol=0.05, atol=0.05)
            assert (found[:, :, 6:] == 0).all(), "masks of a shadow have no slots"


def test_steps_with_a_shadow_between_steps_of_graphs(network):
    model = LoadedModel(network, None, info(VOCABULARY, mask_token_id=MASK), {})
    with_engine(model)
    given = {"max_new_tokens": 8, "preset": "wino", "threshold": 0.0, "block_length": 8, "cache": "dual"}
    with emulated() as launched:
        ours = dllm_fast.sample(model, [[1, 2], [4]], **given)
        model.engine = None
        eager = dllm_fast.sample(model, [[1, 2], [4]], **given)
    assert any("attention" in name for name in launched), "of the first forward of a block"
    assert any(edit.kind == "remask" for row in ours.trajectory for edit in row)
    for row, other in zip(ours.trajectory, eager.trajectory, strict=True):
        assert [(e.step, e.position, e.token, e.kind) for e in row] == [(e.step, e.position, e.token, e.kind) for e in other]
    for a, b in zip(ours.sequences, eager.sequences, strict=True):
        np.testing.assert_array_equal(a, b)
