"""What a step costs with our caches, and what opening a checkpoint costs, for every family. `python -m bench.models`.

Random weights under the key names of each family. The comparison is a loop that puts the whole canvas through the same network
and its head in every step; the tokens must be the same under every policy that is exact.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

import dllm_fast
from bench import checkpoints, harness, loops, memory
from bench.generation import Form, Task, compared, in_turn, loop, ours, random_prompt, spreads, timings
from bench.harness import Json
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.batch import Batch

FULL = "full forward"
EXACT = "dllm_fast"
# Keys and values that are a little old: what they save is measured here, what they cost in quality is not.
APPROXIMATE = ("prefix", "dual")
BUDGET_S = 12
MEMORY_ROWS = 4


def main(argv: Sequence[str] | None = None) -> None:
    options = harness.arguments(__doc__, argv)
    others = harness.Others()
    size = checkpoints.Size(width=64, inner=128, layers=2, vocabulary=1000) if options.quick else checkpoints.Size()
    families = checkpoints.families(size)
    if options.quick:
        families = {name: families[name] for name in ("llada", "sdar", "wedlm", "nemotron-labs-diffusion")}
    prompts = (32,) if options.quick else (128, 512)
    cases, opened = [], []
    for name, save in families.items():
        with tempfile.TemporaryDirectory() as folder:
            path = save(Path(folder) / name)
            opened.append(_opening(name, path, quick=options.quick))
            model = dllm_fast.load(path)
            cases += [_case(name, model, length, quick=options.quick) for length in prompts]
    content = {
        "threads": torch.get_num_threads(),
        "width": size.width,
        "layers": size.layers,
        "vocabulary": size.vocabulary,
        "dtype": "float32",
        "slack_bytes": memory.SLACK_BYTES,
        "cases": cases,
        "checkpoints": opened,
    }
    harness.progress(str(harness.write("models", options.out, content, quick=options.quick, others=others)))


def block_of(model: LoadedModel, *, quick: bool) -> tuple[int, int]:
    """Length of the blocks and steps in each: the family's own blocks, 32 for those that see everything."""
    block = model.info.block_length or (16 if quick else 32)
    return block, max(block // 4, 2)


def _case(name: str, model: LoadedModel, length: int, *, quick: bool) -> Json:
    block, steps = block_of(model, quick=quick)
    mask = model.info.vocabulary - 1
    new_tokens = 32 if quick else 128
    task = Task(prompt=random_prompt(length, mask), new_tokens=new_tokens, block_length=block, steps_per_block=steps, mask=mask)
    exact, policy = ours(model, task, "auto")
    forms: dict[str, Form] = {EXACT: exact}
    if model.info.attention == "full":
        forms |= {cache: ours(model, task, cache)[0] for cache in APPROXIMATE}
    forms[FULL] = loop(
        _whole(model, mask), lambda timed: loops.full_forward(timed, task.canvas, shift=model.info.shift, **task.schedule)
    )
    first, *rounds = in_turn(forms, BUDGET_S, least=2 if quick else 5, most=2 if quick else 11)
    for form in forms:
        assert first[form].forwards == first[FULL].forwards, f"{name}, {length}: {form} differs in its forwards"
    assert first[EXACT].tokens == first[FULL].tokens, f"{name}, {length}: cache={policy!r} differs in its tokens"
    taken = timings(rounds)
    out: dict[str, Json] = {form: spreads(taken[form]) for form in forms}
    for form in forms.keys() - {FULL}:
        out[form]["ratio"] = compared(taken[form], taken[FULL])
    shown = ", ".join(f"{form} {out[form]['step']['median'] * 1e3:.2f}" for form in forms)
    harness.progress(f"{name}, prompt {length}: ms a step: {shown}")
    facts = {"family": name, "attention": model.info.attention, "cache": policy, **task.facts()}
    return facts | {"forwards": first[FULL].forwards, "tokens": "identical", "forms": out}


def _whole(model: LoadedModel, mask: int) -> Callable[[Tensor], Tensor]:
    """The model as the loop calls it. A family whose last block is the one that is being filled gets the canvas up to there;
    one that reorders its tokens gets them in its order, and its logits are put back."""
    if model.info.attention == "causal_context":
        size = model.info.block_length
        assert size is not None

        def shown(ids: Tensor) -> Tensor:
            first = int((ids[0] == mask).nonzero()[0])
            return model(ids[:, : (first // size + 1) * size])

        return shown
    if model.info.attention != "causal_reordered":
        return model

    def reordered(ids: Tensor) -> Tensor:
        order = torch.argsort((ids == mask).int(), dim=1, stable=True)
        batch = Batch(
            ids=ids.gather(1, order), positions=order, end=torch.arange(1, ids.shape[1] + 1, device=ids.device).expand_as(ids)
        )
        logits = model.network.logits(model.network.hidden(batch))
        return torch.empty_like(logits).index_copy_(1, order[0], logits)

    return reordered


def _opening(name: str, folder: Path, *, quick: bool) -> Json:
    """Time and private memory of `load`, and of a batch under `auto`, in a process of its own."""
    model = dllm_fast.load(folder)
    block, steps = block_of(model, quick=quick)
    prompt, new_tokens = (32, 32) if quick else (512, 128)
    found = memory.measured(folder, MEMORY_ROWS, prompt, new_tokens, block, steps)
    facts = {"family": name, "rows": MEMORY_ROWS, "prompt": prompt, "new_tokens": new_tokens, **found}
    if "skipped" in found:
        return facts
    load, run, bound = (found[key] / 1e6 for key in ("load_peak_bytes", "sample_peak_bytes", "formula_bytes"))
    size = found["checkpoint_bytes"] / 1e6
    harness.progress(f"{name}: {size:.1f} MB, load {load:.1f} MB, sample {run:.1f} MB of {bound:.1f} MB by the formula")
    assert found["within_formula"], f"{name}: sampling took {run:.1f} MB, the formula says {bound:.1f} MB"
    # A tiny checkpoint says nothing: pages and Python's objects outweigh it.
    assert quick or load < 1.2 * size, f"{name}: load took {load:.1f} MB for a checkpoint of {size:.1f} MB"
    return facts


if __name__ == "__main__":
    main()
