"""Text in and text out: what closes a text, special tokens, text that nobody knows, padding, conversations."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch

import checkpoints
import dllm_fast
import text_models
from dllm_fast.errors import InvalidTypeError, InvalidValueError, UnknownTextWarning
from dllm_fast.loading.model import LoadedModel
from dllm_fast.text import prompts as text
from dllm_fast.text import tokens
from dllm_fast.text.tokenizer import Tokenizer

PROMPT = "Paris is the"


@pytest.fixture(scope="module", params=["bert", "roberta"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_models.save(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return dllm_fast.load(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return dllm_fast.load(text_models.save(tmp_path_factory.mktemp("bert"), "bert", context=32))


def ours(model: LoadedModel) -> Tokenizer:
    assert model.tokenizer is not None
    return model.tokenizer


def three(folder: Path) -> list[Any]:
    """Our tokenizer of a folder, that of `tokenizers`, and that of transformers."""
    own = Tokenizer.from_folder(folder)
    return [own, tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")), stock(folder)]


def stock(folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(folder)


# What closes a text


def test_the_masks_stand_before_what_closes_a_text(folder: Path, model: LoadedModel) -> None:
    for tokenizer in three(folder):
        whole = tokens.ids(tokenizer.encode(PROMPT))
        result = dllm_fast.sample(model, PROMPT, tokenizer=tokenizer, max_new_tokens=4, stop_at_eos=False)
        written = result.sequences[0].tolist()
        assert (written[:-5], written[-1:]) == (whole[:-1], whole[-1:])
        assert result.new_tokens[0].tolist() == written[-5:-1]
        mask = model.mask_token_id
        canvas = dllm_fast.infill(model, [*whole[:-1], mask, mask, mask, mask, whole[-1]], tokenizer=tokenizer)
        assert canvas.sequences[0].tolist() == written
        assert [e.position for e in canvas.trajectory[0]] == [e.position for e in result.trajectory[0]]


def test_ids_are_taken_as_they_are(model: LoadedModel) -> None:
    ids = ours(model).encode(PROMPT)
    result = dllm_fast.sample(model, ids, max_new_tokens=2)
    assert result.sequences[0][:-2].tolist() == ids
    assert result.sequences[0].tolist() != dllm_fast.sample(model, PROMPT, max_new_tokens=2).sequences[0].tolist()


def test_a_closing_token_counts_in_the_context(bert: LoadedModel) -> None:
    assert len(ours(bert).encode(PROMPT)) == 5
    assert len(dllm_fast.sample(bert, PROMPT, max_new_tokens=27).sequences[0]) == 32
    assert len(dllm_fast.sample(bert, PROMPT).sequences[0]) == 32
    with pytest.raises(InvalidValueError, match=r"fit the model's context of 32 tokens, got 5 \+ 28"):
        dllm_fast.sample(bert, PROMPT, max_new_tokens=28)


@pytest.mark.parametrize(
    ("written", "ids", "tail"),
    [
        ("is", ["[CLS]", "is"], ["[SEP]"]),
        ("is [SEP]", ["[CLS]", "is", "[SEP]"], ["[SEP]"]),
        ("[SEP]", ["[CLS]", "[SEP]"], ["[SEP]"]),
        ("[CLS][SEP][CLS][SEP]", ["[CLS]", "[CLS]", "[SEP]", "[CLS]", "[SEP]"], ["[SEP]"]),
        ("[CLS]", ["[CLS]", "[CLS]"], ["[SEP]"]),
        ("", ["[CLS]"], ["[SEP]"]),
    ],
)
def test_what_is_written_is_not_what_is_added(written: str, ids: list[str], tail: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    plain = text_models.word_piece()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=plain)
    for tokenizer in (plain, fast, Tokenizer(plain, special_tokens={}, templates={})):
        (prompt,) = text.prompts(written, tokenizer, "prompt")
        assert [plain.id_to_token(i) for i in prompt.ids.tolist()] == ids
        assert [plain.id_to_token(i) for i in prompt.tail.tolist()] == tail


def test_tokenizers_in_python_and_other_ends(tmp_path: Path) -> None:
    """ByT5 and ESM have no fast tokenizer. Others add nothing, or a beginning only."""
    transformers = pytest.importorskip("transformers")
    byt5 = transformers.ByT5Tokenizer()
    (prompt,) = text.prompts("ab", byt5, "prompt")
    assert (prompt.ids.tolist(), prompt.tail.tolist()) == (byt5.encode("ab")[:-1], [byt5.eos_token_id])
    (tmp_path / "vocab.txt").write_text("<cls>\n<pad>\n<eos>\n<unk>\nL\nA\n<mask>\n")
    esm = transformers.EsmTokenizer(str(tmp_path / "vocab.txt"))
    (prompt,) = text.prompts("LA", esm, "prompt")
    assert (prompt.ids.tolist(), prompt.tail.tolist()) == ([0, 4, 5], [2])
    assert tokens.not_written(esm, {6}, None) == (0, 1, 3)
    with pytest.raises(InvalidValueError, match="got 'X'"):  # for which ESM's own look-up answers <unk>
        tokens.ids_of(("X",), esm, "suppress_tokens")
    (prompt,) = text.prompts("a", checkpoints.byte_tokenizer(), "prompt")
    assert (prompt.ids.size, prompt.tail.size) == (1, 0)
    opened = checkpoints.byte_tokenizer()
    opened.post_processor = tokenizers.processors.TemplateProcessing(single="<|eot|> $A", special_tokens=[("<|eot|>", 258)])
    (prompt,) = text.prompts("a", opened, "prompt")
    assert (prompt.ids.size, prompt.tail.size) == (2, 0)


def closing(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer of the embedded text model, closing each text with [EOS]."""
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", 2)])
    return tokenizer


