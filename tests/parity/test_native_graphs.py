"""Models in memory whose steps are captured. Here a "graph" is the function that CUDA would capture."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import warnings
import weakref

import pytest
import torch
import transformers as hf

import dllm_fast
import remote_like
from dllm_fast.errors import DllmFastWarning
from dllm_fast.ops.shared import Shared
from dllm_fast.runners.host_reads import HostReads
from dllm_fast.transformers import native_engine
from dllm_fast.transformers.constants import constants
from engines import Recorder
from native_models import MASK, MLM, MODERN, NEW, PROMPTS, drawn, model_of

pytestmark = pytest.mark.skipif(not MODERN, reason="transformers 4 has no bidirectional classes on its registry")

SETTINGS = {"max_new_tokens": NEW, "block_length": 8, "stop_at_eos": False}
CPU = torch.device("cpu")


@pytest.fixture
def recorder(monkeypatch):
    made = Recorder()
    monkeypatch.setattr(native_engine, "capture_on", lambda _: made)
    return made


def tokens(model, **more) -> list[list[int]]:
    return [row.tolist() for row in dllm_fast.sample(model, PROMPTS, **SETTINGS | more).sequences]


def dream_like():
    return drawn(remote_like.DreamLike(remote_like.RemoteConfig(mask_token_id=MASK)))


def graphs_of(model) -> list[str]:
    return [why for what, why in dllm_fast.explain(model).refused if what == "CUDA graphs"]


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3", "Bert", "Roberta", "ModernBert", "DreamLike"])
def test_captured_steps_give_the_tokens_of_eager_ones(name, cache, monkeypatch, recorder):
    model = dream_like() if name == "DreamLike" else model_of(name)
    with monkeypatch.context() as patch:
        patch.setattr(native_engine, "capture_on", lambda _: None)
        eager = tokens(model, cache=cache)
        assert "CUDA graphs" not in str(dllm_fast.explain(model)), "there are none on a CPU"
    before = constants(model)
    for _ in range(2):
        result = dllm_fast.sample(model, PROMPTS, cache=cache, **SETTINGS)
        assert [row.tolist() for row in result.sequences] == eager
    assert recorder.replayed >= recorder.captured > 0
    assert result.stats.replayed == result.stats.nfe, "the second run finds the graphs of the first"
    assert constants(model) == before
    assert "small steps are replayed from CUDA graphs" in dllm_fast.explain(model).reason
    assert not graphs_of(model)


class Reader(hf.BertForMaskedLM):
    """Asks the device how long the texts are, as classes that unpad them do."""

    least = 0

    def forward(self, input_ids=None, **rest):
        if input_ids.shape[1] > self.least:
            longest = int(input_ids.ne(0).sum(dim=1).max())
            assert longest <= input_ids.shape[1]
        return super().forward(input_ids=input_ids, **rest)


class LongReader(Reader):
    """Does so for long texts only, which no probe has."""

    least = 16


class Changing(hf.BertForMaskedLM):
    """Keeps what it was last given."""

    def forward(self, input_ids=None, **rest):
        self.last = input_ids
        return super().forward(input_ids=input_ids, **rest)


def test_a_class_that_reads_the_host_is_found_by_the_probe(recorder):
    model = drawn(Reader(hf.BertConfig(**MLM)))
    (why,) = graphs_of(model)
    assert why.startswith("its forward reads a value on the host (")
    assert "test_native_graphs.py:" in why
    assert dllm_fast.sample(model, PROMPTS, **SETTINGS).stats.replayed == 0
    assert recorder.captured == 0
    assert model not in native_engine._ENGINES


def test_a_class_that_reads_the_host_later_runs_eagerly_and_says_where(recorder, monkeypatch):
    model = drawn(LongReader(hf.BertConfig(**MLM)))
    with monkeypatch.context() as patch:
        patch.setattr(native_engine, "capture_on", lambda _: None)
        eager = tokens(model)
    assert not graphs_of(model)
    with pytest.warns(
        DllmFastWarning, match=r"without CUDA graphs.*reads a value on the host \((item|_local_scalar_dense), test_nat"
    ):
        assert tokens(model) == eager
    assert tokens(model) == eager, "and is silent from then on"
    assert recorder.captured == 0
    (why,) = graphs_of(model)
    assert why.startswith("its forward reads a value on the host")
    engine = native_engine._ENGINES[model][1]
    assert not engine._graphs
    assert engine._cache is None, "it holds no memory for nothing"


def test_a_class_that_changes_itself_runs_eagerly(recorder):
    model = drawn(Changing(hf.BertConfig(**MLM)))
    tokens(model)
    assert recorder.captured == 0
    assert graphs_of(model) == ["a forward changes the model beside its answer"]


def hooked(model):
    model.bert.register_forward_hook(lambda *_: None)


def offloaded(model):
    model.bert._hf_hook = object()


def quantised(model):
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_4bit": True}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (hooked, "1 forward hooks would not run in a graph, the first of them hooked.<locals>.<lambda>"),
        (offloaded, "hooks of accelerate fetch"),
        (quantised, "its weights are quantised (bitsandbytes, 4 bits)"),
        (lambda model: model.train(), "it is in training mode"),
    ],
    ids=["hooks", "accelerate", "quantised", "training"],
)
def test_what_is_in_the_way_is_named_and_the_run_goes_on(change, why, recorder):
    model = model_of("Bert")
    eager = tokens(model)
    captured = recorder.captured
    assert captured > 0
    change(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tokens(model) == eager
    assert recorder.captured == captured, "a model that can change is looked at before every run"
    assert not native_engine._ENGINES[model][1]._graphs
    (found,) = graphs_of(model)
    assert found.startswith(why)


def replaced(model):
    weight = model.bert.encoder.layer[0].attention.self.query.weight
    model.bert.encoder.layer[0].attention.self.query.weight = torch.nn.Parameter(-weight.detach())


def set_otherwise(model):
    model.bert.encoder.layer[0].attention.self.scaling *= 3


def patched(model):
    layer = model.bert.encoder.layer[0]
    plain = type(layer).forward
    layer.forward = lambda *args, **named: plain(layer, *args, **named) * 2


def patched_class(model):
    kind = type(model.bert.encoder.layer[0])
    plain = kind.forward
    kind.forward = lambda *args, **named: plain(*args, **named) * 2


def set_in_a_record(model):
    model.bert.encoder.layer[0].record.factor = 2.0


def new_head(model):
    head = model.get_output_embeddings()
    model.head_before = [head]  # who is still there, but nobody's head any more
    other = torch.nn.Linear(head.in_features, head.out_features).eval()
    model.set_output_embeddings(other)
    with torch.no_grad():
        other.weight.copy_(head.weight.flip(0))


@dataclasses.dataclass
class Settings:
    factor: float = 1.0


@pytest.fixture
def scaled(monkeypatch):
    """Layers that read a record which is no config, and get their forward back."""
    plain = hf.models.bert.modeling_bert.BertLayer.forward

    def forward(self, *args, **named):
        return plain(self, *args, **named) * self.record.factor

    monkeypatch.setattr(hf.models.bert.modeling_bert.BertLayer, "forward", forward)
    monkeypatch.setattr(hf.models.bert.modeling_bert.BertLayer, "record", Settings(), raising=False)


@pytest.mark.usefixtures("scaled")
@pytest.mark.parametrize("change", [replaced, set_otherwise, patched, patched_class, set_in_a_record, new_head])
def test_a_model_that_has_changed_is_captured_anew(change, recorder, monkeypatch):
    model = model_of("Bert")
    for layer in model.bert.encoder.layer:
        layer.record = Settings()
    tokens(model)
    captured = recorder.captured
    tokens(model)
    assert recorder.captured == captured
    with torch.no_grad():  # training goes on in place, and a graph reads what was trained
        model.bert.encoder.layer[1].attention.self.query.weight.mul_(-1)
    tokens(model)
    assert recorder.captured == captured
    change(model)
    ours = tokens(model)
    assert recorder.captured > captured
    replayed = recorder.replayed
    assert tokens(model) == ours
    assert recorder.replayed > replayed
    monkeypatch.setattr(native_engine, "capture_on", lambda _: None)
    native_engine._ENGINES.pop(model)
    assert ours == tokens(model)


def test_a_model_that_has_fewer_layers_is_probed_anew(recorder):
    model = model_of("Llama")
    tokens(model)
    model.model.layers = model.model.layers[:1].eval()
    fewer = tokens(model)
    native_engine._ENGINES.pop(model)
    assert fewer == tokens(model)


class FailsOnce(LongReader):
    """Fails in the first forward of a long text, before it reads."""

    has_failed = False

    def forward(self, input_ids=None, **rest):
        if input_ids.shape[1] > self.least and not FailsOnce.has_failed:
            FailsOnce.has_failed = True
            raise RuntimeError("out of memory, say")
        return super().forward(input_ids=input_ids, **rest)


def test_a_shape_whose_first_step_failed_is_still_looked_at(recorder):
    model = drawn(FailsOnce(hf.BertConfig(**MLM)))
    with pytest.raises(RuntimeError, match="out of memory"):
        tokens(model)
    with pytest.warns(DllmFastWarning, match="reads a value on the host"):
        tokens(model)
    assert recorder.captured == 0


def test_autocast_runs_eagerly(recorder):
    model = model_of("Bert")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens(model)
    assert recorder.captured == 0


def test_an_engine_goes_with_its_model(recorder):
    model = model_of("Bert")
    tokens(model)
    engine, parameter = (
        weakref.ref(x) for x in (native_engine._ENGINES[model][1], model.bert.embeddings.word_embeddings.weight)
    )
    assert engine() is not None
    del model
    gc.collect()
    assert engine() is None
    assert parameter() is None


def test_a_look_at_a_model_that_fails_leaves_the_engine_free(recorder, monkeypatch):
    model = model_of("Bert")
    tokens(model)

    def fail(_):
        raise RuntimeError("looked in vain")

    with monkeypatch.context() as patch:
        patch.setattr(native_engine, "constants", fail)
        with pytest.raises(RuntimeError, match="looked in vain"):
            tokens(model)
    engine = native_engine._ENGINES[model][1]
    assert engine.acquire("me")
    engine.release("me")


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool((x > 0).any()), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 0], "index"),
        (lambda x: torch.masked_select(x, x > 0), "masked_select"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.repeat_interleave(x.long()), "repeat_interleave"),
        (lambda x: torch.bincount(x.long()), "bincount"),
    ],
)
def test_reads_are_found(read, what):
    with HostReads(CPU) as reads:
        read(torch.arange(4.0))
    assert reads.found is not None
    assert reads.found.startswith(f"its forward reads a value on the host ({what}, test_native_graphs.py:")


def test_what_stays_on_the_device_is_no_read():
    with HostReads(CPU) as reads:
        x = torch.arange(4.0)
        x[x.long()] = x.cumsum(0).masked_fill(x > 1, 0).to(torch.float64).float()
        torch.where(x > 0, x, 0).topk(2)
        x.repeat_interleave(torch.ones(4, dtype=torch.long), output_size=4)
    with HostReads(torch.device("meta")) as others:
        x.sum().item()
    assert reads.found is others.found is None


@pytest.mark.parametrize("is_pinned", [False, True])
def test_copies_between_host_and_device_are_reads(is_pinned, monkeypatch):
    # A graph would copy from the same place of the host again, which is somebody else's by then.
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: is_pinned)
    with HostReads(torch.device("meta")) as reads, contextlib.suppress(NotImplementedError):
        torch.zeros(2).to("meta")
    assert reads.found is not None
    assert "_to_copy" in reads.found


def test_what_is_made_once_for_all_is_no_read_of_the_forward():
    """Suppressed ids are copied to the device inside of the first step that wants them."""
    with HostReads(torch.device("meta")) as reads:
        Shared(most=1).get("bits", torch.device("meta"), lambda: torch.zeros(2).to("meta"))
    assert reads.found is None
    with reads:
        torch.zeros(2).to("meta")
    assert reads.found is not None
