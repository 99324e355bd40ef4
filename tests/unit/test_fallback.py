"""What the kernels do not take is said, once for each property of a model, where a CUDA device could have done it."""

from __future__ import annotations

import dataclasses
import warnings

import pytest
import torch

import dllm_fast
from dllm_fast.errors import DllmFastWarning
from dllm_fast.explanation import _left_to_torch
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.fallback import left_to_torch
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import fallback, fused
from encoders import TWINS as ENCODERS
from families import TWINS

GPU = torch.device("cuda", 0)


@pytest.fixture
def told(monkeypatch):
    """The reasons that are told while tensors of the host count as those of a GPU, each as often as it is asked for."""
    said = []
    monkeypatch.setattr(fallback, "tell", lambda _device, why: said.append(why))
    return said


def test_a_reason_is_told_once_and_of_cuda_devices_only():
    fallback._warn.cache_clear()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fallback.tell(torch.device("cpu"), "one")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for why in ("one", "one", "two", "one"):
                fallback.tell(GPU, why)
        assert {warning.category for warning in caught} == {DllmFastWarning}
        assert [str(warning.message) for warning in caught] == [
            f"dllm_fast leaves part of this model to torch: {why}" for why in ("one", "two")
        ]
    finally:
        fallback._warn.cache_clear()


def test_every_reason_names_the_property_the_cost_and_a_remedy():
    reasons = [fallback.of_dtype(torch.float32), fallback.of_head(72), fallback.of_width("rows", 100)]
    for why in (*reasons, fallback.BIAS, fallback.CHANGED_QUERIES, fallback.LAYOUT):
        assert why.count("torch") == 1, why
        assert why.count("; ") == 1, why
    assert "got float32" in reasons[0]
    assert "got 72" in reasons[1]
    assert "got 100" in reasons[2]
    assert fallback.of_dtype(torch.float16) is fallback.of_head(96) is fallback.of_width("rows", 96) is None
    assert "at most 256, got 512" in fallback.of_width("heads", 512, most=256)


def test_the_attention_tells(told):
    q = torch.zeros(1, 2, 3, 72)
    ranges = torch.zeros(1, 3, dtype=torch.int32)
    for x in (q, q.half(), q.half()[..., 1:65]):
        torch.ops.dllm_fast.attention(x, x, x, ranges, ranges, 1.0)
    assert told == [fallback.of_dtype(torch.float32), fallback.of_head(72), fallback.LAYOUT]
    assert attention_op.is_launched(*[q.half()[..., :64].contiguous()] * 3) is False, "no GPU here, and nothing to be told"
    assert len(told) == 3


def test_the_elementwise_work_tells(told):
    x, weight = torch.zeros(2, 100), torch.zeros(100)
    heads = fused.Heads(queries=1, keys=1, depth=20, norms=None, eps=1e-6, is_wide=False)
    fused.add_norm(x, None, weight, 1e-6)
    fused.add_norm(x.half(), x.half(), weight.half(), 1e-6)
    fused.swiglu(x.half()[:, :24])
    assert not fused.takes_qkv(torch.zeros(1, 2, 64).half(), heads)
    rows = (fallback.of_width("rows", 100), fallback.of_width("rows", 12))
    assert told == [fallback.of_dtype(torch.float32), *rows, fallback.of_width("heads", 20, most=256)]


def test_a_gradient_that_is_wanted_is_nothing_to_tell(told):
    q = torch.zeros(1, 1, 3, 64, requires_grad=True)
    assert not attention_op.is_launched(q, q, q)
    fused.swiglu(torch.zeros(2, 12, requires_grad=True))
    assert told == []


def test_a_bias_on_the_scores_tells(told):
    ids = torch.zeros(1, 3, dtype=torch.int64)
    batch = Batch(ids=ids, positions=torch.arange(3)[None])
    q = torch.zeros(1, 1, 3, 64)
    batch.attend(0, q, q, q, bias=lambda query, key: query @ key.transpose(2, 3))
    assert told == [fallback.BIAS]


@pytest.mark.parametrize("twin", [*TWINS, *ENCODERS], ids=lambda twin: twin.name)
def test_what_explain_says_is_what_the_first_forward_tells(twin, told, tmp_path):
    """As if the host were a GPU. In float32 that is told first, and the rest once the dtype is right."""
    folder = twin.save(tmp_path)
    for dtype in ("float32", "bfloat16"):
        model = dllm_fast.load(folder, dtype=dtype)
        told.clear()
        model(torch.zeros(1, 4, dtype=torch.int64))
        network = model.network
        reasons = left_to_torch(network, network.head_dim, model.info.dtype)
        assert set(told) == set(reasons) if dtype == "bfloat16" else reasons[0] in told
        assert set(told) <= set(reasons)
        info = dataclasses.replace(model.info, device=GPU)
        assert _left_to_torch(info, network, network.head_dim) == [("CUDA kernels", why) for why in reasons]
        assert _left_to_torch(model.info, network, network.head_dim) == []
