"""Weights of 8 bits: the numbers are those of the definition, and what cannot be is refused before anything is read."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast import cli, demo
from dllm_fast.errors import InvalidValueError
from dllm_fast.networks import grouped_fp8, quantise
from dllm_fast.networks.experts import Experts, ExpertsConfig
from dllm_fast.networks.grouped import Sorted
from dllm_fast.networks.layers import Linear
from dllm_fast.networks.quantise import Fp8Linear
from dllm_fast.ops.quantise import E4M3, quantised
from encoders import TWINS as ENCODERS
from families import MASK, TWINS

BY_NAME = {twin.name: twin for twin in TWINS}
CPU = torch.device("cpu")
MIXTURE = ExpertsConfig(count=4, chosen=2, inner=16)
needs_product = pytest.mark.skipif(quantise._refusal(CPU) is not None, reason="this torch has no torch._scaled_mm on a CPU")


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Rows of very different sizes, and a few large numbers in each."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * torch.randn(shape[0], 1, generator=generator).mul(3).exp()
    return (x * (1 + 40 * (torch.rand(shape, generator=generator) < 0.02))).to(dtype)


# The reference: all numbers of the format from its definition (4 bits of exponent, bias 7, 3 of mantissa, no infinities).
_CODES = np.array(
    [(m / 8 if e == 0 else 1 + m / 8) * 2.0 ** (max(e, 1) - 7) for e in range(16) for m in range(8) if (e, m) != (15, 7)]
)


def nearest_e4m3(x: np.ndarray) -> np.ndarray:
    """To the nearest number of the format, ties to the one whose code is even; at most 448."""
    size = np.abs(x)
    above = np.minimum(np.searchsorted(_CODES, size), len(_CODES) - 1)
    below = np.maximum(above - 1, 0)
    up, down = _CODES[above] - size, size - _CODES[below]
    code = np.where((up < down) | ((up == down) & (above % 2 == 0)), above, below)
    return np.copysign(_CODES[code], x)


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    largest = np.abs(x).max(axis=1, keepdims=True).astype(np.float32)
    scale = np.maximum(largest / np.float32(448), np.finfo(np.float32).tiny)
    return nearest_e4m3((x.astype(np.float32) / scale).astype(np.float64)), scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_layer_is_what_the_definition_says(dtype, biased):
    x, weight, bias = drawn(50, 96, seed=1), drawn(64, 96, seed=2), drawn(64, 1, seed=3)[:, 0]
    x, weight = (x / x.abs().amax() * 1000).to(dtype), weight / weight.abs().amax()  # float16 ends at 65,504
    layer = Fp8Linear(96, 64, bias=biased)
    quantise.store(weight, layer.weight.data, layer.scale)
    if biased:
        layer.bias = torch.nn.Parameter(bias.to(dtype))
    said = layer(x.view(5, 10, 96))
    assert (said.shape, said.dtype) == ((5, 10, 64), dtype)
    rows, row_scale = reference(x.float().numpy())
    columns, column_scale = reference(weight.numpy())
    np.testing.assert_array_equal(layer.weight.float().numpy(), columns)
    np.testing.assert_array_equal(layer.scale.numpy(), column_scale[:, 0])
    np.testing.assert_array_equal(quantised(x)[0].float().numpy(), rows)
    scales = row_scale.astype(np.float64) * column_scale.T
    exact = rows @ columns.T * scales + (bias.to(dtype).double().numpy() if biased else 0)
    # Float32 sums of 96 products, and one rounding to the dtype.
    room = (
        np.abs(rows) @ np.abs(columns.T) * scales * 96 * 2.0**-24
        + (np.abs(exact) + torch.finfo(dtype).tiny) * torch.finfo(dtype).eps
    )
    assert (np.abs(said.view(50, 64).detach().double().numpy() - exact) <= room).all()


def test_the_error_of_a_number():
    """Half of the last of three bits, or half of the smallest number of the row's scale."""
    x = torch.cat((drawn(200, 64), torch.logspace(-45, 38, 64)[None]))
    numbers, scale = quantised(x)
    back = numbers.double() * scale.double()
    assert ((back - x).abs() <= torch.maximum(x.double().abs() * 2**-4, scale.double() * 2**-10) * (1 + 1e-6)).all()
    assert numbers.float().abs().amax(dim=1)[:-1].eq(448).all(), "the largest of a row is the largest of the format"


