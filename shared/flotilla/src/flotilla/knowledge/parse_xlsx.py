"""Excel workbooks, by openpyxl: sheet by sheet, row by row, as values."""

import re
import warnings
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from io import BytesIO
from itertools import zip_longest
from typing import IO, Any
from zipfile import ZipFile

from openpyxl import load_workbook

from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock
from flotilla.knowledge.tables import blocks_from_rows

_SHEETS = "xl/worksheets/"
_NO_VALUE = re.compile(rb"</(?:\w+:)?f>\s*+(?:<(?:\w+:)?v\s*/>|<(?:\w+:)?v></(?:\w+:)?v>)?+\s*+</(?:\w+:)?c>")
_PIECE_BYTES = 1024 * 1024
_OVERLAP_BYTES = 64
"""More than the end of a formula's cell has."""


def parse_xlsx(content: bytes) -> ParsedDocument:
    """Blocks of the sheets that are shown; hidden ones are named among what was skipped. Formulas stand for values that
    no program has computed."""
    blocks: list[TextBlock] = []
    skipped: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and charts, which are not read
        book = _opened(content, values=True)
        formulas = _opened(content, values=False) if _lacks_values(content) else None
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                skipped.append(f"sheet {sheet.title}: is hidden")
                continue
            kind = f"sheet {sheet.title}, row"
            blocks.append(TextBlock(sheet.title, 1, place=BlockPlace(kind)))
            rows = _rows(sheet)
            if formulas:
                rows = map(_filled_up, rows, _rows(formulas[sheet.title]))
            blocks += blocks_from_rows(rows, kind)
    return ParsedDocument(blocks if any(not block.level for block in blocks) else [], skipped=tuple(skipped))


def _opened(content: bytes, *, values: bool) -> Any:
    return load_workbook(BytesIO(content), read_only=True, data_only=values, keep_links=False)


def _lacks_values(content: bytes) -> bool:
    """Whether a formula has no value: programs that only write workbooks, such as openpyxl, compute none."""
    with ZipFile(BytesIO(content)) as archive:
        return any(_lacking(archive.open(part)) for part in archive.infolist() if _SHEETS in part.filename.lower())


def _lacking(stream: IO[bytes]) -> bool:
    before = b""
    while piece := stream.read(_PIECE_BYTES):
        if _NO_VALUE.search(before + piece):
            return True
        before = piece[-_OVERLAP_BYTES:]
    return False


def _filled_up(values: Sequence[str], formulas: Sequence[str]) -> list[str]:
    return [
        value or (formula if formula.startswith("=") else "")
        for value, formula in zip_longest(values, formulas, fillvalue="")
    ]


def _rows(sheet: Any) -> Iterator[Sequence[str]]:
    sheet.reset_dimensions()  # they may say anything
    for row in sheet.iter_rows():
        yield [_text(cell.value, getattr(cell, "number_format", "") or "") for cell in row]


def _text(value: Any, form: str) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, (int, float)):
        return f"{value * 100:.10g}%" if "%" in form else f"{value:.15g}"
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    return value.isoformat(" ") if isinstance(value, datetime) else _other(value)


def _other(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, time)) else str(value)
