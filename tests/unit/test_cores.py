"""How many cores there are for this process, and what is said where more threads run."""

from __future__ import annotations

import os

import pytest
import torch

import dllm_fast
from dllm_fast import cli, cores
from dllm_fast.cores import Cores


@pytest.mark.parametrize(
    ("files", "quotas"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/a/b", "sys/fs/cgroup/a/b/cpu.max": "150000 100000"}, [1.5]),
        (
            {
                "proc/self/cgroup": "0::/a/b",
                "sys/fs/cgroup/a/cpu.max": "50000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000",
            },
            [0.5],
        ),
        # Inside a container.
        ({"proc/self/cgroup": "0::/host/path", "sys/fs/cgroup/cpu.max": "200000 100000"}, [2.0]),
        ({"proc/self/cgroup": "0::/../../up", "sys/fs/cgroup/cpu.max": "200000 100000"}, [2.0]),
        # The first version.
        (
            {
                "proc/self/cgroup": "5:memory:/m\n3:cpu:/a\n2:cpuset:/",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            [3.0],
        ),
        ({"proc/self/cgroup": "nonsense\n0::/", "sys/fs/cgroup/cpu.max": "many 0"}, []),
        ({"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "100 0"}, []),
    ],
)
def test_quotas_of_control_groups(monkeypatch, tmp_path, files, quotas):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(48)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores._quotas(tmp_path) == quotas
    affinity = Cores(48, "the affinity of the process")
    assert cores.allowed(tmp_path) == (Cores(min(quotas), "the quota of its control group") if quotas else affinity)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinities are Linux's")
def test_the_affinity_counts():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(before)])
        assert cores.allowed().number == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("threads", "count", "load", "said"),
    [
        (2, 2, 0.0, None),
        (1, 0.5, 99.0, None),
        (4, 4, 4.0, None),
        (
            8,
            2,
            0.0,
            "torch computes with 8 threads, and the quota leaves 2 cores; "
            "set OMP_NUM_THREADS=2 or call torch.set_num_threads(2)",
        ),
        (
            4,
            1.5,
            0.0,
            "torch computes with 4 threads, and the quota leaves 1.5 cores; "
            "set OMP_NUM_THREADS=1 or call torch.set_num_threads(1)",
        ),
        (
            8,
            8,
            5.5,
            "torch computes with 8 threads, and others leave about 2.5 of 8 cores free (load 5.5 over the last minute); "
            "set OMP_NUM_THREADS=2 or call torch.set_num_threads(2)",
        ),
        (
            2,
            2,
            30.0,
            "torch computes with 2 threads, and others leave about 0 of 8 cores free (load 30 over the last minute); "
            "set OMP_NUM_THREADS=1 or call torch.set_num_threads(1)",
        ),
    ],
)
def test_what_is_said(threads, count, load, said):
    assert cores.trouble(threads, Cores(count, "the quota"), load, 8) == said


def test_explain_and_the_doctor_say_it(monkeypatch, capsys):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    said = cores.trouble(64, cores.allowed())
    assert said in dllm_fast.explain(None).notes
    assert cli.main(["doctor"]) == 0
    assert said in capsys.readouterr().out
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not [note for note in dllm_fast.explain(None).notes if "threads" in note]
