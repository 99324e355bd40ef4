"""The tokenizer of a folder, its special tokens and its chat template; conversations as prompts."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st

import checkpoints
import dllm_fast
from dllm_fast.errors import CheckpointError, DllmFastError, InvalidTypeError, InvalidValueError
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens
from dllm_fast.text.chat import ChatTemplate
from dllm_fast.text.tokenizer import Tokenizer

PAD, EOS, EOT, MASK = range(256, 260)
HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return checkpoints.write_tokenizer(tmp_path)


def opened(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer is not None
    return tokenizer


def stock(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


def change_settings(folder: Path, **changes: object) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | changes
    checkpoints.write_json(path, {name: value for name, value in settings.items() if value is not ...})


def test_ids_and_names(folder: Path) -> None:
    tokenizer = opened(folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (PAD, EOS, MASK)
    assert tokenizer.bos_token_id is None
    assert tokenizer.vocabulary == 260
    assert (tokenizer.token_to_id("<|eot|>"), tokenizer.id_to_token(EOT)) == (EOT, "<|eot|>")
    assert (tokenizer.token_to_id("nothing"), tokenizer.id_to_token(999)) == (None, None)
    assert tokenizer.encode("a<|mask|><|eos|>")[1:] == [MASK, EOS]
    assert tokenizer.decode([*tokenizer.encode("hi"), EOS, PAD]) == "hi"
    assert tokenizer.decode([*tokenizer.encode("hi"), EOS], skip_special_tokens=False) == "hi<|eos|>"


@given(st.text(max_size=40))
def test_any_text_goes_there_and_back(tmp_path_factory: pytest.TempPathFactory, some: str) -> None:
    tokenizer = opened(checkpoints.write_tokenizer(tmp_path_factory.mktemp("tokenizer")))
    assert tokenizer.decode(tokenizer.encode(some), skip_special_tokens=False) == some


def test_no_tokenizer(tmp_path: Path) -> None:
    assert Tokenizer.from_folder(tmp_path) is None
    with pytest.raises(InvalidValueError, match=r"a prompt of text needs a tokenizer, .*tokenizer.json"):
        text.prompts("hello", None, "prompt")


def test_lone_surrogates_and_other_types(folder: Path) -> None:
    with pytest.raises(InvalidValueError, match="a text must be valid Unicode"):
        opened(folder).encode("a\ud800b")
    with pytest.raises(InvalidTypeError, match="a text must be a string, got int"):
        opened(folder).encode(5)  # type: ignore[arg-type]


def test_prompts_with_lone_surrogates(folder: Path) -> None:
    for tokenizer in (opened(folder), checkpoints.byte_tokenizer(), stock(folder)):
        with pytest.raises(InvalidValueError, match="a prompt of text must be valid Unicode"):
            text.prompts("a\ud800b", tokenizer, "prompt")


def test_a_mask_in_a_text_however_the_tokenizer_spells_it(folder: Path) -> None:
    for tokenizer in (opened(folder), checkpoints.byte_tokenizer(), stock(folder)):
        spelled = [row.ids.tolist() for row in text.prompts(["a[MASK]b", "a<|mask|>b"], tokenizer, "canvas", mask=MASK)]
        assert spelled[0] == spelled[1]
        assert spelled[0].count(MASK) == 1
        assert text.prompts("a[MASK]b", tokenizer, "canvas", mask=999)[0].ids.tolist().count(999) == 1, "one without a text"
        with pytest.raises(
            InvalidValueError, match=r"must hold a mask, got 'ab', in which nothing is the mask.*write \[MASK\]"
        ):
            text.prompts("ab", tokenizer, "canvas", mask=MASK)
    assert len(text.prompts([[1, 2], "ab"], opened(folder), "canvas", mask=MASK)) == 2, "ids may be without"


def test_text_that_a_tokenizer_cannot_write() -> None:
    _, tokenizer = dllm_fast.demo.load_text()
    with pytest.raises(InvalidValueError, match="a text must be made of what the tokenizer knows, got 'Hello'"):
        text.prompts("Hello", tokenizer, "prompt")


def test_what_a_tokenizer_of_transformers_gives(folder: Path) -> None:
    given = text.prompts(stock(folder)("ab"), None, "prompt")
    assert [row.ids.tolist() for row in given] == [opened(folder).encode("ab")]
    theirs = stock(folder)
    rows = [theirs("abc")["input_ids"], theirs("d")["input_ids"]]
    for tensors in (None, "pt", "np"):
        for side in ("left", "right"):
            padded = theirs(["abc", "d"], padding=True, padding_side=side, return_tensors=tensors)
            assert [row.ids.tolist() for row in text.prompts(padded, theirs, "prompt")] == rows
    for several in ([theirs("abc"), theirs("d")], [theirs("abc", return_tensors="pt"), rows[1]]):
        assert [row.ids.tolist() for row in text.prompts(several, theirs, "prompt")] == rows


def test_a_folder_that_transformers_wrote(folder: Path, tmp_path: Path) -> None:
    theirs = stock(folder)
    theirs.save_pretrained(tmp_path / "saved")
    ours = opened(tmp_path / "saved")
    assert (ours.mask_token_id, ours.eos_token_id, ours.pad_token_id) == (MASK, EOS, PAD)
    assert ours.chat_template == checkpoints.TEMPLATE
    assert ours.encode("ab<|mask|>") == theirs.encode("ab<|mask|>")


def test_truncation_and_padding_of_the_training_are_switched_off(folder: Path) -> None:
    backend = checkpoints.byte_tokenizer()
    backend.enable_truncation(4)
    backend.enable_padding(length=16)
    backend.save(str(folder / "tokenizer.json"))
    assert len(opened(folder).encode("a long text")) == 11


def test_special_tokens_of_all_places(folder: Path) -> None:
    change_settings(folder, mask_token=..., eos_token={"content": "<|eot|>", "lstrip": False})
    checkpoints.write_json(folder / "special_tokens_map.json", {"mask_token": {"content": "<|mask|>"}, "eos_token": "<|eos|>"})
    tokenizer = opened(folder)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id) == (MASK, EOT)  # tokenizer_config.json comes first


def test_a_special_token_that_the_vocabulary_lacks_is_left_out(folder: Path) -> None:
    change_settings(folder, mask_token="[MASK]", cls_token=None)
    assert opened(folder).mask_token_id is None
    assert tokens.mask_token_id(opened(folder)) == MASK  # by its usual name


def test_plain_words_become_special(folder: Path) -> None:
    change_settings(folder, eos_token="Z", additional_special_tokens=["Y"], extra_special_tokens={"x": "X"})
    assert opened(folder).decode(opened(folder).encode("aXbYcZ")) == "abc"


def test_added_tokens_of_the_settings(folder: Path) -> None:
    added = {"260": {"content": "<|new|>", "special": True}, "259": {"content": "<|mask|>", "special": True}}
    change_settings(folder, added_tokens_decoder=added)
    tokenizer = opened(folder)
    assert tokenizer.encode("<|new|>") == [260] == stock(folder).encode("<|new|>")
    assert tokenizer.decode([260]) == ""
    change_settings(folder, added_tokens_decoder={"300": {"content": "<|new|>"}})
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json: the token '<\|new\|>' must get the id 300, got 260"):
        opened(folder)


@pytest.mark.parametrize("added", [{"x": {"content": "y"}}, {"9" * 50: {"content": "y"}}, [1], {"²": "y"}])
def test_added_tokens_of_a_wrong_form(folder: Path, added: object) -> None:
    change_settings(folder, added_tokens_decoder=added)
    with pytest.raises(CheckpointError, match="added_tokens_decoder must map ids to tokens"):
        opened(folder)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"model": {"type": "BPE"}}', b"\xff", b"[" * 100_000])
def test_broken_files(folder: Path, data: bytes) -> None:
    (folder / "tokenizer.json").write_bytes(data)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json must be UTF-8" if data == b"\xff" else r"cannot read .*tokenizer.json"
    ):
        opened(folder)


# Chat templates


def test_the_template_as_transformers_renders_it(folder: Path) -> None:
    messages = [{"role": "system", "content": "be brief"}, *HELLO]
    ours, theirs = opened(folder), stock(folder)
    for generation in (True, False):
        expected = theirs.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False)
        assert ours.apply_chat_template(messages, add_generation_prompt=generation, tokenize=False) == expected
    rendered = ours.apply_chat_template(HELLO, tokenize=False)
    assert rendered == "<|eot|>user: hello<|eot|>assistant: "
    ids = ours.apply_chat_template(HELLO)
    assert ids == ours.encode(rendered)
    assert ids.count(EOT) == 2


def test_special_tokens_are_not_doubled(folder: Path) -> None:
    """A tokenizer that puts a token before every text, and a template that does so, too."""
    backend = checkpoints.byte_tokenizer()
    backend.post_processor = tokenizers.processors.TemplateProcessing(single="<|eot|> $A", special_tokens=[("<|eot|>", EOT)])
    backend.save(str(folder / "tokenizer.json"))
    change_settings(folder, bos_token="<|eot|>", chat_template="{{ bos_token }}{{ messages[0].content }}")
    tokenizer = opened(folder)
    assert tokenizer.encode("a")[0] == EOT
    assert tokenizer.apply_chat_template(HELLO) == tokenizer.encode("hello")


def test_named_templates_and_the_file(folder: Path) -> None:
    named = [{"name": "default", "template": "plain"}, {"name": "tools", "template": "{{ tools[0].name }}"}]
    change_settings(folder, chat_template=named)
    tokenizer = opened(folder)
    assert tokenizer.chat_template == "plain"
    assert tokenizer.apply_chat_template(HELLO, tokenize=False) == "plain"
    assert tokenizer.apply_chat_template(HELLO, tokenize=False, template="tools", tools=[{"name": "search"}]) == "search"
    with pytest.raises(InvalidValueError, match="must have the chat template 'other', got default, tools"):
        tokenizer.apply_chat_template(HELLO, template="other")
    (folder / "chat_template.jinja").write_text("from the file")
    assert opened(folder).chat_template == "from the file"


def test_templates_of_a_wrong_form(folder: Path) -> None:
    for wrong in (5, [{"name": "a"}], ["text"]):
        change_settings(folder, chat_template=wrong)
        with pytest.raises(CheckpointError, match=r"tokenizer_config.json: .*chat_template must"):
            opened(folder)


def rendered(source: str, messages: Any = HELLO, **variables: Any) -> str:
    return ChatTemplate(source, "the template").render(messages, variables)


def test_a_broken_template_is_an_error_only_when_it_is_used(folder: Path) -> None:
    change_settings(folder, chat_template="{% for %}")
    tokenizer = opened(folder)
    assert tokenizer.decode(tokenizer.encode("text")) == "text"
    with pytest.raises(CheckpointError, match="is no valid template"):
        tokenizer.apply_chat_template(HELLO)


def test_what_templates_use() -> None:
    assert rendered("{{ messages | map(attribute='role') | join(',') }}") == "user"
    assert (
        rendered(
            "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i > 3 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}"
            "{% endfor %}{{ ns.n }}"
        )
        == "6"
    )
    assert rendered('{{ {"a": "é<>"} | tojson }}') == '{"a": "é<>"}'
    assert (
        rendered("{{ {'b': 1, 'a': [1, 2]} | tojson(indent=2, sort_keys=True) }}")
        == '{\n  "a": [\n    1,\n    2\n  ],\n  "b": 1\n}'
    )
    assert rendered("{{ strftime_now('%Y') }}") == time.strftime("%Y")
    assert rendered("  {% if true %}\n  x\n  {% endif %}\n") == "  x\n"
    assert rendered("{% generation %}x{{ 1 }}{% endgeneration %}") == "x1"
    assert (
        rendered("{% for m in messages %}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{% endfor %}")
        == "0TrueTrue1"
    )
    assert (
        rendered("{{ messages[0]['content'].split('l')[0] ~ '-' * 3 ~ 'x' | upper }}{{ messages[::-1][0].role }}")
        == "he---Xuser"
    )
    assert rendered("{{ dict(a=1).items() | list }}{{ missing is defined }}{{ 7 % 4 }}") == "[('a', 1)]False3"
    assert rendered("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ f(flag) }}", flag=True) == "<a><True>"


def test_a_template_may_refuse_messages() -> None:
    with pytest.raises(InvalidValueError, match="refuses these messages: roles must alternate"):
        rendered("{{ raise_exception('roles must alternate') }}")


HOSTILE = (
    "{{ ''.__class__.__mro__ }}",
    "{{ ''['__class__'] }}{{ ''.__class__() }}",
    "{{ [].__class__.__base__.__subclasses__() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ self.__init__.__globals__ }}",
    "{{ self._TemplateReference__context.environment }}{{ self._TemplateReference__context.x() }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ (''|attr('format'))('{0.__class__.__mro__}') }}{{ '{0.__class__.__init__.__globals__}'.format(range) }}",
    "{% set ns = namespace(__html__=1) %}",
    "{% set ns = namespace() %}{% set ns.__html__ = 1 %}",
    "{% include '/etc/passwd' %}",
    "{% import '/etc/passwd' as x %}",
)


@pytest.mark.parametrize("source", HOSTILE)
def test_hostile_templates_are_errors(source: str) -> None:
    with pytest.raises(CheckpointError, match="the template"):
        rendered(source)


GREEDY = (
    "{% set x = range(100000) %}{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}",
    "{% for a in range(100000) %}{% for b in range(100000) %}{{ b }}{% endfor %}{% endfor %}",
    "{{ 'a' * 10**10 }}",
    "{{ [1] * 10**8 }}",
    "{{ 9 ** 64 ** 64 }}",
    "{{ 2 ** (10**9) }}",
    "{% set ns = namespace(n=9) %}{% for i in range(50) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s='aaaa') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ 'a' ~ ns.s }}",
    "{% set ns = namespace(s=1) %}{% for i in range(99) %}{% set ns.s = {1: ns.s, 2: ns.s} %}{% endfor %}{{ ns.s | tojson }}",
    "{{ 'x'.center(10**9) }}",
    "{{ 'x' | center(10**9) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 10**6) }}",
    "{% set s = 'a' * 9000000 %}{{ s.replace('a', s) | length }}",
    "{% set s = 'a' * 9000000 %}{{ s | replace('a', s) | length }}",
    "{% set s = 'a' * 9000000 %}{{ s.join(s) | length }}",
    "{{ range(10**9) | list }}",
    "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(99) }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% for k in messages recursive %}{{ loop(messages) }}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "x" * 1_000_001,
)


@pytest.mark.parametrize("source", GREEDY, ids=range(len(GREEDY)))
def test_greedy_templates_come_to_an_end(source: str) -> None:
    began = time.process_time()
    with pytest.raises(CheckpointError, match="the template"):
        rendered(source)
    assert time.process_time() - began < 30


@given(st.text("{}%()[]'\"|~.*+_-<>= abfnx01", max_size=30))
def test_any_text_is_a_template_or_an_error(source: str) -> None:
    with contextlib.suppress(DllmFastError):
        assert isinstance(rendered(source), str)


@pytest.mark.parametrize("messages", [[{"content": "x"}], [{"role": 5, "content": "x"}], ["text"], [None]])
def test_messages_of_a_wrong_form(messages: Any) -> None:
    with pytest.raises(InvalidTypeError, match="a message must be a mapping with role and content"):
        rendered("x", messages)


def test_messages_hold_plain_data_only() -> None:
    with pytest.raises(InvalidTypeError, match="a chat template takes strings, numbers, lists and mappings, got ndarray"):
        rendered("x", [{"role": "user", "content": np.ones(2)}])
    with pytest.raises(InvalidValueError, match="messages must hold at least one"):
        rendered("x", [])


# Conversations as prompts


def test_one_conversation_and_several(folder: Path) -> None:
    tokenizer = opened(folder)
    expected = tokenizer.apply_chat_template(HELLO)
    ids = text.prompts(HELLO, tokenizer, "prompt")
    assert [row.ids.tolist() for row in ids] == [expected]
    ids = text.prompts([HELLO, "plain", [1, 2], tuple(HELLO)], tokenizer, "prompt")
    assert [row.ids.tolist() for row in ids] == [expected, tokenizer.encode("plain"), [1, 2], expected]


def test_tokenizers_of_transformers_give_the_same_ids(folder: Path) -> None:
    theirs = stock(folder)
    expected = opened(folder).apply_chat_template(HELLO)
    assert text.prompts(HELLO, theirs, "prompt")[0].ids.tolist() == expected

    class Older:
        """transformers 4 returns a list."""

        chat_template = "x"

        def apply_chat_template(self, messages: object, *, add_generation_prompt: bool) -> list[int]:
            assert add_generation_prompt
            return expected

    assert text.prompts([HELLO], Older(), "prompt")[0].ids.tolist() == expected


def test_messages_without_a_template(folder: Path) -> None:
    change_settings(folder, chat_template=...)
    for tokenizer in (None, checkpoints.byte_tokenizer(), opened(folder), stock(folder)):
        with pytest.raises(InvalidValueError, match="messages need a tokenizer with a chat template, got"):
            text.prompts(HELLO, tokenizer, "prompt")
    with pytest.raises(InvalidTypeError, match="a canvas is filled in place, got messages"):
        text.prompts(HELLO, opened(folder), "canvas")


def test_sample_takes_messages(folder: Path) -> None:
    tokenizer = opened(folder)
    logits = np.zeros(260, dtype=np.float32)
    logits[ord("!") - 33] = 5.0  # the first of the byte alphabet
    answer = dllm_fast.sample(
        lambda ids: np.broadcast_to(logits, (*ids.shape, 260)), HELLO, tokenizer=tokenizer, max_new_tokens=3
    )
    assert answer.text == "!!!"


@given(text=st.text(max_size=60))
@example(text="I'll say:  it's 1234 \n\n  naïve café\u0301  你好!?\t")
def test_the_parts_of_a_qwen_tokenizer(qwen, text):
    """Dream's folders hold `vocab.json` and `merges.txt` instead of `tokenizer.json`."""
    ours, stock = qwen
    assert ours.encode(text) == stock.encode(text)
    assert ours.mask_token_id == stock.convert_tokens_to_ids("<|mask|>")
    assert ours.decode(ours.encode(text)) == stock.decode(stock.encode(text))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("qwen")
    trained = tokenizers.ByteLevelBPETokenizer()
    trained.train_from_iterator(["it's the café, I'll say 12 34", "  two  spaces\n"] * 3, vocab_size=300, show_progress=False)
    trained.save_model(str(folder))
    size = trained.get_vocab_size()
    added = {str(size): {"content": "<|endoftext|>", "special": True}, str(size + 1): {"content": "<|mask|>", "special": True}}
    settings = {"tokenizer_class": "DreamTokenizer", "added_tokens_decoder": added}
    checkpoints.write_json(
        folder / "tokenizer_config.json", settings | {"mask_token": "<|mask|>", "eos_token": "<|endoftext|>"}
    )
    stock = transformers.Qwen2Tokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), unk_token=None, eos_token="<|endoftext|>", pad_token=None
    )
    stock.add_special_tokens({"mask_token": "<|mask|>"})
    return Tokenizer.from_folder(folder), stock


def test_parts_that_are_missing_or_broken(tmp_path):
    checkpoints.write_json(tmp_path / "tokenizer_config.json", {"tokenizer_class": "Qwen2Tokenizer"})
    assert Tokenizer.from_folder(tmp_path) is None
    checkpoints.write_json(tmp_path / "vocab.json", {"a": 0})
    with pytest.raises(CheckpointError, match=r"merges.txt is missing or no file"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "merges.txt").write_text("a b c d\n")
    with pytest.raises(CheckpointError, match=r"cannot read .*vocab.json and merges.txt"):
        Tokenizer.from_folder(tmp_path)
