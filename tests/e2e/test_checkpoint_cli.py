"""`dllm-fast generate`, `infill` and `explain` on tiny checkpoints, as a person or a script meets them."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dllm_fast
import text_models
from checkpoints import change_weights, write_tokenizer
from dllm_fast import cli
from dllm_fast.errors import UnknownTextWarning
from families import TWINS

BY_NAME = {twin.name: twin for twin in TWINS}
MASK = 259  # of the fixture's tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """SDAR with a byte tokenizer that has a chat template."""
    return save(tmp_path_factory.mktemp("sdar"), "sdar")


def save(path, name, **tokenizer):
    write_tokenizer(BY_NAME[name].save(path), **tokenizer)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"mask_token_id": MASK}))
    return path


@pytest.fixture
def run(capsys):
    def call(*arguments):
        status = cli.main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


def test_generate_prints_the_answer(run, folder):
    status, out, err = run("generate", folder, "-p", "Hello", "--max-new-tokens", 8)
    assert status == 0
    model = dllm_fast.load(folder)
    ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}])
    assert out == dllm_fast.sample(model, ids, max_new_tokens=8).texts[0] + "\n"
    nfe = dllm_fast.sample(model, ids, max_new_tokens=8).stats.nfe
    assert err.startswith(f"{nfe} forwards, ")


def test_what_a_folder_does_not_say_is_said_by_options(run, tmp_path):
    folder = save(tmp_path, "sdar")
    config = json.loads((folder / "config.json").read_text())
    bare = {name: value for name, value in config.items() if name not in {"model_type", "architectures"}}
    (folder / "config.json").write_text(json.dumps(bare))
    change_weights(folder, lambda tensors: tensors | {"other.head.weight": torch.ones(3)})
    status, _, err = run("explain", folder)
    assert (status, "or pass --family" in err) == (2, True)
    status, out, _ = run("explain", folder, "--family", "sdar", "--ignore-keys", "other.*")
    assert (status, "left out by ignore_keys: other.head.weight" in out) == (0, True)
    arguments = ("-p", "Hello", "--max-new-tokens", 8, "--family", "sdar", "--ignore-keys", "other.*")
    status, out, _ = run("generate", folder, *arguments)
    assert (status, bool(out)) == (0, True)


def test_generate_json_is_one_object(run, folder):
    status, out, _ = run("generate", folder, "-p", "Hello", "--max-new-tokens", 8, "--seed", 3, "--temperature", 1, "--json")
    said = json.loads(out)
    assert status == 0
    assert said.keys() >= {"prompt", "text", "new_tokens", "finish_reason", "nfe", "seed"}
    assert (said["prompt"], said["seed"]) == ("Hello", 3)
    assert 1 <= len(said["new_tokens"]) <= 8


def test_a_file_of_prompts_may_begin_with_a_byte_order_mark_and_hold_any_character(run, folder, tmp_path):
    """As Windows writes it; and U+2028 ends a line of text, not one of JSON."""
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "Hello"}\r\n\r\n{"prompt": "a\xe2\x80\xa8b"}\r\n')
    status, out, _ = run("generate", folder, "--prompts", file, "--max-new-tokens", 4)
    assert status == 0
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["Hello", "a\u2028b"]


def test_an_answer_that_the_terminal_cannot_show_is_escaped(folder):
    command = [sys.executable, "-m", "dllm_fast.cli", "generate", str(folder), "-p", "Hello", "--max-new-tokens", "8"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=True)
    plain = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "utf-8"}, check=True)
    text = plain.stdout.decode("utf-8")
    assert not text.isascii()
    assert done.stdout == text.encode("ascii", "backslashreplace")


def test_a_file_of_the_folder_is_answered_with_the_folder(run, folder):
    status, out, err = run("generate", folder / "config.json", "-p", "Hello")
    assert (status, out) == (2, "")
    assert err == f"dllm-fast: a model is opened from its folder, got the file {folder / 'config.json'}; pass {folder}\n"


def test_generate_reads_standard_input(run, folder, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\ufeffHello\n"))  # a byte order mark, as PowerShell sends one
    _, piped, _ = run("generate", folder, "-p", "-", "--max-new-tokens", 4, "--json")
    _, typed, _ = run("generate", folder, "-p", "Hello", "--max-new-tokens", 4, "--json")
    assert json.loads(piped) == json.loads(typed)


def test_the_system_message_and_the_template_matter(run, folder, tmp_path):
    def tokens(*more, where=folder):
        return json.loads(run("generate", where, "-p", "Hello", "--max-new-tokens", 8, "--json", *more)[1])["new_tokens"]

    plain = save(tmp_path, "sdar", template=None)
    assert len({tuple(tokens()), tuple(tokens("--system", "Be brief")), tuple(tokens(where=plain))}) == 3
    model = dllm_fast.load(plain)
    assert tokens(where=plain) == dllm_fast.sample(model, "Hello", max_new_tokens=8).new_tokens[0].tolist()
    status, out, err = run("generate", plain, "-p", "Hello", "--system", "Be brief")
    assert (status, out) == (2, "")
    assert err.startswith("dllm-fast: --system needs a checkpoint with a chat template")


def test_chat_and_no_chat(run, folder, tmp_path):
    def said(*more):
        return run("generate", folder, "-p", "Hello", "--max-new-tokens", 8, *more)

    model = dllm_fast.load(folder)
    assert said("--chat")[1] == said()[1] == dllm_fast.sample(model, "Hello", max_new_tokens=8, chat=True).text + "\n"
    assert said("--no-chat")[1] == dllm_fast.sample(model, "Hello", max_new_tokens=8).text + "\n" != said()[1]
    status, out, err = said("--no-chat", "--system", "Be brief")
    assert (status, out) == (2, "")
    assert err.startswith("dllm-fast: --system is part of a conversation, got --no-chat beside it")
    status, _, err = run("generate", save(tmp_path, "sdar", template=None), "-p", "Hello", "--chat")
    assert status == 2
    assert "messages need a tokenizer with a chat template" in err


def test_generate_leads_away_from_a_negative_prompt(run, folder):
    """Which is written as the prompt is: as a user's message, with the same system message, or as it is."""
    model = dllm_fast.load(folder)

    def said(*more):
        status, out, _ = run("generate", folder, "-p", "Hello", "--max-new-tokens", 8, "--guidance", 1.5, *more)
        assert status == 0
        return out.removesuffix("\n")

    given = {"max_new_tokens": 8, "guidance": 1.5}
    plain = dllm_fast.sample(model, "Hello", chat=False, negative_prompt="Good bye", **given).text
    assert said("--no-chat", "--negative-prompt", "Good bye") == plain
    templated = dllm_fast.sample(model, "Hello", chat=True, negative_prompt="Good bye", **given).text
    assert said("--negative-prompt", "Good bye") == templated != plain
    messages = [[{"role": "system", "content": "Brief"}, {"role": "user", "content": text}] for text in ("Hello", "Good bye")]
    both = dllm_fast.sample(model, messages[0], negative_prompt=messages[1], **given).text
    assert said("--negative-prompt", "Good bye", "--system", "Brief") == both
    # Ids are what they are, also beside a text that becomes a message.
    ids = model.tokenizer.apply_chat_template([{"role": "user", "content": "Good bye"}])
    assert dllm_fast.sample(model, "Hello", chat=True, negative_prompt=ids, **given).text == templated
    status, _, err = run("generate", folder, "-p", "Hello", "--negative-prompt", "Good bye")
    assert status == 2
    assert "pass --guidance 1.0, or leave it out" in err


