"""What may be given as a verifier, what it is refused beside, and what a run with one tells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import DllmFastError, SamplerConfig
from strategies import MASK, VOCABULARY
from toys import HashTable

ASKED = {"preset": "apd", "mask_token_id": MASK, "max_new_tokens": 4, "stop_at_eos": False}
model = HashTable(VOCABULARY, 2)


def never(ids):
    raise AssertionError("a forward")


class Right:
    """A verifier that says the same whatever it reads."""

    def __call__(self, ids):
        return torch.zeros(*ids.shape, VOCABULARY)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"verifier_mixture": -0.1}, r"verifier_mixture must lie in \[0, 1\], got -0\.1; 0\.7 is"),
        ({"verifier_mixture": float("nan")}, r"verifier_mixture must lie in \[0, 1\], got NaN"),
        ({"verifier_mixture": "half"}, "verifier_mixture must be a number, got 'half'"),
        ({"order": "confidence"}, "agree on, got another order or order_temperature beside it; use order='left-to-right'"),
        ({"steps": 4}, "got steps, a schedule or min_commit beside it; leave those out"),
        ({"min_commit": 2}, "got steps, a schedule or min_commit beside it"),
        ({"edit_threshold": 0.5}, "got a rule that revises, gap_stop or credit beside it"),
        ({"remask": "low-confidence"}, "got a rule that revises, gap_stop or credit beside it"),
        ({"drafts": True, "noise": "uniform", "mask_token_id": None, "steps": 3}, "beside it"),
        ({"noise": "uniform", "mask_token_id": None}, "got drafts, a reach beyond the block or noise beside it"),
        ({"sub_block_length": 2}, "got drafts, a reach beyond the block or noise beside it"),
        ({"eos_policy": "delay", "eos_token_id": 1}, "got an eos_policy of 'suffix' or 'delay' beside it"),
        ({"temperature": 1.0, "temperature_end": 0.5}, "got position_penalty, spacing or temperature_end beside it"),
        ({"as_published": True}, "got as_published beside it; leave it out: at temperature 0 the published loop is this rule"),
        ({"threshold": 0.5}, "at most one of threshold, factor, .* or verify or verifier_mixture"),
        ({"verify": True}, "at most one of threshold, factor, .* or verify or verifier_mixture"),
        ({"guidance": 1.0}, r"verifier_mixture mixes the logits of two models, got guidance=1\.0 beside it; leave one out"),
    ],
)
def test_what_means_nothing_beside_it_is_refused(settings, says):
    with pytest.raises(DllmFastError, match=says):
        SamplerConfig(**{"order": "left-to-right", "verifier_mixture": 0.5, "mask_token_id": MASK, **settings})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, r"verifier_mixture=0\.7 mixes the logits of two models, got no second one; pass verifier="),
        ({"verifier": never, "preset": "llada"}, "a verifier is asked under verifier_mixture alone, got function without it"),
        ({"verifier": 3}, "verifier must be a model or a callable from ids .*, got 3; load it first"),
        ({"verifier": dllm_fast.demo.load()[0]}, "a verifier reads from left to right, got .* with attention 'full'"),
        ({"verifier": "/nowhere/at/all"}, "/nowhere/at/all"),
        (
            {"verifier": never, "window_length": None, "eligible_after": {1: [0]}},
            "verifier_mixture commits from left to right, got eligible_after",
        ),
        ({"verifier": never, "threshold": 0.5}, "a verifier is asked under verifier_mixture alone"),
    ],
)
def test_verifiers_that_cannot_be_are_refused_before_any_forward(given, says):
    with pytest.raises(DllmFastError, match=says):
        dllm_fast.sample(never, [1, 2], **ASKED | given)


class Told(torch.nn.Module):
    """A module that says how many ids and how much room it has."""

    def __init__(self, vocabulary=VOCABULARY, context=None):
        super().__init__()
        self.config = {"vocab_size": vocabulary, "max_position_embeddings": context}
        self.vocabulary = vocabulary
        self.seen = []

    def forward(self, ids):
        self.seen.append(ids.tolist())
        return torch.zeros(*ids.shape, self.vocabulary)


class Words:
    """A tokenizer of words."""

    def __init__(self, words):
        self.words = words

    def get_vocab(self):
        return {word: i for i, word in enumerate(self.words)}

    def encode(self, text, **_):
        return [self.words.index(word) for word in text.split()]

    def decode(self, ids, **_):
        return " ".join(self.words[i] for i in ids)

    def __len__(self):
        return len(self.words)


def test_another_vocabulary_is_refused():
    says = "a verifier must know the tokens of the model, got 7 ids for 9; use one with the same vocabulary, or pass tokenizer="
    with pytest.raises(DllmFastError, match=says):
        dllm_fast.sample(Told(9), [1, 2], verifier=Told(7), **ASKED | {"mask_token_id": 6})
    words = [f"w{i}" for i in range(8)]
    with pytest.raises(DllmFastError, match=r"got 7 ids for 9; use one with the same vocabulary$"):
        dllm_fast.sample(Told(9), [1, 2], verifier=Told(7), tokenizer=Words(words), **ASKED | {"mask_token_id": 6})
    with pytest.raises(DllmFastError, match="got logits with 5 columns for"):
        dllm_fast.sample(model, [1, 2], verifier=lambda ids: torch.zeros(*ids.shape, 5), **ASKED)


@pytest.mark.parametrize("sizes", [(9, 7), (7, 9)])
def test_ids_that_no_tokenizer_has_may_be_more_of_one(sizes):
    """Tables are padded to other sizes, as those of Dream and Qwen2.5 are."""
    own, others = map(Told, sizes)
    words = Words([f"w{i}" for i in range(7)])
    result = dllm_fast.sample(own, [1, 2], verifier=others, tokenizer=words, **ASKED | {"mask_token_id": 6})
    assert max(result.new_tokens[0]) < 6
    assert {len(row) for ids in others.seen for row in ids} == {5}, "what stands at the last position is not read"


def test_two_tokenizers_must_agree(tmp_path):
    from dllm_fast.verifiers import _check_tokenizers

    with pytest.raises(DllmFastError, match=r"tokenizers that differ in 2 ids \(id 1 is 'b' and 'x', 2 is 'c' and 'y'\)"):
        _check_tokenizers(Words(["a", "b", "c"]), Words(["a", "x", "y", "z"]))
    _check_tokenizers(Words(["a", "b"]), Words(["a", "b", "mask"]))
    _check_tokenizers(None, Words(["a"]))


def test_a_canvas_longer_than_its_context_is_refused():
    with pytest.raises(DllmFastError, match="must read the whole canvas, got one of 6 tokens for a context of 5; shorten it"):
        dllm_fast.sample(never, [1, 2], verifier=Told(context=5), **ASKED)


def test_what_a_verifier_raises_says_that_it_was_the_verifiers():
    def broken(ids):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as raised:
        dllm_fast.sample(model, [1, 2], verifier=broken, **ASKED)
    assert "dllm_fast: that was the verifier's" in raised.value.__notes__


def test_both_models_count():
    calls = {"model": 0, "verifier": 0}

    def counted(name, of):
        def call(ids):
            calls[name] += 1
            return of(ids)

        return call

    events = []
    result = dllm_fast.sample(
        counted("model", model),
        [1, 2],
        verifier=counted("verifier", Right()),
        on_step=lambda event: events.append(event) and None,
        **ASKED,
    )
    assert calls["model"] == calls["verifier"]
    assert result.stats.nfe == calls["model"] + calls["verifier"] == result.stats.nfe_per_row[0] == len(events)
    written = [len(event.positions[0]) for event in events]
    assert not any(written[::2])
    assert sum(written) == 4
    assert all(written[1::2])


def test_a_canvas_is_filled_from_left_to_right_and_the_verifier_reads_what_is_before_a_gap():
    seen = []

    def verifier(ids):
        seen.append(ids.tolist())
        return torch.zeros(*ids.shape, VOCABULARY)

    canvas = [MASK, 1, MASK, 2, MASK, 3]
    asked = {key: value for key, value in ASKED.items() if key != "max_new_tokens"}
    result = dllm_fast.infill(model, canvas, verifier=verifier, **asked)
    given = np.array(canvas) != MASK
    assert (result.sequences[0][given] == np.array(canvas)[given]).all()
    for call in seen:
        assert len(call[0]) <= 4
        assert call[0][1::2] == [1, 2][: len(call[0]) // 2]


def test_a_rule_of_the_caller_takes_the_place_of_a_presets():
    from dllm_fast.settings.resolve import resolve

    assert resolve("apd", None, {"threshold": 0.8}).config.verifier_mixture is None
    assert resolve("fast-dllm", None, {"verifier_mixture": 0.5, "order": "left-to-right"}).config.threshold is None


def test_generate_takes_one():
    ids = torch.tensor([[1, 2]])
    asked = {"preset": "apd", "mask_token_id": MASK, "max_new_tokens": 4}
    found = dllm_fast.generate(model, ids, verifier=Right(), **asked)
    assert found[0].tolist() == dllm_fast.sample(model, [1, 2], verifier=Right(), **asked).sequences[0].tolist()
