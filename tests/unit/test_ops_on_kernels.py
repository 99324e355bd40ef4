"""The operations on tensors: the code that runs on a GPU, its kernels run by the emulator, against the core and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dllm_fast
import strategies
from dllm_fast.errors import InvalidValueError
from dllm_fast.ops import attention as attention_op
from dllm_fast.ops import fused
from dllm_fast.ops import mask_predict as device
from emulator import build
from emulator.operations import emulated

pytestmark = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))

FIELDS = ("token", "probability", "top1", "top2", "entropy", "logsumexp", "current")


def logits(n, vocabulary, dtype=torch.bfloat16, seed=0):
    return (torch.randn(n, vocabulary, generator=torch.Generator().manual_seed(seed)) * 3).to(dtype)


def same(ours, core):
    for name in FIELDS:
        expected = getattr(core, name)
        if expected is None:
            assert getattr(ours, name) is None
        else:
            np.testing.assert_array_equal(getattr(ours, name).numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"temperature": 0.8, "seed": [2**64 - 1, 0, 3, 7, 9], "request": 4, "step": [5, 4, 3, 2, 1]},
        {"temperature": 0.8, "softcap": 3.0, "suppress": [7]},
        {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "suppress": [0, 5, 4999], "positions": [9, 8, 7, 6, 5]},
        {"temperature": [0.0, 0.5, 1.0, 2.0, 0.5], "top_k": [5, 5000, 40, 5000, 5000], "min_p": np.array([0, 0, 0.1, 0.2, 0])},
        {"temperature": torch.tensor([0.3, 0.0, 0.3, 0.0, 1.0]), "suppress": [7], "seed": [4, 5, 6, 7, 8]},
        {"suppress": torch.tensor([3]), "current": [0, 1, 3, 4, 4999]},
    ],
)
def test_mask_predict_equals_the_core(given, dtype):
    rows = logits(5, 5000, dtype)
    core = dllm_fast.mask_predict(rows, **given)
    with emulated() as launched:
        ours = dllm_fast.mask_predict(rows, **given)
    assert launched
    assert isinstance(ours, device.TensorPrediction)
    assert len(ours) == 5
    same(ours, core)
    same(ours.cpu(), core)


@given(st.data())
def test_rows_with_settings_of_their_own_equal_each_row_alone(data):
    matrix = data.draw(strategies.logits(vocabularies=(3, 300, 4097), max_rows=4))
    settings = data.draw(strategies.row_laws(*matrix.shape))
    same_for_all = {"suppress": data.draw(strategies.suppressed(matrix)), "seed": data.draw(strategies.seeds)}
    with emulated():
        together = dllm_fast.mask_predict(matrix, **settings, **same_for_all)
        for row in range(len(matrix)):
            own = strategies.of_row(settings, row)
            alone = dllm_fast.mask_predict(matrix[row : row + 1], **own, **same_for_all, positions=[row])
            for name in FIELDS[:-1]:
                assert getattr(together, name)[row] == getattr(alone, name)[0], (name, row)


def test_what_is_wrong_in_one_row_is_named():
    with emulated(), pytest.raises(InvalidValueError, match="temperature must be at least 0 and finite, got -1 for row 2"):
        dllm_fast.mask_predict(logits(3, 50), temperature=[0.0, 1.0, -1.0])


def test_positions_and_current_that_are_on_the_device_stay_there(monkeypatch):
    rows = logits(5, 5000)
    positions, current = torch.tensor([9, 8, 7, 6, 5]), torch.tensor([0, 4999, 3, 2, 1])
    given = {"temperature": 1.0, "positions": positions, "current": current}
    core = dllm_fast.mask_predict(rows, **given)
    monkeypatch.setattr(device, "_is_there", lambda x, _: isinstance(x, torch.Tensor))
    with emulated():
        same(dllm_fast.mask_predict(rows, **given), core)
        outside = dllm_fast.mask_predict(rows, **given | {"current": torch.tensor([-1, 5000, 3, 2, 1])})
        with pytest.raises(InvalidValueError, match=r"positions must hold an integer for each of the 5 rows"):
            dllm_fast.mask_predict(rows, positions=positions[:3])
    assert torch.isnan(outside.current).tolist() == [True, True, False, False, False], "nobody could look at these ids"


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.uint16, torch.int32, torch.uint32, torch.uint64])
def test_ids_on_the_device_may_have_any_integer_dtype(monkeypatch, dtype):
    rows = logits(4, 70_000)
    ids = torch.tensor([0, 127, 3, 5])
    core = dllm_fast.mask_predict(rows, current=ids, positions=ids, temperature=1.0)
    monkeypatch.setattr(device, "_is_there", lambda x, _: isinstance(x, torch.Tensor))
    with emulated():
        same(dllm_fast.mask_predict(rows, current=ids.to(dtype), positions=ids.to(dtype), temperature=1.0), core)
        with pytest.raises(InvalidValueError, match="must hold an integer"):
            dllm_fast.mask_predict(rows, current=ids.to(torch.complex64))


def test_a_sum_of_two_dtypes_goes_to_torch():
    """The kernel would read the bits of one as the other's."""
    stream, weight = logits(3, 16), torch.ones(16).bfloat16()
    expected = fused.add_norm(stream, stream.half(), weight, 1e-6)
    with emulated() as launched:
        ours = fused.add_norm(stream, stream.half(), weight, 1e-6)
        assert launched == []
        fused.add_norm(stream, stream, weight, 1e-6)
    assert launched == ["dllm_fused_add_norm_bf16"]
    assert all(torch.equal(one, other) for one, other in zip(ours, expected, strict=True))