def test_an_encoder_answers_before_its_closing_token(run, tmp_path):
    folder = text_models.save(tmp_path / "bert")
    status, out, err = run("generate", folder, "-p", "Paris % is", "--max-new-tokens", 3, "--json")
    model = dllm_fast.load(folder)
    with pytest.warns(UnknownTextWarning):
        result = dllm_fast.sample(model, "Paris % is", max_new_tokens=3)
    assert (status, json.loads(out)["new_tokens"]) == (0, result.new_tokens[0].tolist())
    assert model.tokenizer.id_to_token(int(result.sequences[0][-1])) == "[SEP]"
    assert "dllm-fast: warning: the tokenizer does not know '%': 1 token is [UNK]" in err
    status, out, _ = run("infill", folder, "--text", "Paris is the [MASK] of France.")
    assert status == 0
    assert out.startswith("paris is the ")
    assert "  " not in out


def test_a_second_model_verifies(run, capsys, folder, tmp_path):
    hf = pytest.importorskip("transformers")
    model = dllm_fast.load(folder)
    config = hf.LlamaConfig(
        **{"vocab_size": model.info.vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1},
        **{"num_attention_heads": 2, "max_position_embeddings": 64},
    )
    torch.manual_seed(0)
    hf.LlamaForCausalLM(config).save_pretrained(tmp_path)
    capsys.readouterr()  # its progress
    typed = ("-p", "Hello", "--no-chat", "--max-new-tokens", 8, "--preset", "apd", "--json")
    status, out, err = run("generate", folder, *typed, "--verifier", tmp_path)
    assert (status, err) == (0, "")
    told = dllm_fast.sample(model, "Hello", max_new_tokens=8, preset="apd", verifier=str(tmp_path))
    assert json.loads(out)["new_tokens"] == told.new_tokens[0].tolist()
    assert json.loads(out)["nfe"] == told.stats.nfe_per_row[0] > 1
    status, _, err = run("generate", folder, *typed)
    assert status == 2
    assert "got no second one; pass --verifier, a model" in err
    status, _, err = run("generate", folder, *typed, "--verifier", folder)
    assert status == 2
    assert "a verifier reads from left to right, got sdar with the mask 259, which fills masks" in err


