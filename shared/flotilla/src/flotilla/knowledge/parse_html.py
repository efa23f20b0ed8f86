"""HTML as browsers read it (the WHATWG algorithm), by Lexbor through selectolax."""

import re
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flotilla.knowledge.documents import Block, Parsed

_NOT_TEXT = frozenset(("head", "script", "style", "template", "noscript", "svg", "math", "iframe", "object", "canvas"))
_NOT_CONTENT = frozenset(("nav", "footer", "aside", "button", "select"))
_SILENT = _NOT_TEXT | _NOT_CONTENT
_SECTIONS = frozenset(
    ("html", "body", "main", "article", "section", "header", "div", "form", "fieldset", "dialog", "hr")
)
_TEXTS = frozenset(("p", "pre", "blockquote", "address", "center", "figure", "figcaption", "details", "summary"))
_LISTS = frozenset(("ul", "ol", "li", "dl", "dt", "dd"))
_TABLES = frozenset(("table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"))
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CELLS = frozenset(("td", "th"))
_BLOCKS = _SECTIONS | _TEXTS | _LISTS | _TABLES | _HEADINGS.keys()
_MAIN = ("main", "[role=main]", "article")
_PERMALINK_CLASSES = frozenset(("headerlink", "anchor-link", "heading-anchor"))
_SPACES = re.compile(r"\s+")


def parse_html(text: str) -> Parsed:
    """Blocks of an HTML page: of its main part where it marks one, without navigation, scripts and forms."""
    page = LexborHTMLParser(text)
    title = page.css_first("title")
    walk = _Walk()
    root = _main_part(page)
    if root is not None:
        walk.take(root)
    heading = next((block.text for block in walk.blocks if block.level), "")
    return Parsed(walk.blocks, heading or (_squeeze(title.text()) if title else ""))


def _main_part(page: LexborHTMLParser) -> LexborNode | None:
    for selector in _MAIN:
        found = page.css(selector)
        if len(found) == 1:
            return found[0]
    return page.body


def _squeeze(text: str) -> str:
    return _SPACES.sub(" ", text).strip()


class _Walk:
    """Collects inline text until a block element begins or ends."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self._text: list[str] = []
        self._anchors: list[str] = []
        self._pre = 0
        self._rows = 0

    def take(self, root: LexborNode) -> None:
        """Visits `root` and what is in it. A stack instead of recursion: pages nest without limit."""
        stack = [(root, self._open(root))]
        while stack:
            node, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                self._close(node)
            elif child.is_text_node:
                self._text.append(child.text_content or "")
            elif child.is_element_node and not _is_silent(child):
                stack.append((child, self._open(child)))
        self._flush()

    def _open(self, node: LexborNode) -> Iterator[LexborNode]:
        tag = node.tag or ""
        if tag in _BLOCKS and not (tag in _CELLS or (self._rows and tag != "tr")):
            self._flush()
        if node.id:
            self._anchors.append(node.id)
        self._pre += tag == "pre"
        self._rows += tag == "tr"
        if tag == "br":
            self._text.append("\n" if self._pre else " ")
        return _children(node)

    def _close(self, node: LexborNode) -> None:
        tag = node.tag or ""
        self._rows -= tag == "tr"
        if tag in _CELLS and self._rows:
            self._text.append(" | ")
        elif tag in _BLOCKS and not self._rows:
            self._flush(_HEADINGS.get(tag, 0), leads=tag == "dt")
        self._pre -= tag == "pre"

    def _flush(self, level: int = 0, *, leads: bool = False) -> None:
        raw = "".join(self._text)
        text = raw.strip("\n").rstrip().expandtabs() if self._pre else _squeeze(raw).removesuffix(" |")
        self._text.clear()
        if text.strip():
            self.blocks.append(Block(text, level, leads, tuple(self._anchors)))
            self._anchors.clear()


def _children(node: LexborNode) -> Iterator[LexborNode]:
    child = node.first_child
    while child is not None:
        following = child.next
        yield child
        child = following


def _is_silent(node: LexborNode) -> bool:
    if node.tag in _SILENT or "hidden" in node.attributes:
        return True
    return node.tag == "a" and not _PERMALINK_CLASSES.isdisjoint((node.attributes.get("class") or "").split())
