"""Another thread may be importing a module that we look for: then it is there, and half empty."""

from __future__ import annotations

import sys
import types

import numpy as np
import pytest

import dllm_fast
from dllm_fast import arrays, errors, records, tensors
from dllm_fast.text import tokens


@pytest.mark.parametrize("name", ["torch", "numpy.ma", "numpy", "tokenizers", "tokenizers.implementations"])
def test_a_module_that_is_being_imported_has_no_instances_yet(monkeypatch, name):
    logits = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    expected = dllm_fast.mask_predict(logits, temperature=1.0, seed=1).token.tolist()

    class Tokenizer:
        encode = decode = staticmethod(list)

    tokenizer = Tokenizer()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, name, types.ModuleType(name))
        assert dllm_fast.mask_predict(logits, temperature=1.0, seed=1).token.tolist() == expected
        assert not tensors.is_tensor(logits)
        assert arrays.unmasked(logits, "logits") is logits
        assert records.scalar("text") == "text"
        assert errors.shown([1, 2]) == "[1, 2]"
        assert tokens.unlimited(tokenizer) is tokenizer
