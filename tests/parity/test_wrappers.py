"""What stands around a model changes no token: known wrappers are looked through, and functions are told with `like=`."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import transformers as hf

import dllm_fast
import remote_like
from dllm_fast.errors import InvalidTypeError, InvalidValueError
from dllm_fast.transformers.probe import study
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
    "twin", [twin for twin in TWINS if twin.name in ("llada", "dream", "sdar")], ids=lambda twin: twin.name
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


# What carries marks of a known model.


def opened(name, tmp_path):
    twin = next(twin for twin in TWINS if twin.name == name)
    return dllm_fast.load(twin.save(tmp_path / name))


def delegating(model):
    class Proxy:
        def __call__(self, ids):
            return model(ids)

        def __getattr__(self, name):
            return getattr(model, name)

    return Proxy()


LOOKED_THROUGH = {
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "call": lambda model: model.__call__,
    "partial": functools.partial,
    "DataParallel": torch.nn.DataParallel,
    "compiled call": lambda model: torch.compile(functools.partial(model.__call__), backend="eager"),
}
NOT = {
    "wraps": lambda model: functools.wraps(model)(around(model)),
    "wraps twice": lambda model: functools.wraps(model)(functools.wraps(model)(around(model))),
    "proxy": delegating,
    "partial with arguments": lambda model: functools.partial(model, ids=None),
    "method": lambda model: model.__repr__,
    "no_grad": torch.no_grad(),
}


@pytest.mark.parametrize("name", ["dream", "sdar", "fast-dllm-v2", "llada"])
@pytest.mark.parametrize("wrapper", LOOKED_THROUGH)
def test_what_is_certainly_an_opened_checkpoint_is_one(name, wrapper, tmp_path):
    model = opened(name, tmp_path)
    wrapped = LOOKED_THROUGH[wrapper](model)
    settings = SETTINGS | {"mask_token_id": MASK}
    agree(dllm_fast.sample(wrapped, PROMPTS, **settings), dllm_fast.sample(model, PROMPTS, **settings))
    said, bare = dllm_fast.explain(wrapped), dllm_fast.explain(model)
    assert (said.family, said.shift, said.block_length) == (bare.family, bare.shift, bare.block_length)
    expected = "it is compiled, so it is called as it is" if wrapper.startswith("compiled") else bare.reason
    assert said.reason == expected
    with pytest.raises(InvalidValueError, match="of which all is known"):
        dllm_fast.sample(wrapped, PROMPTS, like=model, **settings)


@pytest.mark.parametrize("name", ["wedlm", "nemotron-labs-diffusion"])
def test_a_compiled_one_whose_attention_changes_with_the_block_is_refused(name, tmp_path):
    model = opened(name, tmp_path)
    wrapped = torch.compile(model, backend="eager")
    for run in (lambda one: dllm_fast.sample(one, PROMPTS, mask_token_id=MASK), dllm_fast.explain):
        with pytest.raises(InvalidValueError, match=r"changes with the block must run on ours.*pass the model itself"):
            run(wrapped)


@pytest.mark.parametrize("make", [dream, sdar, lambda: model_of("Bert")], ids=["Dream", "SDAR", "BERT"])
@pytest.mark.parametrize("wrapper", ["call", "partial", "forward", "compiled forward"])
def test_so_is_what_is_certainly_a_model_of_transformers(make, wrapper):
    ways = {
        "forward": lambda model: model.forward,
        "compiled forward": lambda model: torch.compile(model.forward, backend="eager"),
    }
    wrapped = (LOOKED_THROUGH | ways)[wrapper](make())
    agree(dllm_fast.sample(wrapped, PROMPTS[:1], **SETTINGS), dllm_fast.sample(make(), PROMPTS[:1], **SETTINGS))
    assert dllm_fast.explain(wrapped).family == dllm_fast.explain(make()).family


@pytest.mark.parametrize("wrapper", NOT)
def test_what_carries_marks_of_a_known_model_must_say_what_it_is_like(wrapper, tmp_path):
    models = [opened("dream", tmp_path), opened("llada", tmp_path)]
    models += [] if wrapper == "proxy" else [dream(), model_of("Bert")]
    for model in models:
        wrapped = NOT[wrapper](model)
        for run in (lambda one: dllm_fast.sample(one, [1, 2], mask_token_id=MASK), dllm_fast.explain):
            with pytest.raises(InvalidValueError, match=r"told what it is like.*pass like= the model or its folder"):
                run(wrapped)
    loaded = models[0]
    if wrapper in ("wraps", "proxy", "no_grad"):
        settings = SETTINGS | {"mask_token_id": MASK}
        agree(
            dllm_fast.sample(NOT[wrapper](loaded), PROMPTS, like=loaded, **settings),
            dllm_fast.sample(loaded, PROMPTS, **settings),
        )


class Around(torch.nn.Module):
    """Somebody's own module, with the config of a model."""

    def __init__(self, model):
        super().__init__()
        self.inner, self.config = model, model.config

    def forward(self, ids):
        return self.inner(ids).logits


@pytest.mark.parametrize(("make", "rule"), [(dream_like, "predictions are shifted"), (sdar, "attention is block_causal")])
def test_a_config_is_taken_whole_or_not_at_all(make, rule):
    """Its mask without its shift or its blocks would be half of it."""
    model = make()
    with pytest.raises(InvalidValueError, match=f"got Around, whose config .* {rule}; pass like="):
        dllm_fast.sample(Around(model), PROMPTS, **SETTINGS)
    if make is dream_like:
        found = dllm_fast.sample(Around(model), PROMPTS, like=model, **SETTINGS)
        agree(found, dllm_fast.sample(model, PROMPTS, **SETTINGS))


def test_the_config_of_a_family_without_shift_and_blocks_is_fine():
    model = model_of("Bert")
    found = dllm_fast.sample(Around(model), PROMPTS, mask_token_id=MASK, **SETTINGS)
    expected = dllm_fast.sample(model, PROMPTS, mask_token_id=MASK, **SETTINGS)
    assert all(np.array_equal(a, b) for a, b in zip(found.sequences, expected.sequences, strict=True))


def test_without_it_nothing_is_known_and_nothing_is_looked_into():
    model = dream()
    said = dllm_fast.explain(lambda ids: model(ids).logits)
    assert (said.shift, said.attention, said.mask_token_id) == (0, "unknown", None)
    assert said.reason.endswith("nothing is known of a model inside: say it with like=")
