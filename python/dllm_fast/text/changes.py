"""What the files beside a tokenizer change of it, as plain data, so that a child process can be told of the same changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from dllm_fast.errors import CheckpointError, shown
from dllm_fast.text import vocabulary

# Settings that say how a text is split.
SPLITTING = ("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space")


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """All of it is plain data: texts, numbers, flags, lists and dictionaries.

    Attributes:
        kind: class of the tokenizer whose settings come before those of `tokenizer.json`, or None.
        settings: what the folder says of splitting.
        added: of each added token its id, its text, and its flags.
        special: texts of tokens that are special.
        file: in errors, where the added tokens are listed.
    """

    kind: str | None
    settings: Mapping[str, Any]
    added: Sequence[tuple[int, str, Mapping[str, bool]]]
    special: Sequence[str]
    file: str

    def apply(self, backend: tokenizers.Tokenizer) -> None:
        """Makes the changes.

        Raises:
            CheckpointError: the ids of added tokens do not come out as they are listed.
        """
        # Files are often saved with the truncation of their training, which would silently cut a prompt.
        backend.no_truncation()
        backend.no_padding()
        kind = vocabulary.kind_of(self.kind)
        if kind is not None:
            vocabulary.adjust(backend, kind, self.settings)
        self._add(backend)
        # A special token is found in a text as a whole, and left out when ids are decoded.
        there = {token.content for token in backend.get_added_tokens_decoder().values() if token.special}
        backend.add_special_tokens(
            [text for text in self.special if text not in there and backend.token_to_id(text) is not None]
        )

    def _add(self, backend: tokenizers.Tokenizer) -> None:
        """Adds what is listed and the tokenizer lacks; the ids must come out as listed.

        All at once: each call of `add_tokens` builds anew what finds the added tokens in a text.
        """
        there = {token.content for token in backend.get_added_tokens_decoder().values()}
        fresh: dict[str, tuple[int, tokenizers.AddedToken]] = {}
        for number, text, flags in self.added:
            if text in there:
                continue
            there.add(text)
            if backend.token_to_id(text) in (None, number):  # of another id, the file of the vocabulary knows better
                fresh[text] = number, tokenizers.AddedToken(text, **flags)
        backend.add_tokens([token for _, token in fresh.values()])
        for text, (number, _) in fresh.items():
            if (found := backend.token_to_id(text)) != number:
                raise CheckpointError(
                    f"{self.file}: the token {shown(text)} must get the id {number}, got {found} behind the ids of the "
                    "vocabulary; fetch both again"
                )
