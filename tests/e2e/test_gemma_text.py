"""DiffusionGemma with a tokenizer: text in and out, chats, the command, and what is said where others have a mask."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import dllm_fast
import gemma
from checkpoints import write_tokenizer
from dllm_fast.errors import InvalidValueError

IDS = 260  # of the tokenizer, which has a mask token, as those of its kin have
SETTINGS = {"steps_per_block": 4, "seed": 1, "max_new_tokens": 2 * gemma.CANVAS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = gemma.save(gemma.stock(vocab_size=IDS), tmp_path_factory.mktemp("text"))
    write_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return dllm_fast.load(folder)


def test_text_and_chat(model):
    """The family's rule is the default: nothing has to be said."""
    for prompt in ("Hello", [{"role": "user", "content": "Hello"}]):
        found = dllm_fast.sample(model, prompt, **SETTINGS)
        assert found.config.noise == "uniform"
        assert found.config.mask_token_id is None
        assert found.config.block_length == gemma.CANVAS
        assert isinstance(found.texts[0], str)
        assert len(found.new_tokens[0]) == 2 * gemma.CANVAS
        assert "<|mask|>" not in found.texts[0]


def test_nobody_takes_the_mask_of_the_tokenizer(model):
    said = dllm_fast.explain(model)
    assert said.mask_token_id is None
    assert said.sources["mask_token_id"] == "family diffusion-gemma: none, its canvas shows noise"
    assert said.settings["preset"] == "diffusion-gemma"


def test_the_default_number_of_tokens_is_whole_canvases(model):
    found = dllm_fast.sample(model, "Hello", steps_per_block=1, seed=1)
    assert len(found.new_tokens[0]) == 128


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"max_new_tokens": 12}, r"max_new_tokens must be whole canvases of this model, of 8 tokens each, got 12; use 8 or 16"),
        ({"max_new_tokens": 3}, r"of 8 tokens each, got 3; use 8"),
        ({"block_length": 4}, r"block_length must be the canvas of this model, got 4 and 8; leave it out"),
        ({"shift": True, "max_new_tokens": 8}, r"shift must be off for a model whose canvas predicts itself"),
        ({"preset": "llada", "max_new_tokens": 8}, r"a mask token is needed, got none from the model"),
        ({"cache": "exact_block", "max_new_tokens": 600}, r"must fit the model's context of 512 tokens"),
    ],
)
def test_what_cannot_be(model, settings, why):
    with pytest.raises(InvalidValueError, match=why):
        dllm_fast.sample(model, "Hello", **settings)


def test_filling_what_is_open(model):
    """Canvases from the first position on; what is given stays, and is read with the rest."""
    ids = np.arange(3 * gemma.CANVAS)
    is_open = (ids >= 10) & (ids < 20)
    found = dllm_fast.infill(model, ids, open=is_open, steps_per_block=4, seed=1)
    assert (np.asarray(found.sequences[0])[~is_open] == ids[~is_open]).all()
    with pytest.raises(InvalidValueError, match=r"what is filled must be whole canvases of .* 8 tokens each, got 20"):
        dllm_fast.infill(model, ids[:20], open=is_open[:20])
    with pytest.raises(InvalidValueError, match="infill must know what is written"):
        dllm_fast.infill(model, ids)


def test_the_command(folder):
    command = [sys.executable, "-m", "dllm_fast"]
    done = subprocess.run([*command, "explain", str(folder), "--json"], capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert (said["family"], said["mask_token_id"], said["attention"]) == ("diffusion-gemma", None, "encoder_canvas")
    asked = [
        "generate",
        str(folder),
        "--prompt",
        "Hello",
        "--max-new-tokens",
        "8",
        "--steps-per-block",
        "2",
        "--seed",
        "1",
        "--json",
    ]
    done = subprocess.run([*command, *asked], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "text" in done.stdout
