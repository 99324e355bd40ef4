"""Whatever is set about threads and cores, results are the same bits.

ATTACK_ENVIRONMENTS=all tries all settings; by default, since each costs an import of torch, the three that differ most.
"""

from __future__ import annotations

import os

import pytest

import limited

PROGRAM = """
import hashlib, os, sys
cores = [int(core) for core in sys.argv[1].split(",") if core]
available = os.sched_getaffinity(0)
wanted = {core for core in cores if core in available} or available
if sys.argv[2] == "before":
    os.sched_setaffinity(0, wanted)
import numpy as np, torch
import dllm_fast
from dllm_fast import Sampler, SamplerConfig
if sys.argv[2] == "after":
    torch.ones(1 << 20).sum()  # its threads are there
    os.sched_setaffinity(0, wanted)
digest = hashlib.sha256()
rng = np.random.default_rng(4)
values = torch.from_numpy(rng.normal(0, 3, (19, 30_000))).float()
for logits in (values, values.bfloat16(), values.half()):
    for rule in ({}, {"temperature": 0.8}, {"temperature": 1.3, "top_k": 900, "top_p": 0.9, "min_p": 1e-4}):
        found = dllm_fast.mask_predict(logits, seed=7, **rule)
        for name in ("token", "probability", "top1", "top2", "entropy", "logsumexp"):
            digest.update(np.ascontiguousarray(getattr(found, name)).tobytes())
table = torch.from_numpy(rng.normal(0, 3, (40, 9000))).float()
rule = dict(order="sampled-confidence", temperature=0.7, top_p=0.95, threshold=0.2, steps_per_block=12)
config = SamplerConfig(mask_token_id=3, **rule)
sampler = Sampler(config, [[3] * 40, [5, 6] + [3] * 38, [3] * 20], seed=9)
while (request := sampler.next()) is not None:
    lines = np.concatenate([(positions + 7 * int((canvas != 3).sum())) % 40
                            for canvas, positions in zip(request.canvases, request.positions)])
    sampler.feed(table[torch.from_numpy(lines)])
for canvas in sampler.canvases:
    digest.update(canvas.tobytes())
for row in sampler.trajectory:
    digest.update(repr([(e.step, e.position, e.token, e.probability) for e in row]).encode())
print(digest.hexdigest())
"""

# Variables, the cores that may be used, and when that is said: before anything is imported, or once threads are there.
SETTINGS = [
    ({"OMP_NUM_THREADS": "1"}, "", ""),
    ({"OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "passive"}, "0", "after"),
    ({"RAYON_NUM_THREADS": "5", "OMP_NUM_THREADS": "2"}, "", ""),
    ({}, "", ""),
    ({}, "0", "before"),
    ({}, "1", "after"),
    ({"OMP_NUM_THREADS": "2"}, "", ""),
    ({"OMP_NUM_THREADS": "3", "OMP_DYNAMIC": "true"}, "", ""),
    ({"OMP_NUM_THREADS": "64"}, "", ""),
    ({"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}, "", ""),
    ({"OMP_PROC_BIND": "spread", "OMP_PLACES": "threads"}, "", ""),
    ({"OMP_PROC_BIND": "true", "OMP_PLACES": "{0}", "OMP_NUM_THREADS": "4"}, "", ""),
    ({"GOMP_CPU_AFFINITY": "0", "OMP_NUM_THREADS": "2"}, "", ""),
    ({"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "2"}, "", ""),
    ({"GOMP_SPINCOUNT": "0", "OMP_NUM_THREADS": "2"}, "", ""),
    ({"OMP_THREAD_LIMIT": "1"}, "", ""),
    ({"OMP_THREAD_LIMIT": "2", "OMP_NUM_THREADS": "8"}, "", ""),
    ({"OMP_MAX_ACTIVE_LEVELS": "0"}, "", ""),
    ({"OMP_NESTED": "true", "OMP_SCHEDULE": "dynamic,1"}, "", ""),
    ({"OMP_STACKSIZE": "128k", "OMP_NUM_THREADS": "3"}, "", ""),
    ({"MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, "", ""),
    ({"RAYON_NUM_THREADS": "1"}, "", ""),
    ({"RAYON_NUM_THREADS": "33"}, "0", "before"),
    ({"RAYON_NUM_THREADS": "many"}, "", ""),
    ({"RAYON_NUM_THREADS": "0", "OMP_NUM_THREADS": ""}, "1", "before"),
]
TRIED = SETTINGS if os.environ.get("ATTACK_ENVIRONMENTS") == "all" else SETTINGS[:3]
# What this process has set would hide what is set here.
CLEARED = {name: "" for name in ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS") if name in os.environ}


def digest(variables: dict[str, str], cores: str, when: str) -> str:
    ended = limited.run(PROGRAM, cores, when, seconds=240, gigabytes=16, environment=CLEARED | variables)
    assert ended.code == 0, ended.errors
    return ended.output.strip()


@pytest.fixture(scope="module")
def expected() -> str:
    return digest(*SETTINGS[0])


@pytest.mark.parametrize(("variables", "cores", "when"), TRIED[1:])
def test_the_same_bits(variables: dict[str, str], cores: str, when: str, expected: str) -> None:
    assert len(expected) == 64
    assert digest(variables, cores, when) == expected