def test_rows_of_nothing_and_rows_that_are_no_numbers():
    x = torch.zeros(4, 16)
    x[1, 3], x[2, 3], x[3, 3] = 1e-45, float("inf"), float("nan")
    numbers, scale = quantised(x)
    assert numbers[0].float().eq(0).all()
    assert numbers[:2].float().isfinite().all()
    assert scale[:2].gt(0).all()
    assert numbers[2:, 3].float().isnan().all(), "not a large number, which nobody would notice"


def test_a_row_is_quantised_alone():
    x = drawn(40, 64)
    numbers, scale = quantised(x)
    for i in range(len(x)):
        alone, its = quantised(x[i : i + 1])
        assert torch.equal(alone.float()[0], numbers.float()[i])
        assert its[0] == scale[i]


def test_why_each_channel_has_a_scale():
    """With one scale for a matrix, channels that are small beside the largest lose their bits."""
    weight = drawn(64, 128, seed=5)
    numbers, scale = quantised(weight)
    one = weight.abs().max() / 448
    by_channel = (numbers.float() * scale - weight).norm(dim=1) / weight.norm(dim=1)
    by_matrix = ((weight / one).to(E4M3).float() * one - weight).norm(dim=1) / weight.norm(dim=1)
    assert by_channel.max() < 0.04 < by_matrix.max()


@needs_product
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_product_of_torch_is_called_as_it_is_defined(dtype):
    rows, row_scale = quantised(drawn(33, 96, seed=1))
    columns, column_scale = quantised(drawn(64, 96, seed=2))
    bias = drawn(64, 1, seed=3)[:, 0].bfloat16() if dtype == torch.bfloat16 else None
    operands = rows, row_scale, columns, column_scale[:, 0].contiguous(), bias, dtype
    ours, theirs = quantise.emulated_product(*operands), quantise.scaled_product(*operands)
    assert theirs.dtype == dtype
    size = row_scale * (rows.float().norm(dim=1)[:, None] * columns.float().norm(dim=1)) * column_scale.T
    assert ((ours.float() - theirs.float()).abs() <= size * 2**-20 + ours.float().abs() * torch.finfo(dtype).eps).all()


