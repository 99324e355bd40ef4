"""The reader of machine code: what it finds in a listing, and which jumps back it takes for loops."""

from __future__ import annotations

import json

import pytest

from bench import flow, sass
from dllm_fast import kernels
from dllm_fast.errors import KernelError
from dllm_fast.kernels import nvrtc as compiler
from tests.compiler import disassembled

# What reads or writes memory of the device.
MEMORY = ("LDG", "LD.", "STG", "ST.", "ATOMG", "RED", "UBLKCP")
LISTING = """\
//--------------------- .text.dllm_one --------------------------
	.section	.text.dllm_one,"ax",@progbits
dllm_one:
.text.dllm_one:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_9) ;
.L_x_1:
        /*0020*/                   LDG.E.128.CONSTANT R16, desc[UR6][R6.64] ;
        /*0030*/                   BSSY B0, `(.L_x_3) ;
        /*0040*/               @P1 BRA `(.L_x_8) ;
.L_x_2:
        /*0050*/                   DADD R2, R2, R4 ;
        /*0060*/               @P2 BRA `(.L_x_2) ;
.L_x_3:
        /*0070*/                   BRA.DIV UR4, `(.L_x_7) ;
.L_x_4:
        /*0080*/                   SHFL.BFLY PT, R3, R0, 0x10, 0x1f ;
        /*0090*/              @!P0 BRA P2, `(.L_x_1) ;
        /*00a0*/                   EXIT ;
.L_x_7:
        /*00b0*/                   WARPSYNC.COLLECTIVE R5, `(.L_x_6) ;
.L_x_6:
        /*00c0*/                   BRA `(.L_x_4) ;
.L_x_8:
        /*00d0*/                   ATOMS.CAST.SPIN.64 P0, [R8], R10, R12 ;
        /*00e0*/                   BSYNC B0 ;
.L_x_9:
        /*00f0*/                   EXIT ;
.L_x_10:
        /*0100*/                   BRA `(.L_x_10);
        /*0110*/                   NOP;
//--------------------- .text.dllm_two --------------------------
	.section	.text.dllm_two,"ax",@progbits
dllm_two:
.text.dllm_two:
        /*0000*/                   EXIT ;
.L_x_11:
        /*0010*/                   BRA `(.L_x_11);
"""


def test_a_listing_is_understood():
    one, two = sass.parse(LISTING)
    assert (one.name, two.name) == ("dllm_one", "dllm_two")
    assert one.code_bytes == 16 * len(one.instructions) == 0x110, "what pads the end is no code"
    assert one.labels[".L_x_8"] == 0xD
    load = one.instructions[2]
    assert (load.address, load.predicate, load.opcode) == (0x20, "", "LDG.E.128.CONSTANT")
    assert (one.instructions[1].predicate, one.instructions[1].target) == ("!P0", ".L_x_9")
    counted = {name: one.count(pattern) for name, pattern in sass.FAMILIES.items()}
    assert counted == dict.fromkeys(sass.FAMILIES, 0) | {"LDG": 1, "SHFL": 1, "fp64": 1, "CAS": 1}
    assert (one.count(sass.SPIN), two.count(sass.SPIN)) == (1, 0)
    assert two.loops == ()


def test_loops_are_those_of_the_flow_graph():
    """The way around a slow path at the end belongs to its loop; where a warp has come apart and what nobody reaches do not."""
    one, _ = sass.parse(LISTING)
    (inner,) = one.loops
    assert [instruction.address for instruction in inner] == [0x50, 0x60]
    outer = one.loop_holding("SHFL")
    assert [instruction.address for instruction in outer] == [*range(0x20, 0xA0, 16), 0xD0, 0xE0]
    assert one.loop_holding("HMMA") is None


