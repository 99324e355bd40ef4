"""The parameters of kernels as a cubin states them, for comparison with what launches pass."""

from __future__ import annotations

import struct

# In the section .nv.info.<kernel>: a record for each parameter.
_FORMAT_WITH_SIZE, _PARAMETER = 0x04, 0x17


def parameter_sizes(cubin: bytes) -> dict[str, list[int]]:
    """Bytes of each parameter of each kernel, in order."""
    return {
        name.removeprefix(".nv.info."): [size for _, size in sorted(_records(content))]
        for name, content in _sections(cubin)
        if name.startswith(".nv.info.")
    }


def _sections(elf: bytes) -> list[tuple[str, bytes]]:
    assert elf[:5] == b"\x7fELF\x02", "an ELF file of 64 bits"
    (table,) = struct.unpack_from("<Q", elf, 40)
    entry, count, of_names = struct.unpack_from("<HHH", elf, 58)
    # Name, kind, flags, address, place, length.
    headers = [struct.unpack_from("<IIQQQQ", elf, table + i * entry) for i in range(count)]
    names = headers[of_names][4]
    return [
        (elf[names + name : elf.index(b"\0", names + name)].decode(), elf[place : place + length])
        for name, _, _, _, place, length in headers
    ]


def _records(content: bytes) -> list[tuple[int, int]]:
    found, at = [], 0
    while at < len(content):
        kind, attribute, value = struct.unpack_from("<BBH", content, at)
        at += 4
        if kind == _FORMAT_WITH_SIZE:
            if attribute == _PARAMETER:
                _, ordinal, _, bits = struct.unpack_from("<IHHI", content, at)
                found.append((ordinal, bits >> 18))
            at += value
    return found
