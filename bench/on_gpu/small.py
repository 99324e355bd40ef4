"""Small shapes of every kernel, for compute-sanitizer, under which they run a hundred times slower."""

from __future__ import annotations

from dataclasses import replace

from bench.on_gpu.checks import attention, equalities, fused, loops, products
from bench.on_gpu.stage import Stage


def every_kernel(stage: Stage) -> None:
    """The toy sizes of a rehearsal, on the real device."""
    toy = replace(stage, dry=True)
    equalities.mask_prediction(toy)
    equalities.commit(toy)
    attention.variants(toy)
    fused.fused(toy)
    products.eight_bits(toy)
    loops.keep(toy)


def commit(stage: Stage) -> None:
    """One kernel of them."""
    equalities.commit(replace(stage, dry=True))
