"""Our caches against diffusers' pipeline and Fast-dLLM's loops, on the same weights. `python -m bench.peers`.

The same network and attention kernel, prompt, schedule and number of forwards, temperature 0; the tokens must be the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

import dllm_fast
from bench import checkpoints, harness, loops
from bench.generation import Form, Task, compared, in_turn, loop, ours, random_prompt, spreads, timings
from bench.harness import Json
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.batch import Batch
from dllm_fast.networks.slots import SlotCache

OURS = "dllm_fast"
BUDGET_S = 20


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    size = checkpoints.Size(width=64, inner=128, layers=2, vocabulary=1000) if options.quick else checkpoints.Size()
    prompts = (32,) if options.quick else (128, 512)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in ("llada2", "llada"):
            fixture = checkpoints.twin(name, size)
            model = dllm_fast.load(fixture.save(Path(folder) / name))
            for length in prompts:
                task = Task(
                    prompt=random_prompt(length, size.mask),
                    new_tokens=64 if options.quick else 128,
                    block_length=32,
                    steps_per_block=8,
                    mask=size.mask,
                )
                if name == "llada2":
                    theirs = _diffusers(model, fixture, task)
                    cases.append(_case(name, "exact_block", model, task, theirs, quick=options.quick))
                    continue
                for cache in ("prefix", "dual"):
                    run = partial(loops.fast_dllm_cached, dual=cache == "dual")
                    form = loop(Plain(model, size.mask), partial(_run, run, task))
                    cases.append(_case(name, cache, model, task, {f"Fast-dLLM, {cache} cache": form}, quick=options.quick))
    content = {
        "threads": torch.get_num_threads(),
        "width": size.width,
        "layers": size.layers,
        "vocabulary": size.vocabulary,
        "dtype": "float32",
        "cases": cases,
    }
    harness.progress(str(harness.write("peers", options.out, content, quick=options.quick, others=others)))


def _case(name: str, cache: str, model: LoadedModel, task: Task, theirs: dict[str, Form], *, quick: bool) -> Json:
    forms = {OURS: ours(model, task, cache)[0]} | theirs
    first, *rounds = in_turn(forms, BUDGET_S, least=2 if quick else 5, most=2 if quick else 15)
    for form in theirs:
        assert first[form].forwards == first[OURS].forwards, f"{name}: {form} differs in its forwards from cache={cache!r}"
        assert first[form].tokens == first[OURS].tokens, f"{name}: {form} differs in its tokens from cache={cache!r}"
    taken = timings(rounds)
    out: dict[str, Json] = {form: spreads(taken[form]) for form in forms}
    for form in theirs:
        out[form]["ratio"] = compared(taken[OURS], taken[form])
    shown = ", ".join(f"{form} {out[form]['step']['median'] * 1e3:.2f}" for form in forms)
    harness.progress(f"{name}, prompt {task.prompt.shape[1]}, {cache}: ms a step: {shown}")
    facts = {"family": name, "cache": cache, **task.facts(), "forwards": first[OURS].forwards, "tokens": "identical"}
    return facts | {"forms": out}


def _run(run: Callable[..., Tensor], task: Task, model: Callable[..., Any]) -> Tensor:
    return run(model, task.canvas, **task.schedule)


def _diffusers(model: LoadedModel, fixture: Any, task: Task) -> dict[str, Form]:
    """diffusers' pipeline on our network, which makes the loops comparable, and on the stock class, which people have."""
    stock = fixture.model()
    size = model.info.block_length

    def network(ids: Tensor) -> Tensor:
        # Inference mode would forbid the loop to write into what comes from it.
        return model(ids).clone()

    def published(ids: Tensor) -> Tensor:
        blocks = torch.arange(ids.shape[1]) // size
        seen = (blocks[:, None] >= blocks)[None, None]
        return cast(Tensor, stock(ids, attention_mask=seen, use_cache=False).logits)

    return {
        f"diffusers, {name}": loop(partial(_masked, form, task.mask), partial(_pipeline, task))
        for name, form in (("our network", network), ("Glm4Moe of transformers", published))
    }


def _masked(form: Callable[[Tensor], Tensor], mask: int, ids: Tensor, **_: Any) -> SimpleNamespace:
    """What the pipeline calls; it would write a mask that is proposed, which random weights may do."""
    logits = form(ids)
    logits[..., mask] = -torch.inf
    return SimpleNamespace(logits=logits)


@torch.inference_mode()
def _pipeline(task: Task, model: Callable[..., Any]) -> Tensor:
    new, block, steps = task.new_tokens, task.block_length, task.steps_per_block
    return loops.block_refinement(model, task.prompt, new_tokens=new, block_length=block, steps=steps, mask_id=task.mask)


class Past:
    """Keys and values as Fast-dLLM's model keeps them: a tensor a layer, grown by `cat` or written over in its middle.

    Stands where a `Batch` has its cache, so that attention is the same call.
    """

    def __init__(self, layers: list[tuple[Tensor, Tensor]] | None = None) -> None:
        self.layers = layers or []
        self.growing = layers is None
        self.spare = 0  # positions lie at or below it

    def before(self, end: int) -> Past:
        """Positions below `end`."""
        return Past([(key[:, :, :end], value[:, :, :end]) for key, value in self.layers])

    def write(self, layer: int, slots: Tensor, key: Tensor, value: Tensor, seen: int) -> tuple[Tensor, Tensor]:
        if self.growing:
            self.layers.append((key, value))
            return key, value
        keys, values = self.layers[layer]
        if keys.shape[2] < seen:
            # Behind the prefix, and not kept: the next step brings all of this again.
            return torch.cat([keys, key], 2), torch.cat([values, value], 2)
        keys[:, :, slots[0]], values[:, :, slots[0]] = key, value
        return keys, values


class Plain:
    """Our network with that cache: ids that stand at `begin`, over `past` or nothing; the head on all of them."""

    def __init__(self, model: LoadedModel, mask: int) -> None:
        self._network = model.network
        self._mask = mask

    @torch.inference_mode()
    def __call__(self, ids: Tensor, begin: int, past: Past | None) -> tuple[Tensor, Past]:
        positions = torch.arange(begin, begin + ids.shape[1]).expand_as(ids)
        seen = positions.shape[1]
        if past is not None:
            seen = max(begin + seen, past.layers[0][0].shape[2])
        kept = Past() if past is None else past
        kept.spare = seen
        batch = Batch(ids=ids, positions=positions, cache=cast(SlotCache, kept), slots=positions, keys=seen)
        logits = self._network.logits(self._network.hidden(batch))
        logits[..., self._mask] = -torch.inf
        kept.growing = False
        return logits, kept


if __name__ == "__main__":
    main()
