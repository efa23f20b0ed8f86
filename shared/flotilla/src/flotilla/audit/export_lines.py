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
from flotilla.audit.export_format import MAX_LINE_BYTES, AnyLine, decode_export_line

_MAX_DETAIL_CHARS = 300
_GZIP_MAGIC = b"\x1f\x8b"
_HEADER_LINE_PREFIX = b'{"kind":"header"'
T = TypeVar("T", bound=AnyLine)


class NotAnExport(ValueError):
    """The file does not even begin like an export."""


class _LineReader(Protocol):
    def readline(self, limit: int, /) -> bytes: ...


class _GzipLines:
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
def open_export_file(path: Path) -> Iterator[_LineReader]:
    """Open an export, or an archive, which may be compressed by gzip.

    Raises:
        OSError: it can't be read.
    """
    with path.open("rb") as file:
        if file.peek(2)[:2] == _GZIP_MAGIC:
            with gzip.GzipFile(fileobj=file, mode="rb") as expanded:
                yield _GzipLines(expanded)
        else:
            yield file


def read_export_lines(file: _LineReader) -> Iterator[bytes]:
    """Yield the file's lines, each with its newline; of one that is too long only so much that this shows."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        yield line


def split_exports(lines: Iterable[bytes]) -> Iterator[Iterator[bytes]]:
    """Yield the lines of each export of an archive, which has several one behind the other. They are taken in turn."""
    number = 0

    def of_export(line: bytes) -> int:
        nonlocal number
        number += line.startswith(_HEADER_LINE_PREFIX)
        return number

    for _, export in groupby(lines, key=of_export):
        yield export


class BadLine(Exception):
    """The first thing that is wrong with an export."""

    def __init__(self, problem: ChainProblem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class ExportLineReader:
    """The lines one after the other, each read strictly, and only when it is due."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._raw = iter(lines)
        self._ahead: list[AnyLine] = []
        self.number = 0
        """Of the line that was read last, from 1."""

    def read_required(self, kind: type[T], missing: ProblemKind, place: str) -> T:
        """Return the next line, which has to be of this kind; `place` names what belongs there."""
        line = self._peek_line()
        if line is None:
            self.raise_bad_line("truncated", f"the file ends where {place} belongs")
        if type(line) is not kind:
            self.raise_bad_line(missing, f"{_describe_found_line(line)} where {place} belongs")
        self._ahead.clear()
        return line

    def read_optional(self, kind: type[T]) -> T | None:
        """Return the next line if it is of this kind."""
        return self.read_required(kind, "added", "") if type(self._peek_line()) is kind else None

    def check_nothing_follows(self) -> None:
        """Check that nothing follows."""
        if (line := self._peek_line()) is not None:
            self.raise_bad_line("added", f"{_describe_found_line(line)} behind the end")

    def raise_bad_line(
        self, kind: ProblemKind, detail: str, session_id: str | None = None, seq: int | None = None
    ) -> NoReturn:
        """Raise this problem of the line that was read last."""
        raise BadLine(
            ChainProblem(
                kind=kind, detail=printable_excerpt(f"line {self.number}: {detail}"), session_id=session_id, seq=seq
            )
        )

    def _peek_line(self) -> AnyLine | None:
        if not self._ahead:
            self.number += 1
            if (raw := next(self._raw, None)) is None:
                return None
            self._ahead.append(self._decode_line(raw))
        return self._ahead[0]

    def _decode_line(self, raw: bytes) -> AnyLine:
        try:
            return decode_export_line(raw)
        except ValueError as error:
            if self.number == 1 and b'"header"' not in raw:
                raise NotAnExport("its first line is not the header of an export") from error
            self.raise_bad_line("edited", str(error))


def _describe_found_line(line: AnyLine) -> str:
    return f"found {line.article} {type(line).__name__.lower()}"


def printable_excerpt(text: str) -> str:
    """The text as printable ASCII, cut where it gets long: some of it comes from the file."""
    cut = text if len(text) <= _MAX_DETAIL_CHARS else f"{text[:_MAX_DETAIL_CHARS]}..."
    return cut.encode("unicode_escape").decode()
