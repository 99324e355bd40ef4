"""Weights of 8 bits: E4M3 with a scale for each output channel, and rows quantised on their way into a product.

A product is defined by its operands, not by the device. With the numbers q and scales s of rows (ops/quantise.py), of x and
of the weight,

    dtype(sum(q_x * q_w) * s_x * s_w + bias), all in float32.

`torch._scaled_mm` computes it on a GPU of compute capability 8.9 or more. On a CPU the numbers are widened and multiplied in
float32: the same operands, and sums that differ by the order of their additions. That is slow and there to be looked at.

Linear layers of the blocks and experts are quantised: they are what a step reads. Not the token table, the norms, a router,
which are small or decide; not the head, whose logits are compared with each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from dllm_fast.checkpoint.checkpoint import IN_LAYER
from dllm_fast.errors import InvalidValueError, shown
from dllm_fast.networks import grouped_fp8
from dllm_fast.networks.experts import Experts
from dllm_fast.networks.layers import Linear
from dllm_fast.ops.quantise import E4M3, emulated_product, quantised, scaled_product

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("fp8",)
_CAPABILITY = (8, 9)
_STEP = 16  # both sizes of a matrix must be multiples of it for the product on a GPU
_COPIED_BYTES = 1 << 23  # float32 at once on the way of a weight


class Fp8Linear(Linear):
    """A linear layer in E4M3; `scale` is that of each output channel."""

    scale: Tensor

    def __init__(self, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=E4M3), requires_grad=False)
        self.register_buffer("scale", torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        rows, scale = quantised(x.reshape(-1, self.in_features))
        multiply = scaled_product if x.is_cuda else emulated_product
        return multiply(rows, scale, self.weight, self.scale, self.bias, x.dtype).view(*x.shape[:-1], self.out_features)


def store(source: Tensor, rows: Tensor, scale: Tensor) -> None:
    """Quantises a weight of a file, some rows at a time, to where it stays."""
    step = max(1, _COPIED_BYTES // (4 * max(1, source.shape[-1])))
    for begin in range(0, len(source), step):
        part = slice(begin, begin + step)
        numbers, scales = quantised(source[part].to(rows.device, torch.float32))
        rows[part].copy_(numbers)
        scale[part].copy_(scales[:, 0])


def scale_name(weight: str) -> str:
    """The buffer of the scales of a weight: of `qkv.weight` it is `qkv.scale`, of the stack `gate_up` it is `gate_up_scale`."""
    place, _, name = weight.rpartition("weight")
    return f"{place}scale" if place.endswith(".") and not name else f"{weight}_scale"


def prepare(network: nn.Module, device: torch.device) -> str:
    """Puts layers of 8 bits without values into the blocks of a network. Returns what was done, for `explain`."""
    found = kept = stacks = stays = 0
    refused = grouped_fp8.refusal(device) if any(isinstance(module, Experts) for module in network.modules()) else None
    for place, parent in list(network.named_modules()):
        if isinstance(parent, Experts):
            fits = refused is None and _fits(*parent.gate_up.shape[1:], *parent.down.shape[1:])
            stacks, stays = stacks + 2 * fits, stays + 2 * (not fits)
            if fits:
                parent.hold_8_bits()
        for name, layer in list(parent.named_children()):
            if type(layer) is not Linear or not IN_LAYER.search(f"{place}.{name}."):
                continue
            if _fits(layer.in_features, layer.out_features):
                found += 1
                parent.add_module(name, Fp8Linear(layer.in_features, layer.out_features, bias=layer.bias is not None))
            else:
                kept += 1
    more = [f"{kept} whose sizes are no multiples of {_STEP}"] if kept else []
    more += [f"{stays} stacks of experts{'' if refused is None else f' ({refused})'}"] if stays else []
    how = "torch._scaled_mm" if device.type == "cuda" else "emulated in float32, slow: on a GPU it is one kernel"
    return (
        f"quantised to fp8 (E4M3, a scale for each output channel, and for each row as it comes): {found} linear layers of the "
        f"blocks{f', {stacks} stacks of experts' if stacks else ''}; as they are: embeddings, norms, head"
        f"{''.join(f', {what}' for what in more)}; products: {how}"
    )


def _fits(*sizes: int) -> bool:
    return not any(size % _STEP for size in sizes)


def known(kind: object) -> str | None:
    """A way of quantising that there is.

    Raises:
        InvalidValueError: another one.
    """
    if kind is None or (isinstance(kind, str) and kind in KINDS):
        return kind
    raise InvalidValueError(
        f"quantise must be one of {', '.join(KINDS)}, got {shown(kind)}; leave it out for weights as they are in the files"
    )


def check(dtype: torch.dtype, device: torch.device) -> None:
    """Refuses what the products cannot do, before anything is read.

    Raises:
        InvalidValueError: the device, or the dtype on it; with the way.
    """
    if device.type == "cpu":
        return
    if device.type != "cuda":
        raise InvalidValueError(
            f"quantise='fp8' runs on CUDA and, emulated, on a CPU, got device {str(device)!r}; leave quantise out"
        )
    capability = torch.cuda.get_device_capability(device)
    if capability < _CAPABILITY:
        raise InvalidValueError(
            f"quantise='fp8' needs a GPU of compute capability 8.9 or more, got {capability[0]}.{capability[1]} for "
            f"{str(device)!r}; leave quantise out"
        )
    if dtype != torch.bfloat16:
        raise InvalidValueError(
            f"quantise='fp8' needs dtype bfloat16 on a GPU, which its products give, got {dtype}; pass dtype='bfloat16'"
        )
    if (refusal := _refusal(device)) is not None:
        raise InvalidValueError(
            f"quantise='fp8' needs torch._scaled_mm with a scale for each row, which torch {torch.__version__} has not for "
            f"{str(device)!r}, got {shown(refusal)}; leave quantise out, or install a newer torch"
        )


def _refusal(device: torch.device) -> str | None:
    """What torch says against one small product, or that it is wrong; None where it is right."""
    rows, scale = quantised(torch.linspace(-1, 1, 32 * _STEP, device=device).view(32, _STEP))
    operands = rows, scale, rows, scale[:, 0].contiguous(), None, torch.bfloat16
    try:
        said = scaled_product(*operands)
    except (RuntimeError, TypeError, AttributeError) as error:
        return str(error).partition("\n")[0]
    # Sums of another order may end up at the next bfloat16.
    is_right = torch.allclose(said.float(), emulated_product(*operands).float(), rtol=2**-7, atol=1e-4)
    return None if is_right else "a wrong product"
