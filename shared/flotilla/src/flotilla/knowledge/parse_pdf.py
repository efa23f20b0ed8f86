"""PDF, by pypdf: page by page, in the lines of the page."""

import logging
from collections.abc import Iterator
from io import BytesIO

from pypdf import PageObject, PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock

PAGE = "page"
MAX_NAMED_PAGES = 20
_SENTENCE_ENDS = (".", "!", "?", ":", "。")
_SHORT = 0.75
"""A line that ends a sentence and is shorter than this part of the page's longest one ends a paragraph."""
_LOCKED = "is encrypted with a password: save it without one"


def parse_pdf(content: bytes) -> ParsedDocument:
    """Blocks of the pages. Pages without text, such as scans, are named among what was skipped.

    Raises:
        Invalid: it needs a password, or no page has text.
    """
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports every odd byte that it reads over
    reader = PdfReader(BytesIO(content))
    try:
        if reader.is_encrypted and not reader.decrypt(""):
            raise Invalid(_LOCKED)
        blocks, empty = _read(reader)
    except (FileNotDecryptedError, WrongPasswordError, DependencyError) as error:
        raise Invalid(_LOCKED) from error
    if not blocks:
        raise Invalid("has no text on its pages: if they are scans, recognize their text first (OCR)")
    title = str(reader.metadata.title or "").strip() if reader.metadata else ""
    return ParsedDocument(blocks, title, tuple(_without_text(empty)))


def _read(reader: PdfReader) -> tuple[list[TextBlock], list[int]]:
    blocks: list[TextBlock] = []
    empty: list[int] = []
    for number, page in enumerate(reader.pages, 1):
        found = [TextBlock(text, place=BlockPlace(PAGE, number)) for text in _paragraphs(page)]
        blocks += found
        if not found:
            empty.append(number)
    return blocks, empty


def _without_text(pages: list[int]) -> Iterator[str]:
    if pages:
        named = ", ".join(map(str, pages[:MAX_NAMED_PAGES]))
        more = f" and {len(pages) - MAX_NAMED_PAGES} more" if len(pages) > MAX_NAMED_PAGES else ""
        yield f"pages without text: {named}{more}"


def _paragraphs(page: PageObject) -> Iterator[str]:
    lines = [line.strip() for line in page.extract_text().split("\n")]
    longest = max(map(len, lines), default=0)
    kept: list[str] = []
    for line in lines:
        if line:
            _add(kept, line)
        if kept and (not line or (line.endswith(_SENTENCE_ENDS) and len(line) < _SHORT * longest)):
            yield "\n".join(kept)
            kept = []
    if kept:
        yield "\n".join(kept)


def _add(lines: list[str], line: str) -> None:
    """Add a line; a word that was cut at the end of the one before is put together."""
    before = lines[-1] if lines else ""
    if before.endswith("-") and before[-2:-1].isalpha() and line[0].islower():
        lines[-1] = before[:-1] + line
    else:
        lines.append(line)
