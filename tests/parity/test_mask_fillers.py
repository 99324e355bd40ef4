"""Every class of the installed transformers that fills masks: it is run or refused, and stays as it was, to the bit."""

from __future__ import annotations

import pytest
import torch

import dllm_fast
from dllm_fast.errors import InvalidValueError
from dllm_fast.transformers.probe import study
from mask_fillers import NAMES, mask_filler, whole_state
from native_models import drawn

# What they are on a CPU. An encoder with a decoder predicts another text; Perceiver answers whole canvases only.
REFUSED = {
    "bart": "an encoder with a decoder",
    "mbart": "an encoder with a decoder",
    "mvp": "an encoder with a decoder",
    "perceiver": r"logits must have the shape \[B, L, V\]",
    "mra": "depends on its own token alone",
}
# Its class that fills masks fills those of sounds, and is deprecated.
FILLERS = [names for names in NAMES if names[0] != "wav2vec2"]
RUN = [names for names in FILLERS if names[0] not in REFUSED]
PROMPTS = [[6, 7, 8], [9, 10, 11, 12, 13] * 4]
SETTINGS = {"max_new_tokens": 4, "mask_token_id": 5, "eos_token_id": (), "stop_at_eos": False}


@pytest.mark.parametrize(("model_type", "class_name"), FILLERS, ids=[model_type for model_type, _ in FILLERS])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # DeBERTa in transformers 4
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional:UserWarning")  # Funnel in transformers 4
def test_a_model_stays_as_it_was(model_type, class_name):
    model = built(model_type, class_name).train()
    list(model.children())[-1].eval()
    before, numbers = whole_state(model), torch.get_rng_state()
    if model_type in REFUSED:
        with pytest.raises(InvalidValueError, match=REFUSED[model_type]):
            study(model)
    else:
        assert (study(model).info.attention, study(model).info.block_length) == ("full", None)
    assert whole_state(model) == before
    assert torch.equal(torch.get_rng_state(), numbers)
    if model_type not in REFUSED:
        together = dllm_fast.sample(model, PROMPTS, **SETTINGS)
        assert whole_state(model) == before
        # What a class does for one length says nothing about the next.
        torch.manual_seed(2)
        alone = dllm_fast.sample(model, PROMPTS[1], **SETTINGS)
        if model_type != "reformer":  # whose hashes are drawn in every forward
            assert together.sequences[1].tolist() == alone.sequences[0].tolist()


@pytest.mark.parametrize(("model_type", "class_name"), RUN, ids=[model_type for model_type, _ in RUN])
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")  # DeBERTa in transformers 4
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional:UserWarning")  # Funnel in transformers 4
def test_it_stays_so_where_the_config_asks_for_hidden_states(model_type, class_name):
    """transformers hangs hooks into the layers for them, and notes that they are there."""
    plain = dllm_fast.sample(built(model_type, class_name), PROMPTS[0], seed=3, **SETTINGS)
    model = built(model_type, class_name)
    model.config.output_hidden_states = True
    before = whole_state(model)
    asked = []

    def ask(event):
        """Somebody who looks at them while the model runs, and has a hook of their own in it."""
        asked.append(event)
        with torch.no_grad():
            model(torch.tensor([PROMPTS[1]]))
        list(model.modules())[1].register_forward_hook(mine)

    found = dllm_fast.sample(model, PROMPTS[0], seed=3, **SETTINGS)
    assert whole_state(model) == before
    if model_type != "reformer":  # whose hashes are drawn in every forward
        assert found.sequences[0].tolist() == plain.sequences[0].tolist()
    dllm_fast.sample(model, PROMPTS[0], on_step=ask, **SETTINGS)
    hooks = list(list(model.modules())[1]._forward_hooks.values())
    assert hooks == [mine] * len(asked)
    list(model.modules())[1]._forward_hooks.clear()
    assert whole_state(model) == before
    fresh = built(model_type, class_name)
    with torch.no_grad():
        ids = torch.tensor([PROMPTS[1]])
        found, expected = (one(ids, output_hidden_states=True).hidden_states for one in (model, fresh))
        assert len(found) == len(expected)


def mine(module, args, output):
    pass


def test_hidden_states_that_a_config_asks_for_are_not_collected():
    model = built("bert", "BertForMaskedLM")
    model.config.output_hidden_states = True
    study(model)
    seen = []
    handle = model.register_forward_hook(lambda _, args, output: seen.append(output.hidden_states))
    dllm_fast.sample(model, PROMPTS[0], **SETTINGS)
    handle.remove()
    assert seen == [None] * SETTINGS["max_new_tokens"]


def test_hooks_for_hidden_states_stay_with_the_note_of_them():
    """In a class of somebody else, too, which has layers of transformers inside."""

    class Mine(type(built("bert", "BertForMaskedLM"))):
        pass

    for model in (built("bert", "BertForMaskedLM"), drawn(Mine(built("bert", "BertForMaskedLM").config))):
        ids = torch.tensor([PROMPTS[0]])

        def ask(event, model=model, ids=ids):
            model(ids, output_hidden_states=True)

        before = whole_state(model)
        dllm_fast.sample(model, PROMPTS[0], on_step=ask, **SETTINGS)
        assert whole_state(model) == before
        assert len(model(ids, output_hidden_states=True).hidden_states) == 3
        before = whole_state(model)
        dllm_fast.sample(model, PROMPTS[0], on_step=ask, **SETTINGS)
        assert whole_state(model) == before  # those that were there stay


def test_a_long_text_is_attended_as_ever_after_a_short_one():
    """BigBird's sparse attention is left for good by its first short text."""
    model, untouched = (built("big_bird", "BigBirdForMaskedLM") for _ in range(2))
    long = torch.arange(7, 7 + 48)[None]
    dllm_fast.explain(model)
    dllm_fast.sample(model, [6, 7, 8], **SETTINGS)
    with torch.no_grad():
        assert model.bert.attention_type == "block_sparse"
        assert torch.equal(model(long).logits, untouched(long).logits)
    canvas = [5 if i % 3 else 7 + i for i in range(48)]
    settings = {name: value for name, value in SETTINGS.items() if name != "max_new_tokens"}
    found = dllm_fast.infill(model, [[7, 5, 8], canvas], **settings).sequences[1]
    assert found.tolist() == dllm_fast.infill(untouched, canvas, **settings).sequences[0].tolist()
    # A setting of sparse attention is no rule of blocks.
    assert dllm_fast.explain(model).attention == "full"
    assert "block_size = 4" in dllm_fast.explain(model).probed["blocks"]


def built(model_type, class_name):
    try:
        model = mask_filler(model_type, class_name)
    except ImportError as error:
        pytest.skip(f"{class_name} cannot be built here: {error}")
    return drawn(model)
