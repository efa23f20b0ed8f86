"""Reads an export line by line, strictly, in bounded memory."""

import gzip
import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from flotilla.audit.chain import ChainProblem, ProblemKind
from flotilla.audit.export_format import MAX_LINE_BYTES, AnyLine, read_line

_MAX_DETAIL = 300
_GZIP = b"\x1f\x8b"
_BEGINNING = b'{"kind":"header"'
T = TypeVar("T", bound=AnyLine)


class NotAnExport(ValueError):
    """The file does not even begin like an export."""


class _Readable(Protocol):
    def readline(self, limit: int, /) -> bytes: ...


class _Expanded:
    """A compressed file as its lines. Where it is damaged it goes on with what is no line of any export."""

    def __init__(self, file: "gzip.GzipFile") -> None:
        self._file = file

    def readline(self, limit: int, /) -> bytes:
        try:
            return self._file.readline(limit)
        except (EOFError, gzip.BadGzipFile, zlib.error):
            self._file = gzip.GzipFile(fileobj=io.BytesIO(), mode="rb")  # nothing more
            return b"damaged"


@contextmanager
def open_export(path: Path) -> Iterator[_Readable]:
    """Open an export, or an archive, which may be compressed by gzip.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] == _GZIP:
            with gzip.GzipFile(fileobj=file, mode="rb") as expanded:
                yield _Expanded(expanded)
        else:
            yield file


def read_lines(file: _Readable) -> Iterator[bytes]:
    """Yield the file's lines, each with its newline; of one that is too long only so much that this shows."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def split_exports(lines: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Yield the lines of each export of an archive, which has several one behind the other. They are taken in turn."""
    number = 0

    def of_export(line: bytes) -> int:
        nonlocal number
        number += line.startswith(_BEGINNING)
        return number

    for _, export in groupby(lines, key=of_export):
        yield export


class BadLine(Exception):
    """The first thing that is wrong with an export."""

    def __init__(self, problem: ChainProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ExportLines:
    """The lines one after the other, each read strictly, and only when it is due."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._raw = iter(lines)
        self._ahead: list[AnyLine] = []
        self.number = 0
        """Of the line that was read last, from 1."""

    def take(self, kind: type[T], missing: ProblemKind, place: str) -> T:
        """Return the next line, which has to be of this kind; `place` names what belongs there."""
        line = self._peek()
        if line is None:
            self.bad("truncated", f"the file ends where {place} belongs")
        if type(line) is not kind:
            self.bad(missing, f"{_named(line)} where {place} belongs")
        self._ahead.clear()
        return line

    def take_if(self, kind: type[T]) -> T | None:
        """Return the next line if it is of this kind."""
        return self.take(kind, "added", "") if type(self._peek()) is kind else None

    def finish(self) -> None:
        """Check that nothing follows."""
        if (line := self._peek()) is not None:
            self.bad("added", f"{_named(line)} behind the end")

    def bad(self, kind: ProblemKind, detail: str, session_id: str | None = None, seq: int | None = None) -> NoReturn:
        """Raise this problem of the line that was read last."""
        raise BadLine(
            ChainProblem(
                kind=kind, detail=printable_excerpt(f"line {self.number}: {detail}"), session_id=session_id, seq=seq
            )
        )

    def _peek(self) -> AnyLine | None:
        if not self._ahead:
            self.number += 1
            if (raw := next(self._raw, None)) is None:
                return None
            self._ahead.append(self._read(raw))
        return self._ahead[0]

    def _read(self, raw: bytes) -> AnyLine:
        try:
            return read_line(raw)
        except ValueError as error:
            if self.number == 1 and b'"header"' not in raw:
                raise NotAnExport("its first line is not the header of an export") from error
            self.bad("edited", str(error))


def _named(line: AnyLine) -> str:
    return f"found {line.article} {type(line).__name__.lower()}"


def printable_excerpt(text: str) -> str:
    """The text as printable ASCII, cut where it gets long: some of it comes from the file."""
    cut = text if len(text) <= _MAX_DETAIL else f"{text[:_MAX_DETAIL]}..."
    return cut.encode("unicode_escape").decode()
