"""The file system as the log uses it: what must be on the disk is synced, and a file of a final name is whole.

A seam, so that tests can have a disk that is full, slow or broken.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Protocol


class Appended(Protocol):
    """A file that grows at its end."""

    def write(self, data: bytes) -> None:
        """Append all of it. Raises ``OSError``; some of it may then be there."""
        ...

    def sync(self) -> None:
        """Return once what was written is on the disk. Raises ``OSError``."""
        ...

    def truncate(self, size: int) -> None:
        """Cut it. Raises ``OSError``."""
        ...

    def close(self) -> None:
        """Write no more. Raises nothing."""
        ...


class Files(Protocol):
    """Every method raises ``OSError``."""

    def append_to(self, path: Path) -> Appended:
        """A new file, held against :meth:`is_held` for as long as this process has it open."""
        ...

    def is_held(self, path: Path) -> bool:
        """Whether a living process appends to the file."""
        ...

    def names(self, folder: Path) -> list[str]:
        """What lies in a folder; nothing where there is none."""
        ...

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        ...

    def read(self, path: Path) -> bytes:
        """All of a file."""
        ...

    def write_whole(self, path: Path, data: bytes) -> None:
        """A file that is there with all of its bytes or not at all, after any crash."""
        ...

    def make_folder(self, path: Path) -> None:
        """The folder, and those above it."""
        ...

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""
        ...


class LocalFiles:
    """:class:`Files` of the operating system."""

    def append_to(self, path: Path) -> Appended:
        """See :class:`Files`."""
        opened = _Appended(path)
        _sync_folder(path.parent)
        return opened

    def is_held(self, path: Path) -> bool:
        """See :class:`Files`."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def names(self, folder: Path) -> list[str]:
        """See :class:`Files`."""
        try:
            return sorted(os.listdir(folder))
        except FileNotFoundError:
            return []

    def size(self, path: Path) -> int:
        """See :class:`Files`."""
        return path.stat().st_size

    def read(self, path: Path) -> bytes:
        """See :class:`Files`."""
        return path.read_bytes()

    def write_whole(self, path: Path, data: bytes) -> None:
        """See :class:`Files`."""
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            with temporary.open("wb", buffering=0) as stream:
                _write(stream.fileno(), data)
                os.fsync(stream.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    def make_folder(self, path: Path) -> None:
        """See :class:`Files`."""
        path.mkdir(parents=True, exist_ok=True)
        _sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """See :class:`Files`."""
        path.unlink(missing_ok=True)


class _Appended:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        with contextlib.suppress(OSError):  # a file system without locks: who starts next leaves the file to readers
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def write(self, data: bytes) -> None:
        _write(self._descriptor, data)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # what mattered was synced
            os.close(self._descriptor)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
