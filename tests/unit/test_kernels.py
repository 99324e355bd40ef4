"""Every CUDA kernel compiles for every architecture without a GPU, within the bounds of a table; and the cache of cubins."""

from __future__ import annotations

import ctypes
import itertools
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from bench import sass
from dllm_fast import cli, kernels
from dllm_fast.errors import KernelError
from dllm_fast.kernels import cubins, files, launches
from dllm_fast.kernels import nvrtc as compiler
from dllm_fast.kernels.launch import _CONVERTERS
from dllm_fast.kernels.laws import Law, kind_for
from tests.compiler import LOG, disassembled, nvrtc_or_skip
from tests.parameters import parameter_sizes

ROOT = Path(__file__).parents[2]

# Registers of a thread and bytes of static shared memory, at most. The bounds are where something would change: 128
# registers are two blocks of 256 threads on a multiprocessor, 64 are one block of 1,024, 40 are three of 512, 255 are all.
BOUNDS = {
    "dllm_commit": (64, 21_000),
    "dllm_loop_keep": (32, 0),
    "dllm_loop_next": (48, 64),
    "dllm_quantise_rows": (40, 1_000),
}
for _dtype in ("bf16", "f16", "f32"):
    # Two warps, a tile of 4,096 ids each. Shared memory lets 13 such blocks be on a multiprocessor of an H100 (6 in float32).
    _tiles = (96, 2 * (16 + 4096 * (4 if _dtype == "f32" else 2)))
    BOUNDS |= {
        f"dllm_mask_predict_tiles_{_dtype}": _tiles,
        f"dllm_mask_predict_tempered_tiles_{_dtype}": _tiles,
        f"dllm_mask_predict_rows_{_dtype}": (80, 29_000),
        f"dllm_mask_filter_count_{_dtype}": (40, 17_000 if _dtype == "bf16" else 25_000),
        f"dllm_mask_filter_cut_{_dtype}": (64, 26_000),
        f"dllm_mask_filter_kept_{_dtype}": _tiles,
    }
for _dtype in ("bf16", "f16"):
    BOUNDS |= {
        f"dllm_fused_add_norm_{_dtype}": (64, 1_000),
        f"dllm_fused_qkv_{_dtype}": (64, 5_000),
        f"dllm_fused_swiglu_{_dtype}": (64, 0),
    }
    # 168 registers are three blocks of 128 threads on a multiprocessor, 255 are two; from 128 numbers on, memory holds no more.
    for _depth, _registers in {64: 144, 80: 144, 96: 192, 128: 255, 192: 224, 256: 255}.items():
        BOUNDS |= {
            f"dllm_attention_d{_depth}_rows32_{_dtype}": (_registers, 0),
            f"dllm_attention_d{_depth}_rows64_{_dtype}": (_registers, 0),
            f"dllm_attention_d{_depth}_combine_{_dtype}": (64, 0),
        }
SYSTEM_SHARED_BYTES = 1024  # what newer architectures count for themselves


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dllm_fast" / "cubin"