def test_a_trained_model_answers_before_the_closing_token() -> None:
    """The given [EOS] is no answer: it neither ends the row nor is it shown."""
    model, tokenizer = dllm_fast.demo.load_text()
    result = dllm_fast.sample(model, "sort:hagbd=", tokenizer=closing(tokenizer), max_new_tokens=16)
    assert result.text == "abdgh"
    assert result.sequences[0][-1] == result.config.eos_token_ids[0] == 2
    assert len(result.sequences[0]) == len("sort:hagbd=") + 16 + 1
    full = dllm_fast.sample(model, "sort:hagbd=", tokenizer=tokenizer, max_new_tokens=5)
    assert (full.text, full.new_tokens[0].size) == ("abdgh", 5)
    (batch,) = [dllm_fast.sample(model, ["sort:hagbd=", "reverse:ab="], tokenizer=tokenizer, max_new_tokens=16).texts]
    assert batch == ["abdgh", "ba"]


def test_rows_stop_at_the_end_that_the_model_says() -> None:
    model, _ = dllm_fast.demo.load_text()
    text = "sort:hagbd=" + "[MASK]" * 9
    assert dllm_fast.infill(model, text, stop_at_eos=True).text == "sort:hagbd=abdgh"
    assert dllm_fast.sample(model, "sort:hagbd=", max_new_tokens=9, stop_at_eos=True).text == "abdgh"
    for run in (dllm_fast.sample, dllm_fast.infill):
        with pytest.raises(InvalidValueError, match="stop_at_eos needs an eos_token_id, got none"):
            run(shy(1, size=9), [7, 8], mask_token_id=4, stop_at_eos=True)


# Special tokens


def shy(*favourites: int, size: int) -> Any:
    """A model that would write these tokens everywhere, the first one most."""
    logits = np.zeros(size, dtype=np.float32)
    logits[list(favourites)] = np.arange(len(favourites), 0, -1)
    return lambda ids: np.broadcast_to(logits, (*ids.shape, size))


