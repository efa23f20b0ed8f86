"""Any upload as blocks."""

from collections.abc import Callable
from dataclasses import replace

from flotilla.contracts.errors import Invalid
from flotilla.knowledge.decode import HTML, MARKDOWN, PLAIN, media_type_of, text_of
from flotilla.knowledge.documents import Block, Parsed, Upload
from flotilla.knowledge.parse_html import parse_html
from flotilla.knowledge.parse_markdown import parse_markdown
from flotilla.knowledge.parse_plain import parse_plain
from flotilla.knowledge.unicode_form import seen

_PARSERS: dict[str, Callable[[str], Parsed]] = {MARKDOWN: parse_markdown, HTML: parse_html, PLAIN: parse_plain}


def parse(upload: Upload) -> tuple[str, Parsed]:
    """Its media type and its blocks, without the characters that nobody sees.

    Raises:
        Invalid: can't be read; the message says why.
    """
    media_type = media_type_of(upload)
    parsed = _PARSERS[media_type](text_of(upload, media_type))
    blocks = [block for block in map(_seen, parsed.blocks) if block.text.strip()]
    if not blocks:
        raise Invalid(f"{upload.uri}: has no text in it")
    return media_type, Parsed(blocks, seen(parsed.title))


def _seen(block: Block) -> Block:
    return replace(block, text=seen(block.text))
