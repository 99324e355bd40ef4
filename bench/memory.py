"""Private memory of opening a checkpoint and of sampling from it, in a process of its own, against what the formula says.

`python -m bench.memory FOLDER ROWS PROMPT NEW_TOKENS BLOCK STEPS_PER_BLOCK` prints JSON. Private memory is what the process has
for itself: pages of the mapped file are not in it. It is read every half millisecond, since no kernel keeps its peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import nn

import dllm_fast
from bench import harness
from bench.harness import Json
from dllm_fast.loading.model import LoadedModel
from dllm_fast.networks.batch import Network
from dllm_fast.networks.experts import Router

STATM = Path("/proc/self/statm")
PERIOD_S = 0.0005
LOADS = 5
MIB = 1 << 20
# What the formula leaves out: workspaces of the matrix products, the allocator's rounding and holes, Python's own objects.
SLACK_BYTES = 16 * MIB


class Watch:
    """Private memory inside a `with`: at its beginning, and at its highest."""

    def __enter__(self) -> Watch:
        self.before = self.peak = private_bytes()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, private_bytes())

    def _look(self) -> None:
        while not self._done.wait(PERIOD_S):
            self.peak = max(self.peak, private_bytes())


def private_bytes() -> int:
    """Resident memory of this process but for pages of files."""
    _, resident, shared, *_ = map(int, STATM.read_text(encoding="ascii").split())
    return (resident - shared) * os.sysconf("SC_PAGE_SIZE")


def formula(network: Network, *, rows: int, length: int, queries: int, keys: int, scored: int, cached: bool) -> Json:
    """Bytes of each part at the peak of a run.

    Args:
        rows: in a forward.
        length: of the longest canvas.
        queries: of the widest forward, for each row.
        keys: that those see.
        scored: positions that go through the head at once, over all rows.
        cached: is there a slot cache?
    """
    assert isinstance(network, nn.Module)
    modules, parameters = list(network.modules()), list(network.parameters())
    size = parameters[0].element_size()
    width = next(m.embedding_dim for m in modules if isinstance(m, nn.Embedding) and m.num_embeddings == network.vocabulary)
    # The widest projection: query, key and value in one, gate and up in one, or those of an expert.
    widths = [m.out_features for m in modules if isinstance(m, nn.Linear)] + [p.shape[1] for p in parameters if p.dim() == 3]
    widest = max(w for w in widths if w != network.vocabulary)
    cache = 2 * network.layers * rows * network.kv_heads * (length + 1) * network.head_dim * size if cached else 0
    # A mixture sorts its tokens by expert: each stands there `chosen` times, before, behind and between the products.
    chosen = max((m.config.chosen for m in modules if isinstance(m, Router)), default=0)
    return {
        "weights": sum(p.nbytes for p in parameters),
        "cache": cache,
        "features": rows * queries * (8 * width + 3 * widest + 5 * chosen * width) * size,
        "visible": rows * queries * keys * (1 + size),
        "logits": scored * (network.vocabulary + width) * size,
    }


def main(argv: Sequence[str] | None = None) -> None:
    folder, *numbers = sys.argv[1:] if argv is None else argv
    rows, prompt, new_tokens, block, steps = map(int, numbers)
    _warm_up()
    size = sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))
    with Watch() as opening:
        model = dllm_fast.load(folder)
    prompts = torch.randint(model.info.vocabulary // 2, (rows, prompt), generator=torch.Generator().manual_seed(1))
    with Watch() as sampling:
        result = dllm_fast.sample(
            model,
            prompts,
            preset="llada",
            max_new_tokens=new_tokens,
            block_length=block,
            steps_per_block=steps,
            stop_at_eos=False,
        )
    answer = {
        "checkpoint_bytes": size,
        "load_peak_bytes": opening.peak - opening.before,
        "sample_peak_bytes": sampling.peak - opening.before,
        "formula": _parts(model, result.config.cache, rows=rows, prompt=prompt, new_tokens=new_tokens, block=block),
    }
    del model
    answer["load_s"] = [harness.seconds(lambda: dllm_fast.load(folder)) for _ in range(LOADS)]
    print(json.dumps(answer))


def _parts(model: LoadedModel, cache: str, *, rows: int, prompt: int, new_tokens: int, block: int) -> Json:
    """The formula for a run: the widest forward of `exact_block` is the first, that of `none` the last."""
    length = prompt + new_tokens
    widest = prompt + block if cache == "exact_block" else length
    return formula(
        model.network, rows=rows, length=length, queries=widest, keys=widest, scored=rows * block, cached=cache != "none"
    )


def _warm_up() -> None:
    """An embedded model is opened and run once, so that what torch imports and allots on first use does not count."""
    model = dllm_fast.load(Path(dllm_fast.demo.__file__).parent / "sudoku")
    dllm_fast.infill(model, dllm_fast.demo.problems(1, seed=1)[0], threshold=0.0)


def measured(folder: Path, *numbers: int) -> Json:
    """What a process of its own says, and whether it kept to the limits."""
    if not STATM.exists():
        return {"skipped": "needs /proc/self/statm"}
    command = [sys.executable, "-m", "bench.memory", str(folder), *map(str, numbers)]
    said = subprocess.run(command, cwd=harness.ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout
    answer: Json = json.loads(said)
    bound = sum(answer["formula"].values())
    answer["formula_bytes"] = bound
    answer["within_formula"] = answer["sample_peak_bytes"] <= bound + SLACK_BYTES
    answer["load_s"] = harness.spread(answer["load_s"])
    answer["load_bytes_per_s"] = answer["checkpoint_bytes"] / answer["load_s"]["median"]
    return answer


if __name__ == "__main__":
    main()
