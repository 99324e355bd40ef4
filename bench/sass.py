"""What the machine code of the kernels holds, without a GPU: `python -m bench.sass [UNIT ...] [--arch sm_90a]`.

One line for each kernel: registers, shared bytes, bytes of code, instructions, its largest inner loop, and how many of the
instructions that decide its speed. `--mix` prints the opcodes of a loop, `--print` its code, `--json` everything as JSON.

Counts are of instructions as they stand, not as they run. A loop is one in the sense of the flow graph (its head is passed
on every way into it), so a slow path that ptxas puts behind the function and that jumps back is none. At best a scheduler
issues one instruction of a warp a clock; a multiprocessor has four.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.flow import natural_loops
from dllm_fast import kernels

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: How to get the disassembler.
INSTALL = "pip install nvidia-cuda-nvdisasm"
#: What is counted, by the beginning of an opcode, dots included.
FAMILIES = {
    "HMMA": r"HMMA",
    "LDSM": r"LDSM",
    "LDGSTS": r"LDGSTS",
    "LDG": r"LDG\.",
    "SHFL": r"SHFL",
    "BAR": r"BAR\.",
    "MUFU": r"MUFU",
    "fp64": r"D(ADD|MUL|FMA)",
    "local": r"(LDL|STL)\b",
    # In shared memory, additions of 32 bits are native; one of 64 bits is a loop around a compare-and-swap.
    "CAS": r"ATOMS\.(CAS|CAST)",
}
#: A loop around a compare-and-swap of 64 bits in shared memory.
SPIN = r"ATOMS\.(CAST\.SPIN|CAS\.64)"
_LINE = re.compile(r"\s*/\*(?P<at>[0-9a-f]{4,})\*/\s+(?:\{\s*)?(?:@(?P<if>!?U?P\w+)\s+)?(?P<op>[A-Z][\w.]*)\s*(?P<rest>[^;]*);")
_LABEL = re.compile(r"(\.L_\w+):")
_TARGET = re.compile(r"`\((\.L_\w+)\)")
_SECTION = re.compile(r"\.section\s+\.text\.(\w+)")
_NEVER_FALLS = ("EXIT", "RET", "BRX", "BRXU", "JMX", "BPT", "KILL")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: where it lies, the predicate it runs under ("" for none), opcode and operands."""

    address: int
    predicate: str
    opcode: str
    operands: str

    @property
    def target(self) -> str | None:
        """The label among the operands."""
        found = _TARGET.search(self.operands)
        return found[1] if found else None


@dataclass(frozen=True)
class Kernel:
    """The code of a kernel. `labels` are indices of instructions."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]
    bytes_of_instruction: int = 16

    @property
    def code_bytes(self) -> int:
        """Size of the code, without what pads it behind its end."""
        return len(self.instructions) * self.bytes_of_instruction

    def count(self, pattern: str) -> int:
        """Number of instructions whose opcode begins so."""
        return sum(re.match(pattern, instruction.opcode) is not None for instruction in self.instructions)

    @cached_property
    def loops(self) -> tuple[tuple[Instruction, ...], ...]:
        """Loops that hold no other loop, the largest first."""
        bodies = self._bodies
        return self._in_order([body for body in bodies if not any(other < body for other in bodies)])

    def loop_holding(self, pattern: str) -> tuple[Instruction, ...] | None:
        """The smallest loop that holds as many instructions whose opcode begins so as any loop does."""

        def held(loop: tuple[Instruction, ...]) -> int:
            return sum(re.match(pattern, instruction.opcode) is not None for instruction in loop)

        best = max(self._in_order(self._bodies), key=lambda loop: (held(loop), -len(loop)), default=None)
        return best if best is not None and held(best) > 0 else None

    @cached_property
    def _bodies(self) -> list[frozenset[int]]:
        return natural_loops(_successors(self))

    def _in_order(self, bodies: list[frozenset[int]]) -> tuple[tuple[Instruction, ...], ...]:
        ordered = sorted(bodies, key=lambda body: (-len(body), min(body)))
        return tuple(tuple(self.instructions[i] for i in sorted(body)) for body in ordered)


def _successors(kernel: Kernel) -> list[list[int]]:
    """Where control may go behind each instruction."""
    last = len(kernel.instructions) - 1
    reconverges: dict[str, int] = {}
    found: list[list[int]] = []
    for i, instruction in enumerate(kernel.instructions):
        name = instruction.opcode.partition(".")[0]
        target = None if instruction.target is None else kernel.labels.get(instruction.target)
        barrier = re.search(r"\bB\d+\b", instruction.operands)
        is_always = instruction.predicate in ("", "PT") and not re.match(r"U?P\w+", instruction.operands)
        falls = i < last
        to: list[int] = []
        if name == "BSSY" and barrier and target is not None:
            reconverges[barrier[0]] = target
        elif name == "BSYNC" and barrier and barrier[0] in reconverges:
            to.append(reconverges[barrier[0]])
            falls = falls and not is_always
        elif instruction.opcode.startswith("BRA.DIV"):
            pass  # only a warp that has come apart goes there, and ours have not
        elif name in ("BRA", "JMP") and target is not None:
            to.append(target)
            falls = falls and not is_always
        elif name in _NEVER_FALLS:
            falls = falls and not is_always
        if falls:
            to.append(i + 1)
        found.append(to)
    return found


@cache
def disassembler() -> str | None:
    """The path of nvdisasm: of NVIDIA's wheel, or of a CUDA toolkit."""
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations or []) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder).glob("*/bin/nvdisasm"))]
    return str(found[0]) if found else shutil.which("nvdisasm")


