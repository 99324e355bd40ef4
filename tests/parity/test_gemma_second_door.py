"""DiffusionGemma of transformers in memory: our network on its weights, as if its folder had been opened, or a refusal."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import dllm_fast
import gemma
from dllm_fast.errors import DllmFastError, InvalidValueError
from dllm_fast.open import open_runner
from parity.test_gemma_twin import Ours, Stock, close, tokens


@pytest.fixture(scope="module")
def stock():
    return gemma.stock()


@pytest.fixture
def own(stock):
    """One that may be changed."""
    return copy.deepcopy(stock)


def test_as_from_the_folder(stock, tmp_path):
    opened = dllm_fast.load(gemma.save(stock, tmp_path))
    prompts = [tokens(n, seed=n) for n in (5, 12)]
    here, there, theirs = Ours(stock, prompts, 2), Ours(opened, prompts, 2), Stock(stock, prompts)
    for number in range(2):
        shown = None
        for step in range(2):
            canvas = tokens(2, gemma.CANVAS, seed=2 * number + step)
            logits = here.logits(canvas, 0.7)
            close(logits, there.logits(canvas, 0.7))
            shown = theirs.logits(canvas, shown)
            close(logits, shown)
            shown = shown / 0.7
        for one in (here, there):
            one.take()
        theirs.take(canvas)
    runner, _ = open_runner(stock)
    one, other = runner.info, opened.info
    for name in ("family", "mask_token_id", "eos_token_ids", "shift", "attention", "block_length", "vocabulary", "context"):
        assert getattr(one, name) == getattr(other, name), name


def test_nothing_is_copied_and_nothing_changed(own):
    before = {name: tensor.clone() for name, tensor in own.state_dict().items()}
    own.train()
    network = open_runner(own)[0].network
    theirs = {tensor.data_ptr() for tensor in (*own.parameters(), *own.buffers())}
    assert {tensor.data_ptr() for tensor in network.parameters()} <= theirs
    assert not any(tensor.is_meta for tensor in network.parameters())
    prompt, canvas = [tokens(5)], tokens(1, gemma.CANVAS)
    logits = Ours(own, prompt, 1).logits(canvas)
    assert own.training
    assert all(parameter.requires_grad for parameter in own.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in own.state_dict().items())
    with torch.no_grad():
        own.model.decoder.layers[0].mlp.up_proj.weight.add_(0.5)
    assert (Ours(own, prompt, 1).logits(canvas) - logits).abs().max() > 1e-3, "the weights are those of now"


def test_what_is_said_of_it(stock):
    said = dllm_fast.explain(stock)
    assert (said.family, said.attention, said.block_length, said.cache) == (
        "diffusion-gemma",
        "encoder_canvas",
        8,
        "exact_block",
    )
    assert (said.tier, said.mask_token_id, said.eos_token_ids) == ("own decoder", None, (gemma.EOS,))
    assert said.sources["block_length"] == "config: canvas_length"
    assert "DiffusionGemma on the weights of the model" in str(said)


def apart(model):
    weight = model.model.encoder.language_model.layers[1].mlp.up_proj.weight
    model.model.encoder.language_model.layers[1].mlp.up_proj.weight = nn.Parameter(weight + 1)


def replaced(model):
    class Linear(nn.Linear):
        pass

    model.model.decoder.layers[0].mlp.up_proj.__class__ = Linear


def hooked(model):
    model.model.decoder.layers[0].register_forward_hook(lambda *_: None)


def patched(model):
    model.model.decoder.forward = model.model.decoder.forward


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (apart, r"must encode and denoise by the same weights, got two that differ of layers\.1\.mlp\.up_proj\.weight"),
        (
            replaced,
            r"must have no parts but its own, got model\.decoder\.layers\.0\.mlp\.up_proj, which is a .*Linear; save",
        ),
        (
            hooked,
            r"got model\.decoder\.layers\.0, which has hooks; save it with save_pretrained and open",
        ),
        (patched, r"must have no parts but its own, got model\.decoder, which has hooks"),
        (lambda model: model.to("meta"), "must hold its weights"),
    ],
)
def test_a_model_that_does_more_is_refused(own, change, why):
    change(own)
    for ask in (open_runner, dllm_fast.explain):
        with pytest.raises(InvalidValueError, match=why):
            ask(own)


def test_other_classes_of_the_family(stock):
    with pytest.raises(InvalidValueError, match=r"must be a DiffusionGemmaForBlockDiffusion of .*, got .*Model; save"):
        open_runner(stock.model)
    with pytest.raises(DllmFastError, match="whose canvas is shown what it predicted; pass the model itself"):
        dllm_fast.sample(lambda ids: stock(ids).logits, [[1, 2]], like=stock)


def test_wrappers(stock):
    assert open_runner(nn.DataParallel(stock))[0].info.family == "diffusion-gemma"
    with pytest.raises(InvalidValueError, match="must be passed as it is, got one of which it is compiled; pass"):
        open_runner(torch.compile(stock))
