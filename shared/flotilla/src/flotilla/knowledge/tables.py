"""Rows of cells as blocks that can be read one by one: each value with the name of its column."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest

from flotilla.knowledge.documents import BlockPlace, TextBlock

MAX_NAME_CHARACTERS = 80
_BETWEEN_CELLS = " | "


def blocks_from_rows(rows: Iterable[Sequence[str]], kind: str) -> Iterator[TextBlock]:
    """A block for each row that is not empty. `kind` names the rows in citations: `row`, `sheet Prices, row`."""
    names: Sequence[str] | None = None
    for number, row in enumerate(rows, 1):
        cells = [" ".join(cell.split()) for cell in row]
        if not any(cells):
            continue
        yield TextBlock(_BETWEEN_CELLS.join(_named(names or (), cells)), place=BlockPlace(kind, number))
        if names is None and sum(map(bool, cells)) > 1:
            names = cells if _are_names(cells) else ()


def _named(names: Sequence[str], cells: Sequence[str]) -> Iterator[str]:
    for name, cell in zip_longest(names, cells, fillvalue=""):
        if cell:
            yield f"{name}: {cell}" if name else cell


def _are_names(cells: Sequence[str]) -> bool:
    """Whether a row, the first with more than one cell, heads the columns: short words, none of them twice."""
    words = [cell for cell in cells if cell]
    return (
        len(words) == len(set(words)) > 1
        and len(words) * 2 > len(cells)
        and all(len(word) <= MAX_NAME_CHARACTERS and not _begins_with_digit(word) for word in words)
    )


def _begins_with_digit(word: str) -> bool:
    return word.lstrip("+-$€£(").lstrip()[:1].isdigit()
