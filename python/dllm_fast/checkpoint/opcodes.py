"""What a pickle of `torch.save` describes, found without making any of it: the tensors by name, as places in a file.

The instructions of a pickle are few. Here they are followed as they stand: a call makes nothing but the note of a tensor or of
something else, nothing is hashed, compared or imported but names, and an instruction costs no more than its own length.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

import torch

from dllm_fast.errors import shown

# Of one pickle; a tensor takes some 60.
MOST_INSTRUCTIONS = 10_000_000
_LONGEST_NAME, _LONGEST_LINE = 256, 100_000
_STORAGES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
    "Untyped": torch.uint8,
}
_STORAGE = re.compile(r"torch(?:\.cuda|\.storage)? (\w+)Storage")
# What may stand beside tensors: plain values of Python and torch, and the settings of fairseq and Lightning.
_PLAIN = re.compile(
    r"collections (OrderedDict|Counter|defaultdict)|argparse Namespace|pathlib (Pure)?(Posix|Windows)?Path|_codecs encode"
    r"|(builtins|__builtin__) (set|frozenset|complex|bytearray|bytes|list|dict|int|float|str|tuple|range|slice)"
    r"|torch (Size|device|dtype|Tensor|bool|[a-z]+\d+\w*)|torch(\.cuda|\.storage)? \w*Storage|torch\.serialization _get_layout"
    r"|torch\.nn\.parameter (Parameter|Buffer)|torch\.nn Parameter"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2"
    r"|numpy(\._?core)?(\.multiarray)? (scalar|_reconstruct|ndarray|dtype)"
)
_OTHER_KINDS = {
    "_rebuild_qtensor": "a quantised one",
    "_rebuild_sparse_tensor": "a sparse one",
    "_rebuild_sparse_csr_tensor": "a sparse one",
    "_rebuild_nested_tensor": "a nested one",
    "_rebuild_meta_tensor_no_storage": "an empty (meta) one",
}


class UnknownError(Exception):
    """A pickle that holds more than tensors and plain values; says what."""


class TooMuchError(Exception):
    """A pickle of more instructions, or longer names, than any of weights has; says what."""


class BrokenError(Exception):
    """What no `torch.save` writes; says what."""


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that a pickle names, with a space between module and name."""

    text: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a mapping that is no string; only for messages."""

    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True, eq=False)
class Other:
    """Anything that is no tensor."""

    what: str


@dataclass(frozen=True, slots=True, eq=False)
class OddTensor:
    """A tensor that is not plain numbers in a storage; says of what kind."""

    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """Numbers in the file: `numel` of a dtype, from `begin` on in what lies under a key."""

    key: str
    dtype: torch.dtype
    numel: int
    begin: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A tensor in a storage: its numbers lie at `offset + sum(index * stride)`."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


_MARK = Other("mark")


def value(file: IO[bytes], end: int) -> tuple[Any, dict[str, torch.dtype]]:
    """What the pickle describes that begins at the place where a file is, and the storages that it names, each with its dtype.

    The file is then behind it.
    Mappings are dicts from `str` or `Key`; tensors `Stored` or `OddTensor`; tuples, lists, strings, whole numbers, truth values
    and None are themselves, all else is an `Other`.

    Raises:
        UnknownError, TooMuchError, BrokenError: as they say.
        ValueError, EOFError: it is cut, or no pickle.
    """
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(_Capped(file, end))):  # type: ignore[arg-type]
        if count >= MOST_INSTRUCTIONS:
            raise TooMuchError(f"more than {MOST_INSTRUCTIONS:,} instructions")
        if opcode.name == "STOP":
            return machine.pop(), machine.storages
        machine.follow(opcode.name, argument)
    raise EOFError("no end")


class _Capped:
    """A file for `pickletools`, which asks for as many bytes as a pickle says that there are."""

    def __init__(self, file: IO[bytes], end: int) -> None:
        self._file, self._end = file, end

    def tell(self) -> int:
        return self._file.tell()

    def read(self, length: int) -> bytes:
        return self._file.read(max(0, min(length, self._end - self._file.tell())))

    def readline(self) -> bytes:
        # Of the two lines of a name; one that goes on is none.
        return self._file.readline(_LONGEST_LINE)


class _Machine:
    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[Any, Any] = {}
        self.storages: dict[str, torch.dtype] = {}
        self._steps: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(("PROTO", "FRAME"), lambda _: None),
            **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"), self._push),
            **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINSTRING", "BINSTRING"), self._push),
            **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"), lambda _: self._push(Other("bytes"))),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT"), self._put),
            **dict.fromkeys(("BINGET", "LONG_BINGET"), self._get),
            "MEMOIZE": lambda _: self._put(len(self._memo)),
            "NONE": lambda _: self._push(None),
            "NEWTRUE": lambda _: self._push(True),
            "NEWFALSE": lambda _: self._push(False),
            "MARK": lambda _: self._push(_MARK),
            "EMPTY_LIST": lambda _: self._push([]),
            "EMPTY_DICT": lambda _: self._push({}),
            "EMPTY_SET": lambda _: self._push(Other("set")),
            "EMPTY_TUPLE": lambda _: self._push(()),
            "TUPLE": lambda _: self._push(tuple(self._marked())),
            "TUPLE1": lambda _: self._push(tuple(self._last(1))),
            "TUPLE2": lambda _: self._push(tuple(self._last(2))),
            "TUPLE3": lambda _: self._push(tuple(self._last(3))),
            "LIST": lambda _: self._push(self._marked()),
            "APPEND": lambda _: self._append([self.pop()]),
            "APPENDS": lambda _: self._append(self._marked()),
            "ADDITEMS": lambda _: self._append(self._marked()),
            "FROZENSET": lambda _: self._push(Other(f"a set of {len(self._marked())}")),
            "SETITEM": lambda _: self._set(self._last(2)),
            "SETITEMS": lambda _: self._set(self._marked()),
            "GLOBAL": lambda argument: self._name(*argument.split(" ", 1)),
            "STACK_GLOBAL": lambda _: self._name(*self._last(2)),
            "REDUCE": lambda _: self._push(called(*self._last(2))),
            "NEWOBJ": lambda _: self._push(called(*self._last(2))),
            "BUILD": lambda _: self._push(self._last(2)[0]),  # attributes of what was made, and of no interest
            "BINPERSID": lambda _: self._store(_storage(self.pop())),
        }

    def follow(self, name: str, argument: Any) -> None:
        step = self._steps.get(name)
        if step is None:
            raise UnknownError(f"the instruction {name}")
        step(argument)

    def pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise BrokenError("a value that it has not made")
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _last(self, count: int) -> list[Any]:
        return [self.pop() for _ in range(count)][::-1]

    def _marked(self) -> list[Any]:
        found: list[Any] = []
        while self._stack:
            if (top := self._stack.pop()) is _MARK:
                return found[::-1]
            found.append(top)
        raise BrokenError("no beginning of what it puts together")

    def _put(self, index: Any) -> None:
        self._push(self.pop())
        self._memo[index] = self._stack[-1]

    def _get(self, index: Any) -> None:
        if index not in self._memo:
            raise BrokenError(f"a value {index} that it has not made")
        self._push(self._memo[index])

    def _append(self, values: list[Any]) -> None:
        held = self.pop()
        if isinstance(held, list):
            held += values
        self._push(held)

    def _set(self, pairs: list[Any]) -> None:
        held = self.pop()
        if len(pairs) % 2:
            raise BrokenError("a key without a value")
        if isinstance(held, dict):
            for key, value in zip(pairs[::2], pairs[1::2], strict=True):
                held[_key(key)] = value
        self._push(held)

    def _store(self, storage: Storage) -> None:
        if self.storages.setdefault(storage.key, storage.dtype) != storage.dtype:
            raise BrokenError(f"a storage {shown(storage.key)} of two types")
        self._push(storage)

    def _name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise BrokenError("a name that is no text")
        if len(module) + len(name) > _LONGEST_NAME:
            raise TooMuchError(f"a name of {len(module) + len(name):,} characters")
        text = f"{module} {name}"
        if not _PLAIN.fullmatch(text):
            raise UnknownError(shown(f"{module}.{name}"))
        self._push(Name(text))


def _key(key: object) -> str | Key:
    if isinstance(key, str):
        return key
    is_short = key is None or isinstance(key, bool | float) or (isinstance(key, int) and abs(key) < 2**63)
    return Key(str(key) if is_short else type(key).__name__)


def called(function: Any, arguments: Any) -> Any:
    """What a call would make, by its name."""
    if not isinstance(function, Name) or not isinstance(arguments, tuple):
        raise BrokenError("a call of something without a name")
    module, name = function.text.split(" ")
    if module == "collections" and name in ("OrderedDict", "defaultdict"):
        return _pairs(arguments)
    if module == "torch._tensor" and len(arguments) == 4 and isinstance(arguments[0], Name):
        # A tensor with attributes, or of a class of its own, which only a tensor could tell.
        if arguments[0].text == function.text:
            raise BrokenError("a tensor of a tensor of a tensor")
        return called(arguments[0], arguments[2])
    if name in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer"):
        return arguments[0] if arguments and isinstance(arguments[0], Stored | OddTensor) else Other(name)
    if module == "torch._utils":
        return _tensor(name, arguments)
    return OddTensor("one without numbers in the file") if name == "Tensor" else Other(name)


def _pairs(arguments: tuple[Any, ...]) -> Any:
    """An ordered mapping: empty, to be filled later, or from a list of pairs, as Python 2 wrote it."""
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list) or not pairs:
        return {}
    found, pairs[:] = list(pairs), [None]  # a list that is used often must not cost often: the second time it is no pairs
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in found):
        return Other("OrderedDict")
    return {_key(key): value for key, value in found}


def _tensor(name: str, arguments: tuple[Any, ...]) -> Any:
    if name in _OTHER_KINDS:
        return OddTensor(_OTHER_KINDS[name])
    if name not in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
        return OddTensor(f"one of {name}")
    if len(arguments) < 4:
        raise BrokenError("a tensor without storage, place, sizes and strides")
    storage, offset, size, stride = arguments[:4]
    if not isinstance(storage, Storage):
        return OddTensor("one without numbers in the file")
    dtype = storage.dtype
    if name == "_rebuild_tensor_v3":
        named = arguments[6] if len(arguments) > 6 else None
        found = getattr(torch, named.text.split(" ")[1], None) if isinstance(named, Name) else None
        if not isinstance(found, torch.dtype):
            raise BrokenError("a tensor without a dtype")
        dtype = found
    if not (_is_count(offset) and _are_counts(size) and _are_counts(stride) and len(size) == len(stride)):
        raise BrokenError("a tensor whose place, sizes and strides are no whole numbers from 0")
    return Stored(storage, dtype, offset, size, stride)


def _storage(found: Any) -> Storage:
    """What `BINPERSID` names: the word, the class, the key, the device, the number of elements, and perhaps a part of it."""
    match = None
    if isinstance(found, tuple) and 5 <= len(found) <= 6 and isinstance(found[1], Name) and isinstance(found[2], str):
        match = _STORAGE.fullmatch(found[1].text)
    if match is None or found[0] != "storage" or not _is_count(found[4]):
        raise BrokenError("a storage without a class, a key and a number of elements")
    dtype = _STORAGES.get(match[1])
    if dtype is None:
        raise UnknownError(shown(found[1].text.replace(" ", ".")))
    part = found[5] if len(found) == 6 else None
    if part is None:
        return Storage(found[2], dtype, found[4])
    if not (isinstance(part, tuple) and len(part) == 3 and _is_count(part[1]) and _is_count(part[2])):
        raise BrokenError("a part of a storage without a beginning and a number of elements")
    return Storage(found[2], dtype, part[2], part[1])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _are_counts(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= 64 and all(map(_is_count, values))