@pytest.mark.parametrize("twin", [*TWINS, *ENCODERS], ids=lambda twin: twin.name)
def test_every_family(tmp_path, twin):
    """Layers of the blocks and no others; each weight is that of the files, quantised once; the logits are near."""
    folder = twin.save(tmp_path)
    plain, model = dllm_fast.load(folder), dllm_fast.load(folder, quantise="fp8")
    layers = {name: module for name, module in model.network.named_modules() if isinstance(module, Fp8Linear)}
    assert layers
    assert all(".stack." in f".{name}" or ".layer" in name or ".transformer_encoder." in name for name in layers)
    for name, layer in layers.items():
        numbers, scale = quantised(plain.network.get_submodule(name).weight)
        assert torch.equal(layer.weight.float(), numbers.float())
        assert torch.equal(layer.scale, scale[:, 0])
    others = dict(plain.network.named_parameters())
    for name, parameter in model.network.named_parameters():
        if parameter.dtype != E4M3:
            assert torch.equal(parameter, others[name])
    ids = torch.randint(12, 300, (2, 20), generator=torch.Generator().manual_seed(0)) % plain.info.vocabulary
    wanted, said = plain(ids), model(ids)
    # A router that is given something else chooses another expert.
    room = 0.35 if any(isinstance(module, Experts) for module in model.network.modules()) else 0.25
    assert 0 < (said - wanted).norm() / wanted.norm() < room
    assert (model.info.quantise, plain.info.quantise) == ("fp8", None)
    assert any(f"{len(layers)} linear layers of the blocks" in note for note in model.info.notes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_samples(tmp_path, dtype):
    """Under the policies of the cache; the dtype is that of everything else."""
    model = dllm_fast.load(BY_NAME["llada"].save(tmp_path), dtype=dtype, quantise="fp8")
    assert model.network.embed.weight.dtype == getattr(torch, dtype)
    assert model.network.stack[0].qkv.weight.dtype == E4M3
    rule = {"max_new_tokens": 12, "block_length": 4, "steps_per_block": 2, "stop_at_eos": False}
    prompts = [[3, 4, 5], [7, 8, 9, 10, 11, 12]]
    for cache in ("none", "dual"):
        result = dllm_fast.sample(model, prompts, cache=cache, **rule)
        assert all(len(new) == 12 and MASK not in new for new in result.new_tokens)
        assert [row.tolist() for row in dllm_fast.sample(model, prompts, cache=cache, **rule).sequences] == [
            row.tolist() for row in result.sequences
        ]


def test_the_embedded_model_still_solves_most_of_its_problems():
    model = dllm_fast.load(demo.FOLDER / "sudoku", dtype="float32", quantise="fp8")
    result = dllm_fast.infill(model, demo.problems(4, seed=5))
    assert sum(demo.check(row) for row in result.sequences) >= 3


def test_memory(tmp_path):
    twin = BY_NAME["llada"]
    plain, model = (
        dllm_fast.load(twin.save(tmp_path), dtype="bfloat16", quantise=quantise_).network for quantise_ in (None, "fp8")
    )
    blocks = [
        sum(tensor.nbytes for name, tensor in network.state_dict().items() if name.startswith("stack."))
        for network in (plain, model)
    ]
    assert blocks[1] < 0.6 * blocks[0]


def test_weights_are_quantised_some_rows_at_a_time(monkeypatch):
    weight = drawn(50, 32)
    whole = torch.empty(50, 32, dtype=E4M3), torch.empty(50)
    quantise.store(weight, *whole)
    monkeypatch.setattr(quantise, "_COPIED_BYTES", 4 * 32 * 7)
    most = []
    inner = quantised
    monkeypatch.setattr(quantise, "quantised", lambda rows: (most.append(len(rows)), inner(rows))[1])
    parts = torch.empty(50, 32, dtype=E4M3), torch.empty(50)
    quantise.store(weight, *parts)
    assert max(most) == 7
    assert torch.equal(parts[0].float(), whole[0].float())
    assert torch.equal(parts[1], whole[1])


def test_what_does_not_fit_stays_and_is_said():
    network = torch.nn.ModuleDict(
        {
            "layers": torch.nn.ModuleList([torch.nn.ModuleDict({"a": Linear(32, 24), "b": Linear(48, 32)})]),
            "head": Linear(32, 32),
        }
    )
    said = quantise.prepare(network, CPU)
    assert isinstance(network["layers"][0]["b"], Fp8Linear)
    assert not isinstance(network["layers"][0]["a"], Fp8Linear)
    assert not isinstance(network["head"], Fp8Linear)
    assert "1 linear layers of the blocks; as they are: embeddings, norms, head, 1 whose sizes are no multiples of 16;" in said
    assert "emulated in float32" in said
    assert "products: torch._scaled_mm" in quantise.prepare(network, torch.device("cuda"))


def test_experts_in_8_bits(tmp_path):
    folder = BY_NAME["llada2"].save(tmp_path)
    plain, model = dllm_fast.load(folder), dllm_fast.load(folder, quantise="fp8")
    mixture, wanted = model.network.stack[1].mlp, plain.network.stack[1].mlp
    for name in ("gate_up", "down"):
        numbers, scale = quantised(getattr(wanted, name).flatten(0, 1))
        stack = getattr(mixture, name)
        assert torch.equal(stack.float().flatten(0, 1), numbers.float())
        assert torch.equal(getattr(mixture, f"{name}_scale").flatten(), scale[:, 0])
    assert mixture.router.weight.dtype == torch.float32
    assert any("2 stacks of experts; as they are: embeddings, norms, head; products: emulated" in n for n in model.info.notes)
    assert any("quantised to fp8 (E4M3" in note for note in dllm_fast.explain(model).notes)
    x = drawn(30, 64, seed=4)
    x = x / x.abs().amax(dim=1, keepdim=True)
    with torch.inference_mode():
        assert 0 < (mixture(x) - wanted(x)).norm() / wanted(x).norm() < 0.1


def test_experts_stay_where_torch_does_not_multiply_them(monkeypatch):
    with torch.device("meta"):
        network = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([Experts(32, MIXTURE, "silu")])})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    said = quantise.prepare(network, torch.device("cuda"))
    assert network["layers"][0].gate_up.dtype == torch.float32
    assert (
        "as they are: embeddings, norms, head, 2 stacks of experts (torch multiplies them in 8 bits on GPUs of compute "
        "capability 9 and 10 alone); products: torch._scaled_mm"
    ) in said
    assert quantise.prepare(network, CPU).count("2 stacks of experts;") == 1
    assert network["layers"][0].gate_up.dtype == E4M3
    with torch.device("meta"):
        network["layers"][0] = Experts(32, dataclasses.replace(MIXTURE, inner=24), "silu")
    assert "head, 2 stacks of experts;" in quantise.prepare(network, CPU)


