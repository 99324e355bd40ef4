"""True and False are no numbers: every whole number, number and id refuses them, and says what to pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dllm_fast
import text_models
from dllm_fast import SamplerConfig, _core
from dllm_fast.errors import InvalidTypeError
from dllm_fast.loading.model import LoadedModel

FLAGS = [True, False, np.True_, np.array(True), torch.tensor(False)]
NUMBERS = [f.name for f in dataclasses.fields(SamplerConfig) if "int" in str(f.type) or "float" in str(f.type)]
LOGITS = np.zeros((2, 5), dtype=np.float32)
CONFIG = SamplerConfig(mask_token_id=4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return text_models.save(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="module")
def model(folder: Path) -> LoadedModel:
    return dllm_fast.load(folder)


def test_all_numbers_are_looked_at() -> None:
    assert {"max_new_tokens", "eos_token_id", "suppress_tokens", "threshold", "top_k", "max_batch_rows"} <= set(NUMBERS)


@pytest.mark.parametrize("flag", FLAGS, ids=repr)
@pytest.mark.parametrize("name", NUMBERS)
def test_settings(model: LoadedModel, name: str, flag: Any) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be .*, got .*(True|False)"):
        SamplerConfig(**{name: flag})
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be .*, got .*(True|False)"):
        dllm_fast.sample(model, "Paris", **{name: flag})


@pytest.mark.parametrize("name", ["eos_token_id", "suppress_tokens"])
@pytest.mark.parametrize("ids", [[1, True], (np.False_,), {True}, ["[UNK]", False], np.array([True])], ids=repr)
def test_lists_of_ids(name: str, ids: Any) -> None:
    if name == "eos_token_id" and isinstance(ids, list) and "[UNK]" in ids:
        ids = [False]
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be token ids, .*got .*(True|False).*; \(\) says that there are"):
        SamplerConfig(**{name: ids})


Call = Callable[[Any], object]
CALLS: dict[str, Call] = {
    "seed": lambda flag: dllm_fast.sample(None, [1], seed=flag),
    "num_samples": lambda flag: dllm_fast.sample(None, [1], num_samples=flag),
    "top": lambda flag: dllm_fast.distributions(None, [1], top=flag),
    "masks": lambda flag: dllm_fast.schedule("even", flag, 1),
    "steps": lambda flag: dllm_fast.schedule("even", 4, flag),
    "eps": lambda flag: dllm_fast.schedule("dream", 4, 2, eps=flag),
    "max_rows": lambda flag: dllm_fast.Sampler(CONFIG, [[4]], max_rows=flag),
    "block_start": lambda flag: dllm_fast.Sampler(CONFIG, [[4]], block_start=flag),
    "every canvas": lambda flag: dllm_fast.Sampler(CONFIG, [[4, flag]]),
    "threads": _core.set_threads,
    **{
        name: lambda flag, name=name: dllm_fast.mask_predict(LOGITS, **{name: flag})
        for name in ("temperature", "top_k", "top_p", "min_p", "softcap", "request", "step")
    },
    **{
        name: lambda flag, name=name: dllm_fast.mask_predict(LOGITS, **{name: [flag, 1]})
        for name in ("suppress", "current", "positions")
    },
}


@pytest.mark.parametrize("flag", [True, np.False_], ids=repr)
@pytest.mark.parametrize("name", CALLS)
def test_arguments(name: str, flag: Any) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^{name} must .*, got .*(True|False)"):
        CALLS[name](flag)


@pytest.mark.parametrize("prompt", [[1, True], [[1, np.False_]], [(2, 5), (True, 5)], np.array([True]), torch.tensor([False])])
def test_ids(model: LoadedModel, prompt: Any) -> None:
    with pytest.raises(InvalidTypeError, match="prompt must hold integers, got"):
        dllm_fast.sample(model, prompt)


@pytest.mark.parametrize("flag", [*FLAGS, [True]], ids=repr)
@pytest.mark.parametrize("name", ["mask_token_id", "eos_token_ids", "block_length"])
def test_choices_for_a_checkpoint(folder: Path, name: str, flag: Any) -> None:
    with pytest.raises(InvalidTypeError, match=rf"^{name} must be .*whole numbers?, got .*(True|False)"):
        dllm_fast.load(folder, **{name: flag})
    assert dllm_fast.load(folder, mask_token_id=np.int64(4)).mask_token_id == 4
