"""Rows of cells as blocks that can be read one by one: each value with the name of its column."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from flotilla.knowledge.documents import BlockPlace, TextBlock

MAX_NAME_CHARACTERS = 80
_BETWEEN_CELLS = " | "
_YEAR = re.compile("(?:19|20)[0-9]{2}")


def blocks_from_rows(rows: Iterable[Sequence[str]], kind: str) -> Iterator[TextBlock]:
    """A block for each row that is not empty. `kind` names the rows in citations: `row`, `sheet Prices, row`."""
    first: Sequence[str] = ()
    names: Sequence[str] | None = None
    for number, row in enumerate(rows, 1):
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        if first and names is None:
            names = first if _are_names(first, cells) else ()
        yield TextBlock(_BETWEEN_CELLS.join(_named(names or (), cells)), place=BlockPlace(kind, number))
        if not first and sum(map(bool, cells)) > 1:
            first = cells


def _named(names: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    for name, cell in zip_longest(names, cells, fillvalue=""):
        if cell:
            yield f"{name}: {cell}" if name else cell


def _are_names(cells: Sequence[str], below: Sequence[str]) -> bool:
    """Whether a row, the first with more than one cell, heads the columns: short words, none of them twice."""
    words = [cell for cell in cells if cell]
    return (
        len(words) == len(set(words)) > 1
        and len(words) * 2 > len(cells)
        and not all(map(_begins_with_digit, words))
        and all(_is_name(*column) for column in zip_longest(cells, below, fillvalue="") if column[0])
    )


def _is_name(word: str, below: str) -> bool:
    """Whether a word may head a column. One that begins with a digit is a year, or a word over numbers: `30 days`."""
    if len(word) > MAX_NAME_CHARACTERS:
        return False
    if not _begins_with_digit(word):
        return True
    if _YEAR.fullmatch(word):
        return not _YEAR.fullmatch(below)
    return _has_letters(word) and _begins_with_digit(below) and not _has_letters(below)


def _begins_with_digit(word: str) -> bool:
    return word.lstrip("+-$€£(").lstrip()[:1].isdigit()


def _has_letters(word: str) -> bool:
    return any(map(str.isalpha, word))
