"""Weights that are not simply there: offloaded ones are fetched, missing ones are named, quantised ones are run as they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import dllm_fast
from dllm_fast.errors import InvalidValueError
from dllm_fast.modules.places import places
from dllm_fast.transformers.probe import study
from native_models import PROMPTS, model_of

SETTINGS = {"preset": "llada", "max_new_tokens": 8, "stop_at_eos": False}


def agree(found, expected):
    assert all(np.array_equal(a, b) for a, b in zip(found.sequences, expected.sequences, strict=True))


@pytest.mark.parametrize("name", ["Qwen3", "Bert", "MPNet"])
@pytest.mark.parametrize("part", [None, "embeddings"])
def test_weights_that_are_nowhere_are_named_before_the_first_forward(name, part):
    model = model_of(name)
    (model if part is None else model.get_input_embeddings()).to("meta")
    for wrapped in (model, torch.nn.DataParallel(model)):
        with pytest.raises(
            InvalidValueError, match=r"must hold its weights, got \d+ of \d+ tensors on the meta device.*device_map"
        ):
            dllm_fast.sample(wrapped, [3, 4, 5], max_new_tokens=4)
    with pytest.raises(InvalidValueError, match="must hold its weights"):
        dllm_fast.explain(model)
    with pytest.raises(InvalidValueError, match="must hold its weights"):
        dllm_fast.sample(torch.nn.Linear(3, 3, device="meta"), [1], mask_token_id=2)


@pytest.mark.parametrize("name", ["Qwen3", "Bert", "MPNet"])
@pytest.mark.parametrize("to", ["memory", "disk"])
def test_offloaded_weights_are_fetched(name, to, tmp_path):
    accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed")
    expected = dllm_fast.sample(model_of(name), PROMPTS, **SETTINGS)
    where = torch.device("cpu")
    if to == "memory":
        model = accelerate.cpu_offload(model_of(name), execution_device=where)
    else:
        model = accelerate.disk_offload(model_of(name), str(tmp_path), execution_device=where)
    assert all(parameter.is_meta for parameter in model.parameters())
    agree(dllm_fast.sample(model, PROMPTS, **SETTINGS), expected)
    said = dllm_fast.explain(model)
    assert (said.tier, said.device) == (study(model_of(name)).tier, "cpu")
    count = places(model).tensors
    assert f"{count} of {count} tensors are offloaded and fetched in every forward, computed on cpu" in said.notes
    assert all(parameter.is_meta for parameter in model.parameters())


class Packed(torch.nn.Module):
    """A layer as libraries of quantised ones have them: bytes in another shape, and kernels that do not bear everything."""

    def __init__(self, layer):
        super().__init__()
        self.in_features, self.out_features, self.scale = (
            layer.in_features,
            layer.out_features,
            layer.weight.data.abs().max().item() / 127,
        )
        packed = (layer.weight.data / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed.view(-1, 1), requires_grad=False)
        self.bias = layer.bias

    def forward(self, x):
        if not x.numel():
            raise SystemError("a kernel has divided by the number of rows")
        return torch.nn.functional.linear(x, self.weight.view(self.out_features, -1).to(x.dtype) * self.scale, self.bias)


def test_quantised_layers_are_run_as_they_are():
    model = model_of("Qwen3")
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Linear:
                setattr(module, name, Packed(child))
    plain = model_of("Qwen3")
    with torch.no_grad():
        for name, module in plain.named_modules():
            if isinstance(module, torch.nn.Linear):
                packed = model.get_submodule(name)
                module.weight.copy_(packed.weight.view_as(module.weight) * packed.scale)
    model.config.quantization_config = {"quant_method": "of ours", "bits": 8}
    said = dllm_fast.explain(model)
    assert (said.tier, said.vocabulary, said.notes) == ("T3 native attention", 512, ("quantised (of ours, 8 bits)",))
    agree(dllm_fast.sample(model, PROMPTS, **SETTINGS), dllm_fast.sample(plain, PROMPTS, **SETTINGS))


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
@pytest.mark.skipif(not hasattr(torch.ao.quantization, "quantize_dynamic"), reason="this torch has no dynamic quantisation")
def test_layers_whose_scale_is_that_of_the_whole_text():
    """No row alone has the logits that it has among others, so nothing but whole canvases can be run."""
    model = torch.ao.quantization.quantize_dynamic(model_of("Bert"), {torch.nn.Linear}, dtype=torch.qint8)
    said = dllm_fast.explain(model)
    assert said.notes[0].startswith("quantised (torch.ao.nn.quantized.dynamic.modules.linear")
    assert said.tier == "T0 plain forward"
    assert dllm_fast.sample(model, [3, 4, 5], max_new_tokens=4).stats.nfe == 4
