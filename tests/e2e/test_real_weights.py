"""The parts of `bench.real_weights` that need no network, and its committed results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import transformers

import checkpoints
import dllm_fast
from bench import real_sequences, real_weights
from bench.__main__ import RESULTS, with_block
from dllm_fast.families import table as families

ROOT = Path(__file__).parents[2]
TASK = real_weights.Task(mask=4, suppressed=[0, 1, 2, 3, 4])


def test_sequences() -> None:
    chains = real_sequences.heavy_chains() + real_sequences.light_chains()
    assert len(chains) == len(set(chains)) == 33
    assert all(set(chain) <= set("ACDEFGHIKLMNPQRSTVWY") and 100 < len(chain) < 128 for chain in chains)


def test_reactions() -> None:
    reactions = real_sequences.reactions()
    assert len(reactions) == len(set(reactions)) == 30
    for reaction in reactions:
        tokens = real_sequences.atoms(reaction)
        assert "".join(tokens) == reaction
        assert tokens.count(">>") == 1
        assert all(re.fullmatch(r"\[\w+[+-]?\]|Br|Cl|>>|[BCNOFcn()=#.\-12]", token) for token in tokens)
        for side in reaction.split(">>"):
            for molecule in side.split("."):  # brackets and rings are closed
                assert molecule.count("(") == molecule.count(")")
                assert all(len(re.findall(number, molecule)) % 2 == 0 for number in "12")


@pytest.mark.parametrize("rate", real_weights.RATES)
def test_masks(rate: float) -> None:
    row = np.arange(10, 62)
    canvas = real_weights.masked(row, rate, 4, seed=3)
    assert (canvas == 4).sum() == round(rate * 50)
    assert ((canvas == row) | (canvas == 4)).all()
    assert (canvas[0], canvas[-1]) == (10, 61)
    assert (canvas == real_weights.masked(row, rate, 4, seed=3)).all()
    assert (canvas != real_weights.masked(row, rate, 4, seed=4)).any()


def test_a_measurement(tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=12, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    theirs = checkpoints.redraw(transformers.BertForMaskedLM(config))
    theirs.save_pretrained(tmp_path)
    model = dllm_fast.load(tmp_path, mask_token_id=TASK.mask)
    rows = [np.array([2, 5, 6, 7, 8, 9, 3]), np.array([2, 10, 11, 5, 3])]
    assert real_weights.check(model, theirs, rows, TASK)["difference"] <= 2e-6
    one = real_weights.measure(model, rows, 1.0, {"steps": 1}, TASK, draws=2)
    assert (one["forwards"], one["masks"], one["canvases"]) == (1, 4, 4)
    assert real_weights.measure(model, rows, 1.0, {}, TASK, draws=1)["forwards"] == 4
    filled = [
        dllm_fast.infill(model, real_weights.masked(row, 1.0, 4, 0), steps=1, suppress_tokens=[0, 1, 2, 3]) for row in rows
    ]
    right = sum(int((result.sequences[0] == row)[1:-1].sum()) for result, row in zip(filled, rows, strict=True))
    assert one["recovered"] == right / 8


def test_packages_are_pinned() -> None:
    assert {source.package for source in real_weights.SOURCES} == set(real_weights.PACKAGES)
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for _, digest in real_weights.PACKAGES.values())


def test_the_committed_results() -> None:
    record = json.loads((RESULTS / "real_weights.json").read_text(encoding="utf-8"))
    assert record["settings"] == dict(real_weights.SETTINGS)
    assert {check["model"] for check in record["checks"]} == {source.name for source in real_weights.SOURCES}
    assert all(check["difference"] <= 2e-6 and check["tokens"] == "identical" for check in record["checks"])
    cases = len(real_weights.SOURCES) * len(real_weights.RATES) * len(real_weights.SETTINGS)
    assert len(record["cases"]) == cases
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    assert with_block(text, "real-weights", real_weights.table(record)) == text, "python -m bench.real_weights --write"
    verified = {family.name: family.verified for family in families.FAMILIES}
    assert all("real weights" in verified[name] for name in ("bert", "roberta"))