def parse(text: str) -> list[Kernel]:
    """The kernels in what `nvdisasm -c` prints."""
    found: list[Kernel] = []
    name: str | None = None
    code: list[Instruction] = []
    labels: dict[str, int] = {}

    def close() -> None:
        if name is not None:
            while code and code[-1].opcode == "NOP":  # fills the section up
                code.pop()
            found.append(Kernel(name, tuple(code), dict(labels)))

    for line in text.splitlines():
        if section := _SECTION.search(line):
            close()
            name, code, labels = section[1], [], {}
        elif label := _LABEL.match(line):
            labels[label[1]] = len(code)
        elif match := _LINE.match(line):
            # A jump of a loop to itself ends the code.
            code.append(Instruction(int(match["at"], 16), match["if"] or "", match["op"], match["rest"].strip()))
    close()
    return found


def disassemble(cubin: Path) -> list[Kernel]:
    """The kernels of a cubin, by name.

    Raises:
        SystemExit: there is no disassembler.
    """
    program = disassembler()
    if program is None:
        raise SystemExit(f"reading machine code needs nvdisasm, got none; {INSTALL}")
    printed = subprocess.run([program, "-c", str(cubin)], check=True, capture_output=True, text=True).stdout
    return sorted(parse(printed), key=lambda kernel: kernel.name)


def of_unit(unit: str, arch: str) -> list[dict[str, Any]]:
    """What is known of each kernel of a unit: from ptxas (registers, shared bytes) and from its code."""
    compiled = kernels.compile_kernels(unit, arch)
    usages = {usage.kernel: usage for usage in compiled.usage}
    return [_row(unit, usages[kernel.name], kernel) for kernel in disassemble(compiled.path)]


def _row(unit: str, usage: kernels.Usage, kernel: Kernel) -> dict[str, Any]:
    return {
        "unit": unit,
        "kernel": kernel.name,
        "arch": usage.arch,
        "registers": usage.registers,
        "shared_bytes": usage.shared_bytes,
        "code_bytes": kernel.code_bytes,
        "instructions": len(kernel.instructions),
        "inner_loops": [len(loop) for loop in kernel.loops],
        "spins": kernel.count(SPIN),
        **{name: kernel.count(pattern) for name, pattern in FAMILIES.items()},
    }


def table(rows: Iterable[dict[str, Any]]) -> str:
    """A line for each kernel."""
    columns = ("kernel", "registers", "shared_bytes", "code_bytes", "instructions", "inner_loops", *FAMILIES)
    heads = ("kernel", "regs", "shared", "bytes", "instr", "loops", *FAMILIES)
    lines = [heads]
    for row in rows:
        shown = row | {"inner_loops": " ".join(map(str, row["inner_loops"][:3])) or "-"}
        lines.append(tuple(str(shown[column]) for column in columns))
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def _print_loop(kernel: Kernel, options: argparse.Namespace) -> None:
    if options.holding is not None:
        loop = kernel.loop_holding(options.holding)
    else:
        loop = kernel.loops[options.loop] if options.loop < len(kernel.loops) else None
    if loop is None:
        print(f"\n{kernel.name}: no such loop")
        return
    per = "" if options.ids is None else f", {len(loop) / options.ids:.2f} for each of {options.ids} ids of a lane"
    print(f"\n{kernel.name}: a loop at {loop[0].address:#x}, {len(loop)} instructions{per}")
    if options.mix:
        mix = Counter(instruction.opcode.partition(".")[0] for instruction in loop)
        print("  " + "  ".join(f"{opcode} {n}" for opcode, n in mix.most_common()))
    if options.print:
        for one in loop:
            print(f"  {one.address:05x} {('@' + one.predicate) if one.predicate else '':5} {one.opcode} {one.operands}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.sass", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("units", nargs="*", metavar="UNIT", help="what to compile (default: everything)")
    parser.add_argument("--arch", default="sm_90a", help="architecture (default: sm_90a)")
    parser.add_argument("--kernel", default="", help="only kernels whose name holds this")
    parser.add_argument("--loop", type=int, default=0, help="which inner loop --mix and --print show, 0 for the largest")
    parser.add_argument("--holding", metavar="OPCODE", help="the loop with most opcodes that begin so, in place of --loop")
    parser.add_argument(
        "--ids", type=int, help="ids (or keys) that a lane does in one round of the loop: instructions for each"
    )
    parser.add_argument("--mix", action="store_true", help="count the opcodes of the loop")
    parser.add_argument("--print", action="store_true", help="print the code of the loop")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(argv)
    units = options.units or kernels.sources()
    rows = [row for unit in units for row in of_unit(unit, options.arch) if options.kernel in row["kernel"]]
    print(json.dumps(rows, indent=1) if options.json else table(rows))
    if options.mix or options.print or options.ids is not None:
        for unit in units:
            for kernel in disassemble(kernels.compile_kernels(unit, options.arch).path):
                if options.kernel in kernel.name:
                    _print_loop(kernel, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