def every_launch():
    """Launches of every kernel, as the operations ask for them; addresses are of no matter."""
    for dtype in launches.SUFFIXES:
        buffers = launches.MaskPredictBuffers(**{field.name: 0 for field in fields(launches.MaskPredictBuffers)})
        for settings in ({}, {"temperature": 0.5}, {"temperature": 0.5, "top_p": 0.5}):
            yield from launches.mask_predict(
                buffers, dtype=dtype, sites=1, vocabulary=9, stride=9, kind=kind_for([Law(**settings)], 9)
            )
    buffers = launches.CommitBuffers(**{field.name: 0 for field in fields(launches.CommitBuffers)})
    yield launches.commit(buffers, sites=1, rows=1, mask_id=0, order="confidence", cut="count")
    buffers = launches.AttentionBuffers(**{field.name: 0 for field in fields(launches.AttentionBuffers)})
    strides = {f"{name}_strides": (0, 0, 0) for name in ("q", "k", "v", "out")}
    for dtype, depth, queries in itertools.product(launches.LAYER_SUFFIXES, launches.HEAD_DIMENSIONS, (1, 64)):
        shape = {"batch": 1, "heads": 1, "key_heads": 1, "queries": queries, "keys": 4096, "head_dimension": depth}
        yield from launches.attention(buffers, dtype=dtype, **shape, scale=1.0, **strides)
    buffers = {field.name: 0 for field in fields(launches.QkvBuffers)}
    buffers = launches.QkvBuffers(**buffers | {"keys_strides": (0, 0, 0), "values_strides": (0, 0, 0)})
    shape = {"batch": 1, "queries": 1, "heads": 1, "key_heads": 1, "head_dimension": 64, "rotated": 64}
    for dtype in launches.LAYER_SUFFIXES:
        yield launches.fused_add_norm(dtype=dtype, stream=0, delta=0, weight=0, stream_out=0, out=0, rows=1, width=8, eps=0.0)
        yield launches.fused_qkv(buffers, dtype=dtype, **shape, eps=0.0, rotates_in_float32=False)
        yield launches.fused_swiglu(dtype=dtype, gate_up=0, out=0, rows=1, inner=8)
    yield launches.quantise_rows(rows=0, numbers=0, scales=0, count=1, width=8)
    buffers = launches.LoopBuffers(**{field.name: 0 for field in fields(launches.LoopBuffers)})
    yield from launches.loop(buffers, handle=0, words=1, rows=1, mask_id=0, end_count=0, least=0)


def test_every_argument_of_a_launch_is_of_a_kind_that_cupy_can_be_given():
    kinds = {type(argument) for one in every_launch() for argument in one.arguments}
    assert [kind for kind in kinds if not issubclass(kind, ctypes.Array) and kind not in _CONVERTERS] == []