def test_special_tokens_are_not_written_unless_they_may(bert: LoadedModel) -> None:
    transformers = pytest.importorskip("transformers")
    folder_tokenizer = ours(bert)
    size, word = folder_tokenizer.vocabulary, folder_tokenizer.encode("paris")[1]
    model = shy(1, 0, 2, 3, word, size=size)
    both = [
        folder_tokenizer,
        text_models.word_piece(),
        transformers.PreTrainedTokenizerFast(tokenizer_object=text_models.word_piece()),
    ]
    for tokenizer in both:
        for call, given in (
            (dllm_fast.sample, PROMPT),
            (dllm_fast.sample, [7]),
            (dllm_fast.infill, "is [MASK]"),
            (dllm_fast.infill, [7, 4]),
        ):
            more: dict[str, Any] = {"tokenizer": tokenizer, "mask_token_id": 4}
            more |= {"max_new_tokens": 1} if call is dllm_fast.sample else {}
            result = call(model, given, **more)
            assert result.new_tokens[0].tolist() == [word]
            assert result.config.sources["suppress_tokens"] == (
                "tokenizer: [PAD], [UNK], [CLS], [SEP] (special; allow_special=True lets them be written)"
            )
            assert result.config.suppress_tokens == ()
            for allowed in ({"allow_special": True}, {"as_published": True}):
                written = call(model, given, **more, **allowed)
                assert written.new_tokens[0].tolist() == [1]
                assert written.text.endswith("[UNK]"), "what was written is shown"
                assert "[CLS]" not in written.text, "what was given is not"
            kept = call(model, given, **more, as_published=True, allow_special=False)
            assert kept.new_tokens[0].tolist() == [word]


def test_nothing_is_known_without_a_tokenizer() -> None:
    result = dllm_fast.sample(shy(1, 0, size=9), [7], mask_token_id=4, max_new_tokens=1)
    assert result.new_tokens[0].tolist() == [1]
    assert result.config.sources["suppress_tokens"] == "default"


def test_end_tokens_are_written(tmp_path: Path) -> None:
    tokenizer = checkpoints.byte_tokenizer()
    for end in (257, (257, 258)):
        ended = dllm_fast.sample(
            shy(257, 33, size=260), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=3, eos_token_id=end
        )
        assert ended.new_tokens[0].tolist() == [257]
    other = dllm_fast.sample(
        shy(258, 33, size=260), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=3, eos_token_id=(257, 258)
    )
    assert (other.new_tokens[0].tolist(), other.text) == ([258], "")
    kept = dllm_fast.sample(
        shy(258, 33, size=260),
        "a",
        tokenizer=tokenizer,
        mask_token_id=259,
        max_new_tokens=2,
        eos_token_id=258,
        stop_at_eos=False,
    )
    assert kept.text == "<|eot|><|eot|>", "nothing that was written is hidden"
    filled = dllm_fast.infill(
        shy(258, 33, size=260),
        "a[MASK]b[MASK]c",
        tokenizer=tokenizer,
        mask_token_id=259,
        eos_token_id=258,
        stop_at_eos=True,
        order="left-to-right",
    )
    assert filled.text == "abc", "what ended the row, and what fills the rest, is no text"
    filled = dllm_fast.infill(shy(258, size=260), "a[MASK]b", tokenizer=tokenizer, mask_token_id=259, eos_token_id=258)
    assert filled.text == "a<|eot|>b"


def test_the_end_of_a_turn_is_an_end() -> None:
    tokenizer = checkpoints.byte_tokenizer()
    tokenizer.add_special_tokens(["<|eot_id|>"])
    result = dllm_fast.sample(shy(260, 33, size=261), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=1)
    assert result.text == "<|eot_id|>"


def test_a_tokenizer_whose_tokens_are_all_special_says_nothing() -> None:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "[MASK]": 2}, unk_token="a"))
    tokenizer.add_special_tokens(["a", "b", "[MASK]"])
    result = dllm_fast.sample(shy(1, size=3), [0], tokenizer=tokenizer, max_new_tokens=1)
    assert result.new_tokens[0].tolist() == [1]


def test_another_mask_is_special_too() -> None:
    tokenizer = checkpoints.byte_tokenizer()
    tokenizer.add_special_tokens(["<|mdm_mask|>"])
    result = dllm_fast.sample(shy(260, 33, size=261), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=1)
    assert result.new_tokens[0].tolist() == [33]


def test_special_tokens_beyond_the_model() -> None:
    tokenizer = checkpoints.byte_tokenizer()
    tokenizer.add_special_tokens(["<|new|>"])
    with pytest.raises(InvalidValueError, match=r"special tokens .* got 260 for logits with 260 columns; .*allow_special=True"):
        dllm_fast.sample(shy(33, size=260), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=1)
    result = dllm_fast.sample(
        shy(33, size=260), "a", tokenizer=tokenizer, mask_token_id=259, max_new_tokens=1, allow_special=True
    )
    assert result.new_tokens[0].tolist() == [33]


