"""Many short runs: memory, objects, registries, descriptors and threads stay as many as after the first of them.

CI makes a few hundred; `ATTACK_RUNS=100000` that many, and prints the memory at a fifth, three fifths and the end (`-s`).
"""

from __future__ import annotations

import collections
import contextlib
import functools
import gc
import importlib
import os
import pkgutil
import sys
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import dllm_fast
from dllm_fast.ops.shared import Shared
from native_models import model_of
from toys import HashTable

RUNS = int(os.environ.get("ATTACK_RUNS", "300"))
MASK = 7


def memory_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def descriptors():
    return sorted(os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")[:-1] if _is_open(name))


def _is_open(name):
    return os.path.exists(f"/proc/self/fd/{name}")


def objects():
    gc.collect()
    return collections.Counter(type(value).__qualname__ for value in gc.get_objects())


def registries():
    """Everything in our modules that can grow, with its size: containers, caches of functions, of classes, shared tensors."""
    found = {}
    for info in pkgutil.walk_packages(dllm_fast.__path__, "dllm_fast."):
        module = importlib.import_module(info.name) if info.name in ALREADY else None
        for name, value in vars(module).items() if module else ():
            place = f"{info.name}.{name}"
            if isinstance(value, dict | list | set | weakref.WeakKeyDictionary | weakref.WeakValueDictionary):
                found[place] = len(value)
            elif hasattr(value, "cache_info"):
                found[place] = value.cache_info().currsize
            elif isinstance(value, Shared):
                found[place] = len(value._made)
            elif isinstance(value, threading.local):
                found[place] = sum(len(kept) for kept in vars(value).values() if isinstance(kept, list | dict))
    return found


def measured():
    return objects(), registries(), len(descriptors()), threading.active_count()


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(8, 8)
        self.dropout = nn.Dropout(0.5)

    def forward(self, ids):
        return self.dropout(self.table(ids))


def bare(config, table):
    sampler = dllm_fast.Sampler(config, [np.full(3, MASK)], seed=1)
    while (request := sampler.next()) is not None:
        for rows, canvases, lines in request.groups():
            prediction = sampler.predict(table(torch.from_numpy(canvases)).reshape(-1, 8), rows=rows, index=lines)
            sampler.feed(prediction=prediction, rows=rows)
    return sampler.canvases


def raising(ids):
    raise KeyError("on purpose")


KEPT = Small()
TABLE = HashTable(8)
CONFIG = dllm_fast.SamplerConfig(mask_token_id=MASK)
SAMPLE = functools.partial(dllm_fast.sample, max_new_tokens=2, mask_token_id=MASK)
# A native model takes milliseconds a run, so one comes with every hundredth of the others.
LARGE = functools.cache(lambda: model_of("Qwen3"))


def of_a_new_function():
    return SAMPLE(lambda ids: TABLE(ids) + 0, [1, 2])


def of_what_is_refused():
    with contextlib.suppress(dllm_fast.DllmFastError):
        SAMPLE(TABLE, [1, 99])
    with contextlib.suppress(dllm_fast.DllmFastError):
        SAMPLE(TABLE, [1, 2], temperature=-1.0)
    with contextlib.suppress(KeyError):
        SAMPLE(raising, [1, 2])


KINDS = {
    "a callable": lambda: SAMPLE(TABLE, [1, 2]),
    "a callable of its own each": of_a_new_function,
    "a bare sampler": lambda: bare(CONFIG, TABLE),
    "a module": lambda: SAMPLE(KEPT, [1, 2]),
    "a module of its own each": lambda: SAMPLE(Small(), [1, 2]),
    "what is refused, or raises": of_what_is_refused,
}
ALREADY = set()


def one_of_each():
    for run in KINDS.values():
        run()


def test_short_runs_leave_nothing():
    ALREADY.update(sys.modules)
    for _ in range(20):
        one_of_each()
        dllm_fast.sample(LARGE(), [3, 4], max_new_tokens=2)
    measured()
    before = measured()
    start = memory_kb()
    marks = {RUNS // 5, RUNS * 3 // 5, RUNS}
    runs = 0
    for turn in range(RUNS // len(KINDS) + 1):
        one_of_each()
        if turn % 100 == 0:
            dllm_fast.sample(LARGE(), [3, 4], max_new_tokens=2)
        due = [mark for mark in marks if runs < mark <= runs + len(KINDS)]
        runs += len(KINDS)
        if due:
            gc.collect()
            print(f"after {runs} runs: {memory_kb()} kB, {memory_kb() - start:+d} kB, {sum(objects().values())} objects")
    after = measured()
    more = {name: (count, before[0][name]) for name, count in after[0].items() if count > before[0][name] + 20}
    assert not more
    assert after[1:] == before[1:]
    # A page here and there of the allocator; 1 kB a run would be a hundred times that.
    assert memory_kb() - start < 4096 + 0.04 * RUNS


@pytest.mark.parametrize("name", ["Qwen3", "Bert"])
def test_models_that_come_and_go_leave_nothing(name):
    """Probed, run and dropped: `ATTACK_RUNS / 30` of them."""
    ALREADY.update(sys.modules)

    def once():
        model = model_of(name, num_hidden_layers=1, hidden_size=32, intermediate_size=32)
        dllm_fast.sample(model, [3, 4], max_new_tokens=2)
        return weakref.ref(model)

    for _ in range(3):
        once()
    measured()
    before = objects(), registries()
    gone = [once() for _ in range(max(RUNS // 30, 5))]
    gc.collect()
    assert not any(ref() for ref in gone)
    del gone
    after = objects(), registries()
    assert not {kind: count for kind, count in after[0].items() if count > before[0][kind] + 20}
    assert after[1] == before[1]


# What can grow in our modules, and what bounds it.
BOUNDS = {
    "kernels.cubins._of_this_process": "units of our kernels, by architecture and dtype",
    "kernels.cubins._process_folder": "one",
    "kernels.driver.driver": "one",
    "kernels.files._parts": "our files",
    "kernels.files.headers": "one",
    "kernels.files.text": "our files",
    "kernels.layout.header": "one",
    "kernels.launch._function": "our kernels, by device",
    "kernels.launch.load": "cubins that were loaded",
    "runners.watch._columns": "sizes of vocabularies, eight",
    "runners.capture._FREE": "devices; streams that are free",
    "networks.grouped._is_taken": "devices and dtypes",
    "modules.hold._THINGS": "runs of just now",
    "modules.keep._RUNNING": "runs of just now",
    "transformers.like._SEEN": "functions that live",
    "transformers.native_engine._ENGINES": "models that live",
    "loading.prefix._all_tables": "one",
    "transformers.probe._STUDIES": "models that live",
    "text.sandbox._compiled": "templates, `MOST_KEPT`",
    "text.trial._believed": "tokenizers, `_MOST`",
    "kernels.nvrtc.nvrtc": "one",
    "ops.fallback._warn": "our own sentences",
    "ops.launcher._counters": "those who count just now",
    "ops.launcher._load": "units of our kernels, by device",
    "ops.launcher._warn": "devices, and why",
    "switches._named": "values of an environment variable that named switches",
    "text.tokens._unlimited": "two",
}


def test_every_registry_of_ours_is_known():
    """A new container or cache at the top of a module stands in `BOUNDS`, with what bounds it."""
    found = set()
    for info in pkgutil.walk_packages(dllm_fast.__path__, "dllm_fast."):
        if info.name.endswith("__main__") or ".confined." in info.name:
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            is_cache = hasattr(value, "cache_info") and value.__module__ == info.name
            is_weak = isinstance(value, weakref.WeakKeyDictionary | weakref.WeakValueDictionary)
            is_empty = (
                isinstance(value, dict | list | set)
                and not value
                and name not in ("__annotations__", "__conditional_annotations__")
            )
            if is_cache or is_weak or is_empty:
                found.add(f"{info.name}.{name}".removeprefix("dllm_fast."))
    assert found <= BOUNDS.keys(), "say what bounds these"
