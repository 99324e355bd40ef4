"""`sample` with predictions and attention from the emulated kernels gives the tokens that it gives without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import dllm_fast
from checkpoints import redraw
from dllm_fast.errors import InvalidValueError
from dllm_fast.kernels import layout
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.decoder import Decoder, DecoderConfig
from dllm_fast.networks.rotary import Rotary
from dllm_fast.networks.slots import SlotCache
from dllm_fast.ops import commit
from emulator import build
from emulator.operations import emulated
from engines import Recorder, info, with_engine
from families import TWINS
from toys import HashTable, presets_of_any_model

pytestmark = [
    pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not())),
    # Samples of rules that draw nothing are compared on purpose.
    pytest.mark.filterwarnings("ignore:all [0-9]+ samples of a prompt will be equal"),
]

MASK, VOCABULARY = 41, 300
PREDICTION = ["mask_predict", "mask_filter"]


class Bfloat16:
    """A toy whose logits are bfloat16."""

    def __init__(self, toy):
        self.toy = toy

    def __call__(self, ids):
        return self.toy(ids).bfloat16()


def run(model, **given):
    prompts = [[1, 2, 3], [4], [5, 6]]
    return dllm_fast.sample(model, prompts, mask_token_id=MASK, seed=[2**64 - 1, 5, 6], num_samples=2, **given)


def same(ours, core):
    for a, b in zip(ours.sequences, core.sequences, strict=True):
        np.testing.assert_array_equal(a, b)
    for ours_row, core_row in zip(ours.trajectory, core.trajectory, strict=True):
        assert [(e.step, e.position, e.token, e.kind) for e in ours_row] == [
            (e.step, e.position, e.token, e.kind) for e in core_row
        ]
        np.testing.assert_array_equal([e.probability for e in ours_row], [e.probability for e in core_row])


@pytest.mark.parametrize(
    ("given", "is_predicted"),
    [
        ({"min_new_tokens": 3}, False),
        ({"eos_policy": "suffix"}, False),
        ({"eos_policy": "penalise", "eos_penalty": 2.0}, False),
        ({"eos_policy": "delay"}, True),
        ({"stop": [(5, 6), 7]}, True),
    ],
)
@pytest.mark.parametrize("rule", [{}, {"threshold": 0.01}, {"temperature": 1.0}])
def test_where_end_tokens_may_stand(given, is_predicted, rule):
    """What the kernels do not know of the laws of a row is left to the core, and the tokens are the same."""
    model = HashTable(VOCABULARY, grid=4.0)
    given = {"max_new_tokens": 6, "eos_token_id": tuple(range(40)), "stop_at_eos": True, **given, **rule}
    core = run(model, **given)
    with emulated(PREDICTION) as launched:
        ours = run(model, **given)
    assert bool(launched) == is_predicted
    same(ours, core)


@pytest.mark.parametrize("preset", presets_of_any_model())
def test_every_preset(preset):
    model = HashTable(VOCABULARY)
    given = {"preset": preset, "max_new_tokens": 4, "suppress_tokens": (3, 250)}
    core = run(model, **given)
    with emulated(PREDICTION) as launched:
        ours = run(model, **given)
    # What a rule remembers of distributions, the core makes.
    assert bool(launched) != dllm_fast.presets()[preset].remembers
    same(ours, core)


NOISE = {"mask_token_id": None, "vocabulary": VOCABULARY}
MORE = {
    "diffusion-gemma": NOISE | {"steps_per_block": 5},
    "block-refinement": NOISE | {"steps_per_block": 3, "threshold": 0.01},
    "udlm": NOISE | {"steps": 4},
    "gidd": {"vocabulary": VOCABULARY, "steps": 4},
    "pc-sampler": {"token_frequencies": dllm_fast.TokenFrequencies(range(1, VOCABULARY + 1))},
    "daedal": {"eos_token_id": tuple(range(40)), "initial_length": 4, "max_new_tokens": 9, "threshold": 0.01},
    "rho-eos": {"eos_token_id": tuple(range(40)), "initial_length": 4, "max_new_tokens": 9, "threshold": 0.01},
    "apd": {"verifier_mixture": 0.5, "temperature": 0.7},
    "wino": {"threshold": 0.01, "remask_threshold": 0.9},
}


class Behind(HashTable):
    """A toy that is asked from behind masks, too."""

    def __call__(self, ids, shadow=None):
        made = super().__call__(ids)
        if shadow is None:
            return made
        rows = torch.arange(len(ids))[:, None]
        return torch.cat((made, made.roll(1, dims=2)[rows, shadow.clamp(min=0)]), dim=1)


GUIDED = [preset for preset in MORE if preset not in ("daedal", "rho-eos", "apd")]  # which refuse it


@pytest.mark.parametrize(
    ("preset", "guidance"),
    [*((name, {}) for name in MORE), *((name, {"guidance": 1.5, "negative_prompt": [7, 8]}) for name in GUIDED)],
)
def test_presets_that_need_more(preset, guidance):
    """Whatever the kernels do not know of their laws, the core says: the tokens are the same."""
    given = {"preset": preset, "mask_token_id": MASK, "max_new_tokens": 6, "suppress_tokens": (250,), "seed": [1, 2, 3]}
    given |= MORE[preset] | guidance
    if preset == "apd":
        given["verifier"] = HashTable(VOCABULARY, seed=9)
    prompts = [[1, 2, 3], [4], [5, 6]]
    core = dllm_fast.sample(Behind(VOCABULARY), prompts, **given)
    with emulated(PREDICTION):
        ours = dllm_fast.sample(Behind(VOCABULARY), prompts, **given)
    same(ours, core)
    assert ours.stats.nfe_per_row == core.stats.nfe_per_row


def test_no_preset_is_left_out():
    """`linear-spec` is for networks that are read causally (`test_gpu_checks.py`, `property/test_verify.py`)."""
    assert {*MORE, *presets_of_any_model(), "linear-spec"} == {*dllm_fast.presets()}


@pytest.mark.parametrize(
    "given",
    [
        {"temperature": 0.7, "top_k": 50, "top_p": 0.9, "min_p": 0.01},
        {"temperature": 1.0, "max_batch_rows": 2, "order": "random"},
        {"threshold": 0.01, "block_length": 2, "edit_threshold": 0.0, "max_post_steps": 3},
        {"preset": "llada", "as_published": True},
        {"preset": "llada", "as_published": True, "order": "margin", "temperature": 0.5},
    ],
)
def test_settings(given):
    model = Bfloat16(HashTable(VOCABULARY))
    core = run(model, max_new_tokens=4, **given)
    with emulated(PREDICTION) as launched:
        ours = run(model, max_new_tokens=4, **given)
    assert launched
    same(ours, core)


@pytest.mark.parametrize("seed", range(4))
def test_steps_that_score_nothing(seed):
    """Dream's schedule spends forwards that fill no mask, and who chooses before the forward then scores none."""
    model = HashTable(VOCABULARY)
    given = {"preset": "dream-origin", "max_new_tokens": 16, "mask_token_id": MASK, "seed": seed}
    core = dllm_fast.sample(model, [1, 2, 3], **given)
    assert core.stats.nfe > len({edit.step for edit in core.trajectory[0]}), "some do"
    with emulated(PREDICTION):
        ours = dllm_fast.sample(model, [1, 2, 3], **given)
    same(ours, core)


