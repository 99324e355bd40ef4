"""The checks of `bench/on_gpu/first.py` on kernels of the emulator: right ones hold, and each planted fault is seen."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time

import pytest
import torch

from bench.on_gpu import launched, small
from bench.on_gpu.checks import CHECKS, child, loading, models, tools
from bench.on_gpu.stage import Stage
from dllm_fast import kernels
from dllm_fast.kernels import launches, layout
from dllm_fast.ops import launcher
from dllm_fast.runners.graphs import Engine
from emulator import build
from emulator.launch import kernels_of
from emulator.operations import emulated

needs_emulator = pytest.mark.skipif(build.why_not() is not None, reason=str(build.why_not()))


def run(does, tmp_path):
    """Status of a check in this process, and what it has written."""
    record = tmp_path / "record.json"
    status = child.run(does, is_dry=True, record=record, limit_s=0)
    return status, json.loads(record.read_text(encoding="utf-8"))


CHECKING = [check for check in CHECKS if not check.does.startswith("bench.on_gpu.checks.tools:")]


@needs_emulator
@pytest.mark.parametrize("check", [c for c in CHECKING if c.name != "graphs, heads of 64"], ids=lambda check: check.name)
def test_each_check_holds_on_kernels_that_are_right(check, tmp_path):
    status, record = run(check.does, tmp_path)
    assert status == 0, record["why"]
    assert record["launched"]


@needs_emulator
def test_the_sanitizers_program_runs_every_kernel(tmp_path):
    status, record = run("bench.on_gpu.small:every_kernel", tmp_path)
    assert status == 0, record["why"]
    names = {name for file in build.KERNELS.glob("*.cu") for name in kernels_of(build.library(file))}
    assert record["launched"].keys() == names


@needs_emulator
@pytest.mark.parametrize("check", CHECKING, ids=lambda check: check.name)
def test_no_check_holds_where_the_kernels_cannot_be_used(check, tmp_path, monkeypatch):
    """CuPy is missing, say: torch and the core would do the work, and do it right."""

    @contextlib.contextmanager
    def unusable():
        def run(queue, device):
            raise ModuleNotFoundError("No module named 'cupy'")

        monkeypatch.setattr(launcher, "usable", lambda _device, *_sources: False)
        monkeypatch.setattr(launcher, "run", run)
        yield

    monkeypatch.setattr("tests.emulator.operations.emulated", unusable)
    status, record = run(check.does, tmp_path)
    assert status == 1
    assert record["why"]
    assert not record["launched"]


@needs_emulator
@pytest.mark.parametrize(
    "name", ["mask prediction", "commit", "attention", "draws", "sampling", "attention variants", "fused", "eight bits"]
)
def test_a_wrong_kernel_is_seen(name, tmp_path, monkeypatch):
    """One that leaves out its last block, as a wrong bound would."""
    from tests.emulator import operations

    launch = operations.run

    def without_last_block(one):
        if "tiles" in one.kernel or "filter" in one.kernel:  # what they leave in memory is an address for the next
            return launch(one)
        axis = max(range(3), key=one.grid.__getitem__)
        grid = tuple(n - (i == axis) for i, n in enumerate(one.grid))
        return launch(dataclasses.replace(one, grid=grid)) if all(grid) else None

    monkeypatch.setattr(operations, "run", without_last_block)
    status, record = run(next(check.does for check in CHECKS if check.name == name), tmp_path)
    assert status == 1
    assert record["launched"], "it was launched, and its answer was wrong"


@needs_emulator
@pytest.mark.parametrize("kernel", ["count", "cut", "kept"])
def test_a_kernel_of_a_filter_that_does_nothing_is_seen(kernel, tmp_path, monkeypatch):
    """What was in memory before it may be nearly right: a draw from all ids is often one of the ids that are kept."""
    from tests.emulator import operations

    launch = operations.run
    monkeypatch.setattr(operations, "run", lambda one: None if f"filter_{kernel}" in one.kernel else launch(one))
    status, record = run("bench.on_gpu.checks.equalities:mask_prediction", tmp_path)
    assert status == 1
    assert "not equal" in record["why"]


@needs_emulator
def test_a_failed_capture_fails_with_its_whole_traceback(tmp_path, monkeypatch, capsys):
    def refused(_stage):
        def capture(body):
            body()
            raise RuntimeError("operation not permitted when stream is capturing")

        return capture

    monkeypatch.setattr(models, "_capture", refused)
    with pytest.warns(UserWarning, match="without CUDA graphs"):
        status, record = run("bench.on_gpu.checks.models:heads_of_64", tmp_path)
    assert status == 1
    assert "nothing is captured: RuntimeError: operation not permitted" in record["why"]
    said = capsys.readouterr().out
    assert 'raise RuntimeError("operation not permitted when stream is capturing")' in said


@needs_emulator
def test_a_graph_that_keeps_its_laws_is_seen(tmp_path, monkeypatch):
    def keeps(_stage):
        def capture(body):
            graph = body.func.__self__
            begin = layout.SITES.size(graph.shape.scored)
            laws = graph.scoring_inputs[begin : begin + graph.shape.rows * layout.LAW.dtype.itemsize]
            first = laws.clone()

            def replay():
                laws.copy_(first)
                body()

            body()
            return replay

        return capture

    monkeypatch.setattr(models, "_capture", keeps)
    status, record = run("bench.on_gpu.checks.models:heads_of_64", tmp_path)
    assert status == 1
    assert "a graph draws by another law" in record["why"]


@needs_emulator
def test_a_shape_that_is_never_captured_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(Engine, "captured", property(lambda _: 0))
    status, record = run("bench.on_gpu.checks.models:heads_of_64", tmp_path)
    assert status == 1
    assert "0 of" in record["why"]


@needs_emulator
@pytest.mark.parametrize("check", ["memcheck", "synccheck"])
def test_the_sanitizers_program_must_hold_and_launch(check, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.on_gpu.checks.tools._small", lambda *_: (0, {"launched": {}, "why": None}))
    status, record = run(f"bench.on_gpu.checks.tools:{check}", tmp_path)
    assert status == 1
    assert "not launched under" in record["why"]
    monkeypatch.setattr("bench.on_gpu.checks.tools._small", lambda *_: (9, {"launched": {"dllm_commit": 1}, "why": None}))
    status, record = run(f"bench.on_gpu.checks.tools:{check}", tmp_path)
    assert status == 1
    assert "ended with status 9" in record["why"]


@pytest.mark.parametrize("refusals", [0, 1, 2])
def test_a_tool_that_does_not_know_an_option_is_asked_without(refusals, monkeypatch, tmp_path):
    asked = []

    def runs(_stage, _program, under):
        asked.append(under)
        is_refused = len(asked) <= refusals
        return (1, None) if is_refused else (0, {"launched": {"dllm_commit": 1}, "why": None})

    monkeypatch.setattr(tools, "_small", runs)
    monkeypatch.setattr(tools, "every_kernel", lambda _: {"dllm_commit"})
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: "/bin/tool")
    stage = Stage(torch.device("cpu"), dry=False, quick=True, deadline=time.perf_counter() + 60, out=tmp_path)
    tools.racecheck(stage)
    ours = [("--kernel-name", "kns=dllm_"), ("--kernel-regex", "kns=dllm_"), ()][: refusals + 1]
    common = ["/bin/tool", "--tool", "racecheck", "--error-exitcode", "9", "--print-limit", "20"]
    assert asked == [[*common, *one] for one in ours]


SEEN = "========= Invalid __global__ read of size 16 bytes\n"


@pytest.mark.parametrize(("status", "said", "is_seen"), [(9, SEEN, True), (1, SEEN, True), (0, "", False), (1, "", False)])
def test_a_tool_that_looks_at_nothing_is_seen(status, said, is_seen, monkeypatch, tmp_path):
    """A filter of names that fits no kernel, say: then nothing is found where nothing is wrong, and nowhere else."""
    stage = Stage(torch.device("cpu"), dry=False, quick=True, deadline=time.perf_counter() + 60, out=tmp_path)

    def runs(_stage, program, _under, file=None):
        if program == "bench.on_gpu.small:every_kernel":
            return 0, {"launched": {"dllm_commit": 1}, "why": None}
        file.write(said)
        return status, None

    monkeypatch.setattr(tools, "_small", runs)
    monkeypatch.setattr(tools, "every_kernel", lambda _: {"dllm_commit"})
    monkeypatch.setattr(tools.shutil, "which", lambda *_, **__: "/bin/tool")
    if is_seen:
        tools.memcheck(stage)
    else:
        with pytest.raises(AssertionError, match="a planted fault was not seen"):
            tools.memcheck(stage)


def test_the_planted_fault_reads_behind_its_tensor(tmp_path):
    """Only the launch: what it reads is memory of somebody else."""
    queued = []
    stage = Stage(torch.device("cpu"), dry=True, quick=True, deadline=time.perf_counter() + 60, out=tmp_path)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(launcher, "run", lambda queue, _device: queued.extend(queue))
        small.beyond(stage)
    (launch,) = queued
    assert launch.kernel == "dllm_fused_swiglu_bf16"
    assert [argument.value for argument in launch.arguments[2:]] == [2, 8]
    assert launch.grid == (1, 1, 1)


@needs_emulator
@pytest.mark.parametrize(
    ("check", "fault", "why"),
    [
        ("load", None, None),
        ("load", "refused", "OSError: no kernel image"),
        ("registers", None, None),
        ("registers", {"local_size_bytes": 16}, "'local_bytes': 16"),
        ("registers", {"num_regs": 41}, "'registers': 41, 'said': 40"),
    ],
)
def test_what_the_driver_makes_of_the_cubins(check, fault, why, tmp_path, monkeypatch):
    """On a device whose CuPy and driver are stubs; launches are emulated."""
    found = {"num_regs": 40, "local_size_bytes": 0, "shared_size_bytes": 0} | (fault if isinstance(fault, dict) else {})

    class Module:
        def get_function(self, name):
            return type(name, (), found)

    def load(source, device):
        if fault == "refused":
            raise OSError("no kernel image")
        return Module()

    def compiled(source, arch):
        kernel = {"fused.bf16": "dllm_fused_swiglu_bf16"}.get(source, f"dllm_{source}")
        (tmp_path / "cubin").touch()
        usage = kernels.Usage(source, kernel, arch, registers=40, spills=0, shared_bytes=0, stack_bytes=0)
        return kernels.Compiled(tmp_path / "cubin", (usage,))

    properties = {"name": "a card", "total_memory": 80 * 2**30, "multi_processor_count": 132}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: type("Properties", (), properties))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(kernels, "problem", lambda: None)
    monkeypatch.setattr(kernels, "find", lambda source, arch: None if source == "commit" else compiled(source, arch))
    monkeypatch.setattr(kernels, "compile_missing", lambda names, arch: [compiled(name, arch) for name in names])
    monkeypatch.setattr(kernels, "compile_kernels", compiled)
    monkeypatch.setattr(kernels, "load", load)
    monkeypatch.setattr(loading, "nvrtc", lambda: type("Nvrtc", (), {"version": "13.0", "path": "here"}))
    stage = Stage(torch.device("cpu"), dry=False, quick=True, deadline=time.perf_counter() + 60, out=tmp_path)
    with emulated():
        if why is None:
            result = getattr(loading, check)(stage)
        else:
            with pytest.raises((AssertionError, OSError)) as error:
                getattr(loading, check)(stage)
            assert why in f"{type(error.value).__name__}: {error.value}"
            return
    if check == "load":
        assert result["device"] == "a card"
        assert result["compiled here"] == ["commit"]
        assert {"dllm_commit", "dllm_fused_swiglu_bf16"} <= set(result["kernels"])
    else:
        assert result["registers"]["dllm_commit"] == 40


def test_only_what_the_driver_joins_a_function_to_may_have_more_registers():
    row = {"kernel": "dllm_commit", "registers": 40, "said": 40, "local_bytes": 0}
    joined = row | {"kernel": "dllm_loop_next"}
    assert loading._is_as_said(row)
    assert not loading._is_as_said(row | {"registers": 41})
    assert not loading._is_as_said(row | {"local_bytes": 8})
    assert loading._is_as_said(joined | {"registers": 48, "local_bytes": 16})
    assert not loading._is_as_said(joined | {"registers": 39})


def test_launches_are_compared_by_name_and_number(monkeypatch):
    monkeypatch.setattr(launcher, "run", lambda *_: None)

    def launch(*names):
        queue = [launches.Launch("commit", name, (1, 1, 1), (1, 1, 1), ()) for name in names]
        launcher.launch(queue, torch.device("cpu"))

    with launched.exactly(["a", "b", "a"]):
        launch("a", "a", "b")
    for given in ((), ("a",), ("a", "b", "b"), ("a", "b", "c")):
        with pytest.raises(launched.LaunchError, match="must launch the kernels that it names"), launched.exactly(["a", "b"]):
            launch(*given)
