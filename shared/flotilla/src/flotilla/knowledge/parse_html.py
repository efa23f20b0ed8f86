"""HTML as browsers read it (the WHATWG algorithm), by Lexbor through selectolax."""

from collections import Counter
from collections.abc import Iterator

from selectolax.lexbor import LexborHTMLParser, LexborNode

from flotilla.knowledge.documents import ParsedDocument, TextBlock
from flotilla.knowledge.visibility import HtmlVisibility, image_alternative_text

_SECTIONS = frozenset(
    (
        "html",
        "body",
        "main",
        "article",
        "section",
        "header",
        "footer",
        "aside",
        "div",
        "form",
        "fieldset",
        "dialog",
        "hr",
    )
)
_TEXTS = frozenset(("p", "pre", "blockquote", "address", "center", "figure", "figcaption", "details", "summary"))
_LISTS = frozenset(("ul", "ol", "li", "dl", "dt", "dd"))
_TABLES = frozenset(("table", "caption", "thead", "tbody", "tfoot", "tr", "td", "th"))
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_CELLS = frozenset(("td", "th"))
_BLOCKS = _SECTIONS | _TEXTS | _LISTS | _TABLES | _HEADINGS.keys()
_APART = frozenset(("br", "button", "label", "legend", "option", "textarea", "text", "tspan"))
"""Elements inside a line or an SVG picture whose text is words of its own."""
_MAIN = "main, [role=main]"
_MAIN_SHARE = 4
"""The main part holds at least a quarter of the page's text; in less there is hardly what the page is about."""
_MIN_CONTENT = 200
"""Characters that a page holds beside its lists of links, if it is about something else."""


def parse_html(text: str) -> ParsedDocument:
    """Blocks of an HTML page: of its main part where it marks one, without navigation, scripts and forms."""
    page = LexborHTMLParser(text)
    title = page.css_first("title")
    blocks = _blocks_of(page)
    heading = next((block.text for block in blocks if block.level), "")
    return ParsedDocument(blocks, heading or (_squeeze(title.text()) if title else ""))


def inline_tag_text(tag: str) -> str:
    """Return what a tag in a line of Markdown stands for: a picture's alternative text, a gap, or nothing."""
    node = LexborHTMLParser(tag.replace("</", "<", 1), is_fragment=True).css_first("*")
    if node is None:
        return ""
    alternative = image_alternative_text(node)
    return f" {alternative} " if alternative else " " * _is_apart(node.tag or "")


def _blocks_of(page: LexborHTMLParser) -> list[TextBlock]:
    visibility = HtmlVisibility(page)
    everything = _read(page.body, visibility)
    if _size(everything) < _MIN_CONTENT:  # lists of links are what the page is about
        visibility = HtmlVisibility(page, lists_of_links=True)
        everything = _read(page.body, visibility)
    mains = page.css(_MAIN)
    if len(mains) != 1:
        return everything
    main = _read(mains[0], visibility)
    return main if _MAIN_SHARE * _size(main) >= _size(everything) else everything


def _read(root: LexborNode | None, visibility: HtmlVisibility) -> list[TextBlock]:
    walk = _Walk(visibility)
    if root is not None:
        walk.take(root)
    return walk.blocks


def _size(blocks: list[TextBlock]) -> int:
    return sum(len(block.text) for block in blocks)


def _squeeze(text: str) -> str:
    return " ".join(text.split())


class _Walk:
    """Collects inline text until a block element begins or ends."""

    def __init__(self, visibility: HtmlVisibility) -> None:
        self.blocks: list[TextBlock] = []
        self._visibility = visibility
        self._text: list[str] = []
        self._anchors: list[str] = []
        self._within = Counter[str]()

    def take(self, root: LexborNode) -> None:
        """Visit `root` and what is in it. A stack instead of recursion: pages nest without limit."""
        stack = [(root, self._open(root))]
        while stack:
            node, children = stack[-1]
            child = next(children, None)
            if child is None:
                stack.pop()
                self._close(node)
            elif child.is_text_node:
                self._text.append(child.text_content or "")
            elif child.is_element_node and self._visibility.is_visible_content(child, self._within):
                stack.append((child, self._open(child)))
        self._flush()

    def _open(self, node: LexborNode) -> Iterator[LexborNode]:
        tag = node.tag or ""
        if _is_block(tag) and not (tag in _CELLS or (self._rows and tag != "tr")):
            self._flush()
        if node.id:
            self._anchors.append(node.id)
        self._within[tag] += 1
        self._text.append("\n" if tag == "br" and self._pre else self._gap(tag) or " " * _is_footnote_mark(node))
        self._text.append(image_alternative_text(node))
        return _children(node)

    def _close(self, node: LexborNode) -> None:
        tag = node.tag or ""
        self._within[tag] -= tag == "tr"
        if tag in _CELLS and self._rows:
            self._text.append(" | ")
        elif _is_block(tag) and not self._rows:
            self._flush(_HEADINGS.get(tag, 0), leads=tag == "dt")
        else:
            self._text.append(self._gap(tag))
        self._within[tag] -= tag != "tr"

    @property
    def _pre(self) -> bool:
        return self._within["pre"] > 0

    @property
    def _rows(self) -> bool:
        return self._within["tr"] > 0

    def _gap(self, tag: str) -> str:
        return " " if _is_apart(tag) and not self._pre else ""

    def _flush(self, level: int = 0, *, leads: bool = False) -> None:
        raw = "".join(self._text)
        text = raw.strip("\n").rstrip().expandtabs() if self._pre else _squeeze(raw).removesuffix(" |")
        self._text.clear()
        if text.strip():
            self.blocks.append(TextBlock(text, level, leads, tuple(self._anchors)))
            self._anchors.clear()


def _is_block(tag: str) -> bool:
    return tag in _BLOCKS


def _is_apart(tag: str) -> bool:
    """Whether words end where the element does. A custom element may be anything; most are laid out as blocks."""
    return tag in _APART or tag in _BLOCKS or "-" in tag


def _is_footnote_mark(node: LexborNode) -> bool:
    """Whether a raised number is a link, and not part of the word before it, as in H₂O or m²."""
    inner = node.first_child
    around = (inner, node.parent)
    return node.tag == "sup" and any(one is not None and one.tag == "a" for one in around)


def _children(node: LexborNode) -> Iterator[LexborNode]:
    child = node.first_child
    while child is not None:
        following = child.next
        yield child
        child = following
