"""The published sampling loops, restated in our own words with the costs that they have: what they compute for which
positions, in which dtype, and where they loop in Python. Temperature 0, counts from an even schedule.

`canvas` `[B, L]` holds the prompt and masks; blocks are counted from `start`. `model(ids)` returns an object with
`.logits` `[B, L, V]`, as these loops expect. The control alone (`llada_commit`, `fast_dllm_commit`) takes statistics.

The loops with a cache take `model(ids, begin, past)`, which returns the logits `[B, Q, V]` of ids that stand at `begin`, and
`past` with their keys and values in their place; `past.before(p)` is what it holds of the positions below p.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Model = Callable[[Tensor], Any]


def even_counts(masks: Tensor, steps: int) -> Tensor:
    """Masks to commit in each step `[B, steps]`, for `masks` `[B]`: equal counts, the remainder first."""
    base, rest = masks[:, None] // steps, masks[:, None] % steps
    counts = torch.zeros(len(masks), steps, dtype=torch.int64) + base
    for row in range(len(masks)):
        counts[row, : rest[row]] += 1
    return counts


def llada_commit(canvas: Tensor, proposals: Tensor, confidence: Tensor, counts: Tensor, *, mask_id: int, end: int) -> None:
    """LLaDA: in each row, the `counts` most confident masked positions before `end`. A `topk` for each row."""
    masked = canvas == mask_id
    confidence[:, end:] = -torch.inf
    proposals = torch.where(masked, proposals, canvas)
    confidence = torch.where(masked, confidence, -torch.inf)
    chosen = torch.zeros_like(masked)
    for row in range(len(canvas)):
        _, best = torch.topk(confidence[row], k=int(counts[row]))
        chosen[row, best] = True
    canvas[chosen] = proposals[chosen]


def fast_dllm_commit(
    canvas: Tensor,
    proposals: Tensor,
    confidence: Tensor,
    counts: Tensor | None,
    *,
    mask_id: int,
    end: int,
    threshold: float | None = None,
) -> None:
    """Fast-dLLM: as LLaDA by `counts`, or all masked positions before `end` that reach `threshold`, at least one.

    With a threshold it takes all positions by `topk` first, then throws out those below, one element at a time.
    """
    masked = canvas == mask_id
    masked[:, end:] = False
    proposals = torch.where(masked, proposals, canvas)
    confidence = torch.where(masked, confidence, -torch.inf)
    chosen = torch.zeros_like(masked)
    if threshold is not None:
        counts = masked.sum(dim=1)
    assert counts is not None
    for row in range(len(canvas)):
        count = int(counts[row])
        _, best = torch.topk(confidence[row], k=count)
        chosen[row, best] = True
        if threshold is not None:
            for k in range(1, count):
                if confidence[row, best[k]] < threshold:
                    chosen[row, best[k]] = False
    canvas[chosen] = proposals[chosen]


@torch.no_grad()
def llada(model: Model, canvas: Tensor, *, start: int, block_length: int, steps_per_block: int, mask_id: int) -> Tensor:
    """LLaDA's `generate`: argmax and softmax, in the dtype of the logits, of every position of the canvas."""
    canvas = canvas.clone()
    for begin in range(start, canvas.shape[1], block_length):
        end = begin + block_length
        counts = even_counts((canvas[:, begin:end] == mask_id).sum(dim=1), steps_per_block)
        for step in range(steps_per_block):
            logits = model(canvas).logits
            proposals = torch.argmax(logits, dim=-1)
            probabilities = torch.softmax(logits, dim=-1)
            confidence = probabilities.gather(-1, proposals[..., None])[..., 0]
            llada_commit(canvas, proposals, confidence, counts[:, step], mask_id=mask_id, end=end)
    return canvas


@torch.no_grad()
def fast_dllm(model: Model, canvas: Tensor, *, start: int, block_length: int, steps_per_block: int, mask_id: int) -> Tensor:
    """Fast-dLLM's `generate` without cache: argmax, and a float64 softmax of every position of the canvas."""
    canvas = canvas.clone()
    for begin in range(start, canvas.shape[1], block_length):
        end = begin + block_length
        counts = even_counts((canvas[:, begin:end] == mask_id).sum(dim=1), steps_per_block)
        step = 0
        while (canvas[:, begin:end] == mask_id).any():
            _fast_dllm_step(canvas, model(canvas).logits, counts[:, step], mask_id=mask_id, end=end)
            step += 1
    return canvas