def test_every_setting_is_an_option(run, folder):
    """One of each kind, with what the library makes of it."""
    model = dllm_fast.load(folder)
    typed = [
        *("--order", "margin", "--schedule", "cosine", "--order-temperature", 0.5, "--min-commit", 2, "--temperature", 1),
        *("--eos-token-id", 5, "--eos-token-id", 6, "--stop-at-eos", "--suppress-tokens", 65, "--suppress-tokens", "B"),
        *("--allow-special", "--no-as-published", "--steps", 4),
    ]
    settings = {
        **{"order": "margin", "schedule": "cosine", "order_temperature": 0.5, "min_commit": 2, "temperature": 1.0},
        **{"eos_token_id": (5, 6), "stop_at_eos": True, "suppress_tokens": (65, "B"), "allow_special": True, "steps": 4},
    }
    status, out, err = run("generate", folder, "-p", "Hello", "--no-chat", "--max-new-tokens", 8, "--json", *typed)
    assert (status, err) == (0, "")
    told = dllm_fast.sample(model, "Hello", max_new_tokens=8, **settings)
    said = json.loads(out)
    assert (said["new_tokens"], said["finish_reason"]) == (told.new_tokens[0].tolist(), told.finish_reasons[0])


def test_none_takes_a_setting_of_a_preset_away(run, capsys, folder):
    def typed(*options):
        return run("generate", folder, "-p", "Hello", "--no-chat", "--max-new-tokens", 8, "--json", *options)

    model = dllm_fast.load(folder)
    status, out, err = typed("--preset", "fast-dllm", "--threshold", "none", "--steps-per-block", 1)
    assert (status, err) == (0, "")
    told = dllm_fast.sample(model, "Hello", max_new_tokens=8, preset="fast-dllm", threshold=None, steps_per_block=1)
    assert json.loads(out)["new_tokens"] == told.new_tokens[0].tolist()
    for option, value in (("--block-length", "whole"), ("--spacing", "none")):  # the second one always has a value
        with pytest.raises(SystemExit, match="2"):
            typed(option, value)
        assert f"argument {option}: invalid int value: {value!r}" in capsys.readouterr().err


def test_an_order_of_ones_own_is_typed_as_ranks(run, folder):
    typed = ("-p", "Hello", "--no-chat", "--max-new-tokens", 4, "--order", "3,1,2.5,-1", "--json")
    status, out, err = run("generate", folder, *typed)
    assert (status, err) == (0, "")
    model = dllm_fast.load(folder)
    told = dllm_fast.sample(model, "Hello", max_new_tokens=4, order=[3, 1, 2.5, -1])
    assert json.loads(out)["new_tokens"] == told.new_tokens[0].tolist()
    status, _, err = run("generate", folder, "-p", "Hello", "--max-new-tokens", 5, "--order", "3,1,2")
    assert status == 2
    assert "order must have a rank for each new position, got 3 for max_new_tokens=5" in err


@pytest.mark.parametrize(
    "command", [("generate", "-p", "Hello", "--max-new-tokens", 8), ("infill", "--text", "a [MASK][MASK]")]
)
def test_a_seed_may_be_left_to_chance_and_is_told(run, folder, command):
    name, *more = command
    drawn = [json.loads(run(name, folder, *more, "--temperature", 1, "--seed", "random", "--json")[1]) for _ in range(2)]
    assert drawn[0]["seed"] != drawn[1]["seed"], "one of 2^64"
    again = json.loads(run(name, folder, *more, "--temperature", 1, "--seed", drawn[0]["seed"], "--json")[1])
    assert again == drawn[0]
    _, _, err = run(name, folder, *more, "--temperature", 1, "--seed", "random")
    assert re.search(r", seed \d+\n$", err)


def test_remedies_name_options_and_leave_quoted_texts_alone(run, folder):
    status, _, err = run("generate", folder, "-p", "x", "--order", "topk_margin")
    assert (status, err) == (2, "dllm-fast: order has names of its own, got 'topk_margin'; use --order margin\n")
    status, _, err = run("infill", folder, "--text", "order='random'")
    assert status == 2
    assert "got \"order='random'\"" in err


