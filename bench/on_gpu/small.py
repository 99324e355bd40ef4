"""Small shapes of every kernel, for compute-sanitizer, under which they run a hundred times slower."""

from __future__ import annotations

from dataclasses import replace

import torch

from bench.on_gpu.checks import attention, equalities, fused, loops, products
from bench.on_gpu.stage import Stage
from dllm_fast.kernels import launches
from dllm_fast.ops import launcher


def every_kernel(stage: Stage) -> None:
    """The toy sizes of a rehearsal, on the real device."""
    toy = replace(stage, dry=True)
    equalities.mask_prediction(toy)
    equalities.commit(toy)
    attention.variants(toy)
    fused.fused(toy)
    products.eight_bits(toy)
    loops.keep(toy)


def beyond(stage: Stage) -> None:
    """A kernel that reads a row more than there is: whoever looks for such a thing must see it."""
    one = torch.ones(1, 16, device=stage.device).bfloat16()
    out = torch.empty(2, 8, device=stage.device).bfloat16()
    given = {"gate_up": one.data_ptr(), "out": out.data_ptr(), "rows": 2, "inner": 8}
    launcher.launch([launches.fused_swiglu(dtype="bfloat16", **given)], stage.device)
    stage.synchronize()


def commit(stage: Stage) -> None:
    """One kernel of them."""
    equalities.commit(replace(stage, dry=True))
