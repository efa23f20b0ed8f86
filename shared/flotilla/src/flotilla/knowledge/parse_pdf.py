"""PDF, by pypdf: page by page, in the lines of the page."""

import logging
from collections import ChainMap
from collections.abc import Iterator, Mapping
from io import BytesIO
from typing import Any

from pypdf import PageObject, PdfReader
from pypdf.errors import DependencyError, FileNotDecryptedError, WrongPasswordError

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.documents import BlockPlace, ParsedDocument, TextBlock

PAGE = "page"
MAX_NAMED_PAGES = 20
_HYPHENS = ("-", "\N{HYPHEN}")
_FILLED = ("/Tx", "/Ch")
"""Kinds of form fields that hold words: text, and choices."""
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
        blocks, empty, unnamed = _read(reader)
    except (FileNotDecryptedError, WrongPasswordError, DependencyError) as error:
        raise Invalid(_LOCKED) from error
    if not blocks and unnamed:
        raise Invalid("its fonts do not say which characters they show: recognize its text first (OCR)")
    if not blocks:
        raise Invalid("has no text on its pages: if they are scans, recognize their text first (OCR)")
    title = str(reader.metadata.title or "").strip() if reader.metadata else ""
    skipped = (
        *_named("pages without text", empty),
        *_named("pages whose fonts do not say which characters they show", unnamed),
    )
    return ParsedDocument(blocks, title, skipped)


def _read(reader: PdfReader) -> tuple[list[TextBlock], list[int], list[int]]:
    """The blocks, the numbers of pages without text, and of those whose text can't be known."""
    blocks: list[TextBlock] = []
    empty: list[int] = []
    unnamed: list[int] = []
    for number, page in enumerate(reader.pages, 1):
        if _shows_glyphs_only(page):
            unnamed.append(number)
            continue
        texts = [*_paragraphs(page), *filter(str.strip, _written_on(page))]
        blocks += [TextBlock(text, place=BlockPlace(PAGE, number)) for text in texts]
        if not texts:
            empty.append(number)
    return blocks, empty, unnamed


def _named(what: str, pages: list[int]) -> Iterator[str]:
    if pages:
        named = ", ".join(map(str, pages[:MAX_NAMED_PAGES]))
        more = f" and {len(pages) - MAX_NAMED_PAGES} more" if len(pages) > MAX_NAMED_PAGES else ""
        yield f"{what}: {named}{more}"


def _shows_glyphs_only(page: PageObject) -> bool:
    """Whether every font of a page numbers its glyphs by itself: what pypdf reads of them is noise."""
    resources = _object(page.get("/Resources"))
    fonts = _object(resources.get("/Font")).values()
    return bool(fonts) and all(_numbers_glyphs(_object(font)) for font in fonts)


def _numbers_glyphs(font: Mapping[str, Any]) -> bool:
    if "/ToUnicode" in font or not str(_resolved(font.get("/Encoding"))).startswith("/Identity"):
        return False
    inner = next(iter(_resolved(font.get("/DescendantFonts")) or ()), None)
    system = _object(_object(inner).get("/CIDSystemInfo"))
    return str(_resolved(system.get("/Ordering"))) == "Identity"


def _written_on(page: PageObject) -> Iterator[str]:
    """What was filled into the page's form fields, or written over it."""
    for one in _resolved(page.get("/Annots")) or ():
        note = _object(one)
        if note.get("/Subtype") == "/FreeText":
            yield str(_resolved(note.get("/Contents", "")))
        elif note.get("/Subtype") == "/Widget":
            yield _filled(note)


def _filled(field: Mapping[str, Any]) -> str:
    """The label and value of a form field; its parts inherit what they lack."""
    whole = ChainMap(dict(field), dict(_object(field.get("/Parent"))))
    value = _resolved(whole.get("/V"))
    if whole.get("/FT") not in _FILLED or not isinstance(value, (str, list)):
        return ""
    label, said = _resolved(whole.get("/TU", "")), value if isinstance(value, str) else ", ".join(map(str, value))
    return f"{label}: {said}" if label and said else said


def _resolved(value: Any) -> Any:
    return value.get_object() if value is not None and hasattr(value, "get_object") else value


def _object(value: Any) -> Mapping[str, Any]:
    found = _resolved(value)
    return found if isinstance(found, Mapping) else {}


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
    if before.endswith(_HYPHENS) and before[-2:-1].isalpha() and line[0].islower():
        lines[-1] = before[:-1] + line
    else:
        lines.append(line)