def test_a_file_names_its_parts_where_it_guards_them(tmp_path, monkeypatch):
    texts = {
        "one": b"",
        "two": b"#if DLLM_BUILDS(B) || DLLM_BUILDS(A_1)\n#endif\n#if DLLM_BUILDS(A_1)\n// DLLM_BUILDS(X)\n#endif",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.cu").write_bytes(text)
    monkeypatch.setattr(files, "folder", lambda: tmp_path)
    files._parts.cache_clear()
    files.text.cache_clear()
    assert kernels.sources() == ["one", "two.b", "two.a_1"]
    files._parts.cache_clear()
    files.text.cache_clear()


def test_every_kernel_compiles_for_every_architecture_within_its_bounds():
    nvrtc_or_skip()
    jobs = [(name, arch) for name in kernels.sources() for arch in kernels.ARCHITECTURES]
    with ThreadPoolExecutor(2) as pool:
        compiled = list(pool.map(lambda job: kernels.compile_kernels(*job), jobs))
    usages = [usage for one in compiled for usage in one.usage]
    for arch in kernels.ARCHITECTURES:
        assert sorted(usage.kernel for usage in usages if usage.arch == arch) == sorted(BOUNDS)
    assert {(one.source, one.kernel) for one in every_launch()} == {(usage.source, usage.kernel) for usage in usages}
    taken = [(kernel, sizes) for one in compiled for kernel, sizes in parameter_sizes(one.path.read_bytes()).items()]
    assert len(taken) == len(usages)
    passed = {one.kernel: [ctypes.sizeof(argument) for argument in one.arguments] for one in every_launch()}
    assert [(kernel, sizes) for kernel, sizes in taken if sizes != passed[kernel]] == []
    for usage in usages:
        registers, shared = BOUNDS[usage.kernel]
        assert (usage.spills, usage.stack_bytes) == (0, 0), usage
        assert 0 < usage.registers <= registers, usage
        assert usage.shared_bytes <= shared + SYSTEM_SHARED_BYTES, usage


def test_every_kernel_waits_for_those_before_it_and_lets_those_after_it_begin():
    """Launched as a dependent one (the switch pdl), a kernel may have begun before what it reads is written."""
    nvrtc_or_skip()
    if sass.disassembler() is None:
        pytest.skip(f"no nvdisasm; {sass.INSTALL}")
    # Global memory, or the end of a thread: a kernel that ended without waiting would let its own follower begin too early.
    touches = re.compile(r"(LD|ST|LDG|STG|LDGSTS|ATOM|ATOMG|RED|REDG|EXIT|UBLKCP|UTMA\w*)\b")
    with ThreadPoolExecutor(2) as pool:
        units = pool.map(lambda unit: disassembled(unit, "sm_90a"), kernels.sources())
        found = [kernel for unit in units for kernel in unit]
    assert {kernel.name for kernel in found} == set(BOUNDS)
    for kernel in found:
        opcodes = [instruction.opcode for instruction in kernel.instructions]
        assert "ACQBULK" in opcodes, f"{kernel.name} begins without wait_for_kernels_before()"
        early = [opcode for opcode in opcodes[: opcodes.index("ACQBULK")] if touches.match(opcode)]
        assert early == [], f"{kernel.name} does not begin with wait_for_kernels_before()"
        assert "PREEXIT" in opcodes, f"{kernel.name} has no let_kernels_after_begin()"


def test_the_log_of_the_assembler_is_understood():
    one, two = cubins.usage("file", "sm_90a", LOG)
    assert (one.kernel, one.registers, one.spills, one.stack_bytes, one.shared_bytes) == ("dllm_one_bf16", 104, 28, 32, 26136)
    assert (two.kernel, two.registers, two.spills, two.stack_bytes, two.shared_bytes) == ("dllm_two_f32", 37, 0, 0, 0)


def test_no_nvrtc_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(compiler, "_candidates", lambda: ["/nowhere/libnvrtc.so.13"])
    with pytest.raises(KernelError, match="pip install nvidia-cuda-nvrtc"):
        compiler.nvrtc.__wrapped__()


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("sm_75", "an architecture must be sm_80 or newer, got sm_75; use some of sm_80, sm_90a, sm_100a"),
        ("sm_90a,cuda", "an architecture must be sm_80 or newer, got cuda; use some of sm_80, sm_90a, sm_100a"),
        ("sm_999", r"an architecture must be known to NVRTC \d+\.\d+ \(sm_\d+ to sm_\d+\), got sm_999; .* install a newer one"),
        (" , ", "--arch must name an architecture, got ' , '; leave it out"),
    ],
)
def test_an_architecture_that_cannot_be_compiled_for_is_one_line(cache, capsys, arch, says):
    nvrtc_or_skip()
    assert cli.main(["kernels", "compile", "--arch", arch]) == 2
    said = capsys.readouterr()
    assert re.fullmatch(rf"dllm-fast: {says}.*\n", said.err)
    assert said.out == ""
    assert not cache.exists()


def test_a_file_that_does_not_compile_is_one_line_and_a_note(cache, monkeypatch):
    """ptxas says the same of each of thousands of instructions."""
    nvrtc_or_skip()
    monkeypatch.setattr(files, "text", lambda _: b"__device__ int f() { return one; }\n__device__ int g() { return two; }")
    with pytest.raises(KernelError) as caught:
        kernels.compile_kernels("mask_predict.bf16", "sm_80")
    text = str(caught.value)
    assert re.fullmatch(
        r"NVRTC \S+ must compile mask_predict\.bf16 for sm_80, got: .*\(1\): error: .*one.*; report it with .*", text
    )
    assert "two" in "".join(caught.value.__notes__)