def grouped_product(a, b, scale_a, scale_b, *, offs, out_dtype, use_fast_accum):
    """`torch._scaled_grouped_mm` as its documentation and its checks have it."""
    assert (a.dtype, b.dtype, offs.dtype, out_dtype, use_fast_accum) == (E4M3, E4M3, torch.int32, torch.bfloat16, False)
    assert a.is_contiguous()
    assert b.transpose(-2, -1).is_contiguous()
    assert (scale_a.shape, scale_b.shape) == ((len(a),), (len(b), b.shape[2]))
    ends = offs.tolist()
    assert all(end % 16 == 0 for end in ends)
    assert ends[-1] <= len(a)
    out = torch.full((len(a), b.shape[2]), torch.nan, dtype=out_dtype)
    for e, (begin, end) in enumerate(itertools.pairwise([0, *ends])):
        part = slice(begin, end)
        out[part] = a[part].float() @ b[e].float() * scale_a[part, None] * scale_b[e]
    return out


@pytest.mark.parametrize(("tokens", "count", "each"), [(1, 8, 2), (40, 6, 2), (33, 64, 8)])
def test_grouped_products_on_a_gpu_are_called_as_they_are_defined(monkeypatch, tokens, count, each):
    monkeypatch.setattr(torch, "_scaled_grouped_mm", grouped_product, raising=False)
    generator = torch.Generator().manual_seed(tokens)
    chosen = torch.rand(tokens, count - 2, generator=generator).topk(each, dim=-1).indices
    rows = Sorted.by_expert(chosen, count)
    numbers, row_scale = quantised(drawn(tokens * each, 48, seed=1, dtype=torch.bfloat16))
    stack, scale = quantised(drawn(count * 32, 48, seed=2))
    operands = numbers, row_scale, stack.view(count, 32, 48), scale.view(count, 32), rows, torch.bfloat16
    said, wanted = grouped_fp8.scaled(*operands), grouped_fp8.emulated(*operands)
    torch.testing.assert_close(said, wanted, rtol=2**-7, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch, "_scaled_grouped_mm"), reason="this torch has no grouped products in 8 bits")
def test_grouped_products_in_8_bits_read_nothing_on_the_host(monkeypatch):
    """On the meta device there are no values, and torch checks the shapes of its own operation."""
    with torch.device("meta"):
        module = Experts(64, dataclasses.replace(MIXTURE, inner=32), "silu").to(torch.bfloat16)
        module.hold_8_bits()
        x = torch.empty(7, 64, dtype=torch.bfloat16)
        monkeypatch.setattr(grouped_fp8, "emulated", grouped_fp8.scaled)
        assert module(x).shape == (7, 64)


