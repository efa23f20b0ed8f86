"""Comma-separated values, and those with other separators."""

import csv
from io import StringIO

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import MAX_DOCUMENT_BYTES, ParsedDocument
from flotilla.knowledge.tables import blocks_from_rows

SEPARATORS = (",", ";", "\t", "|")
_LOOKED_AT = 64 * 1024
_DECLARED = "sep="
"""What Excel writes before the rows to name the separator."""


def parse_csv(text: str) -> ParsedDocument:
    """One block per row.

    Raises:
        Invalid: it is not what such files look like.
    """
    first, _, rest = text.partition("\n")
    declared = first.strip().lower().startswith(_DECLARED) and first.strip()[len(_DECLARED) :]
    csv.field_size_limit(MAX_DOCUMENT_BYTES)
    try:
        rows = csv.reader(StringIO(rest if declared else text, newline=""), delimiter=declared or _separator(text))
        return ParsedDocument(list(blocks_from_rows(rows, "row")))
    except (csv.Error, TypeError) as error:
        raise Invalid(f"can't be read as rows of values: {error}") from error


def _separator(text: str) -> str:
    """The one that most of the first rows have the same number of."""
    lines = [line for line in _unquoted(text[:_LOOKED_AT]).split("\n")[:50] if line.strip()]
    return max(SEPARATORS, key=lambda separator: _agreement([line.count(separator) for line in lines]))


def _agreement(counts: list[int]) -> tuple[int, int]:
    most = max(set(counts), key=lambda count: (count > 0, counts.count(count)), default=0)
    return (counts.count(most), most) if most else (0, 0)


def _unquoted(text: str) -> str:
    """The text outside quotation marks."""
    return "".join(text.split('"')[::2])
