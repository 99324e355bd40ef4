"""Causal models are refused whatever their class, and what rows see is measured, not read from settings."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import dllm_fast
import remote_like
from dllm_fast.errors import InvalidValueError
from dllm_fast.transformers.probe import study
from mask_fillers import NAMES, config_of, whole_state
from native_models import GQA, MASK, MOE, drawn

CAUSAL_LM = dict(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# Mega (transformers 4) raises in any forward of such a config.
KIN = [name for name, _ in NAMES if name in CAUSAL_LM and name != "mega" and hasattr(config_of(name), "is_decoder")]
# Encoders that are decoders where their config says so; others do not heed it, so that what is measured counts.
CERTAIN = {"bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta"}
CERTAIN |= {"roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod"}


def sees_ahead(model):
    """Does the last token change any row before it?"""
    ids = torch.arange(6, 15)[None]
    other = ids.clone()
    other[0, -1] = 20
    with torch.no_grad():
        return not torch.equal(model(ids).logits[:, :-1], model(other).logits[:, :-1])


@pytest.mark.parametrize("model_type", KIN)
def test_encoders_that_were_made_decoders_are_refused(model_type):
    """Whether the family is in the table or not."""
    refused = set()
    for class_name in dict.fromkeys((CAUSAL_LM[model_type], dict(NAMES)[model_type])):
        try:
            model = drawn(getattr(hf, class_name)(config_of(model_type, is_decoder=True)))
        except (AssertionError, ValueError, ImportError):  # of a class that wants no such config, or another library
            assert model_type not in CERTAIN
            continue
        if config_of(model_type).is_encoder_decoder or sees_ahead(model):
            continue
        refused.add(class_name)
        before = whole_state(model)
        with pytest.raises(
            InvalidValueError, match=rf"must see both ways, got {class_name}, which is causal.*is_decoder=False"
        ):
            dllm_fast.sample(model, [6, 7, 8], mask_token_id=5, max_new_tokens=4)
        with pytest.raises(InvalidValueError, match="which is causal"):
            dllm_fast.explain(model)
        assert whole_state(model) == before
    assert model_type not in CERTAIN or refused == {CAUSAL_LM[model_type], dict(NAMES)[model_type]}


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra"])
def test_the_class_of_a_decoder_that_sees_both_ways_is_run(model_type):
    model = drawn(getattr(hf, CAUSAL_LM[model_type])(config_of(model_type)))
    assert dllm_fast.explain(model).probed["causal by itself"] is False
    assert dllm_fast.sample(model, [6, 7, 8], mask_token_id=5, max_new_tokens=4).stats.nfe == 4


def test_a_causal_mixture_in_half_precision_is_refused():
    """A later token in the same expert moves the roundings of those before it."""
    sizes = {name: value for name, value in GQA.items() if name != "is_causal"}
    config = hf.MixtralConfig(**sizes | {"num_local_experts": 2, "num_experts_per_tok": 1, "sliding_window": None})
    with pytest.raises(InvalidValueError, match="MixtralForCausalLM, which is causal"):
        study(drawn(hf.MixtralForCausalLM(config)).bfloat16())
    config = hf.Qwen3MoeConfig(**GQA | MOE | {"num_experts": 4})
    assert study(drawn(hf.Qwen3MoeForCausalLM(config)).bfloat16()).info.attention == "full"


@pytest.mark.parametrize("model_type", ["llada", "bert"])
def test_an_encoder_that_is_causal_by_itself_is_a_decoder(model_type):
    """Under a mask that hides nothing it sees all: a diffusion model is run so, an encoder is not what it was."""
    model = drawn(remote_like.RemoteLike(remote_like.RemoteConfig()))
    plain = type(model).forward

    def forward(input_ids, attention_mask=None):
        if attention_mask is None or attention_mask.dim() == 2:
            length = input_ids.shape[1]
            hidden = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
            attention_mask = hidden.expand(len(input_ids), 1, -1, -1)
        return plain(model, input_ids, attention_mask=attention_mask)

    model.forward, model.config.model_type = forward, model_type
    if model_type == "llada":
        assert study(model).info.attention == "full"
    else:
        with pytest.raises(InvalidValueError, match="RemoteLike, which is causal"):
            study(model)


def by_itself(model, block):
    """A class that keeps to blocks whatever it is given."""
    plain = type(model).forward

    def forward(input_ids, attention_mask=None):
        blocks = torch.arange(input_ids.shape[1]) // block
        seen = (blocks[:, None] >= blocks).expand(len(input_ids), 1, -1, -1)
        return plain(model, input_ids, attention_mask=torch.zeros(()).where(seen, torch.finfo(torch.float32).min))

    model.forward = forward
    return model


@pytest.mark.parametrize(("block", "named"), [(2, None), (3, None), (4, None), (4, 4), (4, 16), (7, None), (8, None), (16, 16)])
def test_blocks_of_an_unknown_family_are_measured(block, named):
    config = {} if named is None else {"block_length": named}
    model = by_itself(drawn(remote_like.LLaDA2MoeModelLM(remote_like.RemoteConfig(needs_mask=True, **config))), block)
    info = study(model).info
    assert (info.family, info.attention, info.block_length) == ("remote-like", "block_causal", block)
    assert info.sources["block_length"] == info.sources["attention"] == "probe"
    found = dllm_fast.sample(model, [3, 4, 5], mask_token_id=MASK, max_new_tokens=4)
    assert (found.config.block_length, found.config.sources["block_length"]) == (block, "probe")


@pytest.mark.parametrize("block", [4, 16])
def test_blocks_that_the_table_does_not_expect_are_measured(block):
    """`load` refuses such files; in memory the setting was passed over, and the tokens were those of another model."""
    config = remote_like.RemoteConfig(needs_mask=True, block_size=block)
    model = by_itself(drawn(remote_like.LLaDA2MoeModelLM(config)), block)
    model.config.model_type = "llada"
    info = study(model).info
    assert (info.family, info.attention, info.block_length) == ("llada", "block_causal", block)
    assert info.sources["block_length"] == info.sources["attention"] == "probe"
    model = drawn(remote_like.RemoteLike(remote_like.RemoteConfig(block_size=block)))
    model.config.model_type = "llada"
    found = study(model)
    assert (found.info.attention, found.info.block_length) == ("full", None)
    assert found.probed["blocks"].startswith(f"none; block_size = {block} in the config")


@pytest.mark.parametrize("key", ["block_size", "block_length", "bd_size", "canvas_length"])
@pytest.mark.parametrize("named", [1, 4, 16, 400, 4000])
def test_a_setting_of_an_unknown_family_is_no_rule(key, named):
    """Under a class that sees all, and under one with blocks of another length."""
    model = drawn(remote_like.RemoteLike(remote_like.RemoteConfig(**{key: named})))
    found = study(model)
    assert (found.info.attention, found.info.block_length) == ("full", None)
    assert found.probed["blocks"].startswith(f"none; {key} = {named} in the config")


def test_the_first_rows_alone_are_no_causal_model():
    """A table says something about each token and sees no other: as a class of transformers that is refused in these words."""

    class Table(remote_like.RemoteLike):
        def forward(self, input_ids, **rest):
            return hf.modeling_outputs.CausalLMOutput(logits=self.head(self.tokens(input_ids)))

    with pytest.raises(
        InvalidValueError, match="must see other tokens, got Table, in which every row of logits depends on its"
    ):
        study(drawn(Table(remote_like.RemoteConfig())))


def function_of(model):
    return lambda ids: model(input_ids=ids).logits


SETTINGS = {"mask_token_id": MASK, "max_new_tokens": 12}


def test_a_causal_function_of_which_nothing_is_known_is_warned_about():
    causal = hf.Qwen2ForCausalLM(hf.Qwen2Config(**GQA | {"is_causal": True}))
    model = drawn(causal)
    calls = []

    def counted(ids):
        calls.append(1)
        return model(input_ids=ids).logits

    with pytest.warns(
        RuntimeWarning, match="must see both ways, got counted, in which in 12 forwards no prediction changed"
    ) as seen:
        result = dllm_fast.sample(counted, [[3, 4, 5], [6, 7, 8]], **SETTINGS)
    assert seen[0].filename == __file__
    assert len(calls) == result.stats.nfe == 12  # which costs no forward
    with pytest.warns(RuntimeWarning, match="must see both ways"):
        dllm_fast.infill(counted, [3, *[MASK] * 8], mask_token_id=MASK)


def test_functions_that_see_both_ways_and_tables_are_not_warned_about():
    model = drawn(remote_like.RemoteLike(remote_like.RemoteConfig()))
    blocks = by_itself(drawn(remote_like.LLaDA2MoeModelLM(remote_like.RemoteConfig(needs_mask=True))), 4)
    table = torch.randn(512, 512)
    answers = iter(torch.randn(12, 1, 15, 512))
    for function in (function_of(model), function_of(blocks), lambda ids: table[ids], lambda _: next(answers)):
        dllm_fast.sample(function, [3, 4, 5], **SETTINGS)


XLM = {"vocab_size": 64, "emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": 64}
PLAIN = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "bos_token_id": 0, "eos_token_id": 0}
BY_CONFIG, BY_LOAD = "set model.config.is_causal = False", "open the folder with dllm_fast.load(folder, attention='full')"
FIVE = int(hf.__version__.split(".")[0]) >= 5  # before, Bloom heeds neither setting nor mask
REMEDIES = [
    (lambda: hf.XLMWithLMHeadModel(hf.XLMConfig(**XLM, causal=True)), "load it with from_pretrained(folder, causal=False)"),
    (lambda: hf.RwkvForCausalLM(hf.RwkvConfig(**PLAIN, attention_hidden_size=32)), None),
    (lambda: hf.MambaForCausalLM(hf.MambaConfig(**PLAIN)), None),
    (lambda: hf.BloomForCausalLM(hf.BloomConfig(**PLAIN, n_head=2)), BY_CONFIG if FIVE else None),
    (lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GQA | {"is_causal": True})), f"{BY_CONFIG}, or {BY_LOAD}"),
]


@pytest.mark.parametrize(("make", "remedy"), REMEDIES, ids=["XLM", "RWKV", "Mamba", "Bloom", "Qwen3"])
def test_a_remedy_that_is_named_was_tried(make, remedy):
    model = drawn(make())
    before = whole_state(model)
    with pytest.raises(InvalidValueError) as caught:
        study(model)
    said = str(caught.value).split("changes no row before it; ")[1]
    if remedy is None:
        assert said == "no setting that was tried lets its class see both ways, so use a model of another class"
    else:
        assert said == f"if it was trained bidirectionally, {remedy}"
    assert whole_state(model) == before
    if remedy is not None and remedy.startswith(BY_CONFIG):
        model.config.is_causal = False
        assert study(model).info.attention == "full"
    elif remedy is not None:
        assert study(drawn(hf.XLMWithLMHeadModel(hf.XLMConfig(**XLM, causal=False)))).info.attention == "full"
