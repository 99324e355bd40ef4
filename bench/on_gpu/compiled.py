"""What estimates need of the compiled kernels: registers, shared memory, instructions of the loops that most time goes to.

`python -m bench.on_gpu.compiled` reads them from the cubins (bench/sass.py; no GPU needed) and writes them to
results/compiled.json, from which `bench.on_gpu.estimate` computes: ptxas of another version gives other numbers, and a table
that is committed has to come from a known one.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict, dataclass, fields
from typing import Any

from bench import harness, sass
from dllm_fast import kernels
from dllm_fast.kernels.nvrtc import nvrtc

ARCH = "sm_90a"
PATH = harness.RESULTS / "compiled.json"
#: The kernels that are estimated: how they are named, and the instruction that the loop of most of their time holds most of.
#: Where that holds other loops, for what is rare, they are left out: `_AROUND`.
HOT = {
    "tiles": (r"dllm_mask_predict_tiles_bf16", "FFMA"),
    "tempered tiles": (r"dllm_mask_predict_tempered_tiles_bf16", "FFMA"),
    "rows": (r"dllm_mask_predict_rows_bf16", "FFMA"),
    "count": (r"dllm_mask_filter_count_bf16", "ATOMS"),
    "cut": (r"dllm_mask_filter_cut_bf16", "LDG"),
    "kept": (r"dllm_mask_filter_kept_bf16", "FFMA"),
    "attention, 32 rows": (r"dllm_attention_(bf16_)?d128_rows32(_bf16)?", "HMMA"),
    "attention, 64 rows": (r"dllm_attention_(bf16_)?d128_rows64(_bf16)?", "HMMA"),
    "combine": (r"dllm_attention_(d128_)?combine(_bf16)?", "LDG"),
    "add_norm": (r"dllm_fused_add_norm(_bf16)?", "LDG"),
    "qkv": (r"dllm_fused_qkv(_bf16)?", "LDG"),
    "swiglu": (r"dllm_fused_swiglu(_bf16)?", "LDG"),
    "quantise": (r"dllm_quantise_rows", "LDG"),
    "commit": (r"dllm_commit", "LDS"),
}


_AROUND = ("count",)
_COUNTED = ("HMMA", "LDSM", "LDS", "LDG", "LDGSTS", "FFMA", "MUFU", "ATOMS", "BAR")


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """Of a kernel.

    Attributes:
        registers, shared_bytes: of a thread, and of a block (what it has beside the dynamic ones).
        instructions, loop: in all, and in the loop of most of its time; 0 where that is unrolled.
        read: bytes that a lane reads in a round of the loop, from memory and from shared memory.
        opcodes: of the loop, those that estimates ask for.
    """

    registers: int
    shared_bytes: int
    instructions: int
    loop: int
    read: dict[str, int]
    opcodes: dict[str, int]


def load() -> dict[str, Code]:
    """What was written, by the names of `HOT`."""
    found = json.loads(PATH.read_text(encoding="utf-8"))["kernels"]
    names = [field.name for field in fields(Code)]
    return {case["name"]: Code(**{name: case[name] for name in names}) for case in found}


def read() -> dict[str, Any]:
    """From the cubins of this NVRTC, compiled where they are not in the cache."""
    found: dict[str, Any] = {}
    for unit in kernels.sources():
        compiled = kernels.compile_kernels(unit, ARCH)
        usage = {one.kernel: one for one in compiled.usage}
        wanted = {name: label for name in usage for label, (pattern, _) in HOT.items() if re.fullmatch(pattern, name)}
        for kernel in sass.disassemble(compiled.path) if wanted else ():
            if label := wanted.get(kernel.name):
                found[label] = {"kernel": kernel.name} | asdict(_code(kernel, usage[kernel.name], label))
    cases = [{"name": name} | found[name] for name in HOT if name in found]
    return {"arch": ARCH, "nvrtc": nvrtc().version, "kernels": cases}


def _code(kernel: sass.Kernel, usage: kernels.Usage, label: str) -> Code:
    loop = kernel.loop_holding(HOT[label][1]) or ()
    if label in _AROUND:
        inside = {one.address for other in kernel.loops if set(other) < set(loop) for one in other}
        loop = tuple(one for one in loop if one.address not in inside)
    opcodes: dict[str, int] = {}
    read = {"LDG": 0, "LDS": 0}
    for instruction in loop:
        name = instruction.opcode.partition(".")[0]
        opcodes[name] = opcodes.get(name, 0) + 1
        if name in read:
            read[name] += _width(instruction.opcode)
    return Code(
        registers=usage.registers,
        shared_bytes=usage.shared_bytes,
        instructions=len(kernel.instructions),
        loop=len(loop),
        read=read,
        opcodes={name: n for name, n in sorted(opcodes.items()) if name in _COUNTED},
    )


def _width(opcode: str) -> int:
    """Bytes that a load takes of each lane."""
    found = re.search(r"\.[US]?(8|16|64|128)\b", opcode)
    return int(found[1]) // 8 if found else 4


def main() -> int:
    """Writes the file."""
    harness.write_json(PATH, read())
    print(f"{PATH.relative_to(harness.ROOT)}: sm_90a by NVRTC {nvrtc().version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
