"""Our decoder against the stock transformers class of each family, from a folder under the family's own key names."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dllm_fast import load
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache
from families import MASK, TWINS, Twin, visible

WITHIN = 2e-6
twins = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Each family's checkpoint, opened once, and its twin."""
    made = {}

    def get(twin: Twin):
        if twin.name not in made:
            folder = twin.save(tmp_path_factory.mktemp(twin.name))
            made[twin.name] = (load(folder), twin.model())
        return made[twin.name]

    return get


def stock_logits(twin: Twin, stock, ids: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of the stock class, told by a mask what each query sees."""
    mask = visible(twin, ids.shape[1]).expand(len(ids), -1, -1, -1) if seen is None else seen
    if stock.config._attn_implementation == "eager":
        mask = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    with torch.inference_mode():
        return stock(ids, attention_mask=mask, use_cache=False).logits


def tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, MASK, shape, generator=torch.Generator().manual_seed(seed))


@twins
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("length", [1, 7, 64])
def test_logits(opened, twin, attention, length):
    model, stock = opened(twin)
    stock.set_attn_implementation(attention)
    ids = tokens(2, length)
    ours = model(ids)
    assert ours.shape == (2, length, model.info.vocabulary)
    torch.testing.assert_close(ours, stock_logits(twin, stock, ids), atol=WITHIN, rtol=0)


@twins
def test_the_comparison_can_fail(opened, twin):
    """Another attention rule, or another order of the tokens, moves the logits by far more than the tolerance."""
    model, stock = opened(twin)
    ids = tokens(1, 24)
    full = torch.ones(1, 1, 24, 24, dtype=torch.bool)
    other = full.tril() if twin.attention == "full" else full
    assert (model(ids) - stock_logits(twin, stock, ids, other)).abs().max() > 1e-3
    assert (model(ids.roll(1, dims=1)).roll(-1, dims=1) - model(ids)).abs().max() > 1e-3


@twins
def test_ragged_rows(opened, twin):
    """A shorter row beside a longer one has the logits that it has alone; what fills it up is not seen."""
    model, stock = opened(twin)
    lengths = torch.tensor([[24], [9], [17]])
    ids = tokens(3, 24)
    positions = torch.arange(24).expand(3, -1)
    end = model.info.attention_rule.whole(24)
    end = torch.full((3, 24), 24) if end is None else torch.from_numpy(end).expand(3, -1)
    end = torch.where(positions < lengths, end.minimum(lengths), 24)
    with torch.inference_mode():
        ours = model.network.logits(model.network.hidden(Batch(ids=ids, positions=positions, end=end)))
    for row, length in enumerate(lengths.flatten().tolist()):
        alone = stock_logits(twin, stock, ids[row : row + 1, :length])
        torch.testing.assert_close(ours[row, :length], alone[0], atol=WITHIN, rtol=0)


@pytest.mark.parametrize("twin", [t for t in TWINS if t.attention != "full"], ids=lambda twin: twin.name)
def test_left_context_from_the_cache(opened, twin):
    """A forward of the last tokens alone, their left context in the cache, where the rule keeps that from changing."""
    model, stock = opened(twin)
    ids, split = tokens(2, 40), 24
    slots = torch.arange(40).expand(2, -1)
    cache = SlotCache(model.network, 2, 40, dtype=torch.float32, device=torch.device("cpu"))
    with torch.inference_mode():
        for part in (slice(0, split), slice(split, 40)):
            end = torch.from_numpy(model.info.attention_rule.whole(40)).expand(2, -1)[:, part]
            batch = Batch(
                ids=ids[:, part], positions=slots[:, part], end=end, cache=cache, slots=slots[:, part], keys=part.stop
            )
            ours = model.network.logits(model.network.hidden(batch))
    torch.testing.assert_close(ours, stock_logits(twin, stock, ids)[:, split:], atol=WITHIN, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_shards(tmp_path, dtype):
    """Weights in two files and 16 bits: every parameter is the stock one, rounded once."""
    twin = next(twin for twin in TWINS if twin.name == "llada2")
    model = load(twin.save(tmp_path, dtype=dtype, shards=2))
    assert model.info.dtype == dtype
    assert model.network.embed.weight.dtype == dtype
    stock = twin.model().state_dict()
    assert torch.equal(model.network.embed.weight, stock["model.embed_tokens.weight"].to(dtype))
    key = "model.layers.1.mlp.gate.e_score_correction_bias"
    router = model.network.stack[1].mlp.router.bias
    assert router.dtype == torch.float32
    assert torch.equal(router, stock[key].to(dtype).float())
    wide = load(tmp_path, dtype="float32")
    difference = (model(tokens(1, 16)).float() - wide(tokens(1, 16))).abs().max()
    assert 0 < difference < 0.1


def test_the_head_is_padded(tmp_path):
    """LLaDA's table may have more rows than its tokenizer has tokens: the logits have as many columns."""
    twin = TWINS[0]
    assert load(twin.save(tmp_path))(tokens(1, 4)).shape[-1] == twin.written["embedding_size"]
    assert np.isfinite(load(tmp_path)(tokens(1, 4)).numpy()).all()
