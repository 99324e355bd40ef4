"""Text around masks reads as it was written once the masks are filled, whatever the tokenizer."""

from __future__ import annotations

import re
from typing import Any

import pytest
import tokenizers
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dllm_fast.text import masks
from dllm_fast.text.masks import MASK
from text_models import byte_level, mask_of, metaspace, prepended, word_piece

TOKENIZERS = {
    "byte-level": byte_level(),
    "byte-level, prefix": byte_level(prefix=True),
    "byte-level, lstrip": byte_level(lstrip=True, closed=True),
    "metaspace, always": metaspace("always"),
    "metaspace, first": metaspace("first"),
    "metaspace, never": metaspace("never"),
    "metaspace, always, closed": metaspace("always", closed=True),
    "unigram, always": metaspace("always", unigram=True),
    "unigram, first": metaspace("first", unigram=True),
    "prepended": prepended(),
    "WordPiece": word_piece(),
}
# Whole words, pieces and signs of the corpus, so that every one of these vocabularies can write them.
WORDS = ["Paris", "is", "the", "capital", "of", "un", "able", "s", "1", ".", ",", ":", "(", "words", "a"]
written = st.lists(
    st.tuples(st.sampled_from([MASK, MASK, *WORDS]), st.sampled_from(["", " ", " "])), min_size=1, max_size=9
).map(lambda parts: "".join(word + space for word, space in parts))


def canvas(text: str, tokenizer: tokenizers.Tokenizer) -> list[int]:
    ids = masks.canvas(text, tokenizer, mask_of(tokenizer))
    assert ids.count(mask_of(tokenizer)) == text.count(MASK), "one mask for each, and no other"
    return ids


def filled(ids: list[int], tokenizer: tokenizers.Tokenizer, fillers: list[list[int]]) -> str:
    """The text with each mask replaced by some ids."""
    left = iter(fillers)
    full = [token for i in ids for token in (next(left) if i == mask_of(tokenizer) else [i])]
    return str(tokenizer.decode(full, skip_special_tokens=True))


def filler(tokenizer: tokenizers.Tokenizer, kind: str, before: str, *, first: bool) -> list[int]:
    """How the tokenizer writes `is` behind a piece of text: with the space before it, or as a part of the word."""
    if kind == "WordPiece":
        begins = not before[-1:].isalnum() if before else first
        return tokenizer.encode("is", add_special_tokens=False).ids if begins else masks.continued(tokenizer, "is")
    return masks.continued(tokenizer, " is" if before.endswith(" ") else "is")


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=written)
@example(text=f"Paris is the {MASK} of Paris.")
@example(text=f"un{MASK}able")
@example(text=f"{MASK} {MASK}{MASK} is {MASK}")
@example(text=f"{MASK}s, {MASK}.")
@example(text=f"{MASK}")
@example(text=f" {MASK}able ")
def test_filled_with_words_it_reads_as_written(kind: str, text: str) -> None:
    """Each mask is filled as a model would: with a word that brings its space where one was written before the mask."""
    tokenizer = TOKENIZERS[kind]
    pieces = text.split(MASK)
    # Two masks with nothing between are one word and its continuation.
    fillers = [filler(tokenizer, kind, piece, first=i == 0) for i, piece in enumerate(pieces[:-1])]
    found = filled(canvas(text, tokenizer), tokenizer, fillers)
    whole = tokenizer.encode("is".join(pieces)).ids
    assume(tokenizer.token_to_id("[UNK]") not in whole)  # a word whose pieces the small vocabulary lacks
    expected = tokenizer.decode(whole, skip_special_tokens=True)
    squeeze = (lambda line: re.sub(r"\s+", " ", line).strip()) if kind == "WordPiece" else str
    if kind != "WordPiece" and not pieces[0].strip():
        expected, found = expected.lstrip(), found.lstrip()  # what begins a text is another matter than what surrounds a mask
    if kind == "byte-level, lstrip":
        # Its mask takes all space before it, as in its own fill-mask; here that is at most one.
        assert found == expected
    assert squeeze(found) == squeeze(expected)


@pytest.mark.parametrize("kind", TOKENIZERS)
@given(text=written)
def test_the_pieces_decode_to_what_was_written(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    if kind == "WordPiece":
        return  # no spaces in its ids; the test above reads them
    mask = mask_of(tokenizer)
    pieces, ids = text.split(MASK), canvas(text, tokenizer)
    ids = [i for i in ids if i == mask or i not in {t for t, a in tokenizer.get_added_tokens_decoder().items() if a.special}]
    groups: list[list[int]] = [[]]
    for token in ids:
        if token == mask:
            groups.append([])
        else:
            groups[-1].append(token)
    anchor = tokenizer.encode("x", add_special_tokens=False).ids
    begin = tokenizer.decode(anchor)
    for i, (piece, group) in enumerate(zip(pieces, groups, strict=True)):
        wanted = piece.removesuffix(" ") if i + 1 < len(pieces) else piece
        if i:
            assert tokenizer.decode(anchor + group) == begin + wanted
        else:
            assert tokenizer.decode(group).strip() == wanted.strip()


@given(text=written)
def test_a_mask_that_takes_its_space_does_so_as_in_its_own_fill_mask(text: str) -> None:
    """RoBERTa's `<mask>` has lstrip=True: the ids are those of the tokenizer for the text with its own mask."""
    transformers = pytest.importorskip("transformers")
    own = TOKENIZERS["byte-level, lstrip"]
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=own, mask_token="<mask>")
    spelled = text.replace(MASK, "<mask>")
    assert canvas(text, own) == own.encode(spelled).ids == theirs(spelled)["input_ids"]
    assert masks.canvas(spelled, theirs, mask_of(own)) == canvas(text, own)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("byte-level", "Paris is the [MASK] of", ["Paris", "Ġis", "Ġthe", "<mask>", "Ġof"]),
        ("byte-level", "a  [MASK]\n[MASK]", ["a", "Ġ", "<mask>", "Ċ", "<mask>"]),
        ("metaspace, always", "un[MASK]able", ["▁un", "<mask>", "able"]),
        ("metaspace, always, closed", "[MASK] [MASK] is [MASK]", ["<s>", "<mask>", "<mask>", "▁is", "<mask>", "</s>"]),
        ("prepended", "is the [MASK] of [MASK]able", ["▁is", "▁the", "<mask>", "▁of", "<mask>", "able"]),
        ("WordPiece", "un[MASK]able the [MASK].", ["[CLS]", "un", "[MASK]", "##able", "the", "[MASK]", ".", "[SEP]"]),
    ],
)
def test_by_hand(kind: str, text: str, expected: list[str]) -> None:
    tokenizer = TOKENIZERS[kind]
    assert [tokenizer.id_to_token(i) for i in canvas(text, tokenizer)] == expected


def test_a_mask_that_is_a_word_like_any_other() -> None:
    tokenizer: Any = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[MASK]": 0, "a": 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    assert masks.canvas("a [MASK] a a[MASK]", tokenizer, 0) == [1, 0, 1, 1, 0]


def test_a_mask_without_a_text_is_surrounded_all_the_same() -> None:
    """Its id lies outside of the tokenizer; what opens and closes a text is there nevertheless."""
    tokenizer: Any = TOKENIZERS["WordPiece"]
    ids = masks.canvas("Paris is the [MASK] of", tokenizer, 999)
    assert [tokenizer.id_to_token(i) or "-" for i in ids] == ["[CLS]", "paris", "is", "the", "-", "of", "[SEP]"]