def test_a_row_without_statistics_is_reported_when_it_is_read():
    rows = logits(4, 300)
    rows[2, 17] = torch.nan
    with emulated():
        prediction = dllm_fast.mask_predict(rows)
    assert torch.isnan(prediction.top1).tolist() == [False, False, True, False]
    with pytest.raises(InvalidValueError) as ours:
        prediction.cpu()
    with pytest.raises(InvalidValueError) as core:
        dllm_fast.mask_predict(rows)
    assert str(ours.value) == str(core.value)
    rows[1] = -torch.inf
    with emulated(), pytest.raises(InvalidValueError) as ours:
        dllm_fast.mask_predict(rows).cpu()
    with pytest.raises(InvalidValueError) as core:
        dllm_fast.mask_predict(rows)
    assert str(ours.value) == str(core.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"suppress": [300]},
        {"current": [0, 1, 300, 2]},
        {"current": [0]},
        {"seed": 2**64},
        {"seed": [1, 2]},
        {"positions": [1, 2, 3]},
        {"step": -1},
    ],
)
def test_bad_input_is_refused_before_a_launch_in_the_words_of_the_core(wrong):
    rows = logits(4, 300)
    with pytest.raises(dllm_fast.DllmFastError) as core:
        dllm_fast.mask_predict(rows, **wrong)
    with emulated() as launched, pytest.raises(dllm_fast.DllmFastError) as ours:
        dllm_fast.mask_predict(rows, **wrong)
    assert (type(ours.value), str(ours.value)) == (type(core.value), str(core.value))
    assert not launched


def test_logits_that_no_kernel_takes_go_to_the_core():
    with emulated() as launched:
        assert len(dllm_fast.mask_predict(logits(3, 10).float().numpy())) == 3
        with pytest.raises(dllm_fast.DllmFastError, match="float64"):
            dllm_fast.mask_predict(logits(3, 10).double())
        with pytest.raises(dllm_fast.DllmFastError, match="contiguous"):
            dllm_fast.mask_predict(logits(10, 3).T)
        assert not launched
        assert len(dllm_fast.mask_predict(logits(0, 10))) == 0


@pytest.mark.parametrize("depth", [64, 128])
@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 1)])
def test_attention_by_the_kernel_and_by_torch(depth, heads, key_heads):
    random = torch.Generator().manual_seed(depth + heads)
    q = torch.randn(2, 5, heads, depth, generator=random).bfloat16().transpose(1, 2)  # strided, as a projection leaves it
    cache = torch.randn(2, 2, key_heads, 201, depth, generator=random).bfloat16()
    k, v = cache[0, :, :, :190], cache[1, :, :, :190]
    begin = torch.tensor([[0, 0, 50, 3, 9], [0, 0, 0, -7, 0]], dtype=torch.int32)
    end = torch.tensor([[1, 190, 120, 3, 4], [190, 64, 65, 9, 999]], dtype=torch.int32)
    plain = torch.ops.dllm_fast.attention(q, k, v, begin, end, 0.1)
    exact = attention_op._in_torch(q.double(), k.double(), v.double(), begin, end, 0.1)
    with emulated() as launched:
        ours = torch.ops.dllm_fast.attention(q, k, v, begin, end, 0.1)
    assert launched[0] == f"dllm_attention_d{depth}_rows32_bf16"
    assert ours.shape == q.shape
    assert not ours[0, :, 3].any(), "this query sees nothing"
    error, torchs = (ours.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    assert error <= 2 * torchs + 1e-3


def test_what_the_kernel_cannot_read_goes_to_torch():
    q = torch.zeros(1, 2, 3, 64, dtype=torch.bfloat16)
    ranges = torch.zeros(1, 3, dtype=torch.int32)
    strided = torch.zeros(1, 2, 64, 3, dtype=torch.bfloat16).transpose(2, 3)
    shifted = torch.zeros(1 + q.numel(), dtype=torch.bfloat16)[1:].view(q.shape)
    with emulated() as launched:
        for q_, k_ in ((strided, q), (q, shifted), (q.float(), q.float())):
            out = torch.ops.dllm_fast.attention(q_, k_, k_, ranges, ranges, 1.0)
            assert out.shape == q.shape
    assert not launched
