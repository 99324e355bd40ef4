"""Experts: the three ways to their products, and what none of them may do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F  # noqa: N812, the name every reader of torch code expects

import dllm_fast
from dllm_fast.networks import experts, grouped
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.experts import Experts, ExpertsConfig
from dllm_fast.networks.grouped import Sorted
from dllm_fast.networks.slots import SlotCache
from dllm_fast.runners.graphs import Engine
from families import TWINS

MIXTURES = [twin for twin in TWINS if twin.name in ("sdar-moe", "llada-moe", "llada2", "rnd1", "lladamoe")]
mixtures = pytest.mark.parametrize("twin", MIXTURES, ids=lambda twin: twin.name)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
needs_operation = pytest.mark.skipif(
    not grouped._is_taken(torch.device("cpu"), torch.float32), reason="this torch has no grouped product on a CPU"
)


def limited(monkeypatch, most: int | None) -> None:
    """As on a device whose products read nothing on the host for so many tokens."""
    monkeypatch.setattr(grouped, "tokens_without_host", lambda stack: most)
    monkeypatch.setattr(experts, "tokens_without_host", lambda stack: most)


def chosen(tokens: int, count: int, each: int, seed: int = 0) -> torch.Tensor:
    """Different experts for each token; the last two experts get nothing."""
    scores = torch.rand(tokens, count - 2, generator=torch.Generator().manual_seed(seed))
    return scores.topk(each, dim=-1).indices


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def test_pairs_by_expert():
    rows = Sorted.by_expert(torch.tensor([[3, 0], [0, 4], [4, 3]]), 6)
    assert rows.experts.tolist() == [0, 0, 3, 3, 4, 4]
    assert rows.pairs.tolist() == [1, 2, 0, 5, 3, 4], "of one expert in the order of the tokens"
    assert rows.ends.tolist() == [2, 2, 2, 4, 6, 6]
    assert rows.ends.dtype == torch.int32
    assert rows.tokens == 3


@dtypes
@pytest.mark.parametrize(("tokens", "count", "each"), [(1, 8, 2), (7, 8, 3), (40, 16, 4), (300, 6, 2)])
def test_products_are_those_of_one_expert_after_the_other(dtype, tokens, count, each):
    rows = Sorted.by_expert(chosen(tokens, count, each), count)
    x, stack = drawn(tokens * each, 24, dtype=dtype), drawn(count, 40, 24, dtype=dtype, seed=2)
    of = rows.experts.tolist()
    ends = [of.index(e) + of.count(e) if e in of else None for e in range(count)]
    wanted = torch.empty(len(x), 40, dtype=dtype)
    for e, end in enumerate(ends):
        if end is not None:
            wanted[end - of.count(e) : end] = F.linear(x[end - of.count(e) : end], stack[e])
    assert torch.equal(grouped.looped(x, stack, rows), wanted)
    exact = x.double()[:, None] @ stack.double()[rows.experts].transpose(1, 2)
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(grouped.padded(x, stack, rows).double(), exact[:, 0], atol=30 * unit, rtol=unit)


@needs_operation
@dtypes
@pytest.mark.parametrize(("tokens", "count", "each"), [(1, 8, 2), (7, 8, 3), (40, 16, 4), (300, 6, 2), (33, 256, 8)])
@pytest.mark.parametrize("shape", [(24, 40), (64, 8), (512, 128)])
def test_grouped_products_have_the_bits_of_the_loop(dtype, tokens, count, each, shape):
    """So on a CPU it is a question of time alone which of them is used."""
    inner, width = shape
    rows = Sorted.by_expert(chosen(tokens, count, each), count)
    x, stack = drawn(tokens * each, inner, dtype=dtype), drawn(count, width, inner, dtype=dtype, seed=2)
    assert grouped.tokens_without_host(stack) is None
    assert torch.equal(grouped.grouped(x, stack, rows), grouped.looped(x, stack, rows))


@pytest.mark.parametrize("most", [0, 1000])
def test_a_token_is_what_it_is_alone(monkeypatch, most):
    """The experts of a token are added in one order, whoever is beside it: products are exact here, weighted sums are not."""
    limited(monkeypatch, most)
    module = Experts(8, ExpertsConfig(count=16, chosen=6, inner=16, normalize=True), "relu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(drawn(*parameter.shape, seed=parameter.dim()).sign())
        module.router.weight.copy_(drawn(16, 8, seed=5).mul(4).round() / 16)
        x = drawn(50, 8, seed=3).mul(4).round()
        together = module(x)
        assert torch.equal(module(x.flip(0)).flip(0), together)
        for i in range(len(x)):
            assert torch.equal(module(x[i : i + 1])[0], together[i])
        weights, _ = module.router(x)
        assert len(weights.unique()) > 6, "the weights are no powers of two"


@mixtures
@pytest.mark.parametrize("most", [pytest.param(None, marks=needs_operation), 1000])
@pytest.mark.parametrize("is_cached", [False, True])
def test_no_value_is_read_on_the_host(monkeypatch, tmp_path, twin, most, is_cached):
    """On the meta device there are no values: whatever reads one fails."""
    limited(monkeypatch, most)
    network = dllm_fast.load(twin.save(tmp_path)).network.to("meta")
    ids = torch.zeros(3, 12, dtype=torch.int64, device="meta")
    where = {"ids": ids, "positions": ids, "end": ids}
    if is_cached:
        where["slots"] = ids
        where["cache"] = SlotCache(network, 3, 40, dtype=torch.float32, device=torch.device("meta"))
    with torch.inference_mode():
        assert network.logits(network.hidden(Batch(**where, keys=12))).shape[:2] == (3, 12)


@mixtures
def test_that_a_value_is_read_would_be_seen(monkeypatch, tmp_path, twin):
    limited(monkeypatch, 0)
    network = dllm_fast.load(twin.save(tmp_path)).network.to("meta")
    ids = torch.zeros(3, 12, dtype=torch.int64, device="meta")
    with torch.inference_mode(), pytest.raises((NotImplementedError, RuntimeError)):
        network.hidden(Batch(ids=ids, positions=ids, end=ids, keys=12))


def stack_on(device: str, dtype=torch.bfloat16, inner=64, is_contiguous=True, address=1024):
    return SimpleNamespace(
        device=torch.device(device),
        is_cuda=device.startswith("cuda"),
        dtype=dtype,
        shape=(4, 32, inner),
        element_size=lambda: dtype.itemsize,
        is_contiguous=lambda: is_contiguous,
        data_ptr=lambda: address,
    )


def test_which_way_is_taken(monkeypatch):
    monkeypatch.setattr(grouped, "_is_taken", lambda device, dtype: True)
    for capability, most in {(8, 0): 128, (8, 9): 128, (9, 0): None, (10, 0): None, (10, 3): None, (12, 0): 128}.items():
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert grouped.tokens_without_host(stack_on("cuda:0")) == most
        assert grouped.tokens_without_host(stack_on("cuda:0", torch.float32)) == 128, "torch would read the ends"
        assert grouped.tokens_without_host(stack_on("cuda:0", torch.float16)) == 128
        assert grouped.tokens_without_host(stack_on("cuda:0", inner=36)) == 128, "72 bytes are no multiple of 16"
    assert grouped.tokens_without_host(stack_on("cpu")) is None
    assert grouped.tokens_without_host(stack_on("cpu", torch.float32, inner=36)) is None
    assert grouped.tokens_without_host(stack_on("cpu", inner=36)) == 0
    assert grouped.tokens_without_host(stack_on("cpu", is_contiguous=False)) == 0
    assert grouped.tokens_without_host(stack_on("cpu", address=1032)) == 0
    assert grouped.tokens_without_host(stack_on("mps")) == 0
    monkeypatch.setattr(grouped, "_is_taken", lambda device, dtype: False)
    assert grouped.tokens_without_host(stack_on("cpu")) == 0
    assert grouped.tokens_without_host(stack_on("cuda:0")) == 128


def test_what_torch_refuses_is_not_taken(monkeypatch):
    """No operation, as before torch 2.8, or one that has no code for the device."""

    def refuses(*args, **named):
        raise NotImplementedError("Could not run 'aten::_grouped_mm' with arguments from the 'CPU' backend.")

    for operation in (None, refuses):
        grouped._is_taken.cache_clear()
        monkeypatch.setattr(grouped, "_operation", lambda found=operation: found)
        assert grouped.tokens_without_host(torch.zeros(2, 16, 16)) == 0
    grouped._is_taken.cache_clear()


@mixtures
def test_every_way_gives_the_same_logits(monkeypatch, tmp_path, twin):
    model = dllm_fast.load(twin.save(tmp_path))
    ids = torch.randint(0, 20, (3, 30), generator=torch.Generator().manual_seed(0))
    first = model(ids)
    limited(monkeypatch, 0)
    assert torch.equal(model(ids), first)
    limited(monkeypatch, 1000)
    torch.testing.assert_close(model(ids), first, atol=2e-6, rtol=0)


def test_steps_that_read_on_the_host_are_not_captured(monkeypatch, tmp_path):
    network = dllm_fast.load(MIXTURES[0].save(tmp_path)).network
    where = {"dtype": torch.float32, "where": torch.device("cpu"), "capture": lambda body: body}
    for most, tokens in ((None, 2048), (128, 128), (0, 0)):
        limited(monkeypatch, most)
        engine = Engine(network, **where)
        assert engine._most_tokens == tokens
        assert (engine.trouble is None) == (most != 0)
    assert engine.trouble == "the number of tokens of each expert is read on the host"


def test_gradients_pass():
    """A mixture that is trained further goes through the same code."""
    module = Experts(8, ExpertsConfig(count=4, chosen=2, inner=16), "silu")
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(drawn(*parameter.shape, seed=parameter.dim()))
    module(drawn(5, 8)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("most", [0, 1000])
def test_no_tokens_are_none(monkeypatch, most):
    limited(monkeypatch, most)
    mixture = Experts(24, ExpertsConfig(count=4, chosen=2, inner=8), "silu")
    assert mixture(torch.zeros(2, 0, 24)).shape == (2, 0, 24)
