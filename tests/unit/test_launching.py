"""How kernels are loaded and launched: what CuPy and the driver are handed, with stubs in their place."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bench import launching
from dllm_fast import kernels
from dllm_fast.errors import KernelError
from dllm_fast.kernels import cubins, driver, launch, launches
from dllm_fast.loading.model import LoadedModel
from dllm_fast.ops import launcher
from dllm_fast.runners.network import NetworkRunner
from tests.compiler import LOG

STRUCTURE = (ctypes.c_int64 * 3)(1, 2, 3)
ARGUMENTS = (
    ctypes.c_void_p(None),
    ctypes.c_void_p(2**47 - 1),
    ctypes.c_int32(-5),
    ctypes.c_int64(-5),
    ctypes.c_uint64(2**64 - 1),
    ctypes.c_float(0.1),
    ctypes.c_double(0.1),
    STRUCTURE,
)
LAUNCH = launches.Launch("commit", "dllm_commit", (7, 2, 3), (32, 4, 1), ARGUMENTS, 50_000)


@pytest.fixture
def device(monkeypatch):
    """A GPU that is not there: number 0, current, of compute capability 9.0. Its current stream is 77."""
    now = SimpleNamespace(current=0, switched=[], capability=(9, 0))

    @contextlib.contextmanager
    def switch(number):
        now.switched.append(number)
        yield

    monkeypatch.setattr(torch.cuda, "current_device", lambda: now.current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=77))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: now.capability)
    monkeypatch.setattr(torch.cuda, "device", switch)
    return now


@pytest.fixture
def cupy(monkeypatch):
    """In place of CuPy: modules by path, and what their kernels are launched with."""
    seen = SimpleNamespace(paths=[], launched=[], refused=set())

    class RawModule:
        def __init__(self, *, path):
            self.path = path

        def compile(self):
            seen.paths.append(Path(self.path))
            if Path(self.path).parent.name in seen.refused:
                raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")

        def get_function(self, name):
            def queue(grid, block, arguments, *, shared_mem, stream):
                seen.launched.append((name, grid, block, arguments, shared_mem, stream.ptr))

            queue.ptr = 99
            return SimpleNamespace(kernel=queue, max_dynamic_shared_size_bytes=None)

    monkeypatch.setitem(__import__("sys").modules, "cupy", SimpleNamespace(RawModule=RawModule))
    for cached in (launch.load, launch._function, driver.driver):
        cached.cache_clear()
    yield seen
    for cached in (launch.load, launch._function, driver.driver):
        cached.cache_clear()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Cubins of `commit`: one that came with the package, and one of the cache."""
    monkeypatch.setattr(cubins, "shipped_folder", lambda: tmp_path / "shipped")
    monkeypatch.setattr(cubins, "nvrtc", lambda: SimpleNamespace(version="1.0"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cubins.keep("commit", "sm_90a", b"compiled here", LOG)
    path = tmp_path / "shipped" / cubins.shipped_name("commit", "sm_90a")
    return cubins.write(path, "commit", "sm_90a", b"shipped", LOG).path, kernels.cached("commit", "sm_90a").path


def test_a_shipped_cubin_is_loaded_first_and_one_compiled_here_where_the_driver_refuses_it(device, cupy, folders):
    shipped, compiled = folders
    assert launch.load("commit", 0).path == str(shipped)
    assert cupy.paths == [shipped]
    launch.load.cache_clear()
    cupy.refused = {"shipped"}
    assert launch.load("commit", 0).path == str(compiled)
    launch.load.cache_clear()
    cupy.refused = {"shipped", "cubin"}
    with pytest.raises(RuntimeError, match="INVALID_IMAGE"):
        launch.load("commit", 0)


def test_what_a_model_needs_is_compiled_together_and_loaded(device, cupy, folders, monkeypatch):
    asked = []
    compile_missing = launch.compile_missing
    monkeypatch.setattr(launch, "compile_missing", lambda names, arch: asked.append((names, arch)) or compile_missing([], arch))
    kernels.prepare(("commit",), 0)
    assert asked == [(("commit",), "sm_90a")]
    assert cupy.paths == [folders[0]]


@pytest.mark.parametrize(
    ("dtype", "width", "sources"),
    [
        ("bfloat16", 128, ["mask_predict.bf16", "mask_filter.bf16", "commit", "fused.bf16", "attention.bf16_d128"]),
        ("float16", 72, ["mask_predict.f16", "mask_filter.f16", "commit", "fused.f16"]),
        ("float32", 64, ["mask_predict.f32", "mask_filter.f32", "commit"]),
    ],
)
def test_a_model_makes_its_kernels_ready_together_when_it_is_opened(monkeypatch, dtype, width, sources):
    asked = []
    monkeypatch.setattr(launcher, "usable", lambda device, *names: asked.append((device.type, [*names])))
    network = SimpleNamespace(layers=1, kv_heads=1, head_dim=width, vocabulary=9, context=None)
    info = SimpleNamespace(dtype=getattr(torch, dtype), device=torch.device("cpu"))
    LoadedModel(network, None, info, {})
    NetworkRunner(network, info)
    assert asked == [("cpu", sources)] * 2
    monkeypatch.setenv("DLLM_FAST_TRY", "while")
    NetworkRunner(network, info)
    assert asked[2] == ("cpu", [*sources, "loop"])


def size(passed):
    """Bytes that CuPy passes for an argument."""
    if isinstance(passed, np.ndarray):
        assert passed.size == 1, "an array of more elements is taken for a mistake"
        return passed.nbytes
    return passed.itemsize if isinstance(passed, np.generic) else {int: 8, float: 8}[type(passed)]


def test_cupy_gets_every_argument_in_its_size(device, cupy, folders):
    kernels.run([LAUNCH], 0)
    ((name, grid, block, arguments, shared, stream),) = cupy.launched
    assert (name, grid, block, shared, stream) == ("dllm_commit", (7, 2, 3), (32, 4, 1), 50_000, 77)
    assert [size(passed) for passed in arguments] == [ctypes.sizeof(argument) for argument in ARGUMENTS]
    assert arguments[:7] == (0, 2**47 - 1, -5, -5, 2**64 - 1, np.float32(0.1), 0.1)
    assert arguments[7].tobytes() == bytes(STRUCTURE)
    assert device.switched == [0], "to load; to launch on the current device takes no switch"
    device.current = 1
    kernels.run([LAUNCH], 0)
    assert device.switched == [0, 0]


def test_an_argument_of_another_kind_is_refused(device, cupy, folders):
    other = launches.Launch("commit", "dllm_commit", (1, 1, 1), (1, 1, 1), (ctypes.c_int16(1),))
    with pytest.raises(KeyError, match="c_short"):
        kernels.run([other], 0)


# --- the switch pdl


class StubDriver:
    """In place of libcuda: keeps what it is called with as C would see it."""

    def __init__(self, status=0):
        self.status, self.launched = status, []
        prototype = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(driver.Config), ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p
        )
        self.cuLaunchKernelEx = prototype(self._launch)

    def _launch(self, config, function, addresses, extra):
        config = config[0]
        attributes = [(a.id, a.value.programmaticStreamSerializationAllowed) for a in config.attrs[: config.numAttrs]]
        sizes = [config.gridDimX, config.gridDimY, config.gridDimZ, config.blockDimX, config.blockDimY, config.blockDimZ]
        values = [ctypes.string_at(addresses[i], ctypes.sizeof(argument)) for i, argument in enumerate(ARGUMENTS)]
        self.launched.append((function, sizes, config.sharedMemBytes, config.hStream, attributes, values, extra))
        return self.status

    def cuGetErrorName(self, status, name):  # noqa: N802, as the driver spells it
        name._obj.value = b"CUDA_ERROR_INVALID_VALUE" if status.value == 1 else None


def test_with_the_switch_a_launch_may_begin_before_the_one_ahead_of_it_has_ended(device, cupy, folders, monkeypatch):
    stub = StubDriver()
    monkeypatch.setattr(launch, "driver", lambda: driver.Driver(stub))
    monkeypatch.setenv("DLLM_FAST_TRY", "pdl")
    kernels.run([LAUNCH], 0)
    bytes_ = [bytes(argument) for argument in ARGUMENTS]
    assert stub.launched == [(99, [7, 2, 3, 32, 4, 1], 50_000, 77, [(6, 1)], bytes_, None)]
    assert cupy.launched == []
    device.capability = (8, 0)
    cubins.keep("commit", "sm_80", b"compiled here", LOG)
    launch.load.cache_clear()
    launch._function.cache_clear()
    kernels.run([LAUNCH], 0)
    assert len(stub.launched) == len(cupy.launched) == 1, "older devices have no such launch"


@pytest.mark.parametrize(("status", "name"), [(1, "CUDA_ERROR_INVALID_VALUE"), (12345, "error 12345")])
def test_what_the_driver_refuses_has_its_name(status, name):
    with pytest.raises(KernelError) as caught:
        driver.Driver(StubDriver(status)).launch(LAUNCH, 99, 77)
    assert str(caught.value) == (
        f"the driver must launch dllm_commit with the switch pdl, got {name}; leave pdl out of DLLM_FAST_TRY, and report it "
        "with this text"
    )


def test_a_driver_without_such_launches_is_said(monkeypatch):
    with pytest.raises(KernelError, match=r"needs cuLaunchKernelEx, got a driver older than CUDA 12; update it"):
        driver.Driver(SimpleNamespace())

    def absent(name):
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", absent)
    with pytest.raises(KernelError, match=r"needs the CUDA driver, got libcuda.so.1: cannot open .*; install it"):
        driver.driver.__wrapped__()


LAYOUT = r"""
#include <cuda.h>
#include <stddef.h>
#include <stdio.h>
#define AT(type, field) printf("%zu ", offsetof(type, field));
int main(void) {
    AT(CUlaunchConfig, gridDimX) AT(CUlaunchConfig, gridDimY) AT(CUlaunchConfig, gridDimZ)
    AT(CUlaunchConfig, blockDimX) AT(CUlaunchConfig, blockDimY) AT(CUlaunchConfig, blockDimZ)
    AT(CUlaunchConfig, sharedMemBytes) AT(CUlaunchConfig, hStream) AT(CUlaunchConfig, attrs) AT(CUlaunchConfig, numAttrs)
    AT(CUlaunchAttribute, id) AT(CUlaunchAttribute, value) AT(CUlaunchAttributeValue, programmaticStreamSerializationAllowed)
    printf("%zu %zu %d", sizeof(CUlaunchConfig), sizeof(CUlaunchAttribute),
           (int)CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
}
"""


def test_structures_are_those_of_the_header(tmp_path):
    spec = find_spec("nvidia")
    places = [Path(place) for place in spec.submodule_search_locations] if spec else []
    headers = [path.parent for place in places for path in place.glob("*/include/cuda.h")]
    if not headers or shutil.which("gcc") is None:
        pytest.skip("no cuda.h of NVIDIA's wheels, or no gcc")
    (tmp_path / "layout.c").write_text(LAYOUT)
    program = tmp_path / "layout"
    subprocess.run(["gcc", f"-I{headers[0]}", str(tmp_path / "layout.c"), "-o", str(program)], check=True)
    said = [int(n) for n in subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()]
    fields = [getattr(driver.Config, name).offset for name, _ in driver.Config._fields_]
    fields += [driver.Attribute.id.offset, driver.Attribute.value.offset]
    fields += [driver.AttributeValue.programmaticStreamSerializationAllowed.offset]
    sizes = [ctypes.sizeof(driver.Config), ctypes.sizeof(driver.Attribute)]
    assert said == [*fields, *sizes, driver._PROGRAMMATIC_STREAM_SERIALIZATION]


def test_the_bench_of_launches_runs(capsys):
    launching.main(["--quick"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:16].rstrip() for line in lines[1:]] == ["add_norm", "attention", "mask prediction", "commit"]
