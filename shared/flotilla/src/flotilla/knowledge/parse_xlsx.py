"""Excel workbooks, by openpyxl: sheet by sheet, row by row, as values."""

import warnings
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from io import BytesIO
from typing import Any

from openpyxl import load_workbook

from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock
from flotilla.knowledge.tables import blocks_from_rows


def parse_xlsx(content: bytes) -> ParsedDocument:
    """Blocks of the sheets that are shown; hidden ones are named among what was skipped."""
    blocks: list[TextBlock] = []
    skipped: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about styles and charts, which are not read
        book = load_workbook(BytesIO(content), read_only=True, data_only=True, keep_links=False)
        for sheet in book.worksheets:
            if sheet.sheet_state != "visible":
                skipped.append(f"sheet {sheet.title}: is hidden")
                continue
            sheet.reset_dimensions()  # they may say anything
            kind = f"sheet {sheet.title}, row"
            blocks.append(TextBlock(sheet.title, 1, place=BlockPlace(kind)))
            blocks += blocks_from_rows(_rows(sheet), kind)
    return ParsedDocument(blocks if any(not block.level for block in blocks) else [], skipped=tuple(skipped))


def _rows(sheet: Any) -> Iterator[Sequence[str]]:
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