def test_a_refusal_and_a_wrong_grouped_product_are_seen(monkeypatch):
    monkeypatch.setattr(torch, "_scaled_grouped_mm", grouped_product, raising=False)
    assert grouped_fp8._tried(CPU) is None

    def wrong(*operands, **named):
        return grouped_product(*operands, **named).roll(1, dims=0)

    def refuses(*operands, **named):
        raise RuntimeError("no such kernel\nand a trace")

    monkeypatch.setattr(torch, "_scaled_grouped_mm", wrong)
    assert grouped_fp8._tried(CPU) == "torch gives a wrong product"
    monkeypatch.setattr(torch, "_scaled_grouped_mm", refuses)
    assert grouped_fp8._tried(CPU) == "torch says: no such kernel"
    monkeypatch.delattr(torch, "_scaled_grouped_mm")
    assert "has no attribute '_scaled_grouped_mm'" in grouped_fp8._tried(CPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    assert "capability 9 and 10 alone" in grouped_fp8.refusal(torch.device("cuda"))
    assert grouped_fp8.refusal(CPU) is None


@pytest.mark.parametrize("kind", ["int8", "FP8", True, 8])
def test_unknown_kinds(tmp_path, kind):
    with pytest.raises(InvalidValueError, match=r"quantise must be one of fp8, got .*; leave it out for weights as they are"):
        dllm_fast.load(tmp_path / "nothing is read", quantise=kind)


def test_a_model_in_memory_is_quantised_by_whoever_made_it():
    with pytest.raises(InvalidValueError, match=r"it belongs to the model: dllm_fast.load\(folder, quantise=...\)"):
        dllm_fast.sample(demo.load()[0], [[1]], quantise="fp8")
    with pytest.raises(InvalidValueError, match=r"did you mean 'quantise'\?"):
        dllm_fast.load(demo.FOLDER / "sudoku", quantize="fp8")


def on_gpu(monkeypatch, capability, refusal=None):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(quantise, "_refusal", lambda device: refusal)


def test_devices(monkeypatch):
    folder = demo.FOLDER / "sudoku"
    on_gpu(monkeypatch, (8, 6))
    with pytest.raises(InvalidValueError, match=r"compute capability 8.9 or more, got 8.6 for 'cuda'; leave quantise out"):
        dllm_fast.load(folder, device="cuda", quantise="fp8")
    on_gpu(monkeypatch, (9, 0))
    with pytest.raises(InvalidValueError, match=r"needs dtype bfloat16 on a GPU, .*, got torch.float32; pass dtype='bfloat16'"):
        dllm_fast.load(folder, device="cuda", dtype="float32", quantise="fp8")
    quantise.check(torch.bfloat16, torch.device("cuda"))
    on_gpu(monkeypatch, (8, 9), "Rowwise scaling is not supported\nand so on")
    with pytest.raises(
        InvalidValueError, match=r"which torch .* has not for 'cuda', got 'Rowwise scaling .*install a newer torch"
    ):
        quantise.check(torch.bfloat16, torch.device("cuda"))
    with pytest.raises(InvalidValueError, match=r"runs on CUDA and, emulated, on a CPU, got device 'mps'; leave quantise out"):
        quantise.check(torch.bfloat16, torch.device("mps"))


def test_a_refusal_and_a_wrong_product_are_seen(monkeypatch):
    def refuses(*operands):
        raise RuntimeError("no such kernel\nand a trace")

    monkeypatch.setattr(quantise, "scaled_product", refuses)
    assert quantise._refusal(CPU) == "no such kernel"
    monkeypatch.setattr(quantise, "scaled_product", lambda *operands: quantise.emulated_product(*operands) * 1.02)
    assert quantise._refusal(CPU) == "a wrong product"
    monkeypatch.setattr(quantise, "scaled_product", quantise.emulated_product)
    assert quantise._refusal(CPU) is None


def test_the_command(capsys, tmp_path):
    folder = BY_NAME["sdar"].save(tmp_path)
    assert cli.main(["explain", str(folder), "--quantise", "fp8"]) == 0
    assert "quantised to fp8 (E4M3" in capsys.readouterr().out
    assert cli.main(["explain", str(folder), "--quantise", "int4"]) == 2
    assert "quantise must be one of fp8, got 'int4'" in capsys.readouterr().err