def test_errors_name_row_and_position_as_the_core_does():
    def broken(ids):
        logits = torch.zeros(*ids.shape, VOCABULARY)
        logits[-1, -1, 7] = torch.nan
        return logits

    with pytest.raises(InvalidValueError) as core:
        run(broken, max_new_tokens=4)
    with emulated(PREDICTION), pytest.raises(InvalidValueError) as ours:
        run(broken, max_new_tokens=4)
    assert str(ours.value) == str(core.value)
    with emulated(PREDICTION), pytest.raises(InvalidValueError, match="suppress_tokens must be an id of the vocabulary"):
        run(HashTable(VOCABULARY), max_new_tokens=4, suppress_tokens=(VOCABULARY,))


def decoder(**changes):
    config = DecoderConfig(
        vocabulary=VOCABULARY,
        context=None,
        width=64,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=64,
        inner=32,
        norm_eps=1e-6,
        rotary=Rotary(width=64, theta=1e4),
        **changes,
    )
    return redraw(Decoder(config)).bfloat16()


@pytest.mark.parametrize("reach", [None, 2])
@pytest.mark.parametrize("is_cached", [False, True])
def test_the_attention_of_a_network(is_cached, reach):
    network = decoder()
    ids = torch.randint(0, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(2, 6)
    end = torch.tensor([[3, 3, 3, 6, 6, 6], [4, 4, 4, 4, 4, 4]])
    attend = Batch.attend

    def hidden():
        cache = SlotCache(network, 2, 9, dtype=torch.bfloat16, device=torch.device("cpu")) if is_cached else None
        slots = positions if is_cached else None
        return network.hidden(Batch(ids=ids, positions=positions, end=end, cache=cache, slots=slots, keys=6))

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(Batch, "attend", lambda batch, *args: attend(batch, *args, reach=reach))
        plain = hidden()
        with emulated(["attention"]) as launched:
            ours = hidden()
    assert launched == ["dllm_attention_d64_rows32_bf16"] * 2
    torch.testing.assert_close(ours, plain, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("is_cached", [False, True])
def test_a_layer_of_kernels(is_cached, qk_norm, wide):
    """Norm with residual, heads into slots, attention, SwiGLU: a layer is five launches beside its products."""
    network = decoder(qk_norm=qk_norm, rotary_float32=wide)
    exact = copy.deepcopy(network).double()
    ids = torch.randint(0, VOCABULARY, (2, 6), generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(2, 6)
    end = torch.tensor([[3, 3, 3, 6, 6, 6], [4, 4, 4, 4, 4, 4]])

    def run_on(net):
        dtype = net.norm.weight.dtype
        cache = SlotCache(net, 2, 9, dtype=dtype, device=torch.device("cpu")) if is_cached else None
        slots = positions + 1 if is_cached else None
        return net.hidden(Batch(ids=ids, positions=positions, end=end, cache=cache, slots=slots, keys=7 if is_cached else 6))

    with torch.inference_mode():
        plain, best = run_on(network).double(), run_on(exact)
        with emulated() as launched:
            ours = run_on(network).double()
    layer = ["fused_add_norm", "fused_qkv", "attention_d64_rows32", "fused_add_norm", "fused_swiglu"]
    assert launched == [f"dllm_{name}_bf16" for name in (*layer, *layer, layer[0])]
    assert (ours - best).norm() <= 2 * (plain - best).norm()


@pytest.mark.parametrize("draw", [{}, {"temperature": 0.9, "top_p": 0.9}])
@pytest.mark.parametrize("name", ["dream", "sdar", "fast-dllm-v2"])
def test_steps_that_predict_within_the_forward(name, draw, tmp_path):
    """What a CUDA graph would hold, mask prediction and all, through the same buffers."""
    model = dllm_fast.load(next(twin for twin in TWINS if twin.name == name).save(tmp_path))
    given = {"preset": "llada", "max_new_tokens": 8, "seed": 3, "stop_at_eos": False, **draw}
    plain = dllm_fast.sample(model, [[1, 2, 3], [4]], **given)

    with_engine(model)
    with emulated(PREDICTION) as launched:
        ours = dllm_fast.sample(model, [[1, 2, 3], [4]], **given)
    assert launched
    assert any(shape.kind is not None for shape, _, _ in model.engine._graphs)
    # A matrix product of another size may round differently, so the tokens are compared and not the statistics.
    assert [row.tolist() for row in ours.sequences] == [row.tolist() for row in plain.sequences]


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_replayed_steps_of_kernels(cache):
    """Everything at once, a step of nothing but kernels and matrix products, through buffers of rounded shapes."""
    network = decoder()
    model = LoadedModel(network, None, info(VOCABULARY, mask_token_id=MASK), {})
    with_engine(model)
    given = {"max_new_tokens": 6, "preset": "llada", "cache": cache}
    with emulated() as launched:
        replayed = dllm_fast.sample(model, [[1, 2, 3], [4]], **given)
        assert model.engine._graphs
        model.engine = None
        eager = dllm_fast.sample(model, [[1, 2, 3], [4]], **given)
    assert {name.split("_")[1] for name in launched} == {"fused", "attention", "mask", "commit"}
    assert [row.tolist() for row in replayed.sequences] == [row.tolist() for row in eager.sequences]


def test_graphs_stay_valid_when_laws_change():
    """Temperatures, filters and ids that are left out are read anew by what was captured."""
    network = decoder()
    model = LoadedModel(network, None, info(VOCABULARY, mask_token_id=MASK), {})
    laws = (
        {"temperature": 0.7, "top_k": 50},
        {"temperature": 1.3, "top_k": 5, "suppress_tokens": tuple(range(0, 300, 7))},
        {"temperature": 0.2, "top_p": 0.5},
    )

    def tokens(**given):
        with emulated():
            ours = dllm_fast.sample(model, [[1, 2, 3], [4]], max_new_tokens=6, preset="llada", cache="none", seed=2, **given)
        return [row.tolist() for row in ours.sequences]

    eager = [tokens(**given) for given in laws]
    recorder = Recorder()
    with_engine(model, recorder)
    replayed, graphs = [], []
    for given in (laws[0], *laws):  # a shape is captured when it comes the second time
        replayed.append(tokens(**given))
        graphs.append((recorder.captured, len(model.engine._graphs)))
    assert replayed[1:] == eager
    assert eager[0] != eager[1] != eager[2]
    assert graphs[1][0] > 0
    assert graphs[1:] == [graphs[1]] * 3, "nothing was captured anew"
    for (shape, *_), graph in model.engine._graphs.items():
        begin = layout.SITES.size(shape.scored)
        records = graph.scoring_inputs[begin : begin + shape.rows * layout.LAW.dtype.itemsize].numpy().view(layout.LAW.dtype)
        held = {bits.data_ptr() for bits in graph.laws.bits if bits is not None}
        assert {int(address) for address in records["suppressed"] if address} == held != set(), "it holds what it points at"


def test_a_rule_that_the_kernel_does_not_know_is_decided_on_the_host(monkeypatch):
    """By the same steps, of the same predictions; only the commit is another's."""
    network = decoder()
    model = LoadedModel(network, None, info(VOCABULARY, mask_token_id=MASK), {})
    given = {"max_new_tokens": 6, "preset": "llada", "cache": "none"}
    tokens = []
    for known in (commit.KNOWN["order"], ()):
        monkeypatch.setitem(commit.KNOWN, "order", known)
        with_engine(model)
        with emulated() as launched:
            tokens.append([row.tolist() for row in dllm_fast.sample(model, [[1, 2, 3], [4]], **given).sequences])
        assert ("dllm_commit" in launched) == bool(known)
        assert any(name.startswith("dllm_mask_predict") for name in launched)
    assert tokens[0] == tokens[1]
