"""Reads COPY's text format: a row per line, columns separated by tabs (PostgreSQL's manual, COPY, "Text Format")."""

import re
from collections.abc import Iterator
from pathlib import Path

from flotilla.backup.files import read_compressed_lines
from flotilla.backup.manifest import StoredTable
from flotilla.contracts.errors import Invalid

_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_PLAIN = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def rows(folder: Path, table: StoredTable, *columns: str) -> Iterator[list[bytes | None]]:
    """These columns of each row; None is NULL.

    Raises:
        Invalid: a line has other columns than the manifest says, or the table lacks one that is asked for.
    """
    missing = set(columns) - set(table.columns)
    if missing:
        raise Invalid(f"{table.name} has no column {', '.join(sorted(missing))}")
    places = [table.columns.index(column) for column in columns]
    for number, line in enumerate(read_compressed_lines(folder, table.file), 1):
        cells = line.rstrip(b"\n").split(b"\t")
        if len(cells) != len(table.columns):
            raise Invalid(f"{table.file.name}, line {number}: {len(cells)} columns, not {len(table.columns)}")
        yield [_value(cells[place]) for place in places]


def _value(cell: bytes) -> bytes | None:
    if cell == rb"\N":
        return None
    return _ESCAPED.sub(lambda found: _PLAIN.get(found[1], found[1]), cell) if b"\\" in cell else cell


def text_of(cell: bytes | None) -> str:
    """A text; empty for NULL."""
    return "" if cell is None else cell.decode()


def bytes_of(cell: bytes | None) -> bytes:
    r"""A `bytea`, which is written as `\x` and hexadecimal digits.

    Raises:
        Invalid: it is none.
    """
    if cell is None or not cell.startswith(rb"\x"):
        raise Invalid("a column of bytes holds something else")
    try:
        return bytes.fromhex(cell[2:].decode())
    except ValueError as error:
        raise Invalid(f"a column of bytes holds something else: {error}") from error
