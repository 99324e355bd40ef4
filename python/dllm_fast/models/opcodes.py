"""Whether reading a pickle of tensors costs no more than its length says, found from its instructions alone.

`torch.load(weights_only=True)` makes nothing but tensors and plain containers. But a small file can ask for much: a tuple in a
tuple, a million times, ends the process where it is hashed; a tuple that holds one tuple twice, and so on, is hashed for ever;
a number becomes so many bytes. So the instructions are followed first, with weights in the place of values.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import IO

# Tuples within tuples. Tensors are written with 3.
MOST_DEPTH = 64
# The parts of values that are hashed or handed to a function, for each byte of the pickle; a tensor takes less than 1.
MOST_COST = 16
# What holds itself has no end of parts.
_MANY = 10**12
# Instructions that `torch.load(weights_only=True)` knows.
_KNOWN = frozenset(
    f"{kind}{form}"
    for kind, forms in {
        "APPEND": ("", "S"),
        "BIN": ("FLOAT", "GET", "INT", "INT1", "INT2", "PERSID", "PUT", "UNICODE"),
        "EMPTY_": ("DICT", "LIST", "SET", "TUPLE"),
        "LONG": ("1", "_BINGET", "_BINPUT"),
        "NEW": ("FALSE", "OBJ", "TRUE"),
        "SETITEM": ("", "S"),
        "TUPLE": ("", "1", "2", "3"),
    }.items()
    for form in forms
) | {"BUILD", "GLOBAL", "MARK", "NONE", "PROTO", "REDUCE", "SHORT_BINSTRING", "STOP"}
_TUPLES = frozenset(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"))
# What torch lets a pickle call, and what makes much of little.
_BYTES = frozenset(("__builtin__ bytearray", "builtins bytearray", "_codecs encode"))


class CostlyError(Exception):
    """A pickle that asks for what no file of weights asks for; says what."""


class UnknownError(Exception):
    """A pickle that holds more than tensors; says what."""


class _Value:
    """What stands for a value: how many parts it has, one inside another counted as often as it is there."""

    __slots__ = ("depth", "weight")

    def __init__(self, weight: int = 1, depth: int = 0) -> None:
        self.weight, self.depth = weight, depth


_MARK = _Value()


def _parts(values: list[_Value]) -> int:
    return min(sum(value.weight for value in values), _MANY)


def check(file: IO[bytes], *, pickles: int = 1) -> None:
    """Follows pickles that stand one behind another, from the place where a file is.

    Raises:
        CostlyError: reading them would take much more than their length says.
        UnknownError: an instruction that is not for tensors.
        ValueError, EOFError: they are broken.
    """
    for _ in range(pickles):
        _follow(pickletools.genops(file))


def _follow(instructions: Iterator[tuple[pickletools.OpcodeInfo, object, int | None]]) -> None:
    stack: list[_Value] = []
    memo: dict[object, _Value] = {}
    cost, began = 0, None
    for opcode, argument, place in instructions:
        name = opcode.name
        began = place if began is None else began
        if name not in _KNOWN:
            raise UnknownError(f"the instruction {name}")
        if name == "GLOBAL" and argument in _BYTES:
            raise UnknownError(f"bytes ({str(argument).replace(' ', '.')})")
        if _moves(name, argument, stack, memo):
            continue
        taken = _taken(stack, opcode)
        if name in _TUPLES:
            made = _Value(1 + _parts(taken), 1 + max((value.depth for value in taken), default=0))
            if made.depth > MOST_DEPTH:
                raise CostlyError(f"more than {MOST_DEPTH} tuples within each other")
            stack.append(made)
        elif name in ("APPEND", "APPENDS", "SETITEM", "SETITEMS", "BUILD"):
            # What is changed stays the same value, wherever it is.
            held, *added = taken
            parts = _parts(added)
            held.weight = min(held.weight + parts, _MANY)
            cost += 0 if name.startswith("APPEND") else parts
            stack.append(held)
        elif name in ("REDUCE", "NEWOBJ"):
            parts = _parts(taken)
            cost += parts
            # A size is a tuple, too.
            stack.append(_Value(parts, 1 + max(value.depth for value in taken)))
        elif opcode.stack_after:
            stack.append(_Value(1 + (len(argument) if isinstance(argument, str) else 0)))
        if place is not None and began is not None and cost > MOST_COST * (place - began) + 1000:
            raise CostlyError("values that are used over and over within each other")


def _moves(name: str, argument: object, stack: list[_Value], memo: dict[object, _Value]) -> bool:
    """Does what an instruction does that makes nothing; says whether it is one."""
    if name in ("BINPUT", "LONG_BINPUT"):
        memo[argument] = _last(stack)
    elif name in ("BINGET", "LONG_BINGET"):
        if argument not in memo:
            raise ValueError(f"a value {argument} that it has not made")
        stack.append(memo[argument])
    elif name == "MARK":
        stack.append(_MARK)
    else:
        return False
    return True


def _last(stack: list[_Value]) -> _Value:
    if not stack or stack[-1] is _MARK:
        raise ValueError("a value that it has not made")
    return stack[-1]


def _taken(stack: list[_Value], opcode: pickletools.OpcodeInfo) -> list[_Value]:
    """The values that an instruction takes from the stack, as they lie there."""
    needed = opcode.stack_before
    taken: list[_Value] = []
    if pickletools.markobject in needed:
        while stack and stack[-1] is not _MARK:
            taken.append(stack.pop())
        if not stack:
            raise ValueError("no beginning of what it puts together")
        stack.pop()
        needed = needed[: needed.index(pickletools.markobject)]
    for _ in needed:
        taken.append(_last(stack))
        stack.pop()
    return taken[::-1]
