"""What of an HTML page its readers see, and what stands for a picture."""

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from selectolax.lexbor import LexborHTMLParser, LexborNode

_NOT_TEXT = frozenset(
    ("head", "script", "style", "template", "noscript", "annotation", "annotation-xml", "rt", "rp", "rtc")
)
"""The last ones say how the characters before them are pronounced, in the middle of a word."""
_NOT_DRAWN = frozenset(("title", "desc", "metadata", "defs", "symbol", "clippath", "mask", "marker", "pattern"))
"""What of an SVG picture is not where it stands."""
_NOT_CONTENT = frozenset(("nav", "select", "iframe", "object", "canvas", "audio", "video"))
_WITH_FOOTERS = frozenset(("main", "article", "blockquote", "figure"))
_HEADS = ("h1", "h2", "h3", "h4", "h5", "h6", "summary", "dt")
_PERMALINK_CLASSES = frozenset(("headerlink", "anchor-link", "heading-anchor"))
_PICTURES = frozenset(("img", "area"))
_OPENERS = "[aria-controls], [data-target], [data-bs-target]"
_PANELS = frozenset(("region", "tabpanel"))
_OPENED_LATER = "until-found"
_WORDS_OF_A_SENTENCE = 4
_NAMED_NAVIGATION = re.compile(r"(?:^|[\s_-])(?:nav|toc|breadcrumb)", re.IGNORECASE)
_LINKED_SHARE = 0.8
"""Of the text of an element whose id or class calls it navigation, the share in links that makes it nothing else."""
_MAX_NAMED = 100
"""Such elements of a page that are looked into."""
_LOOKS = 4
"""They may be nested, and each look is at all that is in them: at the whole page no more often than this."""
_LINK_COST = 20
"""Characters that a link counts for beside its text."""


class HtmlVisibility:
    """Tells which elements of one page can be seen, at once or after a click."""

    def __init__(self, page: LexborHTMLParser, *, lists_of_links: bool = False) -> None:
        """`lists_of_links` shows those, too, that the page's author calls navigation."""
        self._named_left = 0 if lists_of_links else _MAX_NAMED
        self._looks_left = _LOOKS * _cost(page.body) if self._named_left and page.body else 0
        self._opened = frozenset(target for opener in page.css(_OPENERS) for target in _targets(opener))

    def is_visible_content(self, node: LexborNode, within: Mapping[str, int]) -> bool:
        """Whether the text of `node` is the page's content and visible. `within` counts the elements around it."""
        tag = node.tag or ""
        if tag in _NOT_TEXT or tag in _NOT_CONTENT:
            return _is_labelled_picture(node)
        if within["svg"] and tag.lower() in _NOT_DRAWN:
            return False
        if ("hidden" in node.attributes and not self._opens(node)) or self._is_navigation(node):
            return False
        if tag == "footer":
            return any(within[around] for around in _WITH_FOOTERS)
        if tag == "button":
            return _says_something(node, within)
        return tag != "a" or _PERMALINK_CLASSES.isdisjoint((node.attributes.get("class") or "").split())

    def _is_navigation(self, node: LexborNode) -> bool:
        attributes = node.attributes
        if attributes.get("role") == "navigation":
            return True
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}"
        if not self._named_left or self._looks_left <= 0 or not _NAMED_NAVIGATION.search(names):
            return False
        self._named_left -= 1
        self._looks_left -= _cost(node)
        linked = sum(len(_words(link)) for link in node.css("a[href]"))
        return linked >= max(_LINKED_SHARE * len(_words(node)), 1)

    def _opens(self, node: LexborNode) -> bool:
        attributes = node.attributes
        return (
            (attributes["hidden"] or "").lower() == _OPENED_LATER
            or (attributes.get("role") or "") in _PANELS
            or node.id in self._opened
        )


def image_alternative_text(node: LexborNode) -> str:
    """Return the words that stand for a picture, between blanks; empty for all else."""
    attributes = node.attributes
    if node.tag in _PICTURES or (node.tag == "input" and attributes.get("type") == "image"):
        return f" {attributes.get('alt') or ''} "
    return f" {attributes.get('aria-label') or ''} " if _is_labelled_picture(node) else ""


def _words(node: LexborNode) -> str:
    return "".join((node.text() or "").split())


def _cost(node: LexborNode) -> int:
    """How much a look into `node` reads."""
    return len(node.text() or "") + _LINK_COST * len(node.css("a[href]"))


def _is_labelled_picture(node: LexborNode) -> bool:
    return node.attributes.get("role") == "img" and bool(node.attributes.get("aria-label"))


def _says_something(button: LexborNode, within: Mapping[str, int]) -> bool:
    """Whether a button is more than the name of a command: it heads a section, opens one, or holds a sentence."""
    if any(within[around] for around in _HEADS) or not {"aria-expanded", "aria-controls"}.isdisjoint(button.attributes):
        return True
    words = [word for text in _first_texts(button) for word in text.split()]
    return len(words) >= _WORDS_OF_A_SENTENCE or any(word.endswith("?") for word in words)


def _first_texts(node: LexborNode) -> Iterator[str]:
    """A few of the texts in `node`: buttons may be nested, and each is asked."""
    return (inner.text_content or "" for inner in islice(node.traverse(include_text=True), 20) if inner.is_text_node)


def _targets(opener: LexborNode) -> Iterator[str]:
    for name in ("aria-controls", "data-target", "data-bs-target"):
        yield from (target.removeprefix("#") for target in (opener.attributes.get(name) or "").split())
