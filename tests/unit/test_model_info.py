"""The choices that are made for a model: the same, by the same sources, whichever door it came through."""

from __future__ import annotations

import json
import re
from typing import ClassVar

import pytest
import tokenizers

import checkpoints
import dllm_fast
from dllm_fast.errors import CheckpointError, InvalidValueError
from dllm_fast.transformers.describe import describe
from families import TWINS

CHOICES = ("family", "mask_token_id", "eos_token_ids", "shift", "attention", "block_length", "vocabulary", "context", "preset")
NAMES = ("llada", "dream", "sdar", "nemotron-labs-diffusion", "stable-diffcoder")


@pytest.fixture(scope="module", params=[twin for twin in TWINS if twin.name in NAMES], ids=lambda twin: twin.name)
def doors(request, tmp_path_factory):
    """A checkpoint, and the same model in memory."""
    folder = request.param.save(tmp_path_factory.mktemp(request.param.name))
    checkpoints.write_tokenizer(folder)
    return folder, request.param.model()


def of_files(folder, change, place):
    """The settings as they are changed, and what `load` makes of them."""
    config = json.loads((folder / "config.json").read_text()) | change
    for file in folder.iterdir():
        (place / file.name).symlink_to(file)
    (place / "config.json").unlink()
    checkpoints.write_json(place / "config.json", config)
    return config, lambda: dllm_fast.load(place)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"mask_token_id": None},
        {"eos_token_id": [3, 4]},
        {"eos_token_id": []},
    ],
    ids=lambda change: next(iter(change), "as it is"),
)
def test_both_doors_choose_the_same(doors, change, monkeypatch, tmp_path):
    folder, model = doors
    config, load = of_files(folder, change, tmp_path)
    opened = load()
    monkeypatch.setattr(model, "config", config)
    monkeypatch.setattr(model, "generation_config", None)
    found = describe(model, opened.tokenizer)
    assert {name: getattr(found, name) for name in CHOICES} == {name: getattr(opened.info, name) for name in CHOICES}
    by_files = {name: source.replace("config.json", "config") for name, source in opened.info.sources.items()}
    assert found.sources == by_files


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"eos_token_id": "</s>"}, "eos_token_ids must lie in [0, 512), got '</s>' from config"),
        ({"eos_token_id": [3, True]}, "eos_token_ids must lie in [0, 512), got True from config"),
        ({"mask_token_id": 1.5}, "mask_token_id must lie in [0, 512), got 1.5 from config"),
    ],
)
def test_both_doors_refuse_what_is_no_id(doors, change, rule, monkeypatch, tmp_path):
    folder, model = doors
    config, load = of_files(folder, change, tmp_path)
    with pytest.raises(CheckpointError, match=f"^{re.escape(rule)}.*; pass {next(iter(change))}"):
        load()
    monkeypatch.setattr(model, "config", config)
    monkeypatch.setattr(model, "generation_config", None)
    with pytest.raises(InvalidValueError, match=f"^{re.escape(rule)}.*; correct the config"):
        describe(model)


@pytest.mark.parametrize("length", [0, -4, True, 2.0, "8"])
def test_both_doors_refuse_what_is_no_length_of_blocks(length, monkeypatch, tmp_path):
    """A model in memory went on to the next setting, or to what its family has, and did not say so."""
    twin = next(twin for twin in TWINS if twin.name == "sdar")
    (tmp_path / "changed").mkdir()
    config, load = of_files(twin.save(tmp_path / "as it is"), {"block_size": length}, tmp_path / "changed")
    rule = re.escape(f"attention by blocks needs a block length, got {length!r} from config")
    with pytest.raises(CheckpointError, match=rf"^{rule}\.json: block_size; pass block_length="):
        load()
    model = twin.model()
    monkeypatch.setattr(model, "config", config)
    with pytest.raises(InvalidValueError, match=f"^{rule}: block_size; correct the config"):
        describe(model)


def test_ends_that_the_table_alone_knows_say_so():
    """They were there, and their source was said to be unknown."""
    twin = next(twin for twin in TWINS if twin.name == "llada")
    model = twin.model()
    model.config, model.generation_config = {**twin.written, "eos_token_id": None}, None
    tokenizer = checkpoints.byte_tokenizer()
    tokenizer.add_special_tokens(["<|eot_id|>"])
    info = describe(model, tokenizer)
    assert info.eos_token_ids == (tokenizer.token_to_id("<|eot_id|>"),)
    assert info.sources["eos_token_ids"] == "family llada: <|eot_id|>"


@pytest.mark.parametrize("name", ["mask_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", ["</s>", True, 1.5, [3, "x"]])
def test_ids_of_a_callable_are_whole_numbers(name, value):
    """A raw ValueError said so of text, and True was token 1."""

    class Model:
        config: ClassVar = {"mask_token_id": 5, "eos_token_id": []} | {name: value}

        def __call__(self, ids):
            raise AssertionError("it was run")

    with pytest.raises(
        InvalidValueError, match=f"^{name} must be the id of a token, got {re.escape(repr(value))} from Model; "
    ):
        dllm_fast.sample(Model(), [1, 2], max_new_tokens=2)


def test_a_usual_spelling_is_believed_after_the_table(tmp_path):
    """It may be a token of the text; where the table says nothing it is the best guess."""
    twin = next(twin for twin in TWINS if twin.name == "illada")
    for name, mask, source in (("illada", 5, "family illada"), ("a2d-llama", 7, "tokenizer: mask token")):
        model = twin.model()
        model.config, model.generation_config = {**twin.written, "model_type": name, "mask_token_id": None}, None
        model.config["architectures"] = []
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "<mask>": 7}, unk_token="a"))
        info = describe(model, tokenizer)
        assert (info.family, info.mask_token_id, info.sources["mask_token_id"]) == (name, mask, source)