@pytest.mark.parametrize(
    ("successors", "loops"),
    [
        ([[1], [2], []], []),
        ([[1], [1, 2], []], [{1}]),
        ([[1], [2, 3], [1], []], [{1, 2}]),
        ([[1], [2], [3], [2, 4], [1, 5], []], [{1, 2, 3, 4}, {2, 3}]),
        ([[1], [2, 3], [1], [1, 4], []], [{1, 2, 3}]),  # two jumps back to one head
        ([[1, 2], [3], [4], [4, 5], [3], []], []),  # entered at both ends: no loop has a head
        ([[1], [], [1, 2]], []),  # never reached
    ],
    ids=str,
)
def test_natural_loops(successors, loops):
    assert sorted(flow.natural_loops(successors), key=sorted) == sorted(map(frozenset, loops), key=sorted)


def _needs_compiler_and_disassembler() -> None:
    try:
        compiler.nvrtc()
    except KernelError as error:
        pytest.skip(str(error))
    if sass.disassembler() is None:
        pytest.skip(f"no nvdisasm; {sass.INSTALL}")


def test_code_is_small_and_neither_spills_nor_spins():
    """Time to compile goes with the size of the code, which is no noise: half a second a unit of 3,000 instructions."""
    _needs_compiler_and_disassembler()
    for unit in kernels.sources():
        for kernel in disassembled(unit, "sm_90a"):
            assert 10 < len(kernel.instructions) <= 4000, kernel.name
            assert kernel.count(sass.FAMILIES["local"]) == 0, kernel.name
            assert kernel.count(sass.SPIN) == 0, kernel.name
            opcodes = [instruction.opcode for instruction in kernel.instructions]
            waits, touches = opcodes.index("ACQBULK"), [code.startswith(MEMORY) for code in opcodes]
            assert True not in touches[:waits], f"{kernel.name} looks at memory before the kernel in front of it is done"
            assert True in touches, kernel.name


@pytest.mark.parametrize("arch", kernels.ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bf16", "f16", "f32"])
def test_the_loop_over_a_tile_stays_as_short_as_its_arithmetic(arch, dtype):
    """Instructions of a round of sixteen logits: 13 for each, 24 where the draw has a temperature; two more near the floor."""
    _needs_compiler_and_disassembler()
    by_name = {kernel.name: kernel for kernel in disassembled(f"mask_predict.{dtype}", arch)}
    for kind, per_logit in (("tiles", 13), ("tempered_tiles", 24)):
        kernel = by_name[f"dllm_mask_predict_{kind}_{dtype}"]
        floored, near = (len(loop) for loop in kernel.loops if sum(one.opcode == "FFMA" for one in loop) >= 7 * 16)
        assert near <= 16 * per_logit + 16
        assert floored <= 16 * (per_logit + (2 if kind == "tiles" else 4)) + 16


def test_an_id_is_counted_by_few_instructions():
    """Of eight ids in bfloat16: one load, an increment each that waits for no answer, and what finds the bin."""
    _needs_compiler_and_disassembler()
    (kernel,) = (one for one in disassembled("mask_filter.bf16", "sm_90a") if one.name == "dllm_mask_filter_count_bf16")
    whole = kernel.loop_holding(r"ATOMS\.POPC\.INC")
    assert whole is not None
    inner = {one.address for loop in kernel.loops if set(loop) < set(whole) for one in loop}  # ids that are read singly
    loop = [one for one in whole if one.address not in inner]
    assert sum(one.opcode.startswith("LDG.E.128") for one in loop) == 1
    assert sum(one.opcode.startswith("ATOMS.POPC.INC") for one in loop) == 8
    assert len(loop) <= 8 * 24


def test_the_command_prints_a_line_for_each_kernel(capsys):
    _needs_compiler_and_disassembler()
    assert sass.main(["commit", "--arch", "sm_80", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    (usage,) = kernels.compile_kernels("commit", "sm_80").usage
    assert (row["kernel"], row["registers"], row["shared_bytes"]) == ("dllm_commit", usage.registers, usage.shared_bytes)
    assert row["code_bytes"] == 16 * row["instructions"] > 1000
    assert row["SHFL"] > 0
    assert row["BAR"] > 0
    assert sass.main(["commit", "--arch", "sm_80", "--mix", "--print", "--ids", "2"]) == 0
    said = capsys.readouterr().out
    assert f"{row['inner_loops'][0]} instructions, {row['inner_loops'][0] / 2:.2f} for each of 2 ids" in said