def test_several_prompts_make_json_lines(run, folder, tmp_path):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"prompt": "two", "id": 7}\n')
    status, out, err = run(
        "generate", folder, "--prompts", file, "--max-new-tokens", 4, "--num-samples", 2, "--max-batch-rows", 3
    )
    assert err == (
        "dllm-fast: warning: all 2 samples of a prompt will be equal, because this rule draws nothing; pass --temperature 1.0, "
        "--order-temperature or --order random, or --num-samples 1\n"
    )
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(line["prompt"], line["sample"]) for line in lines] == [("one", 0), ("one", 1), ("two", 0), ("two", 1)]
    alone = json.loads(run("generate", folder, "-p", "two", "--max-new-tokens", 4, "--json")[1])
    assert lines[2]["new_tokens"] == alone["new_tokens"]


def test_infill_fills_exactly_the_masks(run, folder):
    status, out, _ = run("infill", folder, "--text", "a [MASK][MASK] c", "--json")
    said = json.loads(out)
    assert status == 0
    assert len(said["new_tokens"]) == 2
    assert said["text"].startswith("a ")
    model = dllm_fast.load(folder)
    assert said["new_tokens"] == dllm_fast.infill(model, "a <|mask|><|mask|> c").new_tokens[0].tolist()


def test_infill_as_json_tells_the_lengths_of_gaps(run):
    text = dllm_fast.demo.FOLDER / "text"
    said = json.loads(run("infill", text, "--text", "sort:hagbd=a[MASK:1-6]gh", "--json")[1])
    assert (said["text"], said["gap_lengths"]) == ("sort:hagbd=abdgh", [2])
    assert "gap_lengths" not in json.loads(run("infill", text, "--text", "sort:ba=[MASK][MASK]", "--json")[1])


def test_infill_with_a_mask_that_has_no_text(run, tmp_path):
    """Its id lies outside of the tokenizer, as in checkpoints with a padded vocabulary."""
    folder = save(tmp_path, "llada")
    out = run("infill", folder, "--text", "a [MASK] c", "--mask-token-id", 300, "--json")[1]
    encode = dllm_fast.load(folder).tokenizer.encode
    canvas = torch.tensor([[*encode("a "), 300, *encode(" c")]])
    ours = dllm_fast.infill(folder, canvas, mask_token_id=300)
    assert json.loads(out)["new_tokens"] == ours.new_tokens[0].tolist()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "nowhere/at/all", "-p", "x"), "nowhere/at/all"),
        (("generate", "FOLDER", "-p", "x", "--preset", "lada"), "preset must be one of"),
        (("generate", "FOLDER", "-p", "x", "--cache", "slow"), "cache must be one of"),
        (("generate", "FOLDER", "-p", "x", "--max-new-tokens", "0"), "max_new_tokens must be at least 1"),
        (("generate", "FOLDER", "-p", ""), "prompt"),
        (("generate", "FOLDER", "--prompts", "missing.jsonl"), "--prompts must name a file of JSON lines"),
        (("generate", "FOLDER", "-p", "x", "--dtype", "int4"), "dtype must be one of"),
        (("infill", "FOLDER", "--text", "no masks"), "a canvas of text must hold a mask, got 'no masks'"),
        (("explain", "nowhere/at/all"), "nowhere/at/all"),
    ],
)
def test_errors_are_one_line_and_status_2(run, folder, tmp_path, arguments, message):
    if arguments[2:] == ("-p", ""):
        folder = save(tmp_path, "sdar", template=None)
    status, out, err = run(*(folder if argument == "FOLDER" else argument for argument in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("dllm-fast: ")
    assert err.count("\n") == 1
    assert message in err


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = [
    line for line in README.splitlines() if line.startswith(("dllm-fast generate ", "dllm-fast infill ", "dllm-fast explain "))
]


def test_readme_shows_every_command():
    assert {shlex.split(line)[1] for line in SHOWN} == {"generate", "infill", "explain"}


@pytest.mark.parametrize("line", SHOWN)
def test_the_commands_of_readme_run(run, folder, tmp_path, monkeypatch, line):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    (tmp_path / "python").symlink_to(ROOT / "python")  # the first line works in a checkout
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello"))
    status, out, _ = run(*(str(folder) if word == "FOLDER" else word for word in shlex.split(line)[1:]))
    assert status == 0
    assert out.strip()


@pytest.mark.parametrize("line", ["not json", "[1]", '{"text": "x"}', '{"prompt": 3}'])
def test_bad_lines_are_named(run, folder, tmp_path, line):
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "fine"}\n' + line)
    status, _, err = run("generate", folder, "--prompts", file)
    assert status == 2
    assert "line 2" in err
