"""What stands around a model changes no token: known wrappers are looked through, and functions are told with `like=`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers as hf

import dllm_fast
import remote_like
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.models.probe import study
from families import TWINS
from mask_fillers import whole_state
from native_models import MASK, PROMPTS, drawn, model_of

NEW = 12
SETTINGS = {"preset": "llada", "max_new_tokens": NEW, "stop_at_eos": False}


def dream():
    model = model_of("Qwen2")
    model.config.model_type, model.config.architectures = "Dream", ["DreamModel"]
    return model


def sdar():
    model = model_of("Qwen3", block_length=4)
    model.config.model_type = "sdar"
    return model


def needs_its_mask():
    model = drawn(remote_like.LLaDA2MoeModelLM(remote_like.RemoteConfig(mask_token_id=MASK, needs_mask=True, block_length=4)))
    model.config.model_type = "llada2_moe"
    return model


def causal():
    return model_of("Qwen3", is_causal=True)


MODELS = {"Dream": dream, "SDAR": sdar, "LLaDA2": needs_its_mask, "BERT": lambda: model_of("Bert")}


class InProcess(torch.nn.Module):
    """As DistributedDataParallel stands around a model, without processes."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **named):
        raise AssertionError("its forward waits for the other processes")


InProcess.__name__ = "DistributedDataParallel"


def compiled_in_place(model):
    model.compile(backend="eager")
    return model


def compiled_layers(model):
    for module in model.modules():
        if type(module).__name__.endswith(("Layer", "Block")):
            module.compile(backend="eager")
    return model


WRAPPERS = {
    "DataParallel": torch.nn.DataParallel,
    "DistributedDataParallel": InProcess,
    "AveragedModel": torch.optim.swa_utils.AveragedModel,
    "OptimizedModule": lambda model: torch.compile(model, backend="eager"),
    "compiled in place": compiled_in_place,
    "compiled layers": compiled_layers,
    "two": lambda model: torch.compile(torch.nn.DataParallel(model), backend="eager"),
}


def agree(found, expected):
    for name in ("shift", "block_length", "mask_token_id", "eos_token_id"):
        assert getattr(found.config, name) == getattr(expected.config, name)
    assert all(np.array_equal(a, b) for a, b in zip(found.sequences, expected.sequences, strict=True))


# Each wrapper around each model; compiling takes seconds, so that is done once for each way of compiling.
PAIRS = [(name, wrapper) for wrapper in list(WRAPPERS)[:3] for name in MODELS]
PAIRS += [("LLaDA2", "OptimizedModule"), ("Dream", "compiled in place"), ("SDAR", "compiled layers"), ("BERT", "two")]


@pytest.mark.parametrize(("name", "wrapper"), PAIRS)
def test_known_wrappers_are_looked_through(name, wrapper):
    make = MODELS[name]
    prompts = PROMPTS if wrapper in list(WRAPPERS)[:3] else PROMPTS[:1]
    expected = dllm_fast.sample(make(), prompts, **SETTINGS)
    model = make()
    wrapped = WRAPPERS[wrapper](model)
    before = whole_state(wrapped)
    agree(dllm_fast.sample(wrapped, prompts, **SETTINGS), expected)
    said = dllm_fast.explain(wrapped)
    assert (said.family, said.shift, said.block_length) == (
        study(make()).info.family,
        expected.config.shift,
        study(make()).info.block_length,
    )
    if wrapper in ("OptimizedModule", "two") or wrapper.startswith("compiled"):
        # Never uncompiled in silence: it is called as it is, and that is said.
        assert (said.tier, said.reason.split(";")[0]) == ("T0 plain forward", "it is compiled, so it is called as it is")
    else:
        assert said.tier == study(make()).tier
    assert said.probed.get("inside of") == {
        "two": ("OptimizedModule", "DataParallel"),
        "compiled in place": None,
        "compiled layers": None,
    }.get(wrapper, (wrapper,))
    assert whole_state(wrapped) == before


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_causal_model_is_refused_inside_of_them(wrapper):
    for model in (causal(), hf.BertLMHeadModel(model_of("Bert").config.__class__(is_decoder=True, **SMALL)).eval()):
        with pytest.raises(InvalidValueError, match=f"got {type(model).__name__}, which is causal"):
            dllm_fast.sample(WRAPPERS[wrapper](model), [3, 4, 5], mask_token_id=8, max_new_tokens=4)


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def test_a_compiled_model_runs_compiled():
    calls = []

    def backend(graph, inputs):
        calls.append(1)
        return graph.forward

    model = model_of("Bert")
    compiled = torch.compile(model, backend=backend)
    study(compiled)
    assert not calls  # nothing is compiled for a handful of tokens
    dllm_fast.sample(compiled, [3, 4, 5], max_new_tokens=2)
    assert calls


