"""Products that are not one plain matrix: of experts, from a graph and beside their loop, and of weights of 8 bits."""

from __future__ import annotations

from unittest import mock

import torch

from bench.on_gpu import launched, model
from bench.on_gpu.stage import Json, Stage
from dllm_fast.networks import grouped, grouped_fp8, quantise
from dllm_fast.networks.experts import Experts, ExpertsConfig
from dllm_fast.networks.quantise import Fp8Linear
from dllm_fast.ops.quantise import quantised

_BFLOAT16 = torch.bfloat16
# Sums in another order, and two roundings to bfloat16.
_ROUNDING = 1e-2


def experts(stage: Stage) -> Json:
    """One layer: the products as they are taken here against the loop over experts, and replayed from a graph."""
    config = ExpertsConfig(count=stage.pick(64, 8), chosen=stage.pick(8, 2), inner=stage.pick(512, 32))
    with torch.device("meta"):
        made = Experts(stage.pick(2048, 64), config, "silu")
    layer = model.draw(made, stage.device)
    found: Json = {"tokens without a value on the host": layer.tokens_without_host(), "errors": {}}
    with torch.inference_mode():
        for tokens in stage.pick((1, 33, 128), (1, 5)):
            random = torch.Generator(stage.device).manual_seed(tokens)
            x = torch.randn(tokens, made.down.shape[1], generator=random, device=stage.device).to(_BFLOAT16)
            with launched.exactly([launched.fused("swiglu", _BFLOAT16)]):
                ours = layer(x)
            with launched.nothing(), mock.patch.object(grouped, "tokens_without_host", return_value=0):
                looped = layer(x)
            error = float((ours.double() - looped.double()).norm() / looped.double().norm())
            found["errors"][tokens] = error
            print(f"{tokens} tokens: {error:.2e} from the loop", flush=True)
            assert error <= _ROUNDING, f"{tokens} tokens: {error:.2e} from the loop is more than {_ROUNDING:.0e}"
            if not stage.dry:
                _replayed(layer, x, ours)
    return found


def _replayed(layer: Experts, x: torch.Tensor, eager: torch.Tensor) -> None:
    """A capture fails where a value is read on the host; other tokens go to other experts."""
    given = x.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        said = layer(given)
    graph.replay()
    assert torch.equal(said, eager), "the graph does not give what was launched"
    given.copy_(-x)
    graph.replay()
    assert torch.equal(said, layer(-x)), "the graph does not follow its tokens to other experts"


def eight_bits(stage: Stage) -> Json:
    """Rows put into 8 bits, to the bit; and on a device, the product of torch with them."""
    found: Json = {}
    for rows, width in stage.pick(((1, 4096), (33, 12288), (2048, 4096)), ((1, 64), (3, 520))):
        random = torch.Generator(stage.device).manual_seed(rows)
        x = (torch.randn(rows, width, generator=random, device=stage.device) * 3).to(_BFLOAT16)
        x[:, 1] *= 100
        x[0, 2:] *= 1e-3
        with launched.exactly(["dllm_quantise_rows"]):
            numbers, scale = quantised(x)
        with launched.nothing():
            wanted, its = quantised(x)
        assert torch.equal(scale, its), f"{rows} x {width}: other scales"
        differing = int((numbers.view(torch.uint8) != wanted.view(torch.uint8)).sum())
        assert not differing, f"{rows} x {width}: {differing} numbers are others"
        # Older GPUs have no such product, and load says so.
        if not stage.dry and torch.cuda.get_device_capability(stage.device) >= (8, 9):
            found[f"{rows} x {width}"] = _product(stage, x)
    if not stage.dry:
        found["why experts are not"] = grouped_fp8.refusal(stage.device)
    return found


def _product(stage: Stage, x: torch.Tensor) -> float:
    """Of a layer, against float64 with the same operands."""
    quantise.check(_BFLOAT16, stage.device)
    with torch.device(stage.device), torch.inference_mode():
        layer = Fp8Linear(x.shape[1], 6144, bias=False)
        quantise.store(torch.randn(6144, x.shape[1]), layer.weight, layer.scale)
        said = layer(x).double()
        numbers, scale = quantised(x)
        exact = (numbers.double() @ layer.weight.double().t()) * scale.double() * layer.scale.double()
    error = float((said - exact).norm() / exact.norm())
    print(f"{tuple(x.shape)}: {error:.2e} from float64", flush=True)
    assert error <= _ROUNDING, f"{tuple(x.shape)}: {error:.2e} from float64 is more than {_ROUNDING:.0e}"
    return error