def test_tokens_are_suppressed_by_name(bert: LoadedModel) -> None:
    paris = ours(bert).encode("paris")[1]
    words = [i for i in range(bert.info.vocabulary) if i not in (paris, 4)]
    for named in (["[UNK]", *words], ("[UNK]", *words), {"[UNK]", *words}):
        result = dllm_fast.sample(bert, PROMPT, max_new_tokens=1, suppress_tokens=named)
        assert result.new_tokens[0].tolist() == [paris]
        assert set(result.config.suppress_tokens) == {1, *words}
        assert result.config.sources["suppress_tokens"] == "caller", "there is no special token beside"
    once = dllm_fast.infill(bert, "is [MASK]", suppress_tokens="paris")
    assert once.config.sources["suppress_tokens"].startswith("caller; tokenizer: [PAD], [UNK], [CLS], [SEP] (special")
    assert once.config.suppress_tokens == (paris,)
    again = dllm_fast.infill(bert, "is [MASK]", config=once.config)
    assert again.new_tokens[0].tolist() == once.new_tokens[0].tolist()


def test_names_that_nobody_knows(bert: LoadedModel) -> None:
    with pytest.raises(InvalidValueError, match=r"must be tokens of the vocabulary, got '\[unk\]'; did you mean '\[UNK\]'\?"):
        dllm_fast.sample(bert, PROMPT, suppress_tokens=["[unk]"])
    with pytest.raises(InvalidValueError, match=r"got 'pariss'; did you mean 'paris'\?"):
        dllm_fast.sample(bert, PROMPT, suppress_tokens=[5, "pariss"])
    with pytest.raises(InvalidValueError, match=r"names of tokens in suppress_tokens need a tokenizer, got '\[UNK\]' and none"):
        dllm_fast.sample(shy(1, size=9), [7], mask_token_id=4, suppress_tokens=["[UNK]"])
    with pytest.raises(InvalidTypeError, match="allow_special must be True or False, got 'yes'"):
        dllm_fast.SamplerConfig(allow_special="yes")  # type: ignore[arg-type]


# Text that nobody knows


def test_unknown_text_is_said_once(bert: LoadedModel) -> None:
    with pytest.warns(UnknownTextWarning, match=r"does not know '%', '@@@': 5 tokens are \[UNK\]") as said:
        dllm_fast.sample(bert, ["Paris % is", "the @@@ %", "of"], max_new_tokens=1)
    assert len(said) == 1
    assert said[0].filename == __file__
    with pytest.warns(UnknownTextWarning, match=r"'%': 1 token is \[UNK\]"):
        dllm_fast.infill(bert, "Paris % [MASK]")


def test_an_unknown_token_that_was_written_is_meant(bert: LoadedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dllm_fast.sample(bert, "Paris [UNK] is", max_new_tokens=1)
        dllm_fast.infill(bert, "Paris [UNK] is [MASK]")
        dllm_fast.sample(bert, [1, 1, 1], max_new_tokens=1)


# Padding


def test_padding_is_no_prompt(bert: LoadedModel) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=text_models.word_piece(), pad_token="[PAD]")
    alone = [theirs(line)["input_ids"] for line in (PROMPT, "of")]
    expected = dllm_fast.sample(bert, alone, max_new_tokens=3)
    for side in ("left", "right"):
        padded = theirs([PROMPT, "of"], padding=True, padding_side=side, return_tensors="pt")
        given = (
            dllm_fast.sample(bert, padded, max_new_tokens=3),
            dllm_fast.sample(bert, padded["input_ids"], attention_mask=padded["attention_mask"], max_new_tokens=3),
            dllm_fast.sample(
                bert, padded["input_ids"].tolist(), attention_mask=padded["attention_mask"].tolist(), max_new_tokens=3
            ),
        )
        for found in given:
            assert [row.tolist() for row in found.sequences] == [row.tolist() for row in expected.sequences]
        row = padded["input_ids"][1]
        for bare in (padded["input_ids"], padded["input_ids"].numpy(), row, row.tolist(), [row.tolist()], [row]):
            with pytest.raises(InvalidValueError, match=r"rows of a prompt must not be padded, .*pass attention_mask="):
                dllm_fast.sample(bert, bare, max_new_tokens=3)
    canvas = torch.tensor([[2, 7, 4, 3], [4, 3, 0, 0]])
    with pytest.raises(
        InvalidValueError, match=r"rows of a canvas must not be padded, got 2 of the padding token 0 at the end"
    ):
        dllm_fast.infill(bert, canvas)
    filled = dllm_fast.infill(bert, canvas, attention_mask=(canvas != 0))
    assert [len(row) for row in filled.sequences] == [4, 2]