def test_several_devices_of_data_parallel_are_kept():
    model = model_of("Bert")
    wrapped = torch.nn.DataParallel(model)
    wrapped.device_ids = [0, 1]
    assert dllm_fast.explain(wrapped).reason.startswith("it deals its rows over several devices, so it is called as it is")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks for it
def test_adapters_of_peft_stay_active():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    for make, layers in ((dream, ["q_proj", "v_proj"]), (sdar, ["q_proj", "lm_head"]), (lambda: model_of("Bert"), ["query"])):
        plain = dllm_fast.sample(make(), PROMPTS, **SETTINGS)
        wrapped = peft.get_peft_model(make(), peft.LoraConfig(target_modules=layers, init_lora_weights=False))
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora" in name:
                    parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        found = dllm_fast.sample(wrapped, PROMPTS, **SETTINGS)
        assert any(not np.array_equal(a, b) for a, b in zip(found.sequences, plain.sequences, strict=True))
        assert dllm_fast.explain(wrapped).family == study(make()).info.family
        assert dllm_fast.explain(wrapped).probed["inside of"] == (type(wrapped).__name__,)
        with wrapped.disable_adapter():
            agree(dllm_fast.sample(wrapped, PROMPTS, **SETTINGS), plain)
        agree(dllm_fast.sample(wrapped.merge_and_unload(), PROMPTS, **SETTINGS), found)
    with pytest.raises(InvalidValueError, match="which is causal"):
        dllm_fast.sample(peft.get_peft_model(causal(), peft.LoraConfig(target_modules=["q_proj"])), [1, 2], max_new_tokens=2)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_adapters_that_add_tokens_are_refused():
    peft = pytest.importorskip("peft", reason="peft is not installed")
    wrapped = peft.get_peft_model(dream(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(InvalidValueError, match="one row of logits for every token, got PROMPT_TUNING in PeftModelForCausalLM"):
        dllm_fast.sample(wrapped, [1, 2], max_new_tokens=2)


# A function around a model.


def around(model):
    def called(ids):
        return model(ids)

    return called


def by_blocks(model, block):
    def forward(ids):
        blocks = torch.arange(ids.shape[1]) // block
        seen = (blocks[:, None] >= blocks).expand(len(ids), 1, -1, -1)
        return model(ids, attention_mask=torch.zeros(()).where(seen, torch.finfo(torch.float32).min)).logits

    return forward


def both_ways(model):
    return by_blocks(model, 10**6)


def dream_like():
    """It sees both ways by itself, in every version of transformers."""
    model = drawn(remote_like.DreamLike(remote_like.RemoteConfig(mask_token_id=MASK)))
    model.config.model_type = "Dream"
    return model


@pytest.mark.parametrize("make", [dream_like, lambda: model_of("Bert")], ids=["Dream", "BERT"])
def test_a_function_is_like_its_model(make):
    model = make()
    expected = dllm_fast.sample(model, PROMPTS, **SETTINGS)
    found = dllm_fast.sample(lambda ids: model(ids).logits, PROMPTS, like=model, **SETTINGS)
    agree(found, expected)
    assert found.stats.nfe == len(PROMPTS) * NEW  # the trial is not counted
    agree(
        dllm_fast.infill(around(model), [[3, MASK, 5]], like=model, preset="llada"),
        dllm_fast.infill(model, [[3, MASK, 5]], preset="llada"),
    )
    function = dllm_fast.distributions(around(model), [3, MASK, 5], like=model, top=2)
    assert [one.ids.tolist() for one in function] == [
        one.ids.tolist() for one in dllm_fast.distributions(model, [3, MASK, 5], top=2)
    ]
    said = dllm_fast.explain(lambda ids: model(ids).logits, like=model)
    assert (said.family, said.shift, said.tier) == (study(model).info.family, study(model).info.shift, "T0 plain forward")
    assert said.probed["sees"] == "all"


@pytest.mark.parametrize("make", [sdar, needs_its_mask], ids=["SDAR", "LLaDA2"])
def test_a_function_by_blocks_is_like_its_model(make):
    model = make()
    expected = dllm_fast.sample(model, PROMPTS, **SETTINGS)
    agree(dllm_fast.sample(by_blocks(model, 4), PROMPTS, like=model, **SETTINGS), expected)
    with pytest.raises(InvalidValueError, match="must keep to its blocks of 4, got forward"):
        dllm_fast.sample(both_ways(model), PROMPTS, like=model, **SETTINGS)


@pytest.mark.parametrize(
    "twin", [twin for twin in TWINS if twin.name in ("llada", "dream", "sdar", "bert")], ids=lambda twin: twin.name
)
def test_a_function_is_like_an_opened_checkpoint_or_a_folder(twin, tmp_path):
    folder = twin.save(tmp_path / "folder")
    loaded = dllm_fast.load(folder)
    settings = SETTINGS | {"mask_token_id": MASK}
    expected = dllm_fast.sample(loaded, PROMPTS, **settings)
    for like in (loaded, folder, str(folder)):
        agree(dllm_fast.sample(around(loaded), PROMPTS, like=like, **settings), expected)
        said = dllm_fast.explain(around(loaded), like=like)
        assert (said.family, said.shift, said.block_length) == (loaded.info.family, loaded.info.shift, loaded.info.block_length)


def test_the_tokenizer_and_the_rule_come_with_it():
    loaded, tokenizer = dllm_fast.demo.load()
    text = tokenizer.decode([5, 6, 7]) if tokenizer is not None else "1 2 3"
    found = dllm_fast.sample(around(loaded), text, like=loaded, max_new_tokens=4)
    assert found.texts is not None
    assert found.texts == dllm_fast.sample(loaded, text, max_new_tokens=4).texts


def test_a_causal_function_is_refused():
    model = causal()
    for like in (model, dream()):
        with pytest.raises(InvalidValueError, match="got the function <lambda>, which is causal"):
            dllm_fast.sample(lambda ids: model(ids).logits, [3, 4, 5], like=like, max_new_tokens=4)
        with pytest.raises(InvalidValueError, match="which is causal"):
            dllm_fast.explain(lambda ids: model(ids).logits, like=like)
    # The function decides: this one lets the model see.
    assert dllm_fast.sample(both_ways(model), [3, 4, 5], like=model, max_new_tokens=4).stats.nfe == 4


def test_a_table_depends_on_nothing_and_is_taken_as_it_is():
    table = torch.randn(512, 512)
    found = dllm_fast.sample(lambda ids: table[ids], [1, 2, 3], like=dream(), max_new_tokens=4, preset="llada")
    assert (found.config.shift, found.stats.nfe) == (True, 4)
    assert dllm_fast.explain(lambda ids: table[ids], like=dream()).probed["sees"] == "itself"


def test_a_function_that_takes_no_other_length_is_not_probed():
    model = dream()

    def fixed(ids):
        if ids.shape[1] != 8:
            raise ValueError("8 tokens only")
        return both_ways(model)(ids)

    assert dllm_fast.explain(fixed, like=model).probed["sees"].endswith("raised ValueError: 8 tokens only")
    assert dllm_fast.sample(fixed, [1, 2, 3, 4], like=model, max_new_tokens=4).config.shift


def test_what_like_cannot_be():
    model = dream()
    with pytest.raises(InvalidTypeError, match=r"like must be a model of transformers, .* got function; pass the model"):
        dllm_fast.sample(lambda ids: ids, [1], like=lambda ids: ids)
    for known in (model, torch.nn.DataParallel(model), None):
        with pytest.raises(InvalidValueError, match=r"like= says what a plain function is around.*leave it out"):
            dllm_fast.sample(known, [1], like=model)
    reordered = next(twin for twin in TWINS if twin.name == "wedlm").model()
    reordered.config.model_type = "wedlm"
    with pytest.raises(InvalidValueError, match="attention changes with the block must run on ours, got the function <lambda>"):
        dllm_fast.sample(lambda ids: reordered(ids).logits, [1], like=reordered, mask_token_id=MASK)


def test_without_it_nothing_is_known_and_nothing_is_looked_into():
    model = dream()
    said = dllm_fast.explain(lambda ids: model(ids).logits)
    assert (said.shift, said.attention, said.mask_token_id) == (0, "unknown", None)
    assert said.reason.endswith("nothing is known of a model inside: say it with like=")
