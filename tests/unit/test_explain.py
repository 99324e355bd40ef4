"""`explain`: what it says is what `sample` does."""

from __future__ import annotations

import json
import re

import pytest
import torch
import transformers as hf

import dllm_fast
import remote_like
from families import MASK, TWINS

FIELDS = {"family", "mask_token_id", "shift", "attention", "block_length", "eos_token_ids", "tier", "cache"}
FIELDS |= {"probed", "refused", "sources"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}

    def folder(twin):
        if twin.name not in made:
            made[twin.name] = twin.save(tmp_path_factory.mktemp(twin.name))
        return made[twin.name]

    return folder


def told(model, *args):
    """What explain says, once it has been through JSON and print."""
    explanation = dllm_fast.explain(model, *args)
    said = json.loads(json.dumps(explanation.to_dict()))
    assert said.keys() >= FIELDS
    for name in ("family", "tier", "cache", "attention"):
        assert said[name] in str(explanation)
    for entry in said["refused"]:
        assert entry["what"] in str(explanation)
        assert entry["why"]
    return said


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_every_family_from_its_folder(folders, twin):
    said = told(folders(twin))
    assert said["family"] == twin.family
    assert (said["attention"], said["block_length"], said["shift"]) == (twin.attention, twin.block, twin.shift)
    assert said["tier"] == "own decoder"
    assert said["probed"] == {}
    assert {"family", "mask_token_id", "attention", "shift"} <= said["sources"].keys()
    model = dllm_fast.load(folders(twin))
    assert told(model) == said
    mask = model.mask_token_id if model.mask_token_id is not None else MASK
    result = dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4, mask_token_id=mask)
    assert result.config.cache == said["cache"]
    refused = {entry["what"].removeprefix("cache "): entry["why"] for entry in said["refused"]}
    assert refused.keys() == {name for name in ("prefix", "dual", "exact_block") if name != said["cache"]}
    for cache, why in refused.items():  # sample gives the same reason, or can be told to do so
        settings = {"max_new_tokens": 4, "mask_token_id": mask, "cache": cache}
        if not why.startswith("needs"):
            assert dllm_fast.sample(model, [3, 4, 5], **settings).config.cache == cache
        else:
            with pytest.raises(dllm_fast.DllmFastError, match=re.escape(why)):
                dllm_fast.sample(model, [3, 4, 5], **settings)


def decoder(**more):
    config = hf.Qwen3Config(
        vocab_size=64,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        intermediate_size=16,
        max_position_embeddings=32,
        **more,
    )
    torch.manual_seed(0)
    return hf.Qwen3ForCausalLM(config)


def test_a_native_class():
    said = told(decoder(is_causal=False, mask_token_id=50, eos_token_id=[4, 5]))
    assert said["tier"] == "T3 native attention"
    assert (said["family"], said["attention"], said["cache"]) == ("qwen3", "full", "none")
    assert (said["mask_token_id"], said["eos_token_ids"], said["context"]) == (50, [4, 5], 32)
    alone = int(hf.__version__.split(".")[0]) < 5  # whose decoders do not heed is_causal; our attention does
    assert said["probed"] | {"causal by itself": alone, "head": "one Linear", "positions and slots": "exact"} == said["probed"]
    assert said["sources"]["mask_token_id"] == "config: mask_token_id"
    assert [entry["what"] for entry in said["refused"]] == _caches("prefix", "dual", "exact_block")


def test_a_native_class_by_blocks():
    model = decoder(is_causal=False, mask_token_id=50, block_size=4)
    said = told(model)
    # Who knows what a block_size is in an unknown family? What is measured counts.
    assert (said["attention"], said["block_length"], said["cache"]) == ("full", None, "none")
    assert said["probed"]["blocks"].startswith("none; block_size = 4 in the config is something else")
    model.config.model_type = "sdar"
    said = told(model)
    assert (said["attention"], said["block_length"], said["cache"]) == ("block_causal", 4, "exact_block")
    assert said["sources"]["block_length"] == "config: block_size"
    assert dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4).config.cache == "exact_block"


def test_remote_code():
    said = told(remote_like.RemoteLike(remote_like.RemoteConfig(vocab_size=64)))
    assert said["tier"] == "T1 head rows"
    assert said["mask_token_id"] is None
    why = {entry["what"]: entry["why"] for entry in said["refused"]}
    assert (
        why["T3 native attention"]
        == "its forward raised TypeError: RemoteLike.forward() got an unexpected keyword argument 'position_ids'"
    )
    assert set(why) == {"T3 native attention", "T2 torch attention", *_caches("prefix", "dual", "exact_block")}


def test_a_tokenizer_is_asked_for_what_the_config_does_not_say():
    class Tokenizer:
        mask_token_id, eos_token_id = 50, 51

        def __len__(self):
            return 60

        def encode(self, text, **_):
            return []

        def decode(self, ids, **_):
            return ""

    model = decoder(is_causal=False, eos_token_id=None)
    said = told(model, Tokenizer())
    assert (said["mask_token_id"], said["eos_token_ids"]) == (50, [51])
    assert said["sources"]["mask_token_id"] == "tokenizer: mask token"
    assert said["probed"]["vocabulary"] == "64 logits, 60 tokens in the tokenizer"
    assert told(model)["mask_token_id"] is None


def test_a_callable_and_the_embedded_model():
    said = told(lambda ids: ids)
    assert (said["tier"], said["attention"], said["cache"]) == ("T0 plain forward", "unknown", "none")
    said = told(None)
    assert said["mask_token_id"] == 10


def test_a_causal_model_is_refused_as_in_sample():
    with pytest.raises(dllm_fast.DllmFastError, match="got Qwen3ForCausalLM, which is causal"):
        dllm_fast.explain(decoder())


def test_the_arguments_of_generate_are_the_settings_of_sample():
    """transformers passes on named arguments only. Lengths come with its own config."""
    import inspect

    from dllm_fast.integrations.custom_generate import RENAMED
    from dllm_fast.settings.resolve import NAMES

    named = set(inspect.signature(dllm_fast.generate).parameters)
    assert {RENAMED.get(name, name) for name in NAMES} - named == {"max_new_tokens"}


def _caches(*names):
    return [f"cache {name}" for name in names]
