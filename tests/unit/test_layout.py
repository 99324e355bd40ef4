"""The records that the host and the kernels hand to each other are described once, and all that packs or reads them follows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import structure
from dllm_fast import _core
from dllm_fast.kernels import files, layout
from dllm_fast.ops.mask_predict import TensorPrediction

ROOT = Path(__file__).parents[2]
WORDS = {"u8": "uint64_t", "i8": "int64_t", "f8": "double", "u4": "uint32_t", "i4": "int32_t"}
ARRAYS = (layout.SITES, layout.PREDICTIONS)
# Beside the description: the records of Rust and their classes for Python and torch, and who computes with the single numbers.
SPELLED = {
    *("python/dllm_fast/kernels/layout.py", "python/dllm_fast/_core.pyi", "python/dllm_fast/ops/mask_predict.py"),
    *("rust/logits/predict.rs", "rust/logits/stats.rs", "rust/python/prediction.rs", "rust/rules/order.rs"),
    *("cuda/mask_predict.cu", "cuda/commit.cu"),
    "rust/sampler/drafts.rs",  # lists none: its rules read five of them, each by itself
}


@pytest.mark.parametrize("record", ARRAYS, ids=lambda record: record.name)
@given(n=st.integers(0, 40), more=st.integers(0, 5), seed=st.integers(0, 9))
def test_what_is_packed_is_what_is_read(record, n, more, seed):
    rng = np.random.default_rng(seed)
    values = {name: rng.integers(0, 100, n) for name in record.fields}
    packed = record.pack(n, values, room=n + more)
    assert packed.size == record.size(n + more)
    views = record.views(packed, n + more)
    assert list(views) == list(record.fields) == list(record.offsets(n))
    for name, array in views.items():
        assert np.shares_memory(array, packed) or array.size == 0
        assert array[:n].tolist() == values[name].tolist()
        assert array[n:].tolist() == ([values[name][-1]] * more if n else [0] * more), "nobody reads outside"


@pytest.mark.parametrize("record", ARRAYS, ids=lambda record: record.name)
@pytest.mark.parametrize("n", [1, 3, 16, 1001])
def test_every_array_lies_where_its_type_may(record, n):
    end = 0
    for name, begin in record.offsets(n).items():
        width = np.dtype(record.fields[name]).itemsize
        assert begin % width == 0
        assert begin == end
        end = begin + n * width
    assert end == record.size(n)


@pytest.mark.parametrize("record", ARRAYS, ids=lambda record: record.name)
def test_the_header_reaches_each_array_where_it_is_packed(record):
    lines = layout.header().splitlines()
    for name, begin in record.offsets(1).items():
        (line,) = [line for line in lines if f"& {name}(int i)" in line and f"+ {begin} * int64_t(count)" in line]
        assert WORDS[record.fields[name]] in line


def test_a_field_that_nobody_knows_is_no_field():
    with pytest.raises(AssertionError):
        layout.SITES.pack(1, {"sed": 1})


def test_laws_behind_sites_lie_where_their_type_may():
    assert layout.SITES.size(1) % layout.LAW.dtype.alignment == 0
    assert layout.LAW.dtype.itemsize % layout.LAW.dtype.alignment == 0
    assert f"static_assert(sizeof(Law) == {layout.LAW.dtype.itemsize}" in layout.header()


def test_the_classes_of_predictions_have_the_fields_of_the_record():
    names = list(layout.PREDICTIONS.fields)
    assert [field.name for field in dataclasses.fields(TensorPrediction)][: len(names)] == names
    assert all(hasattr(_core.Prediction, name) for name in names if name != "status")


def test_every_kernel_can_include_the_header_that_is_made():
    assert files.headers()[layout.HEADER].decode() == layout.header()
    assert not (files.folder() / "include" / layout.HEADER).is_file(), "made, not kept"


def test_few_files_spell_the_record():
    """`python -m bench.structure --list` counts them: 13 before there was a description."""
    assert {str(path) for path in structure.naming(structure._sources(ROOT), structure.STATISTICS, 5)} <= SPELLED
