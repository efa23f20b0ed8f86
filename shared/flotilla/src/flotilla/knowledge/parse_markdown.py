"""Markdown (CommonMark with tables), by markdown-it."""

import re
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token

from flotilla.knowledge.documents import Block, Parsed
from flotilla.knowledge.parse_html import parse_html

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)(?:\n|\Z)", re.DOTALL)
_TITLE_LINE = re.compile(r"^title:[ \t]*(['\"]?)(.+?)\1[ \t]*$", re.MULTILINE | re.IGNORECASE)
_SPACES = re.compile(r"\s+")


def parse_markdown(text: str) -> Parsed:
    """Blocks of a Markdown document. Marks go, words stay: link texts, code, alternative texts of images."""
    front = _FRONT_MATTER.match(text)
    titled = _TITLE_LINE.search(front.group(1)) if front else None
    tokens = MarkdownIt("commonmark").enable("table").parse(text[front.end() :] if front else text)
    blocks = [block for block in _blocks(tokens) if block.text]
    title = titled.group(2) if titled else next((block.text for block in blocks if block.level), "")
    return Parsed(blocks, title)


def _blocks(tokens: Sequence[Token]) -> list[Block]:
    blocks: list[Block] = []
    row: list[str] | None = None
    level = 0
    for token in tokens:
        if token.type == "heading_open":
            level = int(token.tag[1])
        elif token.type == "tr_open":
            row = []
        elif token.type == "tr_close":
            blocks.append(Block(" | ".join(row or [])))
            row = None
        elif token.type == "inline" and row is not None:
            row.append(_inline(token.children or []))
        elif token.type == "inline":
            blocks.append(Block(_inline(token.children or []), level))
            level = 0
        elif token.type in ("fence", "code_block"):
            blocks.append(Block(token.content.strip("\n").expandtabs()))
        elif token.type == "html_block":
            blocks.extend(parse_html(token.content).blocks)
    return blocks


def _inline(children: Sequence[Token]) -> str:
    return _SPACES.sub(" ", "".join(map(_words, children))).strip()


def _words(token: Token) -> str:
    if token.type in ("text", "code_inline", "text_special"):
        return token.content
    if token.type in ("softbreak", "hardbreak"):
        return " "
    return _inline(token.children) if token.children else ""
