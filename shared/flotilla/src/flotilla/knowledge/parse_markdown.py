"""Markdown (CommonMark with tables), by markdown-it."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.token import Token

from flotilla.knowledge.documents import ParsedDocument, TextBlock
from flotilla.knowledge.front_matter import split_front_matter
from flotilla.knowledge.parse_html import inline_tag_text, parse_html

_MAX_NESTING = 100
_FOOTNOTE = "^"
_PART_OF_TABLE = re.compile(r"\s*</?(?:tr|td|th|thead|tbody|tfoot|caption)\b", re.IGNORECASE)
"""Blank lines cut HTML into blocks, and the parts of a table say nothing without it."""


def parse_markdown(text: str) -> ParsedDocument:
    """Blocks of a Markdown document. Marks go, words stay: link texts, code, alternative texts of images."""
    titled, body = split_front_matter(text)
    env: dict[str, Any] = {}
    tokens = MarkdownIt("commonmark", {"maxNesting": _MAX_NESTING}).enable("table").parse(body, env)
    blocks = [block for block in (*_blocks(tokens), *_footnotes(env)) if block.text]
    return ParsedDocument(blocks, titled or next((block.text for block in blocks if block.level), ""))


def _blocks(tokens: Sequence[Token]) -> list[TextBlock]:
    blocks: list[TextBlock] = []
    row: list[str] | None = None
    level = 0
    for token in tokens:
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            blocks.append(TextBlock(" | ".join(row or [])))
            row = None
        elif token.type == "inline" and row is not None:
            row.append(_inline(token.children or []))
        elif token.type == "inline":
            blocks.append(TextBlock(_inline(token.children or []), level))
            level = 0
        elif token.type in ("fence", "code_block"):
            blocks.append(TextBlock(token.content.strip("\n").expandtabs()))
        elif token.type == "html_block":
            table = "<table>" if _PART_OF_TABLE.match(token.content) else ""
            blocks.extend(parse_html(table + token.content).blocks)
    return blocks


def _footnotes(env: Mapping[str, Any]) -> Iterator[TextBlock]:
    """`[^1]: Word` has the form of a link's target; in longer ones the parser sees a paragraph."""
    for label, target in env.get("references", {}).items():
        if label.startswith(_FOOTNOTE):
            yield TextBlock(f"{unquote(target['href'])} {target['title']}".strip())


def _inline(children: Sequence[Token]) -> str:
    return " ".join("".join(map(_words, children)).split())


def _words(token: Token) -> str:
    if token.type in ("text", "code_inline", "text_special"):
        return token.content
    if token.type in ("softbreak", "hardbreak"):
        return " "
    if token.type == "html_inline":
        return inline_tag_text(token.content)
    return _inline(token.children) if token.children else ""
