"""A ZIP archive that is written while it is sent: files of JSON lines, and behind them an index of what there is."""

import asyncio
import hashlib
import io
import time
import zipfile
from collections.abc import AsyncIterator, Iterable

import msgspec

INDEX = "index.json"
_LEVEL = 6


class ArchivedFile(msgspec.Struct):
    """A file of the archive, as the index names it."""

    file: str
    lines: int = 0
    sha256: str = ""
    """Of its bytes before they were compressed."""


class _Sent(io.RawIOBase):
    """Takes what is written, until it is sent."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: "memoryview | bytes") -> int:  # type: ignore[override]
        self._waiting += data
        return len(data)

    def take(self) -> bytes:
        taken = bytes(self._waiting)
        self._waiting.clear()
        return taken


class StreamedArchive:
    """Holds no more than a piece of one file, and the names of those before it."""

    def __init__(self) -> None:
        self._sent = _Sent()
        self._zip = zipfile.ZipFile(self._sent, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL)
        self._when = time.gmtime()[:6]
        self.files: list[ArchivedFile] = []

    async def add(self, name: str, pieces: AsyncIterator[Iterable[bytes]]) -> AsyncIterator[bytes]:
        """Yield the archive's bytes while a file is written from lists of lines; one without lines is left out."""
        entry, digest = ArchivedFile(name), hashlib.sha256()
        file = None

        def write(piece: Iterable[bytes]) -> None:
            nonlocal file
            for line in piece:
                file = file or self._zip.open(zipfile.ZipInfo(name, self._when), "w", force_zip64=True)
                file.write(line)
                digest.update(line)
                entry.lines += 1

        async for piece in pieces:
            await asyncio.to_thread(
                write, piece
            )  # a piece may have hundreds of megabytes, whose compression takes seconds
            if (data := self._sent.take()) != b"":
                yield data
        if file is not None:
            file.close()
            entry.sha256 = digest.hexdigest()
            self.files.append(entry)
            yield self._sent.take()

    def close(self, index: object) -> bytes:
        """The end of the archive, with its index: a reader without it has no whole archive."""
        with self._zip.open(zipfile.ZipInfo(INDEX, self._when), "w") as file:
            file.write(msgspec.json.format(msgspec.json.encode(index), indent=1))
        self._zip.close()
        return self._sent.take()
