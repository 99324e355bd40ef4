"""Numbers and arrays that nobody should pass are refused before anything is allocated, run or ignored."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import dllm_fast
import limited
from dllm_fast import Prediction, Sampler, SamplerConfig, _core, demo
from dllm_fast.arrays import integer_array, logits_matrix
from dllm_fast.errors import DllmFastError, InvalidTypeError, InvalidValueError, shown

RULE = SamplerConfig(mask_token_id=4)
GIVEN = {"mask_token_id": 4, "max_new_tokens": 2}
HALVES = np.full(2, 0.5)


def never(ids):
    raise AssertionError("a forward was run")


def model(ids):
    return torch.nn.functional.one_hot((ids + 1) % 4, 5).float()


def masked(mask, dtype=np.int64):
    return np.ma.masked_array(np.ones(2, dtype=dtype), mask=mask)


CALLS = {
    "schedule steps": (lambda: dllm_fast.schedule("even", 4, 10**13), "steps must be at most 1048576, got 10000000000000"),
    "schedule most steps": (lambda: dllm_fast.schedule("linear", 4, 2**62), "steps must be at most 1048576"),
    "schedule masks": (
        lambda: dllm_fast.schedule("even", 2**62, 4),
        "masks must be .*at most 4294967295, got 4611686018427387904",
    ),
    "num_samples": (
        lambda: dllm_fast.sample(never, [1], num_samples=2**32, **GIVEN),
        r"num_samples must be at most 2\^20, got",
    ),
    "rows": (
        lambda: dllm_fast.sample(never, [[1]] * 3, num_samples=2**20, temperature=1.0, **GIVEN),
        r"there must be at most 2\^20 rows, got 1048576 samples for each of 3 prompts",
    ),
    "positions": (
        lambda: dllm_fast.sample(never, [1], num_samples=2**20, mask_token_id=4, temperature=1.0, max_new_tokens=2**10),
        r"the canvases must hold at most 2\^27 positions in all",
    ),
    "max_rows 0": (lambda: Sampler(RULE, [[4]], max_rows=0), "max_rows must be .*at least 1 .*got 0"),
    "max_rows -1": (lambda: Sampler(RULE, [[4]], max_rows=-1), "max_rows must be .*at least 1 .*got -1"),
    "max_batch_rows": (lambda: SamplerConfig(max_batch_rows=2**64), r"max_batch_rows must be at most 2\^32, got"),
    "config None": (lambda: Sampler(None, [[4]]), "config must be a SamplerConfig, got NoneType"),
    "checked None": (lambda: _core.check_config(None), "config must be a SamplerConfig, got NoneType"),
    "tokenizer": (lambda: dllm_fast.sample(never, [1], tokenizer="abc", **GIVEN), "a tokenizer must have encode and decode"),
    "bytes of ids": (lambda: SamplerConfig(eos_token_id=b"ab"), "eos_token_id must be token ids, .*got b'ab'"),
    "dictionary of ids": (lambda: SamplerConfig(suppress_tokens={1: 2}), "suppress_tokens must be token ids"),
    "endless ids": (
        lambda: SamplerConfig(suppress_tokens=iter(int, 1)),
        r"suppress_tokens must be at most 2\^20 ids, got more",
    ),
    "many ids": (lambda: SamplerConfig(suppress_tokens=range(10**12)), r"suppress_tokens must be at most 2\^20 ids"),
    "masked ids": (lambda: SamplerConfig(eos_token_id=masked([True, False])), "eos_token_id must have no masked entries"),
    "masked prompt": (lambda: dllm_fast.sample(never, masked([True, False]), **GIVEN), "prompt must have no masked entries"),
    "masked logits": (
        lambda: dllm_fast.mask_predict(np.ma.masked_array(np.zeros((2, 5), np.float32), mask=True)),
        "logits must have no masked entries",
    ),
    "masked rows": (lambda: Sampler(RULE, [masked([True, False])]), "every canvas must have no masked entries"),
    "long prompt": (lambda: dllm_fast.sample(never, range(10**12), **GIVEN), r"prompt must hold at most 2\^27 numbers"),
    "wide prompt": (
        lambda: dllm_fast.sample(never, np.broadcast_to(np.int64(1), (2**40,)), **GIVEN),
        r"prompt must hold at most 2\^27 numbers, got 1099511627776",
    ),
    "large ids": (
        lambda: dllm_fast.sample(never, np.array([2**64 - 1], np.uint64), **GIVEN),
        r"prompt must hold integers below",
    ),
    "bytes of seeds": (lambda: dllm_fast.sample(never, [1], seed=b"a", **GIVEN), "seed must be a whole number"),
    "many seeds": (lambda: dllm_fast.sample(never, [1], seed=range(10**12), **GIVEN), "seed must hold at most"),
    "endless seeds": (lambda: Sampler(RULE, [[4]], seed=iter(int, 1)), "seed must be one number, or one for each of 1 rows"),
    "eps": (lambda: SamplerConfig(schedule="dream", eps=float("nan")), r"eps must lie in \(0, 1\), got NaN"),
    "top_k": (lambda: dllm_fast.mask_predict(np.zeros((1, 2), np.float32), top_k=True), "top_k must be .*, got True"),
    "top": (lambda: dllm_fast.distributions(never, [4], top=2**64, mask_token_id=4), r"top must be at most 2\^32"),
    "sources": (lambda: SamplerConfig(sources=[1]), "sources must name who set each setting"),
    "index beside tokens": (lambda: _waiting().feed(tokens=[1], scores=[0.5], index=[7]), "index names lines of logits"),
    "prediction": (lambda: _waiting().feed(prediction=3), "prediction must be a Prediction, got <class 'int'>"),
    "many scores": (lambda: _waiting().feed(tokens=[1], scores=range(10**12)), r"scores must hold at most 2\^27 numbers"),
    "statistics": (
        lambda: Prediction(token=[1, 2], probability=[True, 0.5], top1=HALVES, top2=HALVES, entropy=HALVES),
        "probability must be numbers",
    ),
    "lengths of statistics": (
        lambda: Prediction(token=[1, 2], probability=HALVES, top1=HALVES, top2=HALVES, entropy=HALVES, logsumexp=[0.5]),
        "must have one length, got 2 tokens and 1 of logsumexp",
    ),
    "shift": (lambda: _request().groups(shift=1), "shift must be True or False, got 1"),
    "score_all": (lambda: Sampler(RULE, [[4]], score_all="yes"), "score_all must be True or False, got 'yes'"),
    "problems": (lambda: demo.problems(2**32), r"n must be at most 2\^20"),
    "text problems": (lambda: demo.text_problems(2**64), r"n must be at most 2\^20"),
    "givens": (lambda: demo.problems(1, givens=3), "givens must be two numbers"),
    "puzzles": (lambda: _core.sudoku_puzzles(2**31, 0), "n must be .*at most 1048576"),
    "family": (lambda: dllm_fast.load(demo.FOLDER / "sudoku", family=np.arange(2)), "family must be a name"),
    "dtype": (lambda: dllm_fast.load(demo.FOLDER / "sudoku", dtype=np.arange(2)), "dtype must be one of"),
    "patterns": (lambda: dllm_fast.load(demo.FOLDER / "sudoku", ignore_keys=3), "ignore_keys must be a list of patterns"),
    "generation config": (
        lambda: dllm_fast.generate(never, torch.tensor([[1]]), generation_config=3, **GIVEN),
        "generation_config must be a GenerationConfig, got 3",
    ),
    "processors": (
        lambda: dllm_fast.generate(never, torch.tensor([[1]]), logits_processor=3, **GIVEN),
        "logits processors must be a list, got 3",
    ),
}


def _waiting():
    sampler = Sampler(RULE, [[4]])
    sampler.next()
    return sampler


def _request():
    return Sampler(RULE, [[4]]).next()


@pytest.mark.parametrize("case", CALLS)
def test_refused_before_anything_happens(case):
    call, text = CALLS[case]
    with pytest.raises(DllmFastError, match=text):
        call()


def test_what_aborted_the_process_or_took_all_memory():
    """In a process with limits, which these ended."""
    ended = limited.run(
        """
        import dllm_fast
        from dllm_fast import Sampler, SamplerConfig
        from dllm_fast.errors import DllmFastError

        rule = SamplerConfig(mask_token_id=4)
        sampler = Sampler(rule, [[4]])
        sampler.next()
        for call in (
            lambda: dllm_fast.schedule("even", 4, 10**13),
            lambda: dllm_fast.schedule("even", 4, 2**62),
            lambda: sampler.feed(tokens=[1], scores=range(10**13)),
            lambda: Sampler(rule, [[4]], seed=iter(int, 1)),
            lambda: dllm_fast.sample(None, [1], num_samples=2**32),
        ):
            try:
                call()
            except DllmFastError:
                print("refused")
        """,
        seconds=60,
        gigabytes=6,
    )
    assert (ended.code, ended.output.split()) == (0, ["refused"] * 5), ended


def _made(name):
    flat, ids = torch.zeros((2, 5)), torch.tensor([1, 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "meta": lambda: (flat.to("meta"), ids.to("meta")),
            "sparse": lambda: (flat.to_sparse(), ids.to_sparse()),
            "rows": lambda: (flat.to_sparse_csr(), torch.eye(2, dtype=torch.int64).to_sparse_csr()),
            "nested": lambda: (torch.nested.nested_tensor([flat[0], flat[0, :2]]), torch.nested.nested_tensor([ids, ids[:1]])),
            "quantised": lambda: 2 * (torch.quantize_per_tensor(flat, 1.0, 0, torch.qint8),),
            "complex": lambda: (flat.to(torch.complex64), ids.to(torch.complex64)),
            "conjugate": lambda: (flat.to(torch.complex64).conj(), ids.to(torch.complex64).conj()),
            "freed": lambda: (_freed(flat.clone()), _freed(ids.clone())),
        }[name]()


def _freed(tensor):
    tensor.untyped_storage().resize_(0)
    return tensor


@pytest.mark.parametrize("kind", ["meta", "sparse", "rows", "nested", "quantised", "complex", "conjugate", "freed"])
def test_tensors_without_plain_numbers_are_refused(kind):
    logits, ids = _made(kind)
    for call in (
        lambda: dllm_fast.mask_predict(logits),
        lambda: _waiting().feed(logits),
        lambda: dllm_fast.sample(never, ids, **GIVEN),
        lambda: dllm_fast.infill(never, ids, mask_token_id=4),
        lambda: Sampler(RULE, [ids]),
        lambda: dllm_fast.generate(never, ids, **GIVEN),
        lambda: dllm_fast.mask_predict(np.zeros((2, 5), np.float32), suppress=ids),
        lambda: SamplerConfig(suppress_tokens=ids),
        lambda: SamplerConfig(steps=ids),
        lambda: SamplerConfig(threshold=logits),
    ):
        with pytest.raises((InvalidTypeError, InvalidValueError)):
            call()
    assert len(shown(logits)) <= 110


def test_views_are_read_as_what_they_show():
    logits = torch.arange(10, dtype=torch.float32).reshape(2, 5)
    negative = torch._neg_view(-logits)
    assert negative.is_neg()
    assert logits_matrix(negative).tolist() == logits.tolist()
    assert logits_matrix(logits.clone().requires_grad_()).tolist() == logits.tolist()
    ids = torch._neg_view(torch.tensor([-1, -2]))
    assert integer_array(ids, "ids").tolist() == [1, 2]
    assert integer_array(torch.ones(1, dtype=torch.int64).expand(3), "ids").tolist() == [1, 1, 1]
    assert integer_array(np.array([1, 2], dtype=">i8"), "ids").tolist() == [1, 2]
    assert integer_array(masked(False), "ids").tolist() == [1, 1]
    own = np.arange(6)
    assert np.shares_memory(integer_array(own, "ids"), own)  # read where they lie
    assert np.shares_memory(integer_array(torch.from_numpy(own), "ids"), own)
    strided = dllm_fast.mask_predict(logits, current=own[::2][:2], positions=own[::3], temperature=9.0, seed=1)
    listed = dllm_fast.mask_predict(logits, current=[0, 2], positions=[0, 3], temperature=9.0, seed=1)
    assert strided.current.tolist() == listed.current.tolist()
    assert strided.token.tolist() == listed.token.tolist()
    unaligned = np.frombuffer(bytearray(41), dtype=np.uint8)[1:].view(np.float32).reshape(2, 5)
    with pytest.raises(InvalidValueError, match="must be contiguous"):
        logits_matrix(unaligned)


def test_ids_beyond_the_logits_of_a_callable():
    with pytest.raises(InvalidValueError, match="ids must lie within the logits of the model, got 70 for 5 columns"):
        dllm_fast.sample(model, [1, 70], **GIVEN)
    assert dllm_fast.sample(model, [1, 3], **GIVEN).sequences[0].max() < 4


def test_a_canvas_that_its_owner_writes_into_while_it_is_filled():
    canvas = np.array([1, 4, 2])

    def writing(ids):
        canvas[:] = 0
        return model(ids)

    assert dllm_fast.infill(writing, canvas, mask_token_id=4).new_tokens[0].tolist() == [1]


def test_an_end_token_beyond_the_logits_of_a_callable():
    with pytest.raises(InvalidValueError, match="eos_token_id must lie within the logits of the model, got 70 for 5 columns"):
        dllm_fast.sample(model, [1], eos_token_id=[3, 70], **GIVEN)
    assert dllm_fast.sample(model, [1], eos_token_id=[3], **GIVEN).config.eos_token_ids == (3,)


def test_more_of_a_distribution_than_a_model_has_tokens():
    class Five:
        config = SimpleNamespace(vocab_size=5)
        __call__ = staticmethod(never)

    with pytest.raises(InvalidValueError, match=r"top must be at most .*, got 4 for 3; lower it"):
        dllm_fast.distributions(Five(), [1, 4], mask_token_id=4, suppress_tokens=[0], top=4)


def test_a_vocabulary_that_is_suppressed_as_a_whole():
    loaded = demo.load()[0]
    loaded_size = loaded.info.vocabulary if hasattr(loaded.info, "vocabulary") else loaded.network.vocabulary
    with pytest.raises(InvalidValueError, match="suppress_tokens must leave a token that may be written"):
        dllm_fast.infill(loaded, demo.problems(1)[0], suppress_tokens=[i for i in range(loaded_size) if i != demo.MASK_ID])


def test_small_plain_arrays_are_read_without_any_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step without its model a conversion would be half the time."""
    config = SamplerConfig(mask_token_id=5, block_length=32)
    sampler = Sampler(config, [np.full(32, 5)])
    request = sampler.next()
    assert request is not None
    count = len(request.positions[0])
    answer = {"tokens": np.arange(6, 6 + count), "scores": np.ones(count)}

    def never(*_: object) -> None:
        raise AssertionError("was called")

    monkeypatch.setattr("dllm_fast.arrays.integer_array", never)
    assert sampler.sites(request.rows)[4].tolist() == [count]
    sampler.feed(**answer, rows=request.rows)  # type: ignore[arg-type]
    assert 6 in sampler.canvases[0]


@pytest.mark.parametrize("kind", ["strided", "unaligned", "swapped", "masked", "read-only", "subclass"])
def test_small_arrays_that_are_not_plain_mean_the_same(kind: str) -> None:
    plain = np.arange(32) * 0 + 5
    memory = np.zeros(32 * 8 + 1, np.uint8)
    made = {
        "strided": np.repeat(plain, 2)[::2],
        "unaligned": memory[1:].view(np.int64),
        "swapped": plain.astype(">i8"),
        "masked": np.ma.MaskedArray(plain),
        "read-only": plain,
        "subclass": plain.view(type("Mine", (np.ndarray,), {})),
    }[kind]
    if kind == "unaligned":
        made[:] = plain
    made.flags.writeable = kind != "read-only"
    sampler = Sampler(SamplerConfig(mask_token_id=5), [made])
    assert sampler.canvases[0].tolist() == plain.tolist()
