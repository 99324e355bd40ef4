"""No weight of a checkpoint is passed over in silence: another value of any of them is another network, a refusal, or noted."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

import checkpoints
import dllm_fast
from dllm_fast.errors import CheckpointError
from encoders import FORMS, save
from families import TWINS

# Of other heads, which no logit of ours depends on.
UNUSED = {"esm.contact_head.regression.weight", "esm.contact_head.regression.bias"}
HEADS = {
    "bert": "cls.predictions.decoder.weight",
    "roberta": "lm_head.decoder.weight",
    "modernbert": "decoder.weight",
    "electra": "generator_lm_head.weight",
    "distilbert": "vocab_projector.weight",
}


def passed_over(folder) -> set[str]:
    """Keys whose values change nothing of what `load` makes of the folder, and of which it says nothing."""
    path, model = folder / "model.safetensors", dllm_fast.load(folder)
    state, expected = load_file(path), dict(model.network.named_parameters())
    found = set()
    for key, tensor in state.items():
        changed = tensor.clone()
        changed.view(-1)[-1] += 1  # one number
        save_file(state | {key: changed}, path)
        try:
            made = dict(dllm_fast.load(folder).network.named_parameters())
        except CheckpointError:
            continue
        if made.keys() == expected.keys() and all(torch.equal(made[name], expected[name]) for name in made):
            found.add(key)
    found -= {key for key in found if any(key in note for note in model.info.notes)}
    save_file(state, path)
    return found


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_decoders(tmp_path, twin):
    assert passed_over(twin.save(tmp_path)) == set()


@pytest.mark.parametrize("form", FORMS)
def test_encoders(tmp_path, form):
    save(form, tmp_path)
    assert passed_over(tmp_path) <= UNUSED


@pytest.mark.parametrize("form", HEADS)
def test_an_encoder_with_its_head_written_once_more(tmp_path, form):
    save(form, tmp_path)

    def add(tensors):
        table = next(key for key in tensors if key.endswith(("word_embeddings.weight", "tok_embeddings.weight")))
        tensors[HEADS[form]] = tensors[table].clone()
        tensors["bert.embeddings.position_ids" if form == "bert" else "model.position_ids"] = torch.arange(64)[None]

    checkpoints.change_weights(tmp_path, add)
    assert passed_over(tmp_path) == set()


@pytest.mark.parametrize("name", ["a2d-qwen3", "illada"])
def test_a_decoder_with_its_head_and_constants_written_once_more(tmp_path, name):
    twin = next(twin for twin in TWINS if twin.name == name)
    twin.save(tmp_path)
    frequencies = twin.written["rope_theta"] ** -(torch.arange(0, 16, 2) / 16)

    def add(tensors):
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = frequencies

    checkpoints.change_weights(tmp_path, add)
    assert passed_over(tmp_path) == set()
