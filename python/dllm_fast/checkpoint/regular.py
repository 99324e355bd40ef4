"""The one door to files of a model folder: regular files only, of a bounded size, and the same file for as long as it is read.

Whoever publishes a folder chooses what its names stand for. A pipe would be waited for, and a device read, for ever; opening
some devices does something. So a name is looked at first, opened without waiting, and looked at again through the descriptor.
Links are followed, because the cache of the Hugging Face hub is made of them; only where they end counts.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from dllm_fast.errors import CheckpointError

# Of a vocabulary, a template or another text; the largest tokenizer.json that is published has 35 MB.
LARGEST = 100_000_000
# A signal is heard between two reads of this size.
_READ_BYTES = 2**26
# What some systems lack has no meaning there.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


class Stamp(NamedTuple):
    """By which a file is known again: where it is, how long, and when it was last written."""

    device: int
    inode: int
    size: int
    written_ns: int


class File:
    """An open regular file.

    Attributes:
        path: under which it was opened.
        stamp: what it was when it was opened.
    """

    def __init__(self, path: Path, raw: io.FileIO, stamp: Stamp) -> None:
        self.path = path
        self.stamp = stamp
        self._raw = raw

    @property
    def size(self) -> int:
        """Its bytes when it was opened."""
        return self.stamp.size

    def stamp_now(self) -> Stamp:
        """What it is now.

        Raises:
            CheckpointError: nobody can say.
        """
        try:
            return _stamp(os.fstat(self._raw.fileno()))
        except OSError as error:
            raise _refusal(self.path, error) from error

    def read(self, length: int) -> bytes:
        """The next bytes, at most so many, and none behind the size that it had."""
        length = min(length, self.size - self._raw.tell())
        buffer = bytearray(max(0, length))
        self.fill(memoryview(buffer))
        return bytes(buffer)

    def fill(self, place: memoryview, begin: int | None = None) -> None:
        """Fills some memory with the bytes from `begin`, or with the next ones.

        Raises:
            CheckpointError: the file ends before, which it did not when it was opened, or cannot be read.
        """
        try:
            if begin is not None:
                self._raw.seek(begin)
            at = 0
            while at < len(place):
                count = self._raw.readinto(place[at : at + _READ_BYTES])
                if not count:
                    raise CheckpointError(
                        f"{self.path} must stay as it is while it is read, got one that became shorter than its "
                        f"{self.size:,} bytes; open the folder again when nobody writes into it"
                    )
                at += count
        except OSError as error:
            raise CheckpointError(f"cannot read {self.path}: {error}; fetch it again, or check the disk") from error

    def check_end(self) -> None:
        """Refuses a file that goes on where its size says that it ends.

        Raises:
            CheckpointError: there are more bytes, or they cannot be read.
        """
        try:
            more = self._raw.read(1)
        except OSError as error:
            raise _refusal(self.path, error) from error
        if more != b"":
            raise CheckpointError(
                f"{self.path} must have as many bytes as it says, got more than {self.size:,}; open the folder again when "
                "nobody writes into it"
            )

    @property
    def again(self) -> str:
        """A name under which others open the same file, where the system has one; else its path."""
        name = f"/proc/self/fd/{self._raw.fileno()}"
        return name if os.path.exists(name) else str(self.path)


@contextlib.contextmanager
def opened(path: Path, largest: int | None = None) -> Iterator[File]:
    """A file, for as long as the block runs.

    Args:
        path: its name; where links end there must be a regular file.
        largest: number of bytes that it may have; default: any.

    Raises:
        CheckpointError: it is missing, no regular file, larger, or cannot be opened. Names the file and the remedy.
    """
    try:
        before = os.stat(path)
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error
    _check_kind(path, before)
    try:
        # Both in one call of C, so that no interrupt comes between them and loses the descriptor. Nobody else closes it: what
        # is closed twice may be the file of another thread by then.
        number, again = itertools.tee(map(os.open, (path,), (_FLAGS,)))
        (raw,) = map(io.FileIO, number)
    except IsADirectoryError as error:  # since it was looked at; a folder can be opened, and makes no file
        os.close(next(again))
        raise _refusal(path, error) from error
    except OSError as error:
        raise _refusal(path, error) from error
    with raw:
        found = os.fstat(raw.fileno())
        _check_kind(path, found)
        if largest is not None and found.st_size > largest:
            raise CheckpointError(f"{path} must not be larger than {largest:,} bytes, got {found.st_size:,}; fetch it again")
        yield File(path, raw, _stamp(found))


def read(path: Path, largest: int = LARGEST) -> bytes:
    """All bytes of a file.

    Raises:
        CheckpointError: as `opened`; or it has more bytes than it says, as one that grows and those of `/proc` have.
    """
    with opened(path, largest) as file:
        data = file.read(file.size)
        file.check_end()
        return data


def text(path: Path, largest: int = LARGEST) -> str:
    """A file as text; the ends of its lines are `\\n`, whatever the platform that wrote it had.

    Raises:
        CheckpointError: as `opened`, or no UTF-8.
    """
    try:
        return read(path, largest).decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} must be UTF-8: {error}; fetch it again") from error


@contextlib.contextmanager
def copies(folder: Path, *names: str) -> Iterator[Path]:
    """A folder of copies of some files, for libraries that open files by name; it goes with the block.

    Raises:
        CheckpointError: as `opened`.
    """
    with tempfile.TemporaryDirectory() as place:
        for name in names:
            (Path(place) / name).write_bytes(read(folder / name))
        yield Path(place)


def present(path: Path) -> bool:
    """Is there anything of this name? A link that leads nowhere counts: it is a broken checkpoint, not one without the file.

    Raises:
        CheckpointError: nobody may look.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise _refusal(path, error) from error
    return True


def is_file(path: Path) -> bool:
    """Does a name lead to a regular file? What nobody may look at does not."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Does a name lead to a folder? What nobody may look at does not."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def names(folder: Path) -> list[str]:
    """The names in a folder, in order.

    Raises:
        CheckpointError: nobody may list it.
    """
    try:
        return sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot list {folder}: {_why(error)}; check its permissions") from error


def _stamp(found: os.stat_result) -> Stamp:
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def _check_kind(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise CheckpointError(f"{path} must be a regular file, got {kind}; do not use this folder, or fetch the file again")


def _refusal(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return CheckpointError(f"{path} is missing or no file; fetch the checkpoint again")
    return CheckpointError(f"cannot read {path}: {_why(error)}; check the path and its permissions")


def _why(error: Exception) -> str:
    """What went wrong, without the path, which the text has already."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
