"""Any upload as blocks."""

from collections.abc import Callable
from dataclasses import replace

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.decode import decode_text
from flotilla.knowledge.documents import ParsedDocument, TextBlock, UploadedDocument
from flotilla.knowledge.kinds import (
    CSV,
    DOCX,
    HTML,
    MAIL,
    MARKDOWN,
    PDF,
    PLAIN,
    PPTX,
    XLSX,
    check_upload_size,
    detect_media_type,
)
from flotilla.knowledge.package import OfficePackage
from flotilla.knowledge.parse_csv import parse_csv
from flotilla.knowledge.parse_docx import parse_docx
from flotilla.knowledge.parse_html import parse_html
from flotilla.knowledge.parse_mail import parse_mail
from flotilla.knowledge.parse_markdown import parse_markdown
from flotilla.knowledge.parse_plain import parse_plain
from flotilla.knowledge.parse_pptx import parse_pptx
from flotilla.knowledge.unicode_form import seen

MAX_TEXT_CHARACTERS = 20_000_000
"""Of one document's text."""
MAX_ATTACHED = 3
"""Messages that are attached to a message that is attached."""

_TEXT_PARSERS: dict[str, Callable[[str], ParsedDocument]] = {
    MARKDOWN: parse_markdown,
    HTML: parse_html,
    PLAIN: parse_plain,
    CSV: parse_csv,
}


def parse_document(upload: UploadedDocument) -> tuple[str, ParsedDocument]:
    """Its media type and its blocks, without the characters that nobody sees.

    Raises:
        Invalid: can't be read; the message says why.
    """
    media_type, parsed = _parse(upload, 0)
    blocks = [block for block in map(_seen, parsed.blocks) if block.text.strip()]
    if not blocks:
        raise Invalid(f"{upload.uri}: has no text in it")
    if sum(len(block.text) for block in blocks) > MAX_TEXT_CHARACTERS:
        raise Invalid(f"{upload.uri}: has more than {MAX_TEXT_CHARACTERS} characters of text: split it")
    return media_type, ParsedDocument(blocks, seen(parsed.title), tuple(map(seen, parsed.skipped)))


def _parse(upload: UploadedDocument, depth: int) -> tuple[str, ParsedDocument]:
    check_upload_size(upload)
    media_type = detect_media_type(upload)
    if media_type in _TEXT_PARSERS:
        text = decode_text(upload, media_type)
        return media_type, _named(upload, lambda: _TEXT_PARSERS[media_type](text))
    return media_type, _named(upload, lambda: _from_bytes(media_type, upload.content, depth))


def _from_bytes(media_type: str, content: bytes, depth: int) -> ParsedDocument:
    if media_type == MAIL:
        if depth > MAX_ATTACHED:
            raise Invalid("is nested too deep in attached messages, and is not read")
        return parse_mail(content, lambda part: _parse(part, depth + 1)[1])
    if media_type == DOCX:
        return parse_docx(OfficePackage(content))
    if media_type == PPTX:
        return parse_pptx(OfficePackage(content))
    return _by_library(media_type, content)


def _by_library(media_type: str, content: bytes) -> ParsedDocument:
    """The libraries are imported where there is work for them: most processes never have any."""
    if media_type == XLSX:
        from flotilla.knowledge.parse_xlsx import parse_xlsx

        return parse_xlsx(content)
    assert media_type == PDF  # noqa: S101 - there is no other
    from flotilla.knowledge.parse_pdf import parse_pdf

    return parse_pdf(content)


def _named(upload: UploadedDocument, work: Callable[[], ParsedDocument]) -> ParsedDocument:
    """What `work` returns; what it raises names the document."""
    try:
        return work()
    except Invalid as error:
        raise Invalid(f"{upload.uri}: {error}") from error
    except MemoryError:
        raise
    except RecursionError as error:
        raise Invalid(f"{upload.uri}: is nested too deeply") from error
    except Exception as error:  # whatever the libraries make of such files
        raise Invalid(f"{upload.uri}: is damaged, and can't be read ({type(error).__name__})") from error


def _seen(block: TextBlock) -> TextBlock:
    return replace(block, text=seen(block.text))