def test_kernels_compile_counts_on_standard_error_and_prints_a_list_of_objects(cache, monkeypatch, capsys):
    nvrtc = nvrtc_or_skip()
    monkeypatch.setattr(nvrtc, "compile", lambda *_: (b"cubin", LOG))
    arguments = ["kernels", "compile", "--arch", "sm_90a, sm_80, sm_90a"]
    assert cli.main([*arguments, "--json"]) == 1, "28 bytes are spilled"
    said = capsys.readouterr()
    rows = json.loads(said.out)
    jobs = [(name, arch) for name in kernels.sources() for arch in ("sm_90a", "sm_80")]
    assert [(row["source"], row["arch"]) for row in rows] == [job for job in jobs for _ in range(2)]
    one = {"kernel": "dllm_one_bf16", "arch": "sm_90a", "registers": 104, "spills": 28, "shared_bytes": 26136}
    assert rows[0].items() >= one.items()
    lines = said.err.splitlines()
    assert len(lines) == len(jobs)
    said_of = {}
    for number, line in enumerate(lines, 1):  # in the order in which they end
        match = re.fullmatch(rf" *{number}/{len(jobs)}  (\S+) for (\S+): \d+\.\d s", line)
        said_of[match[1], match[2]] = line
    assert said_of.keys() == set(jobs)
    assert cli.main(arguments) == 1
    said = capsys.readouterr()
    assert "dllm_two_f32" in said.out
    assert said.err.count(": in the cache\n") == len(jobs)


def test_the_doctor_reports_and_says_what_to_do(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["threads", "cores", "crowded", "torch", "cuda", "cupy", "nvrtc", "arch", "takes", "kernels"]
    assert list(report["kernels"]) == kernels.sources()
    for entry in report["kernels"].values():
        assert entry["usable"] == (entry["why"] is None) == (entry["fix"] is None)
    assert cli.main(["doctor"]) == 0
    assert "usable" in capsys.readouterr().out


def test_the_doctor_loads_what_it_calls_usable(monkeypatch, capsys):
    """A cubin that compiles may still be refused by the driver, or by CuPy."""
    loaded = []

    def load(source, device):
        loaded.append((source, device))
        if source == "commit":
            raise OSError("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: no kernel image\nmore")
        if source == "mask_filter.f16":
            raise KernelError("NVRTC must compile it")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(kernels, "problem", lambda device=None: None)
    monkeypatch.setattr(kernels, "compile_missing", lambda names, arch: [])
    monkeypatch.setattr(kernels, "load", load)
    assert cli.main(["doctor", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["kernels"]
    assert loaded == [(source, 1) for source in kernels.sources()]
    assert [name for name, entry in entries.items() if not entry["usable"]] == ["commit", "mask_filter.f16"]
    assert entries["commit"]["why"] == "OSError: CUDA_ERROR_UNSUPPORTED_PTX_VERSION: no kernel image"
    assert entries["commit"]["fix"] == "is the driver as new as CUDA here, and CuPy the one for it?"
    assert entries["mask_filter.f16"]["fix"] == "report it with this text"
    assert cli.main(["doctor"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "usable" in line]
    assert len(said) == 3, "a line for each reason"
    assert said[0].endswith(": usable")
    assert said[1].startswith("commit: not usable: OSError")


def test_the_doctor_says_once_what_is_wrong_with_all(monkeypatch, capsys):
    monkeypatch.setattr(kernels, "problem", lambda device=None: ("there is no device", "get one"))
    assert cli.main(["doctor"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if "usable" in line]
    assert said == ["all kernels: not usable: there is no device; get one"]


@pytest.mark.parametrize(
    ("capability", "arch"),
    [
        ((8, 0), "sm_80"),
        ((8, 7), "sm_87"),
        ((8, 9), "sm_80"),
        ((9, 0), "sm_90a"),
        ((10, 0), "sm_100a"),
        ((10, 3), "sm_103a"),
        ((11, 0), "sm_110"),
        ((12, 0), "sm_120"),
        ((12, 1), "sm_120"),
    ],
)
def test_the_architecture_of_a_device(capability, arch):
    assert kernels.architecture(capability) == arch


def test_the_folder_of_kernels_holds_kernels_only():
    """A Python file there would turn `cuda` into a package and hide NVIDIA's."""
    found = [path for path in (ROOT / "cuda").rglob("*") if path.is_file()]
    assert found
    assert {path.suffix for path in found} == {".cu", ".cuh"}


def test_instructions_are_written_in_one_header():
    for path in (ROOT / "cuda").rglob("*.cu*"):
        has_asm = re.search(r"\basm\b", re.sub(r"//.*", "", path.read_text(encoding="utf-8"))) is not None
        assert has_asm == (path.name == "ptx.cuh"), path
