"""Files of a backup: compressed, hashed while they are written, readable by their owner only."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import IO

import msgspec

from flotilla.backup.manifest import StoredFile
from flotilla.backup.private_files import OWNER_ONLY_FOLDER, new_private_file
from flotilla.contracts.errors import Invalid

_LEVEL = 1
"""Rows and events shrink to a fifth; more costs three times the processor for a tenth less."""
_LENGTH = struct.Struct(">I")
MAX_RECORD_BYTES = 64 * 1024 * 1024
_CHANGED = "{name} of the backup was changed while it was read: nobody may write to a backup during its restore"


class Record(msgspec.Struct, frozen=True, array_like=True):
    """A record of Kafka."""

    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


_record = msgspec.msgpack.Decoder(Record)
_encode = msgspec.msgpack.Encoder().encode


class _Hashing(io.RawIOBase):
    """Passes bytes on and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        self.digest.update(data)
        self.size_bytes += len(data)
        return self._file.write(data)


class CompressedFileWriter:
    """A file that is being written; `manifest_entry` is known once it is closed."""

    def __init__(self, name: str, file: IO[bytes]) -> None:
        self._name = name
        self._hashing = _Hashing(file)
        self._gzip = gzip.GzipFile(filename="", mode="wb", compresslevel=_LEVEL, fileobj=self._hashing, mtime=0)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self._gzip.write(data)

    def add(self, record: Record) -> None:
        """Add a record."""
        encoded = _encode(record)
        self._gzip.write(_LENGTH.pack(len(encoded)) + encoded)

    def close(self) -> None:
        """Write what is left."""
        self._gzip.close()

    @property
    def manifest_entry(self) -> StoredFile:
        """What the manifest says of it."""
        return StoredFile(name=self._name, size_bytes=self._hashing.size_bytes, sha256=self._hashing.digest.hexdigest())


@contextmanager
def new_compressed_file(folder: Path, name: str) -> Iterator[CompressedFileWriter]:
    """A new compressed file in the folder; it is on the disk when the block ends."""
    path = folder / name
    path.parent.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    with new_private_file(path) as file:
        writing = CompressedFileWriter(name, file)
        yield writing
        writing.close()


def stored_as_it_is(folder: Path, name: str, content: bytes) -> StoredFile:
    """Write a small file without compression."""
    path = folder / name
    path.parent.mkdir(mode=OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
    with new_private_file(path) as file:
        file.write(content)
    return StoredFile(name=name, size_bytes=len(content), sha256=sha256(content).hexdigest())


def problem_of(folder: Path, stored: StoredFile) -> str | None:
    """Why the file is not the one that the manifest names; None when it is."""
    path = _inside(folder, stored.name)
    if not path.is_file():
        return f"{stored.name} is missing"
    if path.stat().st_size != stored.size_bytes:
        return f"{stored.name} has {path.stat().st_size} bytes, not {stored.size_bytes}"
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return None if digest == stored.sha256 else f"{stored.name} is not the file that was backed up"


def read_stored(folder: Path, stored: StoredFile) -> bytes:
    """A small file's content.

    Raises:
        Invalid: it is not the one that the manifest names.
    """
    content = _inside(folder, stored.name).read_bytes()
    if sha256(content).hexdigest() != stored.sha256:
        raise Invalid(_CHANGED.format(name=stored.name))
    return content


class _HashingReader:
    """Hashes what is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


@contextmanager
def _decompressed(folder: Path, stored: StoredFile) -> Iterator[gzip.GzipFile]:
    """What a compressed file holds. Its hash is checked again at the end: somebody may write to where backups are kept.

    Raises:
        Invalid: it was read to its end, and is not the file that the manifest names; or it can't be read.
    """
    try:
        with _inside(folder, stored.name).open("rb") as raw:
            hashing = _HashingReader(raw)
            with gzip.GzipFile(fileobj=hashing, mode="rb") as file:  # type: ignore[call-overload]
                yield file
    except (OSError, EOFError, zlib.error) as error:
        raise Invalid(f"{stored.name} of the backup can't be read: {error}") from error
    if hashing.digest.hexdigest() != stored.sha256:
        raise Invalid(_CHANGED.format(name=stored.name))


def read_compressed_lines(folder: Path, stored: StoredFile) -> Iterator[bytes]:
    """The lines of a compressed file, each with its end."""
    with _decompressed(folder, stored) as file:
        yield from file


def read_compressed_blocks(folder: Path, stored: StoredFile, size: int = 1024 * 1024) -> Iterator[bytes]:
    """A compressed file, block by block."""
    with _decompressed(folder, stored) as file:
        yield from iter(lambda: file.read(size), b"")


def read_backup_records(folder: Path, stored: StoredFile) -> Iterator[Record]:
    """The records of a file.

    Raises:
        Invalid: it holds something else.
    """
    with _decompressed(folder, stored) as file:
        while head := file.read(_LENGTH.size):
            yield _one(stored.name, head, file.read)


def _one(name: str, head: bytes, read: Callable[[int], bytes]) -> Record:
    length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else MAX_RECORD_BYTES + 1
    body = read(length) if length <= MAX_RECORD_BYTES else b""
    try:
        return _record.decode(body)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{name} holds something that is no record: {error}") from error


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise Invalid(f"the backup names a file outside of it: {name}")
    return path
