"""The pipeline of the development dependency `diffusers` for LLaDA2, unmodified, and the same asked of us."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import dllm_fast


def pipeline(model, prompts, *, eos=None, **settings):
    """New tokens of the published pipeline, and its number of forwards."""
    forwards = 0

    def asked(ids, **_):
        nonlocal forwards
        forwards += 1
        return SimpleNamespace(logits=model(ids))

    diffusers = pytest.importorskip("diffusers")
    published = diffusers.LLaDA2Pipeline(model=asked, scheduler=diffusers.BlockRefinementScheduler())
    published.set_progress_bar_config(disable=True)
    usual = {
        "use_chat_template": False,
        "output_type": "seq",
        "temperature": 0.0,
        "editing_threshold": None,
        "mask_token_id": model.mask,
        "eos_token_id": eos,
        "eos_early_stop": eos is not None,
    }
    result = published(input_ids=torch.tensor(prompts), **usual | settings)
    return result.sequences.tolist(), forwards


def infill(model, prompts, *, gen_length, block_length, eos=None, **settings):
    """The same by ours: canvases of whole blocks, counted from position 0."""
    length = -(-(len(prompts[0]) + gen_length) // block_length) * block_length
    canvases = [[*prompt, *[model.mask] * (length - len(prompt))] for prompt in prompts]
    stop = {"eos_token_id": eos, "stop_at_eos": eos is not None}
    return dllm_fast.infill(model, canvases, mask_token_id=model.mask, block_length=block_length, **stop, **settings)