def _fast_dllm_step(canvas: Tensor, logits: Tensor, counts: Tensor, *, mask_id: int, end: int) -> None:
    """Argmax and float64 softmax of all positions that were computed, then the control."""
    proposals = torch.argmax(logits, dim=-1)
    probabilities = torch.softmax(logits.to(torch.float64), dim=-1)
    confidence = probabilities.gather(-1, proposals[..., None])[..., 0]
    fast_dllm_commit(canvas, proposals, confidence, counts, mask_id=mask_id, end=end)


@torch.no_grad()
def fast_dllm_cached(
    model: Callable[..., tuple[Tensor, Any]],
    canvas: Tensor,
    *,
    start: int,
    block_length: int,
    steps_per_block: int,
    mask_id: int,
    dual: bool,
) -> Tensor:
    """Fast-dLLM's loops with a cache: at the start of a block the whole canvas, which also commits; then, until the block is
    full, everything from the block on, over the keys and values of what is left of it (`generate_with_prefix_cache`), or only
    the block, whose keys and values take their places among those on both sides (`generate_with_dual_cache`)."""
    canvas = canvas.clone()
    for begin in range(start, canvas.shape[1], block_length):
        end = begin + block_length
        counts = even_counts((canvas[:, begin:end] == mask_id).sum(dim=1), steps_per_block)
        logits, past = model(canvas, 0, None)
        _fast_dllm_step(canvas, logits, counts[:, 0], mask_id=mask_id, end=end)
        past = past if dual else past.before(begin)
        part = canvas[:, begin : end if dual else None]
        step = 1
        while (canvas[:, begin:end] == mask_id).any():
            logits, grown = model(part, begin, past)
            past = grown if dual else past
            _fast_dllm_step(part, logits, counts[:, step], mask_id=mask_id, end=block_length)
            step += 1
    return canvas


@torch.inference_mode()
def full_forward(
    model: Callable[[Tensor], Tensor],
    canvas: Tensor,
    *,
    start: int,
    block_length: int,
    steps_per_block: int,
    mask_id: int,
    shift: int = 0,
) -> Tensor:
    """Nobody's: the whole canvas through the model and its head in every step, and nothing wasted behind that. Argmax and
    float32 softmax of the block alone, one `topk` a step. `model(ids)` gives logits `[1, L, V]`; the mask is never proposed."""
    canvas = canvas.clone()
    for begin in range(start, canvas.shape[1], block_length):
        end = begin + block_length
        block = canvas[:, begin:end]
        (counts,) = even_counts((block == mask_id).sum(dim=1), steps_per_block).tolist()
        for count in counts:
            logits = model(canvas)[0, begin - shift : end - shift].clone()
            logits[:, mask_id] = -torch.inf
            confidence, proposals = torch.softmax(logits, dim=-1).max(dim=-1)
            confidence = torch.where(block[0] == mask_id, confidence, -torch.inf)
            chosen = torch.topk(confidence, count).indices
            block[0, chosen] = proposals[chosen]
    return canvas


def block_refinement(
    model: Callable[..., Any], prompt: Tensor, *, new_tokens: int, block_length: int, steps: int, mask_id: int
) -> Tensor:
    """diffusers' pipeline itself, without editing; a threshold above 1 leaves the even counts of `steps` a block."""
    library: Any = importlib.import_module("diffusers")  # a development dependency, untyped
    pipeline = library.LLaDA2Pipeline(model=model, scheduler=library.BlockRefinementScheduler())
    pipeline.set_progress_bar_config(disable=True)
    answer = pipeline(
        input_ids=prompt,
        use_chat_template=False,
        output_type="seq",
        gen_length=new_tokens,
        block_length=block_length,
        num_inference_steps=steps,
        temperature=0.0,
        sampling_method="greedy",
        threshold=2.0,
        editing_threshold=None,
        eos_early_stop=False,
        eos_token_id=None,
        mask_token_id=mask_id,
    )
    return torch.cat([prompt, answer.sequences], 1)