def of_file(tokenizer: tokenizers.Tokenizer, **limits: dict[str, Any]) -> tokenizers.Tokenizer:
    """A copy that pads, or cuts, as many a file says."""
    made = tokenizers.Tokenizer.from_str(tokenizer.to_str())
    for how, settings in limits.items():
        getattr(made, f"enable_{how}")(**settings)
    return made


@pytest.mark.parametrize(
    "limits",
    [
        {"padding": {"length": 20}},
        {"padding": {"length": 20, "direction": "left"}},
        {"padding": {"pad_to_multiple_of": 8}},
        {"truncation": {"max_length": 5}},
        {"truncation": {"max_length": 5, "direction": "left"}},
        {"padding": {"length": 8}, "truncation": {"max_length": 4, "stride": 1}},
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_is_neither_padded_nor_cut(kind: str, limits: dict[str, Any], tmp_path: Path) -> None:
    """Whatever a tokenizer was saved with; and it stays as its owner has it."""
    model = dllm_fast.load(text_models.save(tmp_path, kind))
    plain = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    made = of_file(plain, **limits)
    before = made.to_str()
    made.save(str(tmp_path / "tokenizer.json"))
    long = "Rome is the capital of Italy, and able people are"
    for tokenizer in (made, stock(tmp_path)):
        for prompt in (PROMPT, long, [long, PROMPT]):
            expected = dllm_fast.sample(model, prompt, tokenizer=plain, max_new_tokens=2, stop_at_eos=False)
            found = dllm_fast.sample(model, prompt, tokenizer=tokenizer, max_new_tokens=2, stop_at_eos=False)
            assert [row.tolist() for row in found.sequences] == [row.tolist() for row in expected.sequences]
            assert found.texts == expected.texts
        canvas = f"Paris is [MASK], {long} [MASK]"
        filled = [dllm_fast.infill(model, canvas, tokenizer=t).sequences[0].tolist() for t in (tokenizer, plain)]
        assert filled[0] == filled[1]
        seen = [dllm_fast.distributions(model, canvas, tokenizer=t) for t in (tokenizer, plain)]
        assert [one.position for one in seen[0]] == [one.position for one in seen[1]]
        assert dllm_fast.explain(model, tokenizer).notes == dllm_fast.explain(model, plain).notes
    assert made.to_str() == before


def test_a_tokenizer_that_changes_is_read_anew(bert: LoadedModel) -> None:
    made = of_file(text_models.word_piece(), padding={"length": 20})
    assert tokens.unlimited(made) is tokens.unlimited(made)
    made.add_tokens(["Paris"])
    assert tokens.ids(tokens.unlimited(made).encode("Paris", add_special_tokens=False)) == [made.token_to_id("Paris")]
    wrapped = tokenizers.implementations.BertWordPieceTokenizer({"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3})
    wrapped.enable_truncation(3)
    assert tokens.ids(tokens.unlimited(wrapped).encode("a a a a")) == [1, 3, 3, 3, 3, 2]


def test_one_that_cannot_be_copied_says_what_to_do(bert: LoadedModel) -> None:
    class Own:
        def pre_tokenize(self, text: Any) -> None:
            """A part in Python, which no file can hold."""

    made = of_file(text_models.word_piece(), padding={"length": 20})
    made.pre_tokenizer = tokenizers.pre_tokenizers.PreTokenizer.custom(Own())
    with pytest.raises(InvalidValueError, match=r"must neither pad nor cut .*call no_padding\(\) and no_truncation\(\)"):
        dllm_fast.sample(bert, PROMPT, tokenizer=made)


def test_masks_that_nobody_needs(bert: LoadedModel) -> None:
    with pytest.raises(InvalidValueError, match="attention_mask is for ids, got a prompt of text"):
        dllm_fast.sample(bert, PROMPT, attention_mask=[[1, 1]])
    both = {"input_ids": [[5, 6]], "attention_mask": [[1, 1]]}
    with pytest.raises(InvalidValueError, match="with an attention_mask of its own takes no other"):
        dllm_fast.sample(bert, both, attention_mask=[[1, 1]])
    with pytest.raises(InvalidValueError, match="got token_type_ids: segments other than 0"):
        dllm_fast.sample(bert, both | {"token_type_ids": [[0, 1]]})


# Conversations

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TRIMMING = TEMPLATE.replace("m.content", "m.content | trim")
ASKED = [{"role": "user", "content": "is it?"}]


def chatting(tmp_path: Path, template: str) -> tuple[Tokenizer, Any]:
    folder = checkpoints.write_tokenizer(tmp_path, template=template)
    own = Tokenizer.from_folder(folder)
    assert own is not None
    return own, stock(folder)


@pytest.mark.parametrize("template", [TEMPLATE, TRIMMING], ids=["plain", "trimming"])
@pytest.mark.parametrize("begun", ["It is", "It is ", " It\n", "", "<assistant>", "is it?"])
def test_the_last_message_of_the_assistant_goes_on(tmp_path: Path, template: str, begun: str) -> None:
    own, theirs = chatting(tmp_path, template)
    messages = [*ASKED, {"role": "assistant", "content": begun}]
    expected = theirs.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    assert own.apply_chat_template(messages, continue_final_message=True, tokenize=False) == expected
    assert expected.rstrip().endswith(begun.strip())
    for tokenizer in (own, theirs):
        (prompt,) = text.prompts(messages, tokenizer, "prompt")
        assert prompt.ids.tolist() == own.encode(expected)
        (asked,) = text.prompts([*messages, *ASKED], tokenizer, "prompt")
        assert own.decode(asked.ids.tolist()).endswith("<assistant>")


@pytest.mark.parametrize(
    "template", ["{{ messages[-1].content | upper }}", "{{ messages[0].content }}", "{{ messages[-1].content[3:] }}"]
)
def test_a_template_that_changes_the_message_cannot_go_on(tmp_path: Path, template: str) -> None:
    for tokenizer in chatting(tmp_path, template):
        with pytest.raises(InvalidValueError, match="does not write the last message as it is"):
            text.prompts([*ASKED, {"role": "assistant", "content": "It is"}], tokenizer, "prompt")


def test_chat_chooses_whether_a_string_is_templated(tmp_path: Path) -> None:
    own, theirs = chatting(tmp_path, TEMPLATE)
    for tokenizer in (own, theirs):

        def read(prompt: Any, chat: bool | None, tokenizer: Any = tokenizer) -> list[str]:
            return [own.decode(row.ids.tolist()) for row in text.prompts(prompt, tokenizer, "prompt", chat=chat)]

        assert read("is it?", None) == read("is it?", False) == ["is it?"]
        assert read("is it?", True) == read(ASKED, None) == read(ASKED, True) == ["<user>is it?\n<assistant>"]
        assert read(["is it?", ASKED], True) == read(ASKED, None) * 2
        with pytest.raises(InvalidValueError, match="got chat=False"):
            read(ASKED, False)
        with pytest.raises(InvalidValueError, match="chat=True is for text, got a prompt of ids"):
            read([1, 2], True)
        with pytest.raises(InvalidTypeError, match="chat must be True, False or None, got 'yes'"):
            read("is it?", "yes")  # type: ignore[arg-type]
    for without in (None, checkpoints.byte_tokenizer()):
        with pytest.raises(InvalidValueError, match=r"needs? a tokenizer"):
            text.prompts("is it?", without, "prompt", chat=True)


def test_explain_says_what_becomes_of_text(bert: LoadedModel, tmp_path: Path) -> None:
    said = dllm_fast.explain(bert).notes
    assert "no chat template: a string is taken as it is" in said
    assert "a text ends with [SEP], which stands behind the masks" in said
    assert "never written, unless allow_special=True: [PAD], [UNK], [CLS], [SEP]" in said
    model = dllm_fast.load(text_models.save(tmp_path, "roberta", template=TEMPLATE))
    table = str(dllm_fast.explain(model))
    assert "a string is taken as it is in Python (chat=True makes it a user's message of the chat template)" in table
    assert "on the command line (--no-chat takes it as it is)" in table
    assert "never written, unless allow_special=True: <s>, <pad>, <unk>" in table
