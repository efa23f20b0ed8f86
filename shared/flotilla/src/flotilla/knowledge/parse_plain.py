"""Plain text: paragraphs between blank lines."""

import re

from flotilla.knowledge.documents import ParsedDocument, TextBlock

_BLANK_LINES = re.compile(r"\n[ \t\f]*+\n\s*+")


def parse_plain(text: str) -> ParsedDocument:
    """One block per paragraph; its lines stay as they are."""
    paragraphs = (part.strip("\n\f ").expandtabs() for part in _BLANK_LINES.split(text))
    return ParsedDocument([TextBlock(paragraph) for paragraph in paragraphs if paragraph.strip()])
